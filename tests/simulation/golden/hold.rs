//! Places where a process can be made to wait: its disk, its machine, its core, what comes to it and what it asks.

use std::collections::BTreeMap;
use std::fmt;

use crate::mix::Micros;
use crate::world::{Happening, Pid, World};

/// A part of a process that can be held back; what it would do waits, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Writes to its disk.
    Disk,
    /// Jobs of its state machine.
    Machine,
    /// Steps of its core: everything it is told meanwhile comes in one step.
    Core,
    /// Requests it sent to ZooKeeper, not served yet.
    Requests,
    /// Answers on their way from ZooKeeper.
    Replies,
    /// Messages on their way from other nodes.
    Messages,
}

/// What waits, by process and part.
pub type Held = BTreeMap<(Pid, Part), Vec<Happening>>;

impl Part {
    pub const ALL: [Self; 6] = [Self::Disk, Self::Machine, Self::Core, Self::Requests, Self::Replies, Self::Messages];

    fn of(happening: &Happening) -> Option<(Pid, Self)> {
        match happening {
            Happening::DiskWrite(pid, _) => Some((*pid, Self::Disk)),
            Happening::MachineJob(pid, _) => Some((*pid, Self::Machine)),
            Happening::Step(pid) => Some((*pid, Self::Core)),
            Happening::Serve(pid, _) => Some((*pid, Self::Requests)),
            Happening::Arrive(pid, ..) => Some((*pid, Self::Replies)),
            Happening::Message { to, .. } => Some((*to, Self::Messages)),
            _ => None,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk",
            Self::Machine => "machine",
            Self::Core => "core",
            Self::Requests => "requests",
            Self::Replies => "replies",
            Self::Messages => "messages",
        })
    }
}

impl World {
    /// Keeps what concerns a part that is held back; returns everything else.
    pub fn hold_back(&mut self, happening: Happening) -> Option<Happening> {
        match Part::of(&happening).and_then(|place| self.held.get_mut(&place)) {
            Some(waiting) => {
                waiting.push(happening);
                None
            }
            None => Some(happening),
        }
    }

    /// From now on this part of a process waits.
    pub fn hold(&mut self, pid: Pid, part: Part) {
        self.held.entry((pid, part)).or_default();
    }

    /// What waited happens now, in order, and the part is free; or the first few do, and the rest goes on waiting.
    /// `false` if the part was not held back, or fewer wait.
    pub fn release(&mut self, pid: Pid, part: Part, count: Option<usize>) -> bool {
        let Some(mut waiting) = self.held.remove(&(pid, part)) else { return false };
        let enough = count.is_none_or(|count| count <= waiting.len());
        if let Some(count) = count.filter(|_| enough) {
            let rest = waiting.split_off(count);
            // They happen right away: the part is still held back for what comes.
            waiting.into_iter().for_each(|happening| self.happen(happening));
            self.held.insert((pid, part), rest);
        } else {
            for (place, happening) in waiting.into_iter().enumerate() {
                self.after(1 + place as Micros, happening);
            }
        }
        enough
    }
}
