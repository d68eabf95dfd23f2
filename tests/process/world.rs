//! A ZooKeeper, two node processes, and what was acknowledged.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bequest_harness::{free_port, Process, ProcessBuilder, ZooKeeperServer};
use serde_json::Value;
use tempfile::TempDir;

use crate::exchange::{ask, Answer};
use crate::operator::Operator;

/// How long anything may take before a test gives up. Generous: machines that run tests are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where the cluster is.
pub(crate) const CHROOT: &str = "/world";
/// Limits at which a few writes make a snapshot.
pub(crate) const SMALL: &[&str] = &["--wal-bytes", "400000"];
const POLL: Duration = Duration::from_millis(20);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Polls until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(value) => return value,
            Err(found) => assert!(started.elapsed() < PATIENCE, "waited in vain for {what}: {found}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A free loopback address.
pub(crate) fn address() -> SocketAddr {
    SocketAddr::new(LOOPBACK, free_port(LOOPBACK).expect("a free port"))
}

/// The program under test.
pub(crate) fn bequest() -> ProcessBuilder {
    program(Path::new(BEQUEST))
}

const BEQUEST: &str = env!("CARGO_BIN_EXE_bequest");

fn program(path: &Path) -> ProcessBuilder {
    Process::builder(path).env("BEQUEST_LOG", "info")
}

/// Runs a command to its end; returns its exit code and everything it wrote.
pub(crate) async fn run(command: ProcessBuilder) -> (Option<i32>, String) {
    let (status, written) = command.run(PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
    (status.code(), written)
}

/// Runs a command that must fail; returns what it wrote.
pub(crate) async fn refused(command: ProcessBuilder) -> String {
    let (code, written) = run(command).await;
    assert_eq!(code, Some(1), "{written}");
    no_defect(&written);
    written
}

/// Nothing that was written is about a defect.
pub(crate) fn no_defect(written: &str) {
    for word in ["panicked", "defect:", "assertion"] {
        assert!(!written.contains(word), "{written}");
    }
}

/// Creates the group `kv` at `zk`.
pub(crate) async fn init(zk: &str, voters: &str, more: &[&str]) {
    let (code, written) = run(init_command(zk, voters).args(more)).await;
    assert_eq!(code, Some(0), "{written}");
}

/// The command that creates the group `kv` at `zk`.
pub(crate) fn init_command(zk: &str, voters: &str) -> ProcessBuilder {
    bequest().args(["init", "--zk", zk, "--group", "kv", "--voters", voters])
}

/// One node.
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) zk: String,
    /// Where the test reaches its HTTP interface.
    pub(crate) http: SocketAddr,
    /// Where it listens for HTTP.
    pub(crate) http_listen: SocketAddr,
    pub(crate) listen: SocketAddr,
    pub(crate) data_dir: PathBuf,
    /// What runs it, like `ip netns exec NAME`.
    pub(crate) prefix: Vec<String>,
    /// More of its options.
    pub(crate) options: Vec<String>,
    /// The program under test, or a copy of it.
    pub(crate) program: PathBuf,
    process: Option<Process>,
}

impl Member {
    /// A node on loopback whose files lie below `dir`.
    pub(crate) fn new(id: u64, zk: &str, dir: &Path) -> Self {
        let http = address();
        let (data_dir, zk) = (dir.join(id.to_string()), zk.to_owned());
        let (prefix, options, program) = (Vec::new(), Vec::new(), PathBuf::from(BEQUEST));
        Self { id, zk, http, http_listen: http, listen: address(), data_dir, prefix, options, program, process: None }
    }

    /// The command that runs it.
    pub(crate) fn command(&self) -> ProcessBuilder {
        program(&self.program)
            .prefix(&self.prefix)
            .arg("serve")
            .args(["--node", &self.id.to_string(), "--zk", &self.zk, "--group", "kv"])
            .args(["--listen", &self.listen.to_string(), "--http", &self.http_listen.to_string()])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(&self.options)
    }

