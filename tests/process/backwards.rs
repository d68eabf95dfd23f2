//! ZooKeeper wiped, or put back to what it was: told as such, and local data kept.

use std::path::Path;

use bequest_harness::ZooKeeperServer;

use crate::world::{init, installations, World};

/// Copies a server's data while it is down.
fn copy_data(zookeeper: &ZooKeeperServer, to: &Path) {
    for (at, from) in zookeeper.data_dirs().into_iter().enumerate() {
        copy(from, &to.join(at.to_string()));
    }
}

/// Puts a copy in place of a server's data while it is down.
fn put_back(zookeeper: &ZooKeeperServer, from: &Path) {
    for (at, to) in zookeeper.data_dirs().into_iter().enumerate() {
        std::fs::remove_dir_all(to).expect("it can be deleted");
        copy(&from.join(at.to_string()), to);
    }
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
    for installation in installations() {
        let mut world = World::prepare(installation, &[]).await;
        world.start_nodes().await;
        world.write(5, 10).await;
        let older = world.dir().join("older");
        world.kill_nodes().await;
        world.zookeeper.stop().await.expect("it ends");
        copy_data(&world.zookeeper, &older);
        world.zookeeper.restart().await.expect("it starts");
        world.start_nodes().await;
        world.write(20, 10).await;
        world.nothing_is_lost().await;
        // Killed right after a write, a node may not have noted on its disk yet that the last ones are in ZooKeeper.
        world.kill_nodes().await;
        world.zookeeper.stop().await.expect("it ends");
        let newer = world.dir().join("newer");
        copy_data(&world.zookeeper, &newer);
        put_back(&world.zookeeper, &older);
        world.zookeeper.restart().await.expect("it starts on the older data");
        for node in &world.nodes {
            let written = node.refused().await;
            let error = written.lines().rfind(|line| line.contains("zookeeper went backwards")).unwrap_or(&written);
            assert!(error.contains("seen=") && error.contains("found="), "{written}");
            assert!(error.contains("local data is kept"), "{written}");
        }

        world.zookeeper.stop().await.expect("it ends");
        put_back(&world.zookeeper, &newer);
        world.zookeeper.restart().await.expect("it starts on the newer data");
        world.start_nodes().await;
        world.nothing_is_lost().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_rolled_back_under_running_nodes_acknowledges_nothing_and_is_named() {
    for installation in installations() {
        let mut world = World::prepare(installation, &[]).await;
        world.start_nodes().await;
        world.write(5, 10).await;
        let (older, newer) = (world.dir().join("older"), world.dir().join("newer"));
        world.zookeeper.stop().await.expect("it ends");
        copy_data(&world.zookeeper, &older);
        world.zookeeper.restart().await.expect("it starts");
        world.write(20, 10).await;
        // So that the ballot has moved on, too.
        world.kill_nodes().await;
        world.start_nodes().await;
        world.write(5, 10).await;
        world.zookeeper.stop().await.expect("it ends");
        copy_data(&world.zookeeper, &newer);
        put_back(&world.zookeeper, &older);
        world.zookeeper.restart().await.expect("it starts on the older data");
        for node in &world.nodes {
            let why = node.fate().await;
            assert!(why.contains("zookeeper went backwards"), "{why}");
        }
        world.kill_nodes().await;
        world.zookeeper.stop().await.expect("it ends");
        put_back(&world.zookeeper, &newer);
        world.zookeeper.restart().await.expect("it starts on the newer data");
        world.start_nodes().await;
        world.nothing_is_lost().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_wiped_between_two_lives_is_refused_and_local_data_is_kept() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    world.nothing_is_lost().await;
    world.kill_nodes().await;
    world.zookeeper.stop().await.expect("it ends");
    let kept = world.dir().join("kept");
    copy_data(&world.zookeeper, &kept);
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
    world.zookeeper.stop().await.expect("it ends");
    put_back(&world.zookeeper, &kept);
    world.zookeeper.restart().await.expect("it starts on what it had");
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_wiped_under_running_nodes_acknowledges_nothing_and_is_named() {
    for installation in installations() {
        let mut world = World::prepare(installation, &[]).await;
        world.start_nodes().await;
        world.write(5, 10).await;
        world.nothing_is_lost().await;
        world.zookeeper.stop().await.expect("it ends");
        let kept = world.dir().join("kept");
        copy_data(&world.zookeeper, &kept);
        world.zookeeper.wipe().await.expect("it can be wiped");
        world.zookeeper.restart().await.expect("it starts empty");
        for node in &world.nodes {
            let why = node.fate().await;
            assert!(why.contains("missing") || why.contains("no such") || why.contains("went backwards"), "{why}");
            let write = node.ask("PUT", "/kv/x", b"1").await;
            assert!(write.as_ref().is_none_or(|answer| answer.status != 200), "{write:?}");
        }
        world.kill_nodes().await;
        world.zookeeper.stop().await.expect("it ends");
        put_back(&world.zookeeper, &kept);
        world.zookeeper.restart().await.expect("it starts on what it had");
        world.start_nodes().await;
        world.nothing_is_lost().await;
    }
}
