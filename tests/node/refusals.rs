//! What must not run is refused by name, and nothing is lost by it.

use std::time::Duration;

use bequest::{GroupError, JoinError, Node, NodeError, OpenError, ProposeError};
use bequest_harness::ZooKeeperServer;
use bequest_storage::{KvCommand, StorageError};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{get, leads, put, TestResult, World, LIMIT};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_smaller_request_limit_is_found_at_the_start() -> TestResult {
    let world = World::start_on(ZooKeeperServer::builder().jute_max_buffer(400_000)).await?;
    world.bootstrap().await?;
    let error = world.open(1).await.expect_err("segments would not fit");
    assert!(matches!(error, OpenError::RequestTooLarge { bytes } if bytes > 512 * 1024), "{error}");
    assert!(error.to_string().contains("jute.maxbuffer"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_does_not_run_twice() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    let error = world.open(1).await.expect_err("same directory");
    assert!(matches!(error, OpenError::Storage(StorageError::InUse { .. })), "{error}");
    // As on another host: other directory, other port.
    let twin = world.builder(1).data_dir(world.dir(9)).listen(format!("127.0.0.1:{}", world.ports[1]));
    let error = twin.open().await.expect_err("it runs");
    assert!(matches!(error, OpenError::Node(NodeError::NodeAlreadyRunning { id: 1, .. })), "{error}");
    put(&group, "k", "still leading").await?;
    one.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_serves_only_the_node_and_cluster_it_belongs_to() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    drop(group);
    one.shutdown().await?;

    let error = world.builder(2).data_dir(world.dir(1)).open().await.expect_err("node 1's");
    assert!(matches!(error, OpenError::Storage(StorageError::IdentityMismatch { .. })), "{error}");

    let other = format!("zk://{}/elsewhere", world.server.address());
    bequest::bootstrap(&other, "orders", &[1, 2], bequest::default_limits()).await?;
    let error = world.builder(1).keeper(&other).open().await.expect_err("another cluster's");
    assert!(matches!(error, OpenError::Node(NodeError::OtherCluster { .. })), "{error}");

    std::fs::create_dir(world.dir(7))?;
    std::fs::write(world.dir(7).join("thesis.tex"), "precious")?;
    let error = world.builder(1).data_dir(world.dir(7)).open().await.expect_err("not ours");
    assert!(matches!(error, OpenError::Storage(StorageError::ForeignDirectory { .. })), "{error}");

    let (one, group) = world.node(1).await?;
    leads(&group).await;
    one.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() -> TestResult {
    let world = World::start().await?;
    let _taken = std::net::TcpListener::bind(("127.0.0.1", world.ports[0]))?;
    let error = world.open(1).await.expect_err("the port is taken");
    assert!(
        matches!(&error, OpenError::Listen { address, .. } if address.ends_with(&world.ports[0].to_string())),
        "{error}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_voter_does_not_take_part() -> TestResult {
    let world = World::start().await?;
    bequest::bootstrap(&world.address(), "orders", &[1], bequest::default_limits()).await?;
    let node = world.open(2).await?;
    let error = node.join_key_value("orders").await.expect_err("the genesis names 1 alone");
    assert_eq!(error, JoinError::Group(GroupError::NotAVoter { node: 2, voters: vec![1] }));
    node.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_too_large_for_zookeeper_is_refused_and_the_largest_passes() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    for size in [bequest::PROPOSAL_BYTES_MAX + 1, 10 << 20] {
        let error = group.propose(vec![0; size]).await.expect_err("too large");
        assert_eq!(error, ProposeError::ProposalTooLarge { size, limit: bequest::PROPOSAL_BYTES_MAX });
    }
    // No command of the machine, and answered so: what counts is that it could be replicated.
    group.propose(vec![0; bequest::PROPOSAL_BYTES_MAX]).await?;
    let session = group.open_session().await?;
    session.propose(vec![0; bequest::PROPOSAL_BYTES_MAX]).await?;
    let value = vec![b'x'; bequest::PROPOSAL_BYTES_MAX - 100];
    group.propose(KvCommand::put("k", value.clone()).encode_to_vec()).await?;
    assert_eq!(get(&group, "k").await?.map(|found| found.len()), Some(value.len()));
    one.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_on_the_peer_port_are_counted_and_harm_nothing() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 4096], &[0; 4096]] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", world.ports[0])).await?;
        stream.write_all(bytes).await?;
        let closed = tokio::time::timeout(LIMIT, stream.read(&mut [0; 16])).await?;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    assert_eq!(one.peer_counters().bad_frames, 3);
    put(&group, "k", "v").await?;
    one.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_local_data_is_moved_aside_and_rebuilt() -> TestResult {
    let world = World::start().await?;
    world.bootstrap().await?;
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    for number in 0..200 {
        put(&group, &format!("k{number}"), "v").await?;
    }
    drop(group);
    one.shutdown().await?;
    // Everything that RocksDB has is suspect now.
    for entry in std::fs::read_dir(world.dir(1).join("rocksdb"))? {
        let path = entry?.path();
        let mut bytes = std::fs::read(&path)?;
        bytes.iter_mut().step_by(50).for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes)?;
    }
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    for number in 0..200 {
        assert_eq!(get(&group, &format!("k{number}")).await?.as_deref(), Some("v"), "k{number}");
    }
    let names = std::fs::read_dir(world.dir(1))?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = names.collect::<Result<Vec<_>, _>>()?;
    assert!(names.iter().any(|name| name.to_string_lossy().starts_with("damaged")), "kept for who looks: {names:?}");
    one.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_ever_when_a_node_ends_without_zookeeper() -> TestResult {
    let mut world = World::start().await?;
    world.bootstrap().await?;
    let (one, group) = world.node(1).await?;
    leads(&group).await;
    world.server.kill().await?;
    let proposal = tokio::spawn({
        let group = group.clone();
        async move { group.propose(KvCommand::put("k", "v").encode_to_vec()).await }
    });
    let read = tokio::spawn({
        let group = group.clone();
        async move { group.read("").await }
    });
    let mut watch = group.watch_status();
    let noticed = tokio::time::timeout(LIMIT, watch.wait_for(|status| status.last > status.commit)).await;
    assert!(noticed.is_ok(), "{:#?}", group.status());
    drop(one);
    let outcome = tokio::time::timeout(LIMIT, proposal).await??.expect_err("not acknowledged");
    assert_eq!(outcome, ProposeError::Unknown);
    tokio::time::timeout(LIMIT, read).await??.expect_err("not confirmed");
    let after = group.propose("").await.expect_err("the node is gone");
    assert!(matches!(after, ProposeError::ShuttingDown | ProposeError::Unknown), "{after}");

    // The node that opens while ZooKeeper is away waits for it.
    let opening = tokio::spawn(world.builder(2).open());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!opening.is_finished(), "nothing can be opened without ZooKeeper");
    world.server.restart().await?;
    let two: Node = tokio::time::timeout(LIMIT, opening).await???;
    let group = two.join_key_value("orders").await?;
    leads(&group).await;
    put(&group, "k2", "v").await?;
    two.shutdown().await?;
    Ok(())
}
