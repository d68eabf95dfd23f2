//! Two nodes as their users have them: `bequest serve`, asked over HTTP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest::{bootstrap, Limits};
use bequest_harness::kv::{Kv, Status};
use bequest_harness::{free_port, serve, Process, ProcessBuilder};

/// Their group.
pub(crate) const GROUP: &str = "bench";

const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// How long both may take until one follows the other. On a busy machine that takes a while.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
const PORTS: [u16; 2] = [7070, 8080];

/// Where a node is.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    listen: SocketAddr,
    http: SocketAddr,
    prefix: Vec<String>,
}

impl Site {
    /// On free ports of the loopback address.
    pub(crate) fn loopback() -> Result<Self> {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let free = || Ok::<_, anyhow::Error>(SocketAddr::new(ip, free_port(ip)?));
        Ok(Self { listen: free()?, http: free()?, prefix: Vec::new() })
    }

    /// On a host of its own, where every port is free.
    pub(crate) fn host(ip: IpAddr, prefix: Vec<String>) -> Self {
        let [listen, http] = PORTS.map(|port| SocketAddr::new(ip, port));
        Self { listen, http, prefix }
    }
}

/// Both nodes. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Served {
    nodes: [ServedNode; 2],
    kv: Kv,
}

#[derive(Debug)]
struct ServedNode {
    http: SocketAddr,
    command: ProcessBuilder,
    data: PathBuf,
    process: Option<Process>,
}

impl Served {
    /// Creates their group at `zk`. They are not started yet.
    pub(crate) async fn create(program: &Path, zk: &str, limits: Limits, sites: [Site; 2], dir: &Path) -> Result<Self> {
        bootstrap(zk, GROUP, &[1, 2], limits).await?;
        let mut id = 0;
        let nodes = sites.map(|Site { listen, http, prefix }| {
            id += 1;
            let data = dir.join(format!("node-{id}"));
            let command = serve(program, id, zk, GROUP, listen, http).prefix(prefix);
            let command = command.arg("--data-dir").arg(&data).log(dir.join(format!("node-{id}.log")));
            ServedNode { http, command, data, process: None }
        });
        Ok(Self { nodes, kv: Kv::new(STATUS_LIMIT) })
    }

    /// Where clients find them.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        [self.nodes[0].http, self.nodes[1].http]
    }

    /// Starts a node that does not run.
    pub(crate) fn start(&mut self, node: usize) -> Result<()> {
        let node = &mut self.nodes[node];
        anyhow::ensure!(node.process.is_none(), "only the dead are started");
        node.process = Some(node.command.spawn()?);
        Ok(())
    }

    /// The process of a node that runs.
    pub(crate) fn process(&self, node: usize) -> Result<&Process> {
        self.nodes[node].process.as_ref().with_context(|| format!("node {} does not run", node + 1))
    }

    /// Kills a node, and waits until it is gone. Does nothing if it is dead.
    pub(crate) async fn bury(&mut self, node: usize) -> Result<()> {
        if let Some(process) = self.nodes[node].process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Kills all nodes that run, at once, and waits until they are gone.
    pub(crate) async fn bury_all(&mut self) -> Result<()> {
        for process in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
            process.kill_now()?;
        }
        for node in 0..self.nodes.len() {
            self.bury(node).await?;
        }
        Ok(())
    }

    /// Deletes a dead node's disk.
    pub(crate) fn wipe(&self, node: usize) -> Result<()> {
        let data = &self.nodes[node].data;
        std::fs::remove_dir_all(data).with_context(|| format!("cannot delete {}", data.display()))
    }

    /// What a node says about itself, if it says anything.
    pub(crate) async fn status(&self, node: usize) -> Option<Status> {
        self.kv.status(self.nodes[node].http).await.ok()
    }

    /// Waits until one node leads and the other follows it, both with everything they need; returns who leads.
    pub(crate) async fn settled(&self) -> Result<usize> {
        let began = Instant::now();
        loop {
            let (first, second) = (self.status(0).await, self.status(1).await);
            if let (Some(first), Some(second)) = (&first, &second) {
                let full = first.mode == "full" && second.mode == "full" && first.term == second.term;
                match (first.role.as_str(), second.role.as_str()) {
                    ("leader", "follower") if full => return Ok(0),
                    ("follower", "leader") if full => return Ok(1),
                    _ => {}
                }
            }
            for node in self.nodes.iter().filter_map(|node| node.process.as_ref()) {
                node.check_running()?;
            }
            let waited = began.elapsed();
            anyhow::ensure!(waited < SETTLE_LIMIT, "no pair after {waited:?}: {first:?} {second:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}
