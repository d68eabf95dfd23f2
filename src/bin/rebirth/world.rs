//! What dies and is born again: a ZooKeeper and two node processes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use bequest_harness::{free_port, node_program, serve, Ensemble, Process, ZooKeeperServer};

use super::options::Options;

/// The group's name.
const GROUP: &str = "kv";
/// How long a clean shutdown may take: the node's own bound, and some for a busy machine.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(8);
/// How long creating the group may take.
const INIT_LIMIT: Duration = Duration::from_secs(30);

/// Where a node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Its id.
    pub(crate) id: u64,
    /// Its HTTP interface.
    pub(crate) http: SocketAddr,
}

/// Two nodes and a ZooKeeper that can be harmed. Nodes are named by their position, 0 or 1.
pub(crate) trait World {
    /// Where the nodes are reached, whether they live or not.
    fn addresses(&self) -> [Address; 2];
    /// Starts a node that is dead.
    fn start(&mut self, node: usize) -> Result<()>;
    /// Kills a node as by kill -9, without waiting for its end.
    fn kill(&mut self, node: usize) -> Result<()>;
    /// Waits until a killed node is gone.
    async fn bury(&mut self, node: usize) -> Result<()>;
    /// Deletes a dead node's disk.
    fn wipe(&mut self, node: usize) -> Result<()>;
    /// Stops a node as by kill -STOP.
    async fn freeze(&mut self, node: usize) -> Result<()>;
    /// Continues it.
    fn thaw(&mut self, node: usize) -> Result<()>;
    /// Asks a node to end, and waits for its end.
    async fn shut_down(&mut self, node: usize) -> Result<()>;
    /// Kills ZooKeeper, or an ensemble's leader; says which.
    async fn kill_zookeeper(&mut self) -> Result<String>;
    /// Starts it again and waits until it serves.
    async fn restart_zookeeper(&mut self) -> Result<()>;
    /// Fails if a process that should live has ended, with the end of its log.
    fn check(&self) -> Result<()>;
}

/// The ZooKeeper the nodes use.
#[derive(Debug)]
enum Keeper {
    Server(Box<ZooKeeperServer>),
    Ensemble { servers: Ensemble, killed: Option<usize> },
    Existing,
}

/// Real processes.
#[derive(Debug)]
pub(crate) struct Processes {
    keeper: Keeper,
    nodes: [NodeProcess; 2],
}

#[derive(Debug)]
struct NodeProcess {
    address: Address,
    listen: SocketAddr,
    program: PathBuf,
    url: String,
    data_dir: PathBuf,
    log: PathBuf,
    session_timeout: Duration,
    process: Option<Process>,
}

impl Processes {
    /// Starts ZooKeeper, creates the group and prepares both nodes, which are not started yet. Data and logs go to `dir`.
    pub(crate) async fn prepare(options: &Options, dir: &Path, seed: u64) -> Result<Self> {
        let program = node_program(options.program.as_deref())?;
        let (keeper, url) = start_zookeeper(options, dir, seed).await?;
        init(&program, &url, dir, options).await?;
        let node = |id: u64| -> Result<NodeProcess> {
            let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let data_dir = dir.join(format!("node-{id}"));
            Ok(NodeProcess {
                address: Address { id, http: SocketAddr::new(ip, free_port(ip)?) },
                listen: SocketAddr::new(ip, free_port(ip)?),
                program: program.clone(),
                url: url.clone(),
                log: dir.join(format!("node-{id}.log")),
                data_dir,
                session_timeout: options.session_timeout,
                process: None,
            })
        };
        Ok(Self { keeper, nodes: [node(1)?, node(2)?] })
    }
}

async fn start_zookeeper(options: &Options, dir: &Path, seed: u64) -> Result<(Keeper, String)> {
    if let Some(url) = &options.zk {
        // A folder of its own: a group is created once and never deleted.
        let url = format!("{}/rebirth-{seed}-{}", url.trim_end_matches('/'), std::process::id());
        return Ok((Keeper::Existing, url));
    }
    let builder = ZooKeeperServer::builder().home(options.zookeeper.clone()).heap_mb(heap_mb(options.state_bytes));
    if options.ensemble > 1 {
        let servers = Ensemble::builder(options.ensemble).server(builder).dir(dir.join("zookeeper")).start().await?;
        let url = format!("zk://{}/rebirth", servers.addresses());
        return Ok((Keeper::Ensemble { servers, killed: None }, url));
    }
    let server = builder.dir(dir.join("zookeeper")).start().await?;
    let url = format!("zk://{}/rebirth", server.address());
    Ok((Keeper::Server(Box::new(server)), url))
}

