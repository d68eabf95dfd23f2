//! The local disk damaged, taken away, or put back to what it was: it is a cache.

use std::path::{Path, PathBuf};

use crate::world::{World, PATIENCE};

/// Files below `dir`, by the beginning and the end of their names.
fn files(dir: &Path, begin: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("it can be read").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            found.extend(files(&path, begin, end));
        } else if name.starts_with(begin) && name.ends_with(end) {
            found.push(path);
        }
    }
    found
}

/// Turns bits all over a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).expect("it can be read");
    let step = (bytes.len() / 16).max(1);
    for byte in bytes.iter_mut().step_by(step) {
        *byte ^= 0x55;
    }
    std::fs::write(path, bytes).expect("it can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_moved_aside_and_rebuilt_from_zookeeper() {
    for (begin, end) in [("", ".sst"), ("MANIFEST", ""), ("CURRENT", "")] {
        let mut world = World::start().await;
        world.write(20, 2000).await;
        // What the first life wrote is in tables from the second on.
        world.kill_nodes().await;
        world.start_nodes().await;
        world.kill_nodes().await;
        for node in &world.nodes {
            let files = files(&node.data_dir, begin, end);
            assert!(!files.is_empty(), "no {begin}*{end}");
            files.iter().for_each(|file| damage(file));
        }
        world.start_nodes().await;
        world.write(3, 10).await;
        world.nothing_is_lost().await;
        for node in &world.nodes {
            let log = node.log();
            assert!(log.contains("moved aside"), "{begin}*{end}: {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_is_deleted_ends_and_the_other_serves() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let (leader, _) = world.settled().await;
    std::fs::remove_dir_all(&world.nodes[leader].data_dir).expect("it can be deleted");
    world.write(5, 10).await;
    let ended = tokio::time::timeout(PATIENCE, world.nodes[leader].process().wait()).await;
    let log = world.nodes[leader].log();
    assert_eq!(ended.ok().and_then(|status| status.code()), Some(1), "{log}");
    assert!(log.contains("local disk failed"), "{log}");
    world.write(5, 10).await;
    world.nodes[leader].start();
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_put_back_to_what_it_was_catches_up_from_zookeeper() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    world.kill_nodes().await;
    let old = world.dir().join("old");
    copy(&world.nodes[0].data_dir, &old);
    world.start_nodes().await;
    world.write(10, 10).await;
    world.nothing_is_lost().await;
    world.kill_nodes().await;
    world.nodes[0].wipe();
    copy(&old, &world.nodes[0].data_dir);
    world.nodes[1].wipe();
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it can be made");
    for entry in std::fs::read_dir(from).expect("it can be read").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}
