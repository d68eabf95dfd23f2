//! A host that has no file descriptors, no threads or no names to give: said by name, waited for, and over when it is over.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::geteuid;

use crate::world::{eventually, init_command, refused, Member, World, CHROOT, PATIENCE, SMALL};

/// A name that no resolver knows, ever.
const NOWHERE: &str = "nowhere.invalid";
/// What a process may have that lacks nothing.
const LIMIT: u64 = 256;

/// What keeps a process from having more of something, until it is dropped.
struct Shortage {
    pid: u32,
    resource: &'static str,
    /// What runs a program as the user of whom the process is.
    user: Vec<String>,
}

impl Shortage {
    /// No descriptor beyond the first three, which are taken for as long as it lives: it gets no new one, whatever it closes.
    fn of_files(node: &Member) -> Self {
        Self { pid: node.process().pid(), resource: "nofile", user: Vec::new() }.begin(3)
    }

    /// No thread more than it has, of a node that runs [`as_stranger`].
    fn of_threads(node: &Member) -> Self {
        let pid = node.process().pid();
        let user = fs::metadata(format!("/proc/{pid}")).expect("it runs").uid();
        Self { pid, resource: "nproc", user: as_user(user) }.begin(1)
    }

    fn begin(self, limit: u64) -> Self {
        assert!(self.set(limit), "it can be limited: {}={limit}", self.resource);
        self
    }

    fn set(&self, limit: u64) -> bool {
        let limit = format!("--{}={limit}:{LIMIT}", self.resource);
        let words = ["prlimit".to_owned(), "--pid".to_owned(), self.pid.to_string(), limit];
        let words: Vec<&String> = self.user.iter().chain(&words).collect();
        Command::new(words[0]).args(&words[1..]).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        // A process that has ended needs nothing.
        self.set(LIMIT);
    }
}

/// Connections that say nothing.
fn idle(count: usize, to: SocketAddr) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect_timeout(&to, PATIENCE).expect("the system accepts it")).collect()
}

/// Measures whether a process is busy all the time.
struct Idleness {
    stat: String,
    began: Instant,
    used: Duration,
}

impl Idleness {
    fn of(node: &Member) -> Self {
        let stat = format!("/proc/{}/stat", node.process().pid());
        let used = processor_time(&stat);
        Self { stat, began: Instant::now(), used }
    }

    /// Most of the time it did nothing. A thread that tries again and again would not rest at all; that others keep the
    /// machine busy makes no process busier.
    fn holds(&self) {
        let (used, elapsed) = (processor_time(&self.stat) - self.used, self.began.elapsed());
        assert!(used < elapsed / 4, "processor time used={used:?} in {elapsed:?}");
    }
}