    fn log_path(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// Everything it wrote, in all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts it.
    pub(crate) fn start(&mut self) {
        let process = self.command().log(self.log_path()).spawn().expect("the program starts");
        self.process = Some(process);
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().expect("it was started")
    }

    /// Kills it as by kill -9.
    pub(crate) async fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill().await.expect("it can be killed");
        }
    }

    /// Deletes its disk; it must not run.
    pub(crate) fn wipe(&self) {
        assert!(self.process.is_none(), "a running node is not wiped");
        std::fs::remove_dir_all(&self.data_dir).expect("its data can be deleted");
    }

    /// Starts it and waits until it ends with an error; returns what it wrote in that life.
    pub(crate) async fn refused(&self) -> String {
        refused(self.command()).await
    }

    /// Asks it once; `None` if it does not answer.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
        ask(self.http, method, path, body).await
    }

    /// What it says of itself; null if it says nothing.
    pub(crate) async fn status(&self) -> Value {
        self.ask("GET", "/status", b"").await.map_or(Value::Null, |answer| answer.json())
    }

    /// Waits until its status has `value` as `field`.
    pub(crate) async fn says(&self, field: &str, value: &str) -> Value {
        let what = format!("{field}={value} of node {}", self.id);
        eventually(&what, || async {
            let status = self.status().await;
            if status[field] == *value {
                Ok(status)
            } else {
                Err(format!("{status}\n{}", self.tail()))
            }
        })
        .await
    }

    /// Waits until it has written a text so many times, in all its lives.
    pub(crate) async fn wrote(&self, text: &str, times: usize) {
        let what = format!("{times} times {text:?} of node {}", self.id);
        eventually(&what, || async {
            let log = self.log();
            if log.matches(text).count() >= times {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
    }

    /// Waits until it has stopped its group, while it runs; returns why.
    pub(crate) async fn stopped(&self) -> String {
        let status = self.says("role", "stopped").await;
        no_defect(&self.log());
        status["stopped"].as_str().map(str::to_owned).unwrap_or_else(|| panic!("{status}"))
    }

    /// Waits until it has either ended with an error or stopped its group; returns why.
    pub(crate) async fn fate(&self) -> String {
        eventually("the node to stop", || async {
            if !self.process().is_running() {
                return Ok(self.log());
            }
            let status = self.status().await;
            status["stopped"].as_str().map(str::to_owned).ok_or_else(|| format!("{status}\n{}", self.tail()))
        })
        .await
    }

    fn tail(&self) -> String {
        self.process.as_ref().map_or_else(|| "not running".to_owned(), Process::log_tail)
    }
}

/// Two nodes on a ZooKeeper.
pub(crate) struct World {
    // Dropped in this order: nodes first.
    pub(crate) nodes: [Member; 2],
    pub(crate) zookeeper: ZooKeeperServer,
    pub(crate) zk: String,
    pub(crate) written: Written,
    dir: TempDir,
}

/// What was acknowledged.
#[derive(Default)]
pub(crate) struct Written {
    values: BTreeMap<String, String>,
    count: usize,
}

impl World {
    /// Starts everything and waits until one node leads and the other follows it.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`World::start`], with other limits.
    pub(crate) async fn start_with(limits: &[&str]) -> Self {
        let mut world = Self::prepare(limits).await;
        world.start_nodes().await;
        world
    }

    /// Starts a ZooKeeper and creates the group, without any node.
    pub(crate) async fn prepare(limits: &[&str]) -> Self {
        Self::on(ZooKeeperServer::builder().start().await.expect("ZooKeeper starts"), limits).await
    }

    /// Creates the group on a ZooKeeper that serves, without any node.
    pub(crate) async fn on(zookeeper: ZooKeeperServer, limits: &[&str]) -> Self {
        let zk = format!("zk://{}{CHROOT}", zookeeper.address());
        init(&zk, "1,2", limits).await;
        let dir = tempfile::tempdir().expect("temporary folders can be made");
        let nodes = [Member::new(1, &zk, dir.path()), Member::new(2, &zk, dir.path())];
        Self { nodes, zookeeper, zk, written: Written::default(), dir }
    }

    /// Where files of a test may lie.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts both nodes, the first before the second so that it leads, and waits until they are settled.
    pub(crate) async fn start_nodes(&mut self) {
        let [first, second] = &mut self.nodes;
        first.start();
        first.says("role", "leader").await;
        second.start();
        self.settled().await;
    }

    /// Kills both nodes.
    pub(crate) async fn kill_nodes(&mut self) {
        for node in &mut self.nodes {
            node.kill().await;
        }
    }

    /// An operator of this ZooKeeper.
    pub(crate) async fn operator(&self) -> Operator {
        Operator::connect(&self.zookeeper, CHROOT).await
    }

    /// Waits until one node leads and the other follows it; returns their positions.
    pub(crate) async fn settled(&self) -> (usize, usize) {
        settled(&self.nodes).await
    }

    /// Writes `count` new values of `bytes` bytes, each until it is acknowledged by whoever leads.
    pub(crate) async fn write(&mut self, count: usize, bytes: usize) {
        self.written.write(&self.nodes, count, bytes).await;
    }

    /// Everything acknowledged is on the leader, and on both nodes' own state once the follower has caught up.
    pub(crate) async fn nothing_is_lost(&self) {
        let (leader, follower) = self.settled().await;
        self.written.is_served_by(&self.nodes[leader]).await;
        self.written.is_held_by(&self.nodes[follower]).await;
        for node in &self.nodes {
            no_defect(&node.log());
        }
    }
}

/// Waits until one of two nodes leads and the other follows it; returns their positions.
pub(crate) async fn settled(nodes: &[Member; 2]) -> (usize, usize) {
    eventually("one leader and one follower", || async {
        let (first, second) = (nodes[0].status().await, nodes[1].status().await);
        let full = first["mode"] == "full" && second["mode"] == "full";
        let leaders = (&first["leader"]["node"], &second["leader"]["node"]);
        match (first["role"].as_str(), second["role"].as_str()) {
            (Some("leader"), Some("follower")) if full && leaders.0 == leaders.1 => Ok((0, 1)),
            (Some("follower"), Some("leader")) if full && leaders.0 == leaders.1 => Ok((1, 0)),
            _ => Err(format!("{first}\n{second}\n{}\n{}", nodes[0].tail(), nodes[1].tail())),
        }
    })
    .await
}

impl Written {
    /// Writes `count` new values of `bytes` bytes, each until one of the nodes acknowledges it.
    pub(crate) async fn write(&mut self, nodes: &[Member], count: usize, bytes: usize) {
        for _ in 0..count {
            self.count += 1;
            let key = format!("k/{:05}", self.count);
            // Text that does not compress, so that limits by bytes mean the same in memory and in ZooKeeper.
            let mut value = format!("{key}=");
            let mut state = self.count as u64;
            while value.len() < bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                value.push_str(&format!("{:016x}", state ^ (state >> 29)));
            }
            let path = format!("/kv/{key}");
            eventually("a write to be acknowledged", || async {
                let mut refusals = String::new();
                for node in nodes {
                    match node.ask("PUT", &path, value.as_bytes()).await {
                        Some(answer) if answer.status == 200 => return Ok(()),
                        answer => refusals.push_str(&format!("node {}: {answer:?}\n", node.id)),
                    }
                }
                Err(refusals)
            })
            .await;
            self.values.insert(key, value);
        }
    }

    /// The node leads, and reads everything.
    pub(crate) async fn is_served_by(&self, node: &Member) {
        eventually("all values on the leader", || self.compare(node, "")).await;
    }

    /// The node's own state has everything, at once or when it has caught up.
    pub(crate) async fn is_held_by(&self, node: &Member) {
        eventually("all values in the follower's state", || self.compare(node, "&stale=true")).await;
    }

    async fn compare(&self, node: &Member, how: &str) -> Result<(), String> {
        let mut after = String::new();
        let mut found = BTreeMap::new();
        loop {
            let path = format!("/kv?prefix=k/&limit=50&after={after}{how}");
            let Some(answer) = node.ask("GET", &path, b"").await else { return Err("no answer".to_owned()) };
            if answer.status != 200 {
                return Err(format!("{answer:?}"));
            }
            let page = answer.json();
            for entry in page["entries"].as_array().into_iter().flatten() {
                let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
                after = text("key");
                found.insert(text("key"), text("value"));
            }
            if page["more"] != true {
                break;
            }
        }
        let missing: Vec<_> = self.values.iter().filter(|(key, value)| found.get(*key) != Some(value)).collect();
        match missing.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("missing={} of {}, first={key}", missing.len(), self.values.len())),
        }
    }
}
