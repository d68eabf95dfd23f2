//! Schedules, step by step, in which one rule alone stands between the group and a broken promise.
//!
//! Each rule of the protocol that seeds do not tell apart from its absence, because it takes too many coincidences, has
//! one here: the order of events in which leaving it out breaks an invariant. With the rule the same events come to
//! nothing. `planted.rs` plays every one of them with every bug.

mod lives;
mod passes;
mod reads;
mod seals;

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use bequest::Role;

use crate::dice::Dice;
use crate::mix::{Micros, Mix, SECOND};
use crate::process::Process;
use crate::setting;
use crate::world::{Happening, Pid, Place, World};

macro_rules! schedules {
    ($($file:ident::$name:ident,)*) => {
        /// All of them, by name.
        #[cfg(planted)]
        pub const ALL: &[(&str, fn())] = &[$((stringify!($name), $file::$name),)*];

        #[cfg(not(planted))]
        mod tests {
            $(
                #[test]
                fn $name() {
                    super::$file::$name();
                }
            )*
        }
    };
}

schedules! {
    seals::a_seal_that_lands_late_is_given_back,
    passes::a_pass_is_opened_on_its_own_session,
    passes::a_pass_ends_with_its_session,
    passes::what_a_pass_misses_is_not_believed_once_the_ballot_moved,
    lives::a_heartbeat_to_an_earlier_life_commits_nothing,
    lives::a_heartbeat_due_as_a_new_life_is_met_commits_nothing,
    lives::a_term_that_no_ballot_showed_deafens_nobody,
    lives::a_leader_repeats_only_what_may_be_lost,
    reads::a_read_sees_what_was_replayed,
    reads::a_read_is_not_confirmed_by_what_was_asked_before_it,
    reads::a_deposed_leader_answers_nothing_as_done,
}

/// A world without chance or faults of its own, as golden scripts have it, in which a stop is a failure.
fn stage(mix: &'static Mix, play: impl FnOnce(&mut Stage)) {
    let mut world = World::empty(Dice::even(), mix, setting("BEQUEST_TRACE") == Some(1));
    world.by_hand = true;
    let mut stage = Stage(world);
    let played = catch_unwind(AssertUnwindSafe(|| play(&mut stage)));
    stage.0.trace.lines().for_each(|line| eprintln!("{line}"));
    if let Err(payload) = played {
        resume_unwind(payload);
    }
}

struct Stage(World);

impl Stage {
    /// Does what these commands of golden scripts say.
    fn play(&mut self, commands: &str) {
        for command in commands.split(';').map(str::trim) {
            let parsed = command.parse().unwrap_or_else(|error| panic!("{error}"));
            self.0.obey(&parsed).unwrap_or_else(|what| panic!("{command}: {what}"));
        }
    }

    fn pid(&self, node: u64) -> Pid {
        self.0.at(Self::place(node)).unwrap_or_else(|| panic!("n{node} does not run"))
    }

    fn place(node: u64) -> Place {
        Place { node, host: 0 }
    }

    fn process(&self, node: u64) -> &Process {
        &self.0.processes[&self.pid(node)]
    }

    fn role(&self, node: u64) -> Role {
        self.process(node).replicas[0].role()
    }

    fn term(&self) -> u64 {
        self.0.groups[0].mirror.ballot.0.term
    }

    /// Term and index of the last entry on a node's disk.
    fn on_disk(&self, node: u64) -> (u64, u64) {
        let log = self.0.disks[&Self::place(node)].group(0).log.expect("the group is born there");
        log.slots.last().map_or((log.base.term, log.base.index), |slot| (slot.position.term, slot.position.index))
    }

    /// Lets things happen, one after the other, until it is so.
    fn until(&mut self, what: &str, so: impl Fn(&Self) -> bool) {
        const PATIENCE: Micros = 60 * SECOND;
        let end = self.0.now + PATIENCE;
        self.0.after(PATIENCE, Happening::Moment);
        while !so(self) {
            self.0.run(u64::MAX, end, |_| true);
            assert!(self.0.now < end, "still not: {what}; {}", self.0.situation());
        }
    }

    /// The faults are over: everybody must serve and catch up again (I8).
    fn must_recover(&mut self) {
        let held: Vec<_> = self.0.held.keys().copied().collect();
        for (pid, part) in held {
            self.0.release(pid, part, None);
        }
        self.0.keepers.closed.clear();
        self.0.by_hand = false;
        self.0.heal();
        self.0.must_serve();
        self.0.must_converge();
    }
}
