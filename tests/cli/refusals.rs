//! What goes wrong before anything runs is said in a sentence that says what to do.

use std::path::Path;

use bequest_harness::Process;

use crate::exchange::ask;
use crate::pair::{address, bequest, init, run, zookeeper, NodeProcess, Pair};

fn node(dir: &Path) -> NodeProcess {
    NodeProcess { id: 1, http: address(), listen: address(), data_dir: dir.join("1"), process: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_created_once_and_never_changed_by_doing_it_again() {
    let zookeeper = zookeeper().await;
    let zk = format!("zk://{}/deep/below/once", zookeeper.address());
    let (code, written) = run(init(&zk, "1,2")).await;
    assert!(code == Some(0) && written.contains("group kv is created"), "{code:?} {written}");
    let (code, written) = run(init(&zk, "2,1")).await;
    assert!(code == Some(0) && written.contains("is there already"), "{code:?} {written}");
    let (code, written) = run(init(&zk, "1,3")).await;
    assert!(code == Some(1) && written.contains("group has other voters"), "{code:?} {written}");
    assert!(written.contains("found=[1, 2]"), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_never_creates_a_cluster_or_a_group() {
    let zookeeper = zookeeper().await;
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let zk = format!("zk://{}/mistyped", zookeeper.address());
    let (code, written) = run(node(dir.path()).command(&zk)).await;
    assert!(code == Some(1) && written.contains("no cluster at this address yet"), "{code:?} {written}");
    assert!(written.contains(&format!("cannot join group=kv at {zk}: no such cluster")), "{written}");
    assert!(written.contains("bequest init"), "what to do: {written}");

    let (code, written) = run(init(&zk, "1,2")).await;
    assert_eq!(code, Some(0), "{written}");
    let mistyped = node(dir.path()).command(&zk).args(["--log", "warn"]);
    let (code, written) = run(mistyped.env("BEQUEST_GROUP", "kv").args(["--group", "other"])).await;
    // The flag is given twice: that is refused before anything else.
    assert!(code == Some(2) && written.contains("--group"), "{code:?} {written}");
    let arguments = ["serve", "--node", "1", "--zk", &zk, "--group", "other"];
    let addresses = [address().to_string(), address().to_string()];
    let command = bequest().args(arguments).args(["--listen", &addresses[0], "--http", &addresses[1]]);
    let (code, written) = run(command.arg("--data-dir").arg(dir.path().join("2"))).await;
    assert!(code == Some(1) && written.contains("no such group"), "{code:?} {written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("it is bound");
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    // Ports are taken before ZooKeeper is asked, so none is needed.
    let mut http = node(dir.path());
    http.http = taken.1;
    let (code, written) = run(http.command("zk://127.0.0.1:1/none")).await;
    assert!(code == Some(1) && written.contains(&format!("cannot listen for HTTP: address={}", taken.1)), "{written}");
    assert!(written.contains("choose another by --http"), "{written}");
    let mut peer = node(dir.path());
    peer.listen = taken.1;
    let (code, written) = run(peer.command("zk://127.0.0.1:1/none")).await;
    assert!(code == Some(1) && written.contains(&format!("cannot listen for peers: address={}", taken.1)), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_addresses_and_values_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let (code, written) = run(node(dir.path()).command("localhost:2181")).await;
    assert!(code == Some(1) && written.contains("zk://"), "{code:?} {written}");
    let (code, written) = run(node(dir.path()).command("zk://127.0.0.1:1/x").args(["--election-timeout", "1ms"])).await;
    assert!(code == Some(1) && written.contains("election_timeout"), "{code:?} {written}");
    let (code, written) = run(bequest().args(["init", "--zk", "zk://127.0.0.1:1/x", "--voters", "1,1"])).await;
    assert!(code == Some(1) && written.contains("bad voters"), "{code:?} {written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_node_is_not_started_twice() {
    let pair = Pair::start().await;
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let mut twin = node(dir.path());
    twin.id = 2;
    let (code, written) = run(twin.command(&pair.zk)).await;
    assert!(code == Some(1) && written.contains("node already running: id=2"), "{code:?} {written}");
    assert!(written.contains(&pair.nodes[1].listen.to_string()), "where it answers: {written}");
    pair.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_waits_for_zookeeper_says_so_and_can_be_ended() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let waiting = node(dir.path());
    // Nobody listens there.
    let command = waiting.command(&format!("zk://{}/x", address())).args(["--log-format", "json"]);
    let process = command.log(dir.path().join("log")).spawn().expect("the program starts");
    let status = loop {
        process.check_running().expect("it waits");
        if let Some(answer) = ask(waiting.http, "GET", "/status", b"").await {
            break answer.json();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((status["role"].as_str(), status["mode"].as_str()), (Some("birth"), Some("no-keeper")), "{status}");
    let health = ask(waiting.http, "GET", "/health", b"").await.expect("an answer");
    assert_eq!(health.status, 503, "{health:?}");
    let write = ask(waiting.http, "PUT", "/kv/x", b"1").await.expect("an answer");
    assert_eq!((write.status, write.json()["error"].as_str()), (503, Some("starting")));
    process.terminate().expect("it runs");
    let status = tokio::time::timeout(crate::pair::PATIENCE, process.wait()).await.expect("it ends");
    assert!(status.success(), "{status}: {}", process.log_tail());
    let log = std::fs::read_to_string(dir.path().join("log")).expect("it logged");
    let is_json =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line["level"].is_string());
    assert!(log.lines().count() > 0 && log.lines().all(is_json), "every line of the log is JSON: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rebirth_says_what_is_missing() {
    let rebirth = || Process::builder(env!("CARGO_BIN_EXE_rebirth"));
    let (code, written) = run(rebirth().args(["--zookeeper", "/nowhere"])).await;
    assert!(code == Some(2) && written.contains("no zookeeper-*.jar in /nowhere"), "{code:?} {written}");
    let (code, written) = run(rebirth().args(["--program", "/nowhere/bequest"])).await;
    assert!(code == Some(2) && written.contains("name it by --program"), "{code:?} {written}");
    let empty = tempfile::tempdir().expect("temporary folders can be made");
    std::fs::write(empty.path().join("x"), "x").expect("it can be written to");
    let (code, written) = run(rebirth().arg("--dir").arg(empty.path())).await;
    assert!(code == Some(2) && written.contains("is not empty"), "{code:?} {written}");
}
