//! One workload, killed at every single effect in turn: no crash point is left to chance.

use crate::mix::{Machines, Micros, Mix, QUIET, SECOND};
use crate::world::World;

const STEPS: u64 = 700;

const MIX: Mix = Mix { name: "crash points", clients: 2, wal_segments: 20, ..QUIET };
const VOLATILE: Mix = Mix { machines: Machines::Volatile, ..MIX };

fn run(mix: &'static Mix, kill_before: Vec<(u64, bool)>) -> World {
    let mut world = World::new(7, mix, false);
    world.kill_before = kill_before;
    world.run(STEPS, Micros::MAX, |_| false);
    world.kill_before.clear();
    world.heal();
    world.groups[0].clients.stop();
    world.must_serve();
    world.must_converge();
    assert!(world.now < 600 * SECOND);
    world
}

fn every_crash(mix: &'static Mix, wipe: bool) {
    let mut clean = World::new(7, mix, false);
    clean.run(STEPS, Micros::MAX, |_| false);
    assert!(
        clean.counts.get("snapshot pointer moved") > 0 && clean.counts.get("trimmed segment") > 0,
        "{}",
        clean.counts
    );
    for first in 1..=clean.effects {
        // The second one hits whoever acts then: often the same node on its way back.
        for second in [u64::MAX, first + 1 + first % 97] {
            run(mix, vec![(first, wipe), (second, !wipe && first % 2 == 0)]);
        }
    }
}

#[test]
fn a_crash_before_any_effect_is_survived() {
    every_crash(&MIX, false);
}

#[test]
fn a_crash_and_a_lost_disk_before_any_effect_are_survived() {
    every_crash(&VOLATILE, true);
}
