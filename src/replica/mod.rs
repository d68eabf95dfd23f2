//! The pure core: Raft, its witnesses in ZooKeeper, and succession.
//!
//! [`Core::step`] is told what happened and answers what is to be done. There is no clock, thread, randomness, I/O or
//! async in here: the same events give the same effects, always, so a seed replays a run exactly.

pub mod event;
pub mod status;

use event::{Config, Effects, Event, Now};

/// One node: its registration, links and suspicions, and a replica for every group it hosts.
#[derive(Debug)]
pub struct Core {
    config: Config,
}

impl Core {
    /// A core that has not spoken to ZooKeeper yet. It begins when told that a session is connected.
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Takes what happened, in order, and answers what is to be done.
    ///
    /// Give all events that are at hand at once: entries proposed in one step travel together.
    pub fn step(&mut self, now: Now, events: impl IntoIterator<Item = Event>) -> Effects {
        let _ = (now, events.into_iter().count(), &self.config);
        Effects::default()
    }
}
