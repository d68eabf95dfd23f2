//! One fault at a time, and exactly what must come of it.

use bequest::{GroupError, NodeError, Role};
use bequest_recovery::path::GroupPaths;
use bequest_recovery::record::{self, Pointer};
use bytes::Bytes;

use crate::death::Death;
use crate::dice::Part;
use crate::genesis;
use crate::mix::{delay, Micros, Mix, MILLI, QUIET, SECOND};
use crate::network::Block;
use crate::world::{Pid, Place, World};

mod older;
mod rarer;

const ROOMY: Mix = Mix { name: "roomy", wal_bytes: 4 << 20, wal_segments: 100_000, ..QUIET };

/// A world in which somebody serves.
fn serving(mix: &'static Mix) -> World {
    serving_by(1, mix)
}

/// The same, drawn by another seed.
fn serving_by(seed: u64, mix: &'static Mix) -> World {
    let mut world = World::new(seed, mix, false);
    world.heal();
    world.must_serve();
    world.must_converge();
    world
}

impl World {
    /// Lets time pass until something is so; it must be within this long.
    fn until(&mut self, what: &str, within: Micros, mut so: impl FnMut(&mut World) -> bool) -> Micros {
        let (began, until) = (self.now, self.now + within);
        let reached = self.run(u64::MAX, until, |world| so(world));
        assert!(reached, "not within {within} us: {what}; {}", self.situation());
        self.now - began
    }

    /// Lets time pass, writing now and then at whoever leads.
    fn write_for(&mut self, duration: Micros) {
        self.write_while_waiting(duration, |_| false);
    }

    /// The same until something is so, and no longer than this.
    fn write_while_waiting(&mut self, within: Micros, mut so: impl FnMut(&mut World) -> bool) {
        let until = self.now + within;
        let mut next = self.now;
        self.run(u64::MAX, until, |world| {
            if world.now >= next {
                next = world.now + 20 * MILLI;
                for pid in world.leaders(0).into_keys() {
                    world.write(0, pid);
                }
            }
            so(world)
        });
    }

    fn leader_and_follower(&self) -> (Pid, Pid) {
        let leader = *self.leaders(0).keys().next().expect("somebody leads");
        let follower = self.pids().into_iter().find(|pid| *pid != leader).expect("somebody follows");
        (leader, follower)
    }

    fn node(&self, pid: Pid) -> u64 {
        self.processes[&pid].place.node
    }

    fn term(&self) -> u64 {
        self.groups[0].mirror.ballot.0.term
    }

    /// Time until a write is acknowledged that was made after now.
    fn served_again(&mut self, within: Micros) -> Micros {
        let before = self.groups[0].clients.acknowledged;
        let mut next = self.now;
        self.until("somebody serves", within, |world| {
            if world.now >= next {
                next = world.now + 5 * MILLI;
                let leaders: Vec<Pid> = world.leaders(0).into_keys().collect();
                if let Some(pid) = world.roll(Part::Driver).pick(&leaders) {
                    world.write(0, pid);
                }
            }
            world.groups[0].clients.acknowledged > before
        })
    }
}

fn segments(world: &World) -> Vec<(String, Bytes)> {
    let wals = format!("{}/", GroupPaths::new(&genesis::name(0)).wals());
    world
        .zoo
        .head()
        .below(&wals)
        .filter(|(path, _)| path[wals.len()..].split('/').count() == 3)
        .filter(|(_, znode)| {
            record::open::<record::Segment>(&znode.data, Some(genesis::uuid(0))).is_ok_and(|s| s.closed_by == 0)
        })
        .map(|(path, znode)| (path.to_owned(), znode.data.clone()))
        .collect()
}

