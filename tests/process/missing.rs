//! ZooKeeper absent, or there without cluster or group.

use crate::world::{init, init_command, run, Member, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_without_zookeeper_waits_and_says_why_and_serves_once_it_is_there() {
    let mut world = World::prepare(&[]).await;
    world.zookeeper.kill().await.expect("it runs");
    for node in &mut world.nodes {
        node.start();
    }
    for node in &world.nodes {
        let status = node.says("mode", "no-keeper").await;
        let reason = status["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("zookeeper") && reason.contains(&world.zookeeper.address().to_string()), "{status}");
        let health = node.ask("GET", "/health", b"").await.expect("an answer");
        assert_eq!(health.status, 503, "{health:?}");
        let write = node.ask("PUT", "/kv/x", b"1").await.expect("an answer");
        assert_eq!(write.status, 503, "{write:?}");
    }
    world.zookeeper.restart().await.expect("it starts");
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn running_nodes_say_that_zookeeper_is_gone_and_go_on_by_themselves_when_it_is_back() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    world.zookeeper.kill().await.expect("it runs");
    for node in &world.nodes {
        let status = node.says("mode", "no-keeper").await;
        assert!(status["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
    }
    let write = world.nodes[0].ask("PUT", "/kv/x", b"1").await;
    assert!(write.as_ref().is_none_or(|answer| answer.status != 200), "nothing is acknowledged: {write:?}");
    world.zookeeper.restart().await.expect("it starts");
    world.write(5, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_chroot_is_named_and_never_created() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    world.kill_nodes().await;
    let mistyped = format!("zk://{}/mistyped/place", world.zookeeper.address());

    // Neither a new node, nor one that knows another place.
    let fresh = Member::new(1, &mistyped, &world.dir().join("fresh")).refused().await;
    assert!(fresh.contains("no such cluster") && fresh.contains("bequest init"), "{fresh}");
    let zk = std::mem::replace(&mut world.nodes[0].zk, mistyped);
    let known = world.nodes[0].refused().await;
    assert!(known.contains("no such cluster"), "{known}");
    let operator = world.operator().await;
    assert!(!operator.exists("///mistyped").await, "it was created");

    world.nodes[0].zk = zk;
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_group_is_named_and_never_created() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    world.kill_nodes().await;
    let operator = world.operator().await;
    operator.delete("").await;

    let fresh = Member::new(1, &world.zk, &world.dir().join("fresh")).refused().await;
    assert!(fresh.contains("no such group: path=/groups/kv") && fresh.contains("bequest init"), "{fresh}");
    let known = world.nodes[0].refused().await;
    assert!(known.contains("no such group: path=/groups/kv"), "{known}");
    assert_eq!(operator.children("//groups").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_created_again_with_other_voters_and_serves_only_its_own() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    let (code, written) = run(init_command(&world.zk, "1,3")).await;
    assert!(
        code == Some(1) && written.contains("group has other voters: name=kv given=[1, 3] found=[1, 2]"),
        "{written}"
    );

    let stranger = Member::new(3, &world.zk, world.dir()).refused().await;
    assert!(stranger.contains("not a voter: node=3 voters=[1, 2]"), "{stranger}");
    world.write(3, 10).await;
    world.nothing_is_lost().await;

    // The same again changes nothing.
    init(&world.zk, "1,2", &[]).await;
    world.nothing_is_lost().await;
}
