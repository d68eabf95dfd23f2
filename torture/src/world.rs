//! What is tormented: two nodes, three ZooKeeper servers, and everything between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use bequest_harness::{free_port, node_program, serve, Ensemble, Error, Framing, Process, Proxy, ZooKeeperServer};

use super::fault::Kind;
use super::history::{Clock, Moment};
use super::http::{Http, Status};
use super::limits;
use super::network::{self, Cable};
use super::options::Options;

/// The group's name.
const GROUP: &str = "kv";
/// Limits at which a few thousand writes make a snapshot.
const WAL_BYTES: u32 = 4 << 20;
const WAL_SEGMENTS: u32 = 3000;
/// A node's disk, where it is one of its own.
const DISK_MEGABYTES: u32 = 48;
/// How long creating the group may take.
const INIT_LIMIT: Duration = Duration::from_secs(60);
/// What a supervisor waits before it starts again what has ended.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const SIGTERM: i32 = 15;
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// Words in a node's log that tell of a defect.
const DEFECTS: [&str; 3] = ["panicked", "defect:", "assertion"];

/// What a machine permits.
#[derive(Clone, Debug)]
pub(crate) struct Permitted {
    /// Network namespaces, of this program's own.
    pub(crate) links: bool,
    /// A disk for each node.
    pub(crate) disks: bool,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// When.
    pub(crate) at: Moment,
    /// What.
    pub(crate) what: String,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    id: usize,
    pub(crate) http: SocketAddr,
    command: bequest_harness::ProcessBuilder,
    /// The disk's root; the node's files are in a folder of it.
    pub(crate) disk: PathBuf,
    logs: PathBuf,
    /// How often it was started.
    pub(crate) life: u32,
    process: Option<Process>,
    /// Whether a supervisor would start it.
    wanted: bool,
    ended: Option<Instant>,
    /// A fault under way because of which it may end by itself; and whether this life has met one.
    pub(crate) excuse: Option<Kind>,
    excused: Option<Kind>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct World {
    // Dropped in this order: nodes first.
    pub(crate) nodes: [Node; 2],
    pub(crate) ensemble: Ensemble,
    /// Which ZooKeeper servers are meant to be down.
    pub(crate) down: [bool; 3],
    /// Between each node and each ZooKeeper server.
    pub(crate) keepers: [Vec<Proxy>; 2],
    /// Towards each node, from the other.
    pub(crate) peers: [Proxy; 2],
    http: Http,
    clock: Clock,
    pub(crate) events: Vec<Event>,
    /// What must not happen and did.
    pub(crate) failures: Vec<String>,
}

impl World {
    /// Starts everything and creates the group. Data and logs go to `dir`.
    pub(crate) async fn start(options: &Options, permitted: &Permitted, dir: &Path, clock: Clock) -> Result<Self> {
        let program = node_program(options.program.as_deref())?;
        let hosts = (0..3).filter(|_| permitted.links);
        let hosts = hosts.map(|member| (Cable::Member(member).far(), network::on_member(member)));
        let server = ZooKeeperServer::builder().home(options.zookeeper.clone()).heap_mb(384);
        let ensemble = Ensemble::builder(3).server(server).hosts(hosts).dir(dir.join("zookeeper")).start().await?;
        init(&program, &format!("zk://{}/torture", ensemble.addresses()), dir).await?;

        let mut keepers = [Vec::new(), Vec::new()];
        let mut peers = Vec::new();
        let mut nodes = Vec::new();
        for (id, keepers) in keepers.iter_mut().enumerate() {
            let place = Place::of(id, permitted.links)?;
            for (member, server) in ensemble.servers().iter().enumerate() {
                let address = place.keepers[member];
                keepers.push(Proxy::start_at(address, server.address(), Framing::ZooKeeper).await?);
            }
            peers.push(Proxy::start_at(place.advertise, place.listen, Framing::Raw).await?);
            let disk = disks(dir)[id].clone();
            std::fs::create_dir(&disk).context("cannot make a node's disk")?;
            if permitted.disks {
                limits::mount(&disk, DISK_MEGABYTES).map_err(anyhow::Error::msg)?;
            }
            nodes.push(node(id, &program, &place, keepers, disk, dir, permitted.links));
        }
        let (Ok(nodes), Ok(peers)) = (nodes.try_into(), peers.try_into()) else {
            unreachable!("two of each were made")
        };
        let (events, failures) = (Vec::new(), Vec::new());
        let http = Http::new(STATUS_LIMIT);
        let mut world = Self { nodes, ensemble, down: [false; 3], keepers, peers, http, clock, events, failures };
        for node in &mut world.nodes {
            node.start()?;
        }
        Ok(world)
    }

