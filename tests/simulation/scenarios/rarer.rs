//! Faults that are seldom met alone: two of one name at once, nobody told anything, nothing to be created, no wish to lead.

use super::*;

const MEMBERS: Mix = Mix { name: "members", servers: 3, ..ROOMY };

#[test]
fn of_two_processes_of_a_node_born_at_once_one_stays() {
    for seed in 0..20 {
        let mut world = World::new(seed, &ROOMY, false);
        world.heal();
        world.must_serve();
        world.must_converge();
        world.hostile = true;
        let first = world.at(Place { node: 1, host: 0 }).expect("it runs");
        world.die(first, Death::Process);
        // Neither finds anybody to answer its probe.
        world.healing = false;
        world.give_birth(Place { node: 1, host: 0 });
        world.start_twin_of(1);
        world.healing = true;
        let twins = [0, 1].map(|host| world.at(Place { node: 1, host }).expect("both run"));
        world.until("one of them stops", 10 * SECOND, |world| !world.node_stops.is_empty());
        let (stopped, error) = world.node_stops[0].clone();
        assert!(twins.contains(&stopped), "{stopped:?} of {twins:?}");
        let named = matches!(error, NodeError::Superseded { .. } | NodeError::NodeAlreadyRunning { id: 1, .. });
        assert!(named, "seed {seed}: {error}");
        world.served_again(5 * SECOND);
        assert_eq!(world.node_stops.len(), 1, "seed {seed}: the other one stays: {:?}", world.node_stops);
    }
}

#[test]
fn an_exhausted_quota_ends_the_leadership_and_is_over_when_it_is_lifted() {
    let mut world = serving(&ROOMY);
    let (leader, _) = world.leader_and_follower();
    let term = world.term();
    let group = format!("{}/", GroupPaths::new(&genesis::name(0)).genesis());
    world.zoo.exhaust_quota(Some(&group));
    let acknowledged = world.groups[0].clients.acknowledged;
    world.write(0, leader);
    world.until("the leader gives up", 10 * SECOND, |world| !world.leaders(0).contains_key(&leader));
    world.write_for(5 * SECOND);
    assert_eq!(world.groups[0].clients.acknowledged, acknowledged, "acknowledged what could not be created");
    world.zoo.exhaust_quota(None);
    world.must_serve();
    world.must_converge();
    assert!(world.term() > term, "the leadership that was refused ended");
}

#[test]
fn without_any_watch_a_dead_leader_is_replaced_by_polling() {
    let mut world = serving(&ROOMY);
    world.keepers.deaf = true;
    for round in 0..4 {
        let (leader, follower) = world.leader_and_follower();
        // Nothing but ZooKeeper tells of it: no link ends, no connection is refused.
        for (from, to) in [(1, 2), (2, 1)] {
            world.block(from, to, Block::Silent);
        }
        let place = world.processes[&leader].place;
        world.die(leader, Death::Power);
        world.served_again(20 * SECOND);
        assert!(world.leaders(0).contains_key(&follower), "round {round}: {}", world.situation());
        world.network.blocked.clear();
        world.give_birth(place);
        world.must_converge();
        assert_eq!(world.leaders(0).len(), 1, "round {round}: {}", world.situation());
    }
}

#[test]
fn a_node_that_is_not_ready_leaves_the_ballot_to_the_other() {
    let mut world = serving(&ROOMY);
    let (leader, follower) = world.leader_and_follower();
    let (first, second) = (world.node(leader), world.node(follower));
    let term = world.term();
    world.set_ready(follower, false);
    world.kill(leader, Death::Process);
    // The survivor does not want to lead; who comes back does.
    world.served_again(20 * SECOND);
    let leads: Vec<u64> = world.leaders(0).into_keys().map(|pid| world.node(pid)).collect();
    assert_eq!(leads, [first], "{}", world.situation());
    assert!(world.term() > term);
    // Ready again, it leads when it is needed.
    world.set_ready(follower, true);
    world.must_converge();
    let (leader, _) = world.leader_and_follower();
    world.kill(leader, Death::Process);
    world.served_again(5 * SECOND);
    let leads: Vec<u64> = world.leaders(0).into_keys().map(|pid| world.node(pid)).collect();
    assert_eq!(leads, [second], "{}", world.situation());
}

#[test]
fn a_leader_killed_right_after_a_race_is_replaced_once_the_loser_has_waited() {
    for seed in 0..50 {
        let mut world = serving_by(seed, &ROOMY);
        let (leader, _) = world.leader_and_follower();
        world.kill(leader, Death::Process);
        let downtime = world.served_again(SECOND);
        // It waits for five quarters of the election timeout at most.
        assert!(downtime < 300 * MILLI, "seed {seed}: {downtime} us");
    }
}

#[test]
fn a_leadership_outlives_elections_within_zookeeper_and_their_new_numbers() {
    for seed in 0..20 {
        let mut world = serving_by(seed, &MEMBERS);
        let (leader, term) = (world.leader_and_follower().0, world.term());
        for round in 0..5 {
            let number = world.zoo.log().last().map_or(0, |transaction| transaction.zxid);
            // Nothing is on its way: what is silent is ZooKeeper, and both nodes know it.
            let mut roll = world.roll(Part::Driver);
            world.servers_elect(&mut roll);
            assert!(world.keepers.down, "seed {seed}: nobody is served");
            world.until("an end of the election", SECOND, |world| !world.keepers.down);
            world.served_again(5 * SECOND);
            let now = world.zoo.log().last().map_or(0, |transaction| transaction.zxid);
            assert_eq!(now >> 32, (number >> 32) + 1, "seed {seed}: transactions are counted in a new epoch");
            let leads: Vec<Pid> = world.leaders(0).into_keys().collect();
            assert_eq!(
                (leads, world.term()),
                (vec![leader], term),
                "seed {seed}, round {round}: {}",
                world.situation()
            );
        }
        world.must_converge();
    }
}