fn processor_time(stat: &str) -> Duration {
    let text = fs::read_to_string(stat).expect("it runs");
    // The name in parentheses may hold anything; what follows it is numbered from 3.
    let (_, fields) = text.rsplit_once(") ").expect("a name");
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_whose_name_nobody_knows_is_named_and_asked_for_again_at_leisure() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let mut node = Member::new(1, &format!("zk://{NOWHERE}:2181{CHROOT}"), dir.path());
    node.start();
    let idleness = Idleness::of(&node);
    let status = node.says("mode", "no-keeper").await;
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains(NOWHERE)), "{status}");
    node.wrote(&format!("host={NOWHERE} cause=failed to lookup address information"), 1).await;
    // It goes on waiting, and says so now and then.
    node.wrote("waiting for zookeeper", 2).await;
    idleness.holds();
    assert_eq!(node.log().matches("no ZooKeeper server answers").count(), 1, "{}", node.log());
    let process = node.process();
    process.terminate().expect("it runs");
    let ended = tokio::time::timeout(PATIENCE, process.wait()).await.expect("it can be told to end");
    assert!(ended.success(), "{ended}: {}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_zookeeper_whose_name_nobody_knows_beside_one_that_works_does_no_harm() {
    let mut world = World::prepare(&[]).await;
    let servers = [NOWHERE.to_owned(), world.zookeeper.address().to_string()];
    let orders = [format!("{},{}", servers[0], servers[1]), format!("{},{}", servers[1], servers[0])];
    for (node, servers) in world.nodes.iter_mut().zip(orders) {
        node.zk = format!("zk://{servers}{CHROOT}");
    }
    world.start_nodes().await;
    world.write(3, 10).await;
    world.zookeeper.restart().await.expect("it starts");
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_name_nobody_knows_is_named_and_done_without() {
    let mut world = World::prepare(&[]).await;
    let advertised = format!("{NOWHERE}:{}", world.nodes[0].listen.port());
    world.nodes[0].options = ["--advertise".to_owned(), advertised].to_vec();
    for node in &mut world.nodes {
        node.start();
    }
    let idleness = Idleness::of(&world.nodes[1]);
    world.write(5, 10).await;
    eventually("a leader to say that it is alone", || async {
        let mut found = String::new();
        for node in &world.nodes {
            let status = node.status().await;
            let alone = status["reason"].as_str().is_some_and(|reason| reason.starts_with("no link to node"));
            if status["role"] == "leader" && status["mode"] == "solo" && alone {
                return Ok(());
            }
            found.push_str(&status.to_string());
        }
        Err(found)
    })
    .await;
    let [first, second] = &mut world.nodes;
    second.wrote("cannot link, trying again", 1).await;
    let log = second.log();
    let why = log.lines().find(|line| line.contains("cannot link")).expect("it was written");
    assert!(why.contains(NOWHERE) && why.contains("failed to lookup address information"), "{why}");
    idleness.holds();
    // What it needs it has from ZooKeeper.
    first.kill().await;
    second.says("role", "leader").await;
    world.write(3, 10).await;
    world.written.is_served_by(&world.nodes[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_file_descriptors_lives_on_and_takes_part_again_once_there_are_some() {
    let mut world = World::start().await;
    world.write(3, 10).await;
    let (poor, other) = world.settled().await;
    let shortage = Shortage::of_files(&world.nodes[poor]);
    let crowd = [idle(100, world.nodes[poor].http), idle(20, world.nodes[poor].listen)];
    world.nodes[poor].wrote("cannot accept peer connections", 1).await;
    let idleness = Idleness::of(&world.nodes[poor]);
    world.zookeeper.restart().await.expect("it starts");
    // It cannot connect any more: the other one takes over.
    world.nodes[other].says("role", "leader").await;
    world.written.write(&world.nodes[other..=other], 3, 10).await;
    idleness.holds();
    let log = world.nodes[poor].log();
    assert!(world.nodes[poor].process().is_running(), "{log}");
    assert_eq!(log.matches("cannot accept peer connections").count(), 1, "told once: {log}");
    drop(shortage);
    drop(crowd);
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_clients_connect_a_node_keeps_the_descriptors_it_needs() {
    let mut world = World::prepare(&[]).await;
    world.nodes[0].prefix = ["prlimit", "--nofile=128:128"].map(str::to_owned).to_vec();
    world.start_nodes().await;
    world.write(3, 10).await;
    let crowd = idle(100, world.nodes[0].http);
    world.zookeeper.restart().await.expect("it starts");
    world.nodes[0].wrote("connected to ZooKeeper", 2).await;
    drop(crowd);
    world.write(3, 10).await;
    world.nothing_is_lost().await;
    assert!(!world.nodes[0].log().contains("Too many open files"), "{}", world.nodes[0].log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_open_too_few_files_is_refused_with_the_limit() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let mut node = Member::new(1, "zk://127.0.0.1:1/none", dir.path());
    // With so few not even the runtime begins; with more, RocksDB does not.
    for limit in [5, 12, 20] {
        node.prefix = ["prlimit".to_owned(), format!("--nofile={limit}:{limit}")].to_vec();
        let written = node.refused().await;
        assert!(written.contains(&format!("too few file descriptors: limit={limit} needed=128")), "{written}");
        assert!(written.contains("ulimit -n"), "what to do: {written}");
    }
    let init = init_command("zk://127.0.0.1:1/none", "1,2").prefix(["prlimit", "--nofile=12:12"]);
    let written = refused(init).await;
    assert!(written.contains("too few file descriptors: limit=12"), "{written}");
}

/// What runs a program as a user.
fn as_user(user: u32) -> Vec<String> {
    let words = format!("setpriv --reuid={user} --regid={user} --clear-groups --pdeathsig=KILL --");
    words.split(' ').map(str::to_owned).collect()
}

/// A node with so many threads, where there is need as a user of whom nothing else runs: limits do not bind root, and are
/// on all that runs of a user.
fn as_stranger(node: &mut Member, dir: &Path, threads: u64) {
    static STRANGERS: AtomicU32 = AtomicU32::new(0);

    let limit = ["prlimit".to_owned(), format!("--nproc={threads}:{LIMIT}"), "--".to_owned()];
    node.prefix = limit.to_vec();
    if geteuid().is_root() {
        let stranger = 40_000 + std::process::id() % 1000 * 16 + STRANGERS.fetch_add(1, Ordering::Relaxed) % 16;
        node.prefix.extend(as_user(stranger));
        // Where the program was built, strangers may have no business.
        let program = dir.join("bequest");
        fs::copy(&node.program, &program).expect("it can be copied");
        node.program = program;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::create_dir_all(&node.data_dir).expect("it can be made");
        chown(&node.data_dir, Some(stranger), Some(stranger)).expect("root may");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_start_too_few_threads_is_refused_with_what_it_needs() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    // With so few the runtime does not begin; with more, RocksDB does not.
    for threads in [1, 2, 4, 12, 20] {
        let mut node = Member::new(1, "zk://127.0.0.1:1/none", dir.path());
        as_stranger(&mut node, dir.path(), threads);
        let written = node.refused().await;
        assert!(written.contains("too few threads: needed=") && written.contains("ulimit -u"), "{written}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_for_which_there_is_no_thread_is_made_once_there_is_one() {
    if !geteuid().is_root() {
        println!("skipped: without root a limit would be on all processes of this user");
        return;
    }
    let mut world = World::prepare(SMALL).await;
    let dir = world.dir().to_owned();
    as_stranger(&mut world.nodes[0], &dir, LIMIT);
    world.start_nodes().await;
    let shortage = Shortage::of_threads(&world.nodes[0]);
    // More than the third of the limit at which a snapshot is due.
    world.write(10, 20_000).await;
    let what = "the leader to say why there is no snapshot";
    eventually(what, || async {
        let status = world.nodes[0].status().await;
        if status["reason"].as_str().is_some_and(|reason| reason.contains("start the thread of a snapshot")) {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await;
    assert_eq!(world.nodes[0].status().await["snapshot"], 0);
    drop(shortage);
    eventually("a snapshot", || async {
        let status = world.nodes[0].status().await;
        status["snapshot"].as_u64().filter(|index| *index > 0).map(drop).ok_or_else(|| status.to_string())
    })
    .await;
    world.write(3, 10).await;
    world.nothing_is_lost().await;
}