    /// Notes what happened.
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        let (at, what) = (self.clock.now(), what.into());
        println!("{:>8.2} s  {what}", at.seconds());
        self.events.push(Event { at, what });
    }

    /// Notes what must not happen.
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("FAILED: {what}"));
        self.failures.push(format!("{:.2} s: {what}", self.clock.now().seconds()));
    }

    /// Does what a supervisor does: starts what has ended by itself. That it has is a failure, unless a fault excuses it.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if !node.wanted || node.process.as_ref().is_some_and(Process::is_running) {
                continue;
            }
            let Some(ended) = node.ended else {
                node.ended = Some(Instant::now());
                let (how, excuse) = (node.how_it_ended(), node.excused);
                match excuse {
                    Some(kind) => self.note(format!("node {} ended because of {}: {how}", at + 1, kind.name())),
                    None => self.fail(format!("node {} ended by itself: {how}", at + 1)),
                }
                continue;
            };
            if ended.elapsed() > RESTART_PAUSE {
                node.start()?;
            }
        }
        for (server, down) in self.ensemble.servers_mut().iter_mut().zip(self.down) {
            if !down {
                // Does nothing if it runs. Members that cannot talk to each other may end by themselves.
                server.launch()?;
            }
        }
        Ok(())
    }

    /// What a node says of itself, if it says anything.
    pub(crate) async fn status(&self, node: usize) -> Option<Status> {
        self.http.status(self.nodes[node].http).await.ok()
    }

    /// A node that refuses its group for good is started anew. That it does is a failure, unless a fault excuses it.
    pub(crate) async fn start_what_stopped(&mut self) -> Result<()> {
        for at in 0..self.nodes.len() {
            let Some(reason) = self.status(at).await.and_then(|status| status.stopped) else { continue };
            match self.nodes[at].excused {
                Some(kind) => self.note(format!("node {} stopped because of {}: {reason}", at + 1, kind.name())),
                None => self.fail(format!("node {} stopped by itself: {reason}", at + 1)),
            }
            self.nodes[at].kill().await?;
            self.nodes[at].start()?;
        }
        Ok(())
    }

    /// Whether one node leads and the other follows it, both with everything they need.
    pub(crate) async fn is_settled(&self) -> Result<(), String> {
        let (first, second) = (self.status(0).await, self.status(1).await);
        let (Some(first), Some(second)) = (&first, &second) else {
            return Err(format!("not both nodes answer: {first:?} {second:?}"));
        };
        let mut roles = [first.role.as_str(), second.role.as_str()];
        roles.sort_unstable();
        let settled = roles == ["follower", "leader"] && first.mode == "full" && second.mode == "full";
        if settled && first.term == second.term {
            Ok(())
        } else {
            Err(format!("{first:?} {second:?}"))
        }
    }

    /// What logs tell of defects, but for lives that had no memory.
    pub(crate) fn defects(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &self.nodes {
            for life in 1..=node.life {
                let path = node.log(life);
                if path.with_extension("starved").exists() {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let lines = text.lines().filter(|line| DEFECTS.iter().any(|word| line.contains(word)));
                found.extend(lines.map(|line| format!("{}: {line}", path.display())));
            }
        }
        found
    }

    /// Everything in a node's own state.
    pub(crate) async fn own_state(&self, node: usize) -> Result<Vec<(String, String)>, String> {
        self.http.own_state(self.nodes[node].http).await.map_err(|failure| format!("{failure:?}"))
    }
}

impl Node {
    fn log(&self, life: u32) -> PathBuf {
        self.logs.join(format!("node-{}-{life:04}.log", self.id + 1))
    }

