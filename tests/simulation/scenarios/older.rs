//! A ZooKeeper that is older than what a node knows of it, or empty.

use bequest_recovery::model::Backup;
use bequest_recovery::path::{self, NODES};

use super::*;
use crate::mix::Machines;

/// Everybody dies, ZooKeeper is put back, and everybody returns.
fn must_be_refused_when_they_return_to(world: &mut World, backup: &Backup) {
    for pid in world.pids() {
        world.kill(pid, Death::Process);
    }
    world.zoo.roll_back(backup);
    for error in everybody_stops(world, 30 * SECOND) {
        assert!(matches!(error, GroupError::WentBackwards { .. }), "{error}");
    }
}

#[test]
fn a_zookeeper_that_went_backwards_is_refused_and_local_data_is_kept() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    let backup = world.zoo.backup();
    world.write_for(SECOND);
    world.must_converge();
    let end = world.groups[0].mirror.end().index;
    world.zoo.roll_back(&backup);
    for pid in world.pids() {
        world.break_connection(pid, 0);
    }
    let (leader, _) = world.leader_and_follower();
    let acknowledged = world.groups[0].clients.acknowledged;
    world.write(0, leader);
    let errors = everybody_stops(&mut world, 30 * SECOND);
    // The leader misses its own last segment; who would succeed it misses what it knows to have been there.
    assert!(matches!(errors[0], GroupError::Damaged { .. } | GroupError::WentBackwards { .. }), "{}", errors[0]);
    assert!(matches!(errors[1], GroupError::WentBackwards { .. }), "{}", errors[1]);
    assert_eq!(world.groups[0].clients.acknowledged, acknowledged);
    for place in world.places() {
        let log = world.disks[&place].group(0).log.expect("a log is there");
        assert!(log.slots.last().is_some_and(|slot| slot.position.index >= end), "{place:?} lost a part of its log");
    }
}

#[test]
fn a_node_that_returns_to_an_older_zookeeper_refuses_it() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    let backup = world.zoo.backup();
    world.write_for(SECOND);
    world.must_converge();
    must_be_refused_when_they_return_to(&mut world, &backup);
}

#[test]
fn what_was_committed_is_missed_also_by_a_node_that_needs_an_older_snapshot() {
    const TIGHT: Mix = Mix { name: "tight", machines: Machines::Volatile, wal_segments: 20, ..QUIET };
    let mut world = serving(&TIGHT);
    world.hostile = true;
    world.write_for(3 * SECOND);
    assert!(world.groups[0].mirror.pointer.previous.is_some(), "two snapshots are there to begin with");
    let backup = world.zoo.backup();
    let end = world.groups[0].mirror.end().index;
    world.write_for(3 * SECOND);
    world.must_converge();
    for place in world.places() {
        let log = world.disks[&place].group(0).log.expect("a log is there");
        assert!(log.base.index > end, "{place:?}: no snapshot reaches to where its log begins");
    }
    must_be_refused_when_they_return_to(&mut world, &backup);
}

#[test]
fn what_was_read_in_zookeeper_is_not_replaced_by_a_leader_that_began_with_less() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    let (leader, follower) = world.leader_and_follower();
    let (place, node) = (world.processes[&follower].place, world.node(follower));
    let (backup, reached) = (world.zoo.backup(), world.groups[0].mirror.end().index);
    // The follower keeps up through ZooKeeper, where it reads what it has not heard to be committed.
    for (from, to) in [(1, 2), (2, 1)] {
        world.block(from, to, Block::Silent);
    }
    world.write_for(5 * SECOND);
    let log = |world: &World| world.disks[&place].group(0).log.expect("a log is there");
    let (known, commit) = (log(&world).known.position, log(&world).commit);
    assert!(known.index > reached && known.index > commit, "read to {known:?}, committed {commit}, put back {reached}");
    // It sees nothing of ZooKeeper while that goes back, and the other node, which lost its disk, leads and writes.
    world.keepers.isolated.insert(node);
    world.kill_now(leader, true);
    world.goes_back(|zoo| zoo.roll_back(&backup), false, &[reached]);
    world.until("the other leads", 30 * SECOND, |world| !world.leaders(0).is_empty());
    world.write_for(SECOND);
    world.network.blocked.clear();
    world.until("they are linked", 30 * SECOND, |world| world.is_linked(follower));
    world.keepers.isolated.clear();
    world.until("the follower stops", 30 * SECOND, |world| world.stops.iter().any(|(pid, _)| *pid == follower));
    let (_, error) = world.stops.iter().find(|(pid, _)| *pid == follower).expect("it stopped");
    let found = "a leader with another entry at index";
    assert!(matches!(error, GroupError::WentBackwards { found: what, .. } if what.starts_with(found)), "{error}");
    world.check_found(false);
}