/// ZooKeeper holds the WAL and two snapshots, which share what did not change between them, and needs room to move.
fn heap_mb(state_bytes: u64) -> u32 {
    u32::try_from(512 + 6 * (state_bytes >> 20)).unwrap_or(u32::MAX)
}

async fn init(program: &Path, url: &str, dir: &Path, options: &Options) -> Result<()> {
    let log = dir.join("init.log");
    let arguments = ["init", "--zk", url, "--group", GROUP, "--voters", "1,2"];
    let process = Process::builder(program)
        .name("bequest init")
        .args(arguments)
        .args(["--wal-bytes", &options.wal_bytes.to_string(), "--wal-segments", &options.wal_segments.to_string()])
        .log(&log)
        .spawn()?;
    let status = tokio::time::timeout(INIT_LIMIT, process.wait()).await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("bequest init failed ({status}):\n{}", process.log_tail()),
        Err(_) => bail!("bequest init did not end within {INIT_LIMIT:?}:\n{}", process.log_tail()),
    }
}

impl NodeProcess {
    fn start(&mut self) -> Result<()> {
        assert!(self.process.is_none(), "only the dead are started");
        let Address { id, http } = self.address;
        let process = serve(&self.program, id, &self.url, GROUP, self.listen, http)
            .args(["--session-timeout", &format!("{}ms", self.session_timeout.as_millis())])
            .arg("--data-dir")
            .arg(&self.data_dir)
            .log(&self.log)
            .spawn()?;
        self.process = Some(process);
        Ok(())
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("node {} does not run", self.address.id))
    }
}

impl World for Processes {
    fn addresses(&self) -> [Address; 2] {
        [self.nodes[0].address, self.nodes[1].address]
    }

    fn start(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start()
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        Ok(self.nodes[node].running()?.kill_now()?)
    }

    async fn bury(&mut self, node: usize) -> Result<()> {
        if let Some(process) = self.nodes[node].process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    fn wipe(&mut self, node: usize) -> Result<()> {
        let NodeProcess { process, data_dir, .. } = &self.nodes[node];
        assert!(process.is_none(), "only a dead node's disk is deleted");
        std::fs::remove_dir_all(data_dir).with_context(|| format!("cannot delete {}", data_dir.display()))
    }

    async fn freeze(&mut self, node: usize) -> Result<()> {
        Ok(self.nodes[node].running()?.pause().await?)
    }

    fn thaw(&mut self, node: usize) -> Result<()> {
        Ok(self.nodes[node].running()?.resume()?)
    }

    async fn shut_down(&mut self, node: usize) -> Result<()> {
        let process = self.nodes[node].running()?;
        process.terminate()?;
        let started = Instant::now();
        let status = tokio::time::timeout(SHUTDOWN_LIMIT, process.wait())
            .await
            .map_err(|_| process.not_ready("its clean end", started.elapsed()))?;
        ensure!(status.success(), "clean shutdown ended with {status}:\n{}", process.log_tail());
        self.nodes[node].process = None;
        Ok(())
    }

    async fn kill_zookeeper(&mut self) -> Result<String> {
        match &mut self.keeper {
            Keeper::Server(server) => {
                server.kill().await?;
                Ok("ZooKeeper".to_owned())
            }
            Keeper::Ensemble { servers, killed } => {
                let leader = servers.wait_for_leader().await?;
                servers.servers_mut()[leader].kill().await?;
                *killed = Some(leader);
                Ok(format!("ZooKeeper's leader, server {} of {}", leader + 1, servers.servers().len()))
            }
            Keeper::Existing => bail!("an existing ZooKeeper is not harmed: leave out step h"),
        }
    }

    async fn restart_zookeeper(&mut self) -> Result<()> {
        match &mut self.keeper {
            Keeper::Server(server) => server.restart().await?,
            Keeper::Ensemble { servers, killed } => {
                if let Some(server) = killed.take() {
                    servers.servers_mut()[server].restart().await?;
                }
            }
            Keeper::Existing => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        for process in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
            process.check_running()?;
        }
        Ok(())
    }
}
