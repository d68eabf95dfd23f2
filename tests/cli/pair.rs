//! Two node processes and a ZooKeeper.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bequest_harness::{free_port, Process, ProcessBuilder, ZooKeeperServer};
use tempfile::TempDir;

use crate::exchange::{ask, Answer};

/// How long anything may take before a test gives up. Generous: machines that run tests are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The program under test.
pub(crate) fn bequest() -> ProcessBuilder {
    Process::builder(env!("CARGO_BIN_EXE_bequest")).env("BEQUEST_LOG", "info")
}

/// A free loopback address.
pub(crate) fn address() -> SocketAddr {
    SocketAddr::new(IP, free_port(IP).expect("a free port"))
}

/// Runs a command to its end; returns its exit code and everything it wrote.
pub(crate) async fn run(command: ProcessBuilder) -> (Option<i32>, String) {
    let (status, written) = command.run(PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
    (status.code(), written)
}

/// Arguments of `bequest init` for the group `kv` of nodes 1 and 2.
pub(crate) fn init(zk: &str, voters: &str) -> ProcessBuilder {
    bequest().args(["init", "--zk", zk, "--group", "kv", "--voters", voters])
}

/// A started ZooKeeper, Debian's.
pub(crate) async fn zookeeper() -> ZooKeeperServer {
    ZooKeeperServer::builder().start().await.expect("ZooKeeper starts")
}

/// Two nodes, numbered 1 and 2.
pub(crate) struct Pair {
    pub(crate) zk: String,
    pub(crate) nodes: [NodeProcess; 2],
    _zookeeper: ZooKeeperServer,
    _dir: TempDir,
}

/// One node.
pub(crate) struct NodeProcess {
    pub(crate) id: u64,
    pub(crate) http: SocketAddr,
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) process: Option<Process>,
}

impl Pair {
    /// Starts everything and waits until one node leads and the other follows it.
    pub(crate) async fn start() -> Self {
        let zookeeper = zookeeper().await;
        let zk = format!("zk://{}/pair", zookeeper.address());
        let (code, written) = run(init(&zk, "1,2")).await;
        assert_eq!(code, Some(0), "{written}");
        let dir = tempfile::tempdir().expect("temporary folders can be made");
        let node = |id: u64| NodeProcess {
            id,
            http: address(),
            listen: address(),
            data_dir: dir.path().join(id.to_string()),
            process: None,
        };
        let mut pair = Self { zk, nodes: [node(1), node(2)], _zookeeper: zookeeper, _dir: dir };
        for node in &mut pair.nodes {
            node.start(&pair.zk);
        }
        pair.settled().await;
        pair
    }

    /// Waits until one node leads and the other follows it; returns their positions.
    pub(crate) async fn settled(&self) -> (usize, usize) {
        let started = Instant::now();
        loop {
            let roles = [self.role(0).await, self.role(1).await];
            match [roles[0].as_str(), roles[1].as_str()] {
                ["leader", "follower"] if self.follows(1).await => return (0, 1),
                ["follower", "leader"] if self.follows(0).await => return (1, 0),
                _ => {}
            }
            assert!(started.elapsed() < PATIENCE, "not settled: {roles:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn role(&self, node: usize) -> String {
        let status = ask(self.nodes[node].http, "GET", "/status", b"").await;
        status.map_or_else(String::new, |status| status.json()["role"].as_str().unwrap_or_default().to_owned())
    }

    async fn follows(&self, node: usize) -> bool {
        let health = ask(self.nodes[node].http, "GET", "/health", b"").await;
        health.is_some_and(|health| health.status == 200)
    }

    /// Waits until a node's own state has everything up to an index.
    pub(crate) async fn applied(&self, node: usize, index: u64) {
        let started = Instant::now();
        while self.ask(node, "GET", "/status", b"").await.json()["applied"].as_u64() < Some(index) {
            assert!(started.elapsed() < PATIENCE, "index {index} is not applied: {}", self.log(node));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks a node once.
    pub(crate) async fn ask(&self, node: usize, method: &str, path: &str, body: &[u8]) -> Answer {
        let answer = ask(self.nodes[node].http, method, path, body).await;
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}: {}", self.log(node)))
    }

    fn log(&self, node: usize) -> String {
        self.nodes[node].process.as_ref().map_or_else(String::new, Process::log_tail)
    }
}

impl NodeProcess {
    /// The command that runs this node.
    pub(crate) fn command(&self, zk: &str) -> ProcessBuilder {
        bequest()
            .arg("serve")
            .args(["--node", &self.id.to_string(), "--zk", zk, "--group", "kv"])
            .args(["--listen", &self.listen.to_string(), "--http", &self.http.to_string()])
            .arg("--data-dir")
            .arg(&self.data_dir)
    }

    /// Starts it.
    pub(crate) fn start(&mut self, zk: &str) {
        let log = self.data_dir.with_extension("log");
        self.process = Some(self.command(zk).log(log).spawn().expect("the program starts"));
    }
}
