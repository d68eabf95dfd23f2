//! Lives and deaths of two nodes.

use bequest::{BootstrapError, Bootstrapped, JoinError};
use bequest_storage::{KvCommand, KvQuery, Options, Store};
use prost::Message;

use crate::world::{get, leads, put, value, TestResult, World, LIMIT};

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_node_of_two_serves_and_its_successor_has_everything() -> TestResult {
    let world = World::start().await?;
    assert_eq!(world.bootstrap().await?, Bootstrapped::Created);
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    for number in 0..100 {
        put(&group, &format!("k{number}"), "one").await?;
    }
    assert_eq!(get(&group, "k99").await?.as_deref(), Some("one"));
    // As by a crash: no handing over.
    drop(group);
    drop(one);

    let (two, group) = world.node(2).await?;
    leads(&group).await;
    for number in 0..100 {
        assert_eq!(get(&group, &format!("k{number}")).await?.as_deref(), Some("one"), "k{number}");
    }
    two.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_over_when_the_leader_dies_and_catches_the_dead_one_up_later() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    let (one, first) = world.node(1).await?;
    leads(&first).await;
    let (two, second) = world.node(2).await?;
    for number in 0..100 {
        put(&first, &format!("k{number}"), "one").await?;
    }
    let refused = put(&second, "k", "v").await.expect_err("a follower does not accept proposals");
    match refused {
        bequest::ProposeError::NotLeader { leader: Some(leader) } => assert_eq!(leader.node.0, 1),
        other => panic!("{other}"),
    }
    let began = std::time::Instant::now();
    drop((first, one));
    leads(&second).await;
    eprintln!("took over after {:?}: {:?}", began.elapsed(), second.status().succession);
    put(&second, "k0", "two").await?;
    assert_eq!(get(&second, "k99").await?.as_deref(), Some("one"));

    let (one, first) = world.node(1).await?;
    let applied = second.status().applied;
    let mut watch = first.watch_status();
    let caught_up = tokio::time::timeout(LIMIT, watch.wait_for(|status| status.applied >= applied)).await;
    assert!(caught_up.is_ok(), "{:#?}", first.status());
    let (_, answer) = first.read_stale(KvQuery::get("k0").encode_to_vec()).await?;
    assert_eq!(value(&answer)?.as_deref(), Some("two"));

    second.hand_over().await?;
    leads(&first).await;
    put(&first, "k0", "three").await?;
    two.shutdown().await?;
    one.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_s_request_takes_effect_once_also_when_retried_on_another_node() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    let (one, first) = world.node(1).await?;
    leads(&first).await;
    let session = first.open_session().await?;
    let request = session.request(KvCommand::compare_and_set("k", None, Some("mine".into())).encode_to_vec())?;
    let answer = request.send().await?;
    assert_eq!(request.send().await?, answer, "the first answer again");
    let (two, second) = world.node(2).await?;
    drop((first, one));
    leads(&second).await;
    assert_eq!(request.send_to(&second).await?, answer, "also from the heir");
    let elsewhere = second.resume_session(session.id(), session.next_sequence());
    elsewhere.propose(KvCommand::put("k", "next").encode_to_vec()).await?;
    let gone = second.resume_session(1 << 40, 1).propose("").await.expect_err("never opened");
    assert_eq!(gone, bequest::ProposeError::SessionGone { session: 1 << 40 });
    two.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_creates_nothing_and_bootstrap_twice_changes_nothing() -> TestResult {
    let world = World::start().await?;
    let node = world.open(1).await?;
    let error = node.join_key_value("orders").await.expect_err("nothing is there");
    assert!(matches!(error, JoinError::Node(bequest::NodeError::NoSuchCluster { .. })), "{error}");
    assert_eq!(node.bootstrap("orders", &[1, 2]).await?, Bootstrapped::Created);
    assert_eq!(world.bootstrap().await?, Bootstrapped::AlreadyThere);
    let error = node.bootstrap("orders", &[1]).await.expect_err("other voters");
    assert!(matches!(&error, BootstrapError::OtherVoters { found, .. } if *found == [1, 2]), "{error}");
    let group = node.join_key_value("orders").await?;
    leads(&group).await;
    let error = node.join_key_value("orders").await.expect_err("twice");
    assert_eq!(error, JoinError::AlreadyJoined { name: "orders".to_owned() });
    node.shutdown().await?;
    Ok(())
}

// A process that ends next would otherwise tear RocksDB down under their feet, and abort.
#[tokio::test(flavor = "multi_thread")]
async fn the_threads_of_a_dropped_node_have_let_go_of_its_directory() -> TestResult {
    let world = World::start().await?;
    for _ in 0..10 {
        let waiting = world.open(1).await?;
        drop(waiting);
        drop(Store::open(world.dir(1), Options::default())?);
    }
    world.bootstrap().await?;
    for _ in 0..10 {
        let (node, group) = world.node(1).await?;
        drop(node);
        drop(Store::open(world.dir(1), Options::default())?);
        drop(group);
    }
    Ok(())
}
