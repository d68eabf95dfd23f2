//! Ends of processes, and pauses.

use bequest::replica::status::Role;
use rand::Rng;

use crate::dice::{Organ, Part};
use crate::mix::Micros;
use crate::process::Replica;
use crate::world::{Happening, Pid, Place, World};

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Death {
    /// By a signal: the kernel closes its connections, what it wrote to its logs stays.
    Process,
    /// With its machine: nobody is told, unsynced writes are lost.
    Power,
    /// By its own decision.
    Exit,
}

impl World {
    pub fn node_stops(&mut self, pid: Pid, error: &bequest::NodeError) {
        if self.hostile {
            self.node_stops.push((pid, error.clone()));
            self.die(pid, Death::Exit);
            return;
        }
        if matches!(error, bequest::NodeError::Denied { .. }) && self.was_denied(pid) {
            self.started_again(pid);
            return;
        }
        let node = self.processes.get(&pid).map_or(0, |process| process.place.node);
        assert!(
            self.twins.contains_key(&node)
                && matches!(
                    error,
                    bequest::NodeError::NodeAlreadyRunning { .. } | bequest::NodeError::Superseded { .. }
                ),
            "{pid:?} stops for no fault that justifies it: {error}"
        );
        self.counts.one(match error {
            bequest::NodeError::Superseded { .. } => "twin superseded",
            _ => "twin refused to start",
        });
        self.die(pid, Death::Exit);
        // The operator finds the mistake: the node's own host is the one that goes on.
        self.come_back(pid);
    }

    /// Ends a process.
    pub fn die(&mut self, pid: Pid, death: Death) {
        let Some(process) = self.processes.get(&pid) else { return };
        let (place, life) = (process.place, process.life);
        let roles: Vec<Role> = process.replicas.iter().map(Replica::role).collect();
        for role in roles.iter().filter(|_| death != Death::Exit) {
            self.counts.one(match death {
                Death::Power => "dead: power",
                _ => "dead: process",
            });
            self.counts.one(match role {
                Role::Leader => "dead: while leading",
                Role::Successor => "dead: while succeeding",
                Role::Birth => "dead: while being born",
                Role::Resigning => "dead: while resigning",
                Role::Follower | Role::Stopped => "dead: while following",
            });
        }
        self.note(("death", pid.0, death), || format!("{pid:?} at {place:?} dies ({death:?}) as {roles:?}"));
        self.abandon_session(pid, death);
        self.hang_up(pid, death);
        self.processes.remove(&pid);
        self.forget_tokens(pid);
        self.last_places.insert(pid, place);
        match death {
            Death::Process => self.disks.entry(place).or_default().lose_process(),
            Death::Power => {
                let mut roll = self.roll(Part::Process(life, Organ::Death));
                let unsynced = self.disks.entry(place).or_default().unsynced();
                let kept = roll.random_range(0..=unsynced);
                let lost =
                    kept < unsynced && self.comes_true(&roll, "unsynced", || format!("loses {}", unsynced - kept));
                self.disks.entry(place).or_default().lose_power(if lost { kept } else { unsynced });
            }
            // It closes its store.
            Death::Exit => self.disks.entry(place).or_default().flush_machines(),
        }
        if self.processes.is_empty() {
            self.counts.one("all dead at once");
        }
    }

    /// Has a dead process' node started again, on its own host.
    pub fn come_back(&mut self, pid: Pid) {
        let Some(place) = self.last_places.get(&pid).copied().filter(|_| !self.by_hand) else { return };
        let mut roll = self.roll(Part::Births(place));
        let delay = self.lasts(&mut roll, self.mix.downtime);
        self.after(delay, Happening::Birth(Place { node: place.node, host: 0 }));
    }

    /// Stops a process for a while.
    pub fn pause(&mut self, pid: Pid) {
        let now = self.now;
        if let Some(process) = self.processes.get_mut(&pid) {
            process.paused = true;
            process.keeper.falls_silent(now);
            if let Some(session) = process.keeper.session {
                self.watch_session(session);
            }
        }
    }

    /// Lets a paused process go on.
    pub fn resume(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid).filter(|process| process.paused) else { return };
        process.paused = false;
        let stood = process.clock.go_on(self.now);
        process.keeper.clock_stood(stood);
        let frozen = std::mem::take(&mut process.frozen);
        for (place, happening) in frozen.into_iter().enumerate() {
            self.after(1 + place as Micros, happening);
        }
        self.speak_again(pid);
    }
}