fn flipped(data: &Bytes) -> Bytes {
    let mut bytes = data.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

/// Kills everybody, disks and all.
fn all_die_wiped(world: &mut World) {
    for pid in world.pids() {
        world.kill_now(pid, true);
    }
}

fn everybody_stops(world: &mut World, within: Micros) -> Vec<GroupError> {
    world.until("both nodes stop the group", within, |world| {
        let nodes: std::collections::BTreeSet<Pid> = world.stops.iter().map(|(pid, _)| *pid).collect();
        nodes.len() >= 2
    });
    world.stops.iter().map(|(_, error)| error.clone()).collect()
}

#[test]
fn a_killed_leader_is_replaced_without_waiting_for_its_session() {
    for seed in 0..50 {
        let mut world = serving_by(seed, &ROOMY);
        // Both wanted the first ballot, and who lost that race leaves the next one to others for a while.
        world.write_for(SECOND);
        let (leader, _) = world.leader_and_follower();
        world.kill(leader, Death::Process);
        let downtime = world.served_again(SECOND);
        assert!(downtime < 100 * MILLI, "seed {seed}: {downtime} us");
    }
}

#[test]
fn a_leader_whose_host_is_gone_is_replaced_in_well_under_a_second() {
    let mut world = serving(&ROOMY);
    let (leader, _) = world.leader_and_follower();
    let place = world.processes[&leader].place;
    world.die(leader, Death::Power);
    world.network.dark.insert(place, Micros::MAX);
    let downtime = world.served_again(2 * SECOND);
    assert!(downtime < 700 * MILLI, "{downtime} us");
}

#[test]
fn hosts_that_vanish_again_and_again_are_all_replaced_in_well_under_a_second() {
    let mut world = serving(&ROOMY);
    for round in 0..6 {
        // A ballot that ends younger than this makes everybody more patient, as it should.
        world.write_for(2 * SECOND);
        let (leader, follower) = world.leader_and_follower();
        let node = world.node(leader);
        // Its cable is pulled: nobody is told, and its process goes on.
        for (from, to) in [(1, 2), (2, 1)] {
            world.block(from, to, Block::Silent);
        }
        world.keepers.isolated.insert(node);
        world.mute(leader, crate::keeper::Silence::Both, 400 * MILLI);
        let downtime = world.until("the other leads", 3 * SECOND, |world| world.leaders(0).contains_key(&follower));
        assert!(downtime < 700 * MILLI, "round {round}: {downtime} us");
        world.network.blocked.clear();
        world.keepers.isolated.clear();
        world.until("it follows", 3 * SECOND, |world| world.processes[&leader].replicas[0].role() == Role::Follower);
    }
}

#[test]
fn a_zookeeper_that_turns_slow_moves_leadership_a_few_times_at_most() {
    const DRAGGED: Mix = Mix { name: "dragged and roomy", keeper: delay(5 * MILLI, 15 * MILLI), ..ROOMY };
    let mut world = serving(&DRAGGED);
    for block in [false, true] {
        if block {
            for (from, to) in [(1, 2), (2, 1)] {
                world.block(from, to, Block::Silent);
            }
        }
        let term = world.term();
        // Forty times slower from one moment to the next.
        world.keepers.dragged.extend([1, 2]);
        world.write_for(40 * SECOND);
        assert!(world.term() <= term + 6, "block={block}: {} terms; {}", world.term() - term, world.situation());
        let (term, acknowledged) = (world.term(), world.groups[0].clients.acknowledged);
        world.write_for(20 * SECOND);
        assert_eq!(world.term(), term, "block={block}: {}", world.situation());
        assert!(world.groups[0].clients.acknowledged > acknowledged, "block={block}: {}", world.situation());
        world.keepers.dragged.clear();
        world.write_for(5 * SECOND);
    }
}

#[test]
fn a_zookeeper_slower_than_the_election_timeout_makes_no_nodes_take_turns() {
    const SLOW: Mix = Mix { name: "slow and roomy", keeper: delay(200 * MILLI, 300 * MILLI), ..ROOMY };
    let mut world = serving(&SLOW);
    // Nothing but ZooKeeper tells whether the leader lives.
    for (from, to) in [(1, 2), (2, 1)] {
        world.block(from, to, Block::Silent);
    }
    world.write_for(10 * SECOND);
    let (term, acknowledged) = (world.term(), world.groups[0].clients.acknowledged);
    world.write_for(30 * SECOND);
    assert_eq!(world.term(), term, "{}", world.situation());
    assert!(world.groups[0].clients.acknowledged > acknowledged + 40, "{}", world.situation());
}

#[test]
fn a_cut_between_the_nodes_alone_moves_no_leadership_and_stops_no_write() {
    let mut world = serving(&ROOMY);
    let (_, follower) = world.leader_and_follower();
    let (term, acknowledged) = (world.term(), world.groups[0].clients.acknowledged);
    for (from, to) in [(1, 2), (2, 1)] {
        world.block(from, to, Block::Silent);
    }
    world.write_for(10 * SECOND);
    assert_eq!(world.term(), term, "{}", world.situation());
    assert!(
        world.groups[0].clients.acknowledged > acknowledged + 400,
        "{} writes",
        world.groups[0].clients.acknowledged - acknowledged
    );
    let last = world.processes[&follower].replicas[0].status.as_ref().map_or(0, |status| status.last);
    let behind = world.groups[0].mirror.end().index - last;
    assert!(behind < 50, "the follower keeps up through zookeeper, {behind} behind; {}", world.situation());
}

#[test]
fn a_leader_out_of_sight_that_dies_is_replaced() {
    for block in [Block::Silent, Block::Reject] {
        let mut world = serving(&ROOMY);
        for (from, to) in [(1, 2), (2, 1)] {
            world.block(from, to, block);
        }
        world.write_for(5 * SECOND);
        let (leader, follower) = world.leader_and_follower();
        world.die(leader, Death::Power);
        let downtime = world.until("the other leads", 5 * SECOND, |world| world.leaders(0).contains_key(&follower));
        assert!(downtime < 2 * SECOND, "{block:?}: {downtime} us");
    }
}

#[test]
fn a_firewall_that_refuses_starts_no_duel() {
    let mut world = serving(&ROOMY);
    let term = world.term();
    for (from, to) in [(1, 2), (2, 1)] {
        world.block(from, to, Block::Reject);
    }
    world.write_for(20 * SECOND);
    assert!(world.term() <= term + 2, "{} terms", world.term() - term);
    let acknowledged = world.groups[0].clients.acknowledged;
    world.write_for(SECOND);
    assert!(world.groups[0].clients.acknowledged > acknowledged + 20, "{}", world.situation());
}

#[test]
fn a_leader_cut_from_zookeeper_is_replaced() {
    let mut world = serving(&ROOMY);
    let (leader, follower) = world.leader_and_follower();
    let node = world.node(leader);
    world.keepers.isolated.insert(node);
    world.mute(leader, crate::keeper::Silence::Both, 400 * MILLI);
    let downtime = world.served_again(10 * SECOND);
    assert!(downtime < 3 * SECOND, "{downtime} us");
    assert!(world.leaders(0).contains_key(&follower), "{}", world.situation());
}

#[test]
fn what_is_idle_writes_nothing() {
    let mut world = serving(&ROOMY);
    world.until("two seconds pass", 3 * SECOND, {
        let until = world.now + 2 * SECOND;
        move |world| world.now >= until
    });
    let before = world.zoo.log().len();
    let until = world.now + 60 * SECOND;
    world.run(u64::MAX, until, |_| false);
    assert_eq!(world.zoo.log()[before..], [], "transactions of an idle group");
}

#[test]
fn a_segment_deleted_by_hand_is_named_and_never_skipped() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    world.write_for(SECOND);
    world.must_converge();
    let all = segments(&world);
    let (path, data) = &all[all.len() / 2];
    let gone = record::open::<record::Segment>(data, None).expect("a segment").prev_index + 1;
    let path = path.clone();
    world.zoo.tamper(&path, None);
    all_die_wiped(&mut world);
    for error in everybody_stops(&mut world, 30 * SECOND) {
        assert!(matches!(error, GroupError::Damaged { index, .. } if index == gone), "{error}");
    }
}

