//! An etcd cluster on this machine: what others would be measured against.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};

use crate::process::{find_program, Process, ProcessBuilder};
use crate::{free_port, Error, HttpClient};

const PROGRAM: &str = "etcd";
// A member is up in well under a second; a machine busy with compiling takes many times that.
const START_LIMIT: Duration = Duration::from_secs(90);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(25);

/// How to start an etcd cluster. See [`Etcd::builder`].
#[derive(Clone, Debug)]
pub struct EtcdBuilder {
    size: usize,
    dir: PathBuf,
    args: Vec<String>,
}

impl EtcdBuilder {
    /// Adds arguments to every member's command line, after the harness's own.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Starts all members on free loopback ports and waits until all say that they are healthy.
    ///
    /// # Errors
    /// [`Error::NoEtcd`] if it is not installed, or as [`Process`].
    pub async fn start(self) -> Result<Etcd, Error> {
        let program = find_program(PROGRAM).ok_or(Error::NoEtcd)?;
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut ports = Vec::new();
        for _ in 0..self.size {
            ports.push((SocketAddr::new(ip, free_port(ip)?), SocketAddr::new(ip, free_port(ip)?)));
        }
        let name = |at: usize| format!("etcd-{}", at + 1);
        let peers = ports.iter().enumerate().map(|(at, (_, peer))| format!("{}=http://{peer}", name(at)));
        let cluster = peers.collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (at, (client, peer)) in ports.into_iter().enumerate() {
            let name = name(at);
            let dir = self.dir.join(&name);
            std::fs::create_dir_all(&dir).map_err(|source| Error::File {
                action: "make",
                path: dir.clone(),
                source,
            })?;
            let command = Process::builder(&program)
                .name(&name)
                .args(["--name", &name, "--data-dir"])
                .arg(dir.join("data"))
                .args(["--listen-client-urls", &format!("http://{client}")])
                .args(["--advertise-client-urls", &format!("http://{client}")])
                .args(["--listen-peer-urls", &format!("http://{peer}")])
                .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
                .args(["--initial-cluster", &cluster, "--initial-cluster-state", "new"])
                .args(["--logger", "zap", "--log-level", "warn"])
                .args(&self.args)
                .dir(&dir)
                .log(dir.join("etcd.log"));
            members.push(EtcdMember { process: command.spawn()?, command, address: client });
        }
        let etcd = Etcd { members, http: HttpClient::new(ANSWER_LIMIT) };
        for member in &etcd.members {
            etcd.wait_until_healthy(member).await?;
        }
        Ok(etcd)
    }
}

/// A running etcd cluster. Dropping it kills all its members.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<EtcdMember>,
    http: HttpClient,
}

/// One member of an [`Etcd`].
#[derive(Debug)]
pub struct EtcdMember {
    command: ProcessBuilder,
    process: Process,
    address: SocketAddr,
}

impl EtcdMember {
    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, to be killed, stopped or continued.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl Etcd {
    /// Describes a cluster of `size` members whose data and logs go to folders in `dir`.
    pub fn builder(size: usize, dir: impl Into<PathBuf>) -> EtcdBuilder {
        EtcdBuilder { size, dir: dir.into(), args: Vec::new() }
    }

    /// Whether etcd is installed.
    pub fn is_installed() -> bool {
        find_program(PROGRAM).is_some()
    }

    /// The members.
    pub fn members(&self) -> &[EtcdMember] {
        &self.members
    }

    /// Its version, like `3.4.23`.
    ///
    /// # Errors
    /// [`Error::Answer`] if its first member does not say.
    pub async fn version(&self) -> Result<String, Error> {
        let address = self.members[0].address;
        let (_, text) = self.ask(address, "/version").await?;
        let version = text.split("\"etcdserver\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let failed = || Error::Answer { address, command: "/version".to_owned(), answer: text.clone() };
        version.map(str::to_owned).ok_or_else(failed)
    }

    /// Starts a member that was killed on the data it has, and waits until it is healthy.
    ///
    /// # Errors
    /// As [`EtcdBuilder::start`].
    pub async fn restart(&mut self, member: usize) -> Result<(), Error> {
        let restarted = &mut self.members[member];
        restarted.process.kill().await?;
        restarted.process = restarted.command.spawn()?;
        self.wait_until_healthy(&self.members[member]).await
    }

    /// Waits until a member says that it is healthy: that it knows a leader and that writes pass.
    async fn wait_until_healthy(&self, member: &EtcdMember) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            member.process.check_running()?;
            let answer = match self.ask(member.address, "/health").await {
                Ok((StatusCode::OK, text)) if text.contains("true") => return Ok(()),
                Ok((_, text)) => text,
                Err(error) => error.to_string(),
            };
            if started.elapsed() > START_LIMIT {
                return Err(member.process.not_ready(&format!("it to be healthy ({answer})"), started.elapsed()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ask(&self, address: SocketAddr, path: &str) -> Result<(StatusCode, String), Error> {
        let answer = self.http.exchange(Method::GET, address, path, String::new()).await;
        let failed = |answer| Error::Answer { address, command: path.to_owned(), answer };
        let answer = answer.map_err(|failure| failed(format!("{failure:?}")))?;
        Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned()))
    }
}
