//! A ZooKeeper ensemble of several servers on this machine.

use crate::server::{Mode, ZooKeeperServer, ZooKeeperServerBuilder};
use crate::{free_port, Error};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LEADER_LIMIT: Duration = Duration::from_secs(60);
/// Where a member on a host of its own takes clients, its leader's followers, and votes.
const HOST_PORTS: [u16; 3] = [2181, 2888, 3888];
const POLL: Duration = Duration::from_millis(25);

/// How to start an ensemble. See [`Ensemble::builder`].
#[derive(Clone, Debug)]
pub struct EnsembleBuilder {
    size: u32,
    server: ZooKeeperServerBuilder,
    dir: Option<PathBuf>,
    hosts: Vec<(IpAddr, Vec<String>)>,
}

impl EnsembleBuilder {
    /// What every member is started with. Its port and folder are set here.
    #[must_use]
    pub fn server(mut self, server: ZooKeeperServerBuilder) -> Self {
        self.server = server;
        self
    }

    /// Where the members' folders `1`, `2`, ... go; by default temporary ones.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Puts every member on a host of its own: its address there, and what runs a program there, like
    /// `ip netns exec NAME`. By default all are on the loopback address.
    #[must_use]
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = (IpAddr, Vec<String>)>) -> Self {
        self.hosts = hosts.into_iter().collect();
        self
    }

    /// Starts all members and waits until all serve.
    ///
    /// # Errors
    /// As [`ZooKeeperServerBuilder::start`].
    pub async fn start(self) -> Result<Ensemble, Error> {
        assert!(self.hosts.is_empty() || self.hosts.len() == self.size as usize, "a host for every member, or none");
        let mut common = self.server;
        let mut members = Vec::new();
        for id in 1..=self.size {
            let (ip, prefix, [client, quorum, election]) = match self.hosts.get(id as usize - 1) {
                // On a host of its own every port is free.
                Some((ip, prefix)) => (*ip, prefix.clone(), HOST_PORTS),
                None => {
                    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
                    (ip, Vec::new(), [free_port(ip)?, free_port(ip)?, free_port(ip)?])
                }
            };
            common = common.setting(format!("server.{id}"), format!("{ip}:{quorum}:{election}"));
            members.push((id, ip, prefix, client));
        }
        let mut servers = Vec::new();
        for (id, ip, prefix, port) in members {
            let mut builder = common.clone().member(id).ip(ip).port(port).prefix(prefix);
            if let Some(dir) = &self.dir {
                builder = builder.dir(dir.join(id.to_string()));
            }
            servers.push(builder.prepare()?);
        }
        let mut ensemble = Ensemble { servers };
        ensemble.restart_all().await?;
        Ok(ensemble)
    }
}

/// Several ZooKeeper servers that form one ensemble. Dropping it kills them all.
#[derive(Debug)]
pub struct Ensemble {
    servers: Vec<ZooKeeperServer>,
}

impl Ensemble {
    /// Describes an ensemble of `size` members.
    pub fn builder(size: u32) -> EnsembleBuilder {
        EnsembleBuilder { size, server: ZooKeeperServer::builder(), dir: None, hosts: Vec::new() }
    }

    /// Starts an ensemble of `size` members with default settings.
    ///
    /// # Errors
    /// As [`EnsembleBuilder::start`].
    pub async fn start(size: u32) -> Result<Self, Error> {
        Self::builder(size).start().await
    }

    /// The members, in the order of their ids.
    pub fn servers(&self) -> &[ZooKeeperServer] {
        &self.servers
    }

    /// The members, to be killed, restarted or wiped one by one.
    pub fn servers_mut(&mut self) -> &mut [ZooKeeperServer] {
        &mut self.servers
    }

    /// Where clients connect: all members, separated by commas.
    pub fn addresses(&self) -> String {
        let addresses: Vec<String> = self.servers.iter().map(|server| server.address().to_string()).collect();
        addresses.join(",")
    }

    /// What part each member says it has; `None` for one that does not serve.
    pub async fn modes(&self) -> Vec<Option<Mode>> {
        let mut modes = Vec::new();
        for server in &self.servers {
            // A paused member would take the whole time an answer may take, so it is not asked.
            let mode = if server.is_paused() { None } else { server.info().await.ok().map(|info| info.mode) };
            modes.push(mode);
        }
        modes
    }

    /// The position in [`Ensemble::servers`] of the member that leads now.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if none or more than one says so.
    pub async fn leader(&self) -> Result<usize, Error> {
        let modes = self.modes().await;
        let mut leaders = (0..modes.len()).filter(|index| modes[*index] == Some(Mode::Leader));
        match (leaders.next(), leaders.next()) {
            (Some(leader), None) => Ok(leader),
            _ => Err(Error::NoLeader { modes: format!("{modes:?}") }),
        }
    }

    /// Waits until exactly one member leads, as after the former leader's death.
    ///
    /// # Errors
    /// [`Error::NoLeader`] if that takes more than a minute.
    pub async fn wait_for_leader(&self) -> Result<usize, Error> {
        let started = Instant::now();
        loop {
            match self.leader().await {
                Ok(leader) => return Ok(leader),
                Err(error) if started.elapsed() > LEADER_LIMIT => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Kills every member.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub async fn kill_all(&mut self) -> Result<(), Error> {
        for server in &mut self.servers {
            server.kill().await?;
        }
        Ok(())
    }

    /// Starts every member that does not run and waits until all serve.
    ///
    /// # Errors
    /// As [`ZooKeeperServer::restart`].
    pub async fn restart_all(&mut self) -> Result<(), Error> {
        for server in &mut self.servers {
            server.launch()?;
        }
        for server in &self.servers {
            server.wait_until_serving().await?;
        }
        Ok(())
    }
}
