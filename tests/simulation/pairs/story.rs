//! The scripted run: everything that matters happens in it once, and hardly anything else does.

use super::strike::Strike;
use crate::dice::Dice;
use crate::mix::{Delay, Machines, Micros, Mix, MILLI, QUIET, SECOND};
use crate::world::{Happening, Pid, World};

/// Everything takes as long every time. The log is so short that three snapshots are taken, one of which is collected.
pub const MIX: Mix = Mix {
    name: "pairs",
    clients: 1,
    servers: 1,
    machines: Machines::Durable,
    keeper: fixed(MILLI),
    network: fixed(200),
    disk: fixed(500),
    machine: fixed(100),
    downtime: fixed(20 * MILLI),
    wal_bytes: 1 << 20,
    wal_segments: 9,
    log_cache_bytes: 1 << 20,
    ..QUIET
};

// What is not done after this long never will be. A ballot's back-off doubles up to 30 seconds.
const PATIENCE: Micros = 120 * SECOND;
// What so many writes do not bring about, no write ever will.
const WRITES: u64 = 300;
// A client that was refused tries again after this long.
const RETRY: Micros = 5 * MILLI;

const fn fixed(delay: Micros) -> Delay {
    Delay { min: delay, max: delay }
}

/// The run with these strikes, ascending. Panics where an invariant breaks or the group does not go on by itself.
pub fn play(strikes: impl IntoIterator<Item = Strike>, keep_trace: bool, world: &mut Option<World>) {
    let world = world.insert(World::empty(Dice::even(), &MIX, keep_trace));
    world.strikes.planned = strikes.into_iter().collect();
    world.strikes.scripted = true;
    for place in world.places() {
        world.after(MILLI, Happening::Birth(place));
    }
    world.write_until("two writes", |_| true);
    world.write_until("two writes", |_| true);
    // The leader dies, its disk intact.
    world.leader_gone(|world, leader| world.kill_now(leader, false));
    world.write_until("two writes", |_| true);
    // It is asked to hand over, once there is somebody to hand over to.
    world.wait("both follow", |world| world.processes.len() == 2);
    world.leader_gone(|world, leader| world.shut_down(leader));
    world.write_until("snapshots, the oldest of them collected, and a log trimmed", |world| {
        let done = ["snapshot pointer moved", "trimmed segment", "chunk collected", "manifest collected"];
        done.iter().all(|what| world.counts.get(what) > 0)
    });
    // Everybody dies, disks and all.
    world.leader_gone(|world, _| world.pids().into_iter().for_each(|pid| world.kill_now(pid, true)));
    world.write_until("a write", |_| true);
    world.strikes.over = true;
    world.heal();
    world.must_serve();
    world.must_converge();
    assert!(world.counts.get("restore finished") > 0, "nobody restored a snapshot");
}

impl World {
    fn wait(&mut self, what: &str, so: impl FnMut(&mut Self) -> bool) {
        let until = self.now + PATIENCE;
        let reached = self.run(u64::MAX, until, so);
        assert!(reached, "I8: never came: {what}; {}", self.situation());
    }

    /// Who leads under the ballot.
    fn leader(&self) -> Option<Pid> {
        let term = self.groups[0].mirror.ballot.0.term;
        self.leaders(0).into_iter().find(|(_, led)| *led == term).map(|(pid, _)| pid)
    }

    /// Does something to the leader, and waits until there is another leadership.
    fn leader_gone(&mut self, goes: impl FnOnce(&mut Self, Pid)) {
        self.wait("a leader", |world| world.leader().is_some());
        let Some(leader) = self.leader() else { return };
        let term = self.groups[0].mirror.ballot.0.term;
        goes(self, leader);
        self.wait("another leader", |world| world.leader().is_some() && world.groups[0].mirror.ballot.0.term > term);
    }

    /// Writes at whoever leads, one by one, until something is so and one more write was acknowledged. A write whose
    /// outcome is not known, or that was refused, is followed by another.
    fn write_until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) {
        let before = self.groups[0].clients.acknowledged;
        let mut next = self.now;
        self.after(1, Happening::Moment);
        self.wait(what, |world| {
            if world.groups[0].clients.waiting() > 0 {
                return false;
            }
            if world.groups[0].clients.acknowledged > before && so(world) {
                return true;
            }
            let writes = world.groups[0].clients.acknowledged - before;
            assert!(writes < WRITES, "I8: {writes} writes did not bring about: {what}; {}", world.situation());
            if world.now >= next {
                if let Some(leader) = world.leader() {
                    next = world.now + RETRY;
                    world.write(0, leader);
                }
            }
            false
        });
    }
}
