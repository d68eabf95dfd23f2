//! ZooKeeper wiped, or put back to what it was: told as such, and local data kept.

use std::path::{Path, PathBuf};

use crate::world::{init, World};

/// Stops ZooKeeper and copies its data aside.
async fn stop_and_copy(world: &mut World, name: &str) -> PathBuf {
    world.zookeeper.stop().await.expect("it ends");
    let to = world.dir().join(name);
    for (at, from) in world.zookeeper.data_dirs().into_iter().enumerate() {
        copy(from, &to.join(at.to_string()));
    }
    to
}

/// Starts ZooKeeper, which is down, on a copy in place of its data.
async fn start_on(world: &mut World, from: &Path) {
    for (at, to) in world.zookeeper.data_dirs().into_iter().enumerate() {
        std::fs::remove_dir_all(to).expect("it can be deleted");
        copy(&from.join(at.to_string()), to);
    }
    world.zookeeper.restart().await.expect("it starts on the copy");
}

/// With its data back in place, everything that was acknowledged is served, from it and from what the nodes kept.
async fn everything_is_back_on(world: &mut World, copy: &Path) {
    world.kill_nodes().await;
    world.zookeeper.stop().await.expect("it ends");
    start_on(world, copy).await;
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it can be made");
    for entry in std::fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("it can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_rolled_back_between_two_lives_is_refused_with_what_was_seen_and_local_data_is_kept() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    world.kill_nodes().await;
    let older = stop_and_copy(&mut world, "older").await;
    world.zookeeper.restart().await.expect("it starts");
    world.start_nodes().await;
    world.write(20, 10).await;
    world.nothing_is_lost().await;
    // Killed right after a write, a node may not have noted on its disk yet that the last ones are in ZooKeeper.
    world.kill_nodes().await;
    let newer = stop_and_copy(&mut world, "newer").await;
    start_on(&mut world, &older).await;
    for node in &world.nodes {
        let written = node.refused().await;
        let error = written.lines().rfind(|line| line.contains("zookeeper went backwards")).unwrap_or(&written);
        assert!(error.contains("seen=") && error.contains("found="), "{written}");
        assert!(error.contains("local data is kept"), "{written}");
    }
    everything_is_back_on(&mut world, &newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_rolled_back_under_running_nodes_acknowledges_nothing_and_is_named() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let older = stop_and_copy(&mut world, "older").await;
    world.zookeeper.restart().await.expect("it starts");
    world.write(20, 10).await;
    // So that the ballot has moved on, too.
    world.kill_nodes().await;
    world.start_nodes().await;
    world.write(5, 10).await;
    let newer = stop_and_copy(&mut world, "newer").await;
    start_on(&mut world, &older).await;
    for node in &world.nodes {
        let why = node.fate().await;
        assert!(why.contains("zookeeper went backwards"), "{why}");
    }
    everything_is_back_on(&mut world, &newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_wiped_between_two_lives_is_refused_and_local_data_is_kept() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    world.nothing_is_lost().await;
    world.kill_nodes().await;
    let kept = stop_and_copy(&mut world, "kept").await;
    world.zookeeper.wipe().await.expect("it can be wiped");
    world.zookeeper.restart().await.expect("it starts empty");
    for node in &world.nodes {
        let written = node.refused().await;
        assert!(written.contains("no such cluster"), "{written}");
    }
    // Created anew it is another cluster, and the old one's data is not mixed with it.
    init(&world.zk, "1,2", &[]).await;
    for node in &world.nodes {
        let written = node.refused().await;
        assert!(written.contains("other cluster: local uuid="), "{written}");
    }
    everything_is_back_on(&mut world, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_wiped_under_running_nodes_acknowledges_nothing_and_is_named() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    world.nothing_is_lost().await;
    let kept = stop_and_copy(&mut world, "kept").await;
    world.zookeeper.wipe().await.expect("it can be wiped");
    world.zookeeper.restart().await.expect("it starts empty");
    for node in &world.nodes {
        let why = node.fate().await;
        assert!(why.contains("missing") || why.contains("no such") || why.contains("went backwards"), "{why}");
        let write = node.ask("PUT", "/kv/x", b"1").await;
        assert!(write.as_ref().is_none_or(|answer| answer.status != 200), "{write:?}");
    }
    everything_is_back_on(&mut world, &kept).await;
}