/// Its machine keeps nothing, so it begins with a snapshot, and the snapshot begins where what it knows ends: no entry that
/// it reads is one it knew.
#[test]
fn a_snapshot_of_the_last_index_a_node_knew_must_hold_what_it_knew() {
    const TIGHT: Mix = Mix { name: "tight", machines: Machines::Volatile, wal_segments: 20, ..QUIET };
    let met = (1..100).any(|seed| {
        let mut world = serving_by(seed, &TIGHT);
        world.hostile = true;
        let (leader, follower) = world.leader_and_follower();
        let (place, node) = (world.processes[&follower].place, world.node(follower));
        world.write_for(SECOND);
        let (backup, reached) = (world.zoo.backup(), world.groups[0].mirror.end().index);
        world.write_for(SECOND);
        world.must_converge();
        // It is away while the other node, which lost its disk, leads with less and takes a snapshot.
        world.kill_now(follower, false);
        world.keepers.isolated.insert(node);
        world.kill_now(leader, true);
        let log = world.disks[&place].group(0).log.expect("a log is there");
        let knew = log.known.position.index.max(log.commit);
        world.goes_back(|zoo| zoo.roll_back(&backup), false, &[reached]);
        let snapshot = |world: &World| snapshots(world).0.newest.map_or(0, |name| name.index);
        world.write_while_waiting(60 * SECOND, |world| snapshot(world) >= knew);
        if snapshot(&world) != knew {
            return false;
        }
        world.keepers.isolated.clear();
        world.until("it stops", 30 * SECOND, |world| world.found().contains(&place));
        let (_, error) = &world.stops[0];
        let found = format!("another entry at index {knew}");
        assert!(matches!(error, GroupError::WentBackwards { found: what, .. } if *what == found), "{error}");
        world.check_found(false);
        true
    });
    assert!(met, "no snapshot was taken where what a node knew ends");
}

#[test]
fn an_empty_zookeeper_is_never_founded_by_joining() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    for pid in world.pids() {
        world.kill_now(pid, true);
    }
    world.zoo.wipe();
    world.until("both nodes refuse", 30 * SECOND, |world| world.node_stops.len() >= 2);
    for (_, error) in &world.node_stops {
        assert!(matches!(error, NodeError::NoSuchCluster { .. }), "{error}");
    }
    assert_eq!(world.zoo.head().iter().count(), 0, "nothing was created");
}

/// It finds no registration of its own, and no place for one: whether it lost a race or there is no cluster any more, only
/// the check tells with which it began.
#[test]
fn a_node_with_nowhere_to_register_says_that_there_is_no_cluster() {
    let mut without = 0;
    for steps in 0.. {
        let mut world = serving(&ROOMY);
        world.hostile = true;
        let (leader, follower) = world.leader_and_follower();
        let own = path::node(world.node(leader));
        let registered = |world: &World| world.zoo.head().get(&own).expect("it registered").version;
        let before = registered(&world);
        world.kill_now(leader, true);
        let born = |world: &World| world.pids().into_iter().find(|pid| *pid != follower);
        world.until("it is back", 30 * SECOND, |world| born(world).is_some());
        let pid = born(&world).expect("it is back");
        world.run(steps, Micros::MAX, |_| false);
        if registered(&world) > before {
            break;
        }
        let nodes: Vec<String> = world.zoo.head().below(NODES).map(|(path, _)| path.to_owned()).collect();
        for path in nodes.iter().rev().map(String::as_str).chain([NODES]) {
            world.zoo.tamper(path, None);
        }
        world.until("it says so", 30 * SECOND, |world| world.node_stops.iter().any(|(stopped, _)| *stopped == pid));
        let (_, error) = world.node_stops.iter().find(|(stopped, _)| *stopped == pid).expect("it stopped");
        assert!(matches!(error, NodeError::NoSuchCluster { .. }), "{error}");
        without += 1;
    }
    assert!(without > 3, "{without} births were not done with registering");
}
