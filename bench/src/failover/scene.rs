//! Everybody who dies and comes back: all alive at once, of whom one at a time has work.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest::default_limits;
use bequest_harness::kv::Succession;
use bequest_harness::{longest_gap, network, node_program, Ensemble, Etcd};

use super::plan::{Contender, Death};
use super::Options;
use crate::grpc::{Call, CompactionRequest, Connection, Done, StatusRequest, StatusResponse};
use crate::served::{Served, Site};
use crate::services::{Bare, Members, Nodes};
use crate::values::Values;
use crate::world::keeper;
use crate::writers::{Ack, Service, Writers};

/// After the first write that follows a death, so that a second outage of the same death counts too.
const WATCH: Duration = Duration::from_millis(300);
const MEMBERS: usize = 3;
/// What etcd's own documentation and checks leave of its timers, in milliseconds.
const FAST: [&str; 4] = ["--heartbeat-interval", "10", "--election-timeout", "100"];
const LEADER_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// One death.
#[derive(Clone, Debug)]
pub(crate) struct Felt {
    /// The longest time without an acknowledged write around it.
    pub(crate) downtime: Duration,
    /// What the succession of our own node took.
    pub(crate) succession: Option<Succession>,
}

/// Our nodes' hosts.
const HOSTS: [&str; 2] = ["node0", "node1"];

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 40, last))
}

/// Connects a host of this name to the switch.
fn add_host(name: &str, last: u8) -> Result<(), String> {
    network::add_host(name)?;
    network::add_cable(name, name, address(last))?;
    network::plug(name)
}

/// A cluster of etcd.
#[derive(Debug)]
struct Cluster {
    etcd: Etcd,
    members: Arc<Members>,
}

impl Cluster {
    async fn start(dir: &Path, arguments: &[&str], values: Values) -> Result<Self> {
        let builder = Etcd::builder(MEMBERS, dir).args(arguments.iter().copied());
        let etcd = builder.start().await?;
        let members = etcd.members().iter().map(|member| member.address());
        let members = Arc::new(Members::new(members, values));
        Ok(Self { etcd, members })
    }