#[test]
fn a_flipped_bit_in_a_segment_is_found_and_never_served() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    world.write_for(SECOND);
    world.must_converge();
    let all = segments(&world);
    let (path, data) = all[all.len() / 2].clone();
    world.zoo.tamper(&path, Some(flipped(&data)));
    all_die_wiped(&mut world);
    for error in everybody_stops(&mut world, 30 * SECOND) {
        assert!(matches!(&error, GroupError::Damaged { path: found, .. } if *found == path), "{error}");
    }
}

fn snapshots(world: &World) -> (Pointer, Vec<String>) {
    let paths = GroupPaths::new(&genesis::name(0));
    let znode = world.zoo.head().get(&paths.pointer()).expect("a pointer is there");
    let pointer: Pointer = record::open(&znode.data, Some(genesis::uuid(0))).expect("a pointer");
    let named = [&pointer.newest, &pointer.previous].into_iter().flatten();
    let manifests = named.map(|name| paths.manifest(name.index, name.term)).collect();
    (pointer, manifests)
}

#[test]
fn a_damaged_newest_snapshot_is_replaced_by_the_one_before() {
    let mut world = serving(&QUIET);
    world.write_for(5 * SECOND);
    let (pointer, manifests) = snapshots(&world);
    assert!(pointer.previous.is_some(), "two snapshots were published");
    let data = world.zoo.head().get(&manifests[0]).expect("a manifest").data.clone();
    world.zoo.tamper(&manifests[0], Some(flipped(&data)));
    all_die_wiped(&mut world);
    world.must_serve();
    world.must_converge();
}