    /// Starts it, if it does not run.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.wanted = true;
        self.ended = None;
        if self.process.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        self.life += 1;
        self.excused = self.excuse;
        self.process = Some(self.command.clone().log(self.log(self.life)).spawn()?);
        Ok(())
    }

    /// Its process, if it runs.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| process.is_running())
    }

    /// From now on it may end by itself.
    pub(crate) fn excuse(&mut self, kind: Kind) {
        self.excuse = Some(kind);
        self.excused = Some(kind);
        if kind == Kind::MemoryLimit {
            // Where no memory is given, words about that are no defect.
            let _ = std::fs::write(self.log(self.life).with_extension("starved"), "");
        }
    }

    /// Kills it without waiting for its end; no supervisor starts it.
    pub(crate) fn kill_now(&mut self) -> Result<()> {
        self.wanted = false;
        if let Some(process) = &self.process {
            process.kill_now()?;
        }
        Ok(())
    }

    /// Kills it and waits for its end.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.kill_now()?;
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Asks it to end; no supervisor starts it.
    pub(crate) fn terminate(&mut self) {
        self.wanted = false;
        if let Some(process) = &self.process {
            // It may have ended by itself a moment ago, and that is told elsewhere.
            let _ = process.terminate();
        }
    }

    /// Whether it has ended as it was asked to.
    pub(crate) async fn has_ended_cleanly(&self) -> Result<(), String> {
        let Some(process) = &self.process else { return Ok(()) };
        let Ok(status) = tokio::time::timeout(Duration::ZERO, process.wait()).await else {
            return Err("it goes on".to_owned());
        };
        // Told before it could listen for that, it ends as any program does; it has done nothing yet, and said nothing.
        let unborn = status.signal() == Some(SIGTERM) && process.log_tail() == "(empty)";
        if status.success() || unborn || self.excused.is_some() {
            Ok(())
        } else {
            Err(format!("{status}: {}", process.log_tail()))
        }
    }

    /// Deletes its files.
    pub(crate) fn wipe(&self) -> Result<()> {
        match std::fs::remove_dir_all(self.data_dir()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot delete the disk of node {}", self.id + 1))
            }
            _ => Ok(()),
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.disk.join("data")
    }

    /// Its status, and the last it wrote.
    fn how_it_ended(&self) -> String {
        let Some(Err(Error::Ended { status, log_tail, .. })) = self.process.as_ref().map(Process::check_running) else {
            return "nobody saw it".to_owned();
        };
        format!("{status}; {}", log_tail.lines().last().unwrap_or_default())
    }
}

/// Where the nodes' disks are, in the folder of a run.
pub(crate) fn disks(dir: &Path) -> [PathBuf; 2] {
    [dir.join("disk-1"), dir.join("disk-2")]
}

/// Where a node and its proxies listen.
struct Place {
    listen: SocketAddr,
    advertise: SocketAddr,
    http: SocketAddr,
    keepers: [SocketAddr; 3],
}

impl Place {
    fn of(node: usize, links: bool) -> Result<Self> {
        if links {
            let at = |ip, port| SocketAddr::new(ip, port);
            let keeper = Cable::Keeper(node).near();
            return Ok(Self {
                listen: at(Cable::Peers(node).far(), 7070),
                // The other node reaches it where the other's own cable ends.
                advertise: at(Cable::Peers(1 - node).near(), 7070),
                http: at(Cable::Clients(node).far(), 8080),
                keepers: [at(keeper, 2181), at(keeper, 2182), at(keeper, 2183)],
            });
        }
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let free = || Ok::<_, anyhow::Error>(SocketAddr::new(ip, free_port(ip)?));
        Ok(Self { listen: free()?, advertise: free()?, http: free()?, keepers: [free()?, free()?, free()?] })
    }
}

fn node(id: usize, program: &Path, place: &Place, keepers: &[Proxy], disk: PathBuf, dir: &Path, links: bool) -> Node {
    let servers: Vec<String> = keepers.iter().map(|proxy| proxy.address().to_string()).collect();
    let prefix = if links { network::on_node(id) } else { Vec::new() };
    let zk = format!("zk://{}/torture", servers.join(","));
    let command = serve(program, id as u64 + 1, &zk, GROUP, place.listen, place.http)
        .prefix(prefix)
        .args(["--advertise", &place.advertise.to_string()])
        .args(["--session-timeout", "2s"])
        .arg("--data-dir")
        .arg(disk.join("data"))
        .env("RUST_BACKTRACE", "1");
    let logs = dir.join("logs");
    let (life, process, wanted, ended, excuse, excused) = (0, None, false, None, None, None);
    Node { id, http: place.http, command, disk, logs, life, process, wanted, ended, excuse, excused }
}

async fn init(program: &Path, url: &str, dir: &Path) -> Result<()> {
    let process = Process::builder(program)
        .name("bequest init")
        .args(["init", "--zk", url, "--group", GROUP, "--voters", "1,2"])
        .args(["--wal-bytes", &WAL_BYTES.to_string(), "--wal-segments", &WAL_SEGMENTS.to_string()])
        .log(dir.join("logs").join("init.log"))
        .spawn()?;
    match tokio::time::timeout(INIT_LIMIT, process.wait()).await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("bequest init failed ({status}):\n{}", process.log_tail()),
        Err(_) => bail!("bequest init did not end within {INIT_LIMIT:?}:\n{}", process.log_tail()),
    }
}
