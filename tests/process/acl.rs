//! Access denied by ZooKeeper's ACLs: at start a refusal that names the path, at run time a pause that ends by itself.

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_not_use_the_cluster_or_group_is_refused_at_start_with_the_path() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    world.nothing_is_lost().await;
    world.kill_nodes().await;
    let operator = world.operator().await;
    let cases =
        [("//nodes", "/nodes"), ("", "/groups/kv"), ("/ballot", "/groups/kv/ballot"), ("/wal", "/groups/kv/wal")];
    for (denied, named) in cases {
        operator.deny(denied).await;
        let written = world.nodes[0].refused().await;
        assert!(written.contains(&format!("access denied by zookeeper: path={named}")), "{denied}: {written}");
        assert!(written.contains("check the ACL and the credentials"), "{written}");
        operator.allow(denied).await;
    }
    world.start_nodes().await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ballot_denied_at_run_time_stops_writes_until_it_is_allowed_again() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let (leader, _) = world.settled().await;
    let operator = world.operator().await;
    operator.deny("/ballot").await;
    let write = world.nodes[leader].ask("PUT", "/kv/denied", b"1").await;
    assert!(write.as_ref().is_none_or(|answer| answer.status != 200), "{write:?}");
    operator.allow("/ballot").await;
    world.write(5, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_denied_at_run_time_ends_the_leadership_and_the_group_goes_on() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let (leader, _) = world.settled().await;
    let operator = world.operator().await;
    let segment = operator.segments().await.pop().expect("segments");
    let bucket = segment.rsplit_once('/').expect("a bucket").0.to_owned();
    operator.deny(&bucket).await;
    let write = world.nodes[leader].ask("PUT", "/kv/denied", b"1").await;
    assert!(write.as_ref().is_none_or(|answer| answer.status != 200), "{write:?}");
    // The client is answered first.
    crate::world::eventually("the reason to be logged", || async {
        let log = format!("{}{}", world.nodes[0].log(), world.nodes[1].log());
        (log.contains("NoAuth") || log.contains("denied")).then_some(()).ok_or(log)
    })
    .await;
    operator.allow(&bucket).await;
    world.write(5, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_tree_denied_at_run_time_is_told_and_served_again_when_allowed() {
    let mut world = World::start().await;
    world.write(5, 10).await;
    let operator = world.operator().await;
    for path in ["/ballot", "/wal"] {
        operator.deny(path).await;
    }
    let write = world.nodes[0].ask("PUT", "/kv/denied", b"1").await;
    assert!(write.as_ref().is_none_or(|answer| answer.status != 200), "{write:?}");
    crate::world::eventually("the reason to be told", || async {
        let (first, second) = (world.nodes[0].status().await, world.nodes[1].status().await);
        let told = [&first, &second].iter().any(|status| {
            status["reason"].as_str().is_some_and(|reason| reason.contains("denied") || reason.contains("NoAuth"))
        });
        if told {
            Ok(())
        } else {
            Err(format!("{first}\n{second}"))
        }
    })
    .await;
    for path in ["/ballot", "/wal"] {
        operator.allow(path).await;
    }
    world.write(5, 10).await;
    world.nothing_is_lost().await;
}
