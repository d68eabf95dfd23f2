//! Snapshots in ZooKeeper damaged: the previous one and a longer log take their place, or nothing does.

use std::collections::BTreeSet;

use bequest_recovery::path::GroupPaths;
use bequest_recovery::record::{open, Manifest, Pointer, SnapshotName};

use crate::operator::{damaged, Operator};
use crate::world::{eventually, World, SMALL};

/// Bytes of a value, and how many at a time: a snapshot is due after about a third of the WAL's limit.
const VALUE: usize = 8_000;

fn below_group(path: &str) -> String {
    path.strip_prefix("/groups/kv").expect("a path of the group").to_owned()
}

fn chunk_path(hash: &[u8]) -> String {
    below_group(&GroupPaths::new("kv").chunk(hash))
}

async fn pointer(operator: &Operator) -> Pointer {
    open(&operator.get("/snapshot").await.into(), None).expect("a pointer")
}

/// The chunks of a snapshot.
async fn chunks(operator: &Operator, name: &SnapshotName) -> BTreeSet<String> {
    let path = below_group(&GroupPaths::new("kv").manifest(name.index, name.term));
    let manifest: Manifest = open(&operator.get(&path).await.into(), None).expect("a manifest");
    manifest.chunks.iter().map(|chunk| chunk_path(&chunk.hash)).collect()
}

/// A world with a newest and a previous snapshot, whose nodes are dead and have lost their disks.
async fn dead_with_two_snapshots() -> World {
    let mut world = World::start_with(SMALL).await;
    let operator = world.operator().await;
    while pointer(&operator).await.previous.is_none() {
        world.write(5, VALUE).await;
    }
    world.write(5, VALUE).await;
    world.nothing_is_lost().await;
    world.kill_nodes().await;
    for node in &world.nodes {
        node.wipe();
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_made_good_by_the_previous_snapshot_and_its_longer_log() {
    let mut world = dead_with_two_snapshots().await;
    let operator = world.operator().await;
    let Pointer { newest, previous, .. } = pointer(&operator).await;
    let (newest, previous) = (newest.expect("a snapshot"), previous.expect("a snapshot"));
    let (new, old) = (chunks(&operator, &newest).await, chunks(&operator, &previous).await);
    let only_new: Vec<_> = new.difference(&old).collect();
    assert!(!only_new.is_empty(), "{new:?} {old:?}");
    for (at, chunk) in only_new.iter().enumerate() {
        if at == 0 {
            operator.delete(chunk).await;
        } else {
            let sound = operator.get(chunk).await;
            operator.set(chunk, &damaged(&sound)).await;
        }
    }
    world.start_nodes().await;
    world.nothing_is_lost().await;

    // The next snapshots do not rest on what is damaged.
    let passed = newest.index;
    while pointer(&operator).await.previous.is_none_or(|previous| previous.index <= passed) {
        world.write(5, VALUE).await;
    }
    world.kill_nodes().await;
    for node in &world.nodes {
        node.wipe();
    }
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_damaged_in_both_snapshots_is_named_and_never_served() {
    let mut world = dead_with_two_snapshots().await;
    let operator = world.operator().await;
    let mut sound = Vec::new();
    for chunk in operator.children("/chunks").await {
        let bytes = operator.get(&chunk).await;
        operator.set(&chunk, &damaged(&bytes)).await;
        sound.push((chunk, bytes));
    }
    for node in &world.nodes {
        let written = node.refused().await;
        let told = "damaged in zookeeper: path=/groups/kv/chunks/";
        assert!(written.contains(told) && written.contains("chunk damaged"), "{written}");
        assert!(!written.contains("serving"), "{written}");
    }
    for (chunk, bytes) in sound {
        operator.set(&chunk, &bytes).await;
    }
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_made_good_by_the_previous_snapshot() {
    let mut world = dead_with_two_snapshots().await;
    let operator = world.operator().await;
    let newest = pointer(&operator).await.newest.expect("a snapshot");
    let path = below_group(&GroupPaths::new("kv").manifest(newest.index, newest.term));
    let sound = operator.get(&path).await;
    operator.set(&path, &damaged(&sound)).await;
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trimming_keeps_the_log_bounded_and_a_wiped_node_is_reborn_from_snapshot_and_log() {
    let mut world = World::start_with(SMALL).await;
    let (leader, follower) = world.settled().await;
    let operator = world.operator().await;
    let first = operator.segments().await[0].clone();
    // Several times what the WAL may hold.
    world.write(150, VALUE).await;
    eventually("old segments to be trimmed", || async {
        if operator.exists(&first).await {
            Err(first.clone())
        } else {
            Ok(())
        }
    })
    .await;
    world.nodes[follower].kill().await;
    world.nodes[follower].wipe();
    world.nodes[follower].start();
    world.nothing_is_lost().await;
    assert_eq!(world.settled().await, (leader, follower), "nothing moved");
}