#[test]
fn two_damaged_snapshots_are_refused() {
    let mut world = serving(&QUIET);
    world.hostile = true;
    world.write_for(5 * SECOND);
    for manifest in snapshots(&world).1 {
        let data = world.zoo.head().get(&manifest).expect("a manifest").data.clone();
        world.zoo.tamper(&manifest, Some(flipped(&data)));
    }
    all_die_wiped(&mut world);
    for error in everybody_stops(&mut world, 30 * SECOND) {
        assert!(matches!(&error, GroupError::Damaged { path, .. } if path.contains("/snapshots/")), "{error}");
    }
}

#[test]
fn foreign_bytes_where_the_leader_appends_are_two_writers_and_stop_it() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    let (leader, _) = world.leader_and_follower();
    let (ballot, _) = world.groups[0].mirror.ballot.clone();
    let paths = GroupPaths::new(&genesis::name(0));
    let wal = bequest_recovery::path::WalName { term: ballot.term, node: ballot.node };
    let next = world.groups[0].mirror.end().index + 1;
    world.zoo.tamper(&paths.segment(wal, 1, next), Some(Bytes::from_static(b"foreign")));
    world.write(0, leader);
    world.until("the leader stops", 10 * SECOND, |world| world.stops.iter().any(|(pid, _)| *pid == leader));
    let (_, error) = &world.stops[0];
    assert!(matches!(error, GroupError::WalConflict { .. }), "{error}");
}

#[test]
fn a_deleted_ballot_is_never_made_anew() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    let (leader, _) = world.leader_and_follower();
    let ballot = GroupPaths::new(&genesis::name(0)).ballot();
    world.zoo.tamper(&ballot, None);
    world.write(0, leader);
    everybody_stops(&mut world, 30 * SECOND);
    assert!(world.zoo.head().get(&ballot).is_none());
}

#[test]
fn a_group_denied_by_an_acl_is_served_again_once_it_is_allowed() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    let wals = GroupPaths::new(&genesis::name(0)).ballot();
    world.zoo.deny(&wals, true);
    let before = world.groups[0].clients.acknowledged;
    world.write_for(5 * SECOND);
    assert!(world.groups[0].clients.acknowledged <= before + 1, "acknowledged without the fence");
    world.zoo.deny(&wals, false);
    if world.stops.is_empty() {
        world.must_serve();
    } else {
        let denied = world.stops.iter().all(|(_, error)| matches!(error, GroupError::Denied { .. }));
        assert!(denied, "{:?}", world.stops);
    }
}

#[test]
fn a_second_process_of_a_node_refuses_to_start_while_the_first_answers() {
    let mut world = serving(&ROOMY);
    world.hostile = true;
    let term = world.term();
    world.healing = false;
    world.start_twin_of(1);
    world.healing = true;
    let twin = world.at(Place { node: 1, host: 1 }).expect("the twin runs");
    world.until("the twin stops", 10 * SECOND, |world| !world.node_stops.is_empty());
    let (stopped, error) = &world.node_stops[0];
    assert_eq!(*stopped, twin);
    assert!(matches!(error, NodeError::NodeAlreadyRunning { id: 1, .. }), "{error}");
    assert_eq!(world.term(), term, "nothing moved");
    world.served_again(SECOND);
}

#[test]
fn a_leader_that_shuts_down_hands_over_at_once() {
    let mut world = serving(&ROOMY);
    let (leader, follower) = world.leader_and_follower();
    world.shut_down(leader);
    world.until("the leader is gone", 5 * SECOND, |world| !world.processes.contains_key(&leader));
    let downtime = world.served_again(SECOND);
    assert!(downtime < 100 * MILLI, "{downtime} us");
    assert!(world.leaders(0).contains_key(&follower), "{}", world.situation());
}

#[test]
fn a_paused_leader_answers_nothing_as_leader_after_it_was_replaced() {
    let mut world = serving(&ROOMY);
    let (leader, follower) = world.leader_and_follower();
    world.pause(leader);
    world.served_again(5 * SECOND);
    assert!(world.leaders(0).contains_key(&follower), "{}", world.situation());
    // It is asked before it goes on: the history checks whatever it answers.
    for _ in 0..5 {
        world.read(0, leader);
        world.write(0, leader);
    }
    let reads = world.groups[0].clients.answered;
    world.resume(leader);
    world.until("it follows", 10 * SECOND, |world| {
        !world.leaders(0).contains_key(&leader) && world.groups[0].clients.waiting() == 0
    });
    assert_eq!(world.groups[0].clients.answered, reads, "a deposed leader answered a read");
    world.must_converge();
}