    /// Waits until it has a leader, and says which member.
    async fn leader(&self) -> Result<usize> {
        let began = Instant::now();
        while began.elapsed() < LEADER_LIMIT {
            for (at, member) in self.etcd.members().iter().enumerate() {
                let asked = async {
                    let connection = Connection::open(member.address()).await.ok()?;
                    let status: StatusResponse = connection.ask(Call::Status, &StatusRequest {}).await.ok()?;
                    let header = status.header.filter(|header| header.member_id == status.leader)?;
                    Some((connection, header.revision))
                };
                let Ok(Some((connection, revision))) = tokio::time::timeout(LEADER_LIMIT, asked).await else {
                    continue;
                };
                // Otherwise its history would grow from death to death. Refused where nothing is new.
                let compact = CompactionRequest { revision, physical: true };
                let _ = connection.ask::<Done>(Call::Compact, &compact).await;
                return Ok(at);
            }
            tokio::time::sleep(POLL).await;
        }
        anyhow::bail!("etcd has no leader after {LEADER_LIMIT:?}")
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Scene {
    // Dropped in this order: servers last.
    nodes: Option<(Served, Arc<Nodes>)>,
    clusters: Vec<(Contender, Cluster)>,
    bare: Option<Arc<Bare>>,
    ensemble: Ensemble,
    /// ZooKeeper's release, and etcd's.
    pub(crate) versions: [Option<String>; 2],
    numbers: Arc<AtomicU64>,
    writers: usize,
    rest: Duration,
    patience: Duration,
}

impl Scene {
    /// Starts whoever takes part; with `links`, nodes and ZooKeeper's servers are on hosts of their own.
    pub(crate) async fn start(options: &Options, links: bool, dir: &Path, seed: u64) -> Result<Self> {
        if links {
            network::add_switch(address(1)).map_err(anyhow::Error::msg)?;
        }
        let mut hosts = Vec::new();
        for server in (0..options.servers()).filter(|_| links) {
            let (name, last) = (format!("zookeeper{server}"), 21 + server as u8);
            add_host(&name, last).map_err(anyhow::Error::msg)?;
            hosts.push((address(last), network::on_host(&name)));
        }
        let builder = Ensemble::builder(options.servers()).server(keeper(options.common.zookeeper.clone()));
        let ensemble = builder.hosts(hosts).dir(dir.join("zookeeper")).start().await?;
        let mut versions = [Some(ensemble.servers()[0].info().await?.version), None];
        let takes_part = |contender| options.entries(links).iter().any(|(_, who)| *who == contender);
        let values = Values::printable(seed);
        let mut clusters = Vec::new();
        for (contender, arguments) in [(Contender::Etcd, &[][..]), (Contender::EtcdFast, &FAST)] {
            if takes_part(contender) {
                let cluster = Cluster::start(&dir.join(contender.name()), arguments, values.clone()).await?;
                versions[1] = Some(cluster.etcd.version().await?);
                clusters.push((contender, cluster));
            }
        }
        let bare = match takes_part(Contender::ZooKeeper) {
            true => Some(Arc::new(Bare::connect(ensemble.addresses(), values.clone()).await?)),
            false => None,
        };
        let nodes = match takes_part(Contender::Bequest) {
            true => Some(start_nodes(options, links, &ensemble, dir, values).await?),
            false => None,
        };
        Ok(Self {
            nodes,
            clusters,
            bare,
            ensemble,
            versions,
            numbers: Arc::default(),
            writers: options.writers(),
            rest: options.rest(),
            patience: options.patience(),
        })
    }

    /// Lets somebody die under load, sees how long nobody is served, and brings everything back.
    pub(crate) async fn die(&mut self, death: Death, contender: Contender) -> Result<Felt> {
        match (contender, death) {
            (Contender::Bequest, Death::Keeper) => self.bequest_without_keeper().await,
            (Contender::Bequest, _) => self.bequest(death).await,
            (Contender::ZooKeeper, _) => self.bare().await,
            (Contender::Etcd | Contender::EtcdFast, _) => self.etcd(death, contender).await,
        }
    }

    fn load<S: Service>(&self, service: &Arc<S>) -> Watch {
        Watch { writers: Writers::start(service, &self.numbers, self.writers), patience: self.patience }
    }

    async fn bequest(&mut self, death: Death) -> Result<Felt> {
        let (served, service) = self.nodes.as_ref().context("our nodes were not started")?;
        let victim = served.settled().await?;
        let load = self.load(service);
        load.rest(self.rest).await?;
        let (served, _) = self.nodes.as_mut().context("our nodes were not started")?;
        let from = Instant::now();
        match death {
            Death::Kill => served.bury(victim).await?,
            Death::Stop => served.process(victim)?.pause().await?,
            Death::Link => network::cut(HOSTS[victim]).map_err(anyhow::Error::msg)?,
            Death::HandOver => served.process(victim)?.terminate()?,
            Death::Keeper => unreachable!("ZooKeeper's death is not a node's"),
        }
        let struck = Instant::now();
        // A leader that hands over may answer some more; whoever cannot act any more does not answer a later attempt.
        let by_heir = |ack: &Ack| match death {
            Death::HandOver => ack.server != victim,
            _ => ack.began >= struck,
        };
        let downtime = load.until(from, by_heir).await?;
        let heir = served.status(1 - victim).await.filter(|status| status.role == "leader");
        load.writers.stop().await;
        match death {
            Death::Stop => served.process(victim)?.resume()?,
            Death::Link => network::join(HOSTS[victim]).map_err(anyhow::Error::msg)?,
            Death::Kill | Death::HandOver | Death::Keeper => {
                if death == Death::HandOver {
                    let ended = tokio::time::timeout(self.patience, served.process(victim)?.wait()).await;
                    let status = ended.context("a clean end takes too long")?;
                    anyhow::ensure!(status.success(), "a clean end came to {status}");
                }
                served.bury(victim).await?;
                served.start(victim)?;
            }
        }
        served.settled().await?;
        Ok(Felt { downtime, succession: heir.map(|status| status.succession) })
    }

    async fn bequest_without_keeper(&mut self) -> Result<Felt> {
        let (served, service) = self.nodes.as_ref().context("our nodes were not started")?;
        served.settled().await?;
        let load = self.load(service);
        let downtime = self.keeper_dies(load).await?;
        let (served, _) = self.nodes.as_ref().context("our nodes were not started")?;
        served.settled().await?;
        Ok(Felt { downtime, succession: None })
    }

    async fn bare(&mut self) -> Result<Felt> {
        let load = self.load(self.bare.as_ref().context("the bare client was not started")?);
        let downtime = self.keeper_dies(load).await?;
        Ok(Felt { downtime, succession: None })
    }

    /// ZooKeeper's leader dies, and comes back.
    async fn keeper_dies(&mut self, load: Watch) -> Result<Duration> {
        let leader = self.ensemble.wait_for_leader().await?;
        load.rest(self.rest).await?;
        let from = Instant::now();
        self.ensemble.servers_mut()[leader].kill().await?;
        let struck = Instant::now();
        let downtime = load.until(from, |ack| ack.began >= struck).await?;
        load.writers.stop().await;
        self.ensemble.restart_all().await?;
        self.ensemble.wait_for_leader().await?;
        Ok(downtime)
    }

    async fn etcd(&mut self, death: Death, contender: Contender) -> Result<Felt> {
        let at = self.clusters.iter().position(|(who, _)| *who == contender).context("etcd was not started")?;
        let victim = self.clusters[at].1.leader().await?;
        let load = self.load(&self.clusters[at].1.members);
        load.rest(self.rest).await?;
        let cluster = &mut self.clusters[at].1;
        let process = cluster.etcd.members()[victim].process();
        let from = Instant::now();
        match death {
            Death::Kill => drop(process.kill().await?),
            Death::Stop => process.pause().await?,
            Death::Link | Death::HandOver | Death::Keeper => unreachable!("not asked of etcd"),
        }
        let struck = Instant::now();
        let downtime = load.until(from, |ack| ack.began >= struck).await?;
        load.writers.stop().await;
        match death {
            Death::Stop => process.resume()?,
            _ => cluster.etcd.restart(victim).await?,
        }
        Ok(Felt { downtime, succession: None })
    }
}

async fn start_nodes(
    options: &Options,
    links: bool,
    ensemble: &Ensemble,
    dir: &Path,
    values: Values,
) -> Result<(Served, Arc<Nodes>)> {
    let program = node_program(options.program.as_deref())?;
    let sites = if links {
        for (host, last) in HOSTS.iter().zip(11..) {
            add_host(host, last).map_err(anyhow::Error::msg)?;
        }
        [Site::host(address(11), network::on_host(HOSTS[0])), Site::host(address(12), network::on_host(HOSTS[1]))]
    } else {
        [Site::loopback()?, Site::loopback()?]
    };
    let zk = format!("zk://{}/bequest", ensemble.addresses());
    let mut served = Served::create(&program, &zk, default_limits(), sites, &dir.join("bequest")).await?;
    served.start(0)?;
    served.start(1)?;
    served.settled().await?;
    let service = Arc::new(Nodes::new(served.addresses(), values));
    Ok((served, service))
}

/// Writers, while somebody dies.
#[derive(Debug)]
struct Watch {
    writers: Writers,
    patience: Duration,
}

impl Watch {
    /// Lets them work for so long, and until they are served.
    async fn rest(&self, rest: Duration) -> Result<()> {
        let began = Instant::now();
        self.writers.wait_for(self.patience, |ack| ack.ended - began >= rest).await.map_err(anyhow::Error::msg)?;
        Ok(())
    }

    /// Waits until they are served again, and some more; the longest time they were not.
    async fn until(&self, from: Instant, again: impl Fn(&Ack) -> bool) -> Result<Duration> {
        let served = self.writers.wait_for(self.patience, again).await.map_err(anyhow::Error::msg)?;
        let until = served.ended + WATCH;
        // What a second outage takes counts, so the wait is for an answer after that time.
        self.writers.wait_for(self.patience, |ack| ack.ended >= until).await.map_err(anyhow::Error::msg)?;
        Ok(longest_gap(&self.writers.ends(), from, until).0)
    }
}
