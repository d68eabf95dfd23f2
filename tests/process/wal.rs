//! The log in ZooKeeper damaged, with holes, or without its ballot: named, never served, never skipped.

use crate::operator::{damaged, Operator};
use crate::world::World;

/// A full path without the group's part, as errors name it.
fn named(segment: &str) -> String {
    format!("path=/groups/kv{segment} index=")
}

/// A log whose nodes are dead, and a segment in the middle of it, made by a write.
struct Cold {
    world: World,
    operator: Operator,
    segment: String,
    sound: Vec<u8>,
}

impl Cold {
    async fn new() -> Self {
        let mut world = World::start().await;
        world.write(10, 100).await;
        world.kill_nodes().await;
        let operator = world.operator().await;
        let segments = operator.segments().await;
        assert!(segments.len() > 6, "{segments:?}");
        let segment = segments[segments.len() / 2].clone();
        let sound = operator.get(&segment).await;
        Self { world, operator, segment, sound }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_named_and_never_served() {
    let Cold { mut world, operator, segment, sound } = Cold::new().await;
    operator.set(&segment, &damaged(&sound)).await;
    for node in &world.nodes {
        node.wipe();
        let written = node.refused().await;
        assert!(written.contains("damaged in zookeeper") && written.contains(&named(&segment)), "{written}");
        assert!(!written.contains("serving"), "{written}");
    }
    // Whoever still knows what stood there can put it back by hand.
    operator.set(&segment, &sound).await;
    world.start_nodes().await;
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_segment_is_named_and_never_served() {
    let Cold { world, operator, segment, sound } = Cold::new().await;
    operator.set(&segment, &sound[..sound.len() - 7]).await;
    for node in &world.nodes {
        node.wipe();
    }
    let written = world.nodes[1].refused().await;
    assert!(written.contains("damaged in zookeeper") && written.contains(&named(&segment)), "{written}");
    operator.set(&segment, b"").await;
    let written = world.nodes[1].refused().await;
    assert!(written.contains("damaged in zookeeper") && written.contains(&named(&segment)), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_segment_is_a_named_hole_and_never_skipped() {
    let Cold { mut world, operator, segment, sound } = Cold::new().await;
    operator.delete(&segment).await;
    let index: u64 = segment.rsplit('/').next().and_then(|name| name.parse().ok()).expect("a segment's name");
    for node in &world.nodes {
        node.wipe();
        let written = node.refused().await;
        assert!(written.contains("damaged in zookeeper"), "{written}");
        assert!(written.contains(&format!("index={index} gap")), "index={index}: {written}");
    }
    operator.create(&segment, &sound).await;
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_last_segment_is_deleted_acknowledges_nothing_more_and_says_so() {
    let mut world = World::start().await;
    world.write(10, 100).await;
    let (leader, _) = world.settled().await;
    let operator = world.operator().await;
    let last = operator.segments().await.pop().expect("segments");
    let sound = operator.get(&last).await;
    operator.delete(&last).await;
    let write = world.nodes[leader].ask("PUT", "/kv/lost", b"1").await;
    assert!(write.as_ref().is_none_or(|answer| answer.status != 200), "{write:?}");
    let why = world.nodes[leader].stopped().await;
    assert!(why.contains("damaged in zookeeper") && why.contains(&last), "{why}");
    // Nobody else serves a log without it either.
    let other = world.nodes[1 - leader].stopped().await;
    assert!(other.contains("zookeeper went backwards") || other.contains("damaged in zookeeper"), "{other}");

    operator.create(&last, &sound).await;
    world.kill_nodes().await;
    world.start_nodes().await;
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_ballot_stops_the_group_and_one_made_by_hand_is_not_believed() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let operator = world.operator().await;
    let ballot = operator.get("/ballot").await;
    operator.delete("/ballot").await;
    for node in &world.nodes {
        let why = node.stopped().await;
        assert!(why.contains("damaged in zookeeper: path=/groups/kv/ballot"), "{why}");
        assert!(why.contains("the ballot is missing"), "{why}");
    }
    world.kill_nodes().await;
    operator.create("/ballot", &ballot).await;
    for node in &world.nodes {
        let written = node.refused().await;
        assert!(written.contains("zookeeper went backwards: ballot seen=czxid"), "{written}");
    }
}
