//! One ZooKeeper server as a child process.

use crate::process::{Process, ProcessBuilder};
use crate::{free_port, Error, Installation};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

// A server is up in about a second; a machine busy with compiling takes many times that.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(25);
// Small heap, one collector thread, quick compiler only: a server for tests must start fast and leave the cores alone.
const JVM_OPTIONS: [&str; 4] =
    ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.showDateTime=true"];

/// How to start a ZooKeeper server. See [`ZooKeeperServer::builder`].
#[derive(Clone, Debug)]
pub struct ZooKeeperServerBuilder {
    home: Option<PathBuf>,
    installation: Option<Installation>,
    dir: Option<PathBuf>,
    ip: IpAddr,
    port: Option<u16>,
    tick_ms: u64,
    heap_mb: Option<u32>,
    jvm_options: Vec<String>,
    settings: Vec<(String, String)>,
    prefix: Vec<OsString>,
    member: Option<u32>,
}

impl Default for ZooKeeperServerBuilder {
    fn default() -> Self {
        Self {
            home: None,
            installation: None,
            dir: None,
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            tick_ms: 500,
            heap_mb: None,
            jvm_options: Vec::new(),
            settings: Vec::new(),
            prefix: Vec::new(),
            member: None,
        }
    }
}

impl ZooKeeperServerBuilder {
    /// The folder with ZooKeeper's jars; by default what `ZOOKEEPER_HOME` names, else Debian's package.
    #[must_use]
    pub fn home(mut self, home: Option<PathBuf>) -> Self {
        self.home = home;
        self
    }

    /// Which ZooKeeper to run, instead of a `home`.
    #[must_use]
    pub fn installation(mut self, installation: Installation) -> Self {
        self.installation = Some(installation);
        self
    }

    /// Where data, configuration and log go; by default a temporary folder that vanishes with the server.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// The address it listens on; 127.0.0.1 by default.
    #[must_use]
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = ip;
        self
    }

    /// The port clients connect to; by default a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The length of a tick, 500 ms by default. Session timeouts are clamped to 2 to 20 ticks.
    #[must_use]
    pub fn tick_ms(mut self, tick_ms: u64) -> Self {
        self.tick_ms = tick_ms;
        self
    }

    /// The Java heap's limit; 256 MiB by default.
    #[must_use]
    pub fn heap_mb(mut self, heap_mb: u32) -> Self {
        self.heap_mb = Some(heap_mb);
        self
    }

    /// Adds options for Java, after the harness's own, which they override.
    #[must_use]
    pub fn jvm_opts<S: Into<String>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.jvm_options.extend(options.into_iter().map(Into::into));
        self
    }

    /// The largest request the server takes (`jute.maxbuffer`); its own default is 1,048,575 bytes.
    #[must_use]
    pub fn jute_max_buffer(self, bytes: u32) -> Self {
        self.jvm_opts([format!("-Djute.maxbuffer={bytes}")])
    }

    /// Adds a line `key=value` to its configuration, after the harness's own.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl fmt::Display) -> Self {
        self.settings.push((key.into(), value.to_string()));
        self
    }

    /// Starts it through another program that ends in executing it, like `ip netns exec NAME`.
    #[must_use]
    pub fn prefix<A: AsRef<OsStr>>(mut self, prefix: impl IntoIterator<Item = A>) -> Self {
        self.prefix = prefix.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        self
    }

    /// Makes it the member `id` of an ensemble; its `server.N` lines are given as settings.
    #[must_use]
    pub(crate) fn member(mut self, id: u32) -> Self {
        self.member = Some(id);
        self
    }

    /// Writes the configuration without starting anything.
    ///
    /// # Errors
    /// If Java or the jars are missing, or the folder cannot be written.
    pub fn prepare(self) -> Result<ZooKeeperServer, Error> {
        let installation = match self.installation {
            Some(installation) => installation,
            None => Installation::find(self.home.as_deref())?,
        };
        let (dir, temporary) = match self.dir {
            Some(dir) => (dir, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("bequest-zookeeper-").tempdir().map_err(|source| {
                    Error::File { action: "make a temporary folder in", path: std::env::temp_dir(), source }
                })?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let port = match self.port {
            Some(port) => port,
            None => free_port(self.ip)?,
        };
        let address = SocketAddr::new(self.ip, port);
        let name = self.member.map_or_else(|| "zookeeper".to_owned(), |id| format!("zookeeper-{id}"));
        let config = dir.join("zoo.cfg");
        let mut options: Vec<String> = JVM_OPTIONS.iter().map(ToString::to_string).collect();
        options.extend(self.heap_mb.map(|mb| format!("-Xmx{mb}m")));
        options.extend(self.jvm_options);
        let command = Process::builder(installation.java())
            .name(name)
            .prefix(self.prefix)
            .args(options)
            .arg("-cp")
            .arg(installation.class_path())
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(&config)
            .dir(&dir)
            .log(dir.join("zookeeper.log"));
        let server = ZooKeeperServer {
            command,
            process: None,
            address,
            data_dirs: [dir.join("data"), dir.join("transactions")],
            dir,
            member: self.member,
            _temporary: temporary,
        };
        server.make_data_dirs()?;
        let text = configuration(&server, self.tick_ms, &self.settings);
        fs::write(&config, text).map_err(|source| Error::File { action: "write", path: config, source })?;
        Ok(server)
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// As [`ZooKeeperServerBuilder::prepare`] and [`ZooKeeperServer::restart`].
    pub async fn start(self) -> Result<ZooKeeperServer, Error> {
        let mut server = self.prepare()?;
        server.restart().await?;
        Ok(server)
    }
}

fn configuration(server: &ZooKeeperServer, tick_ms: u64, settings: &[(String, String)]) -> String {
    let [data, transactions] = &server.data_dirs;
    let mut text = format!(
        "tickTime={tick_ms}\ninitLimit=20\nsyncLimit=10\ndataDir={}\ndataLogDir={}\nclientPort={}\n\
         clientPortAddress={}\nmaxClientCnxns=0\nadmin.enableServer=false\n\
         4lw.commands.whitelist=srvr,mntr,ruok,stat\nautopurge.snapRetainCount=3\nautopurge.purgeInterval=1\n",
        data.display(),
        transactions.display(),
        server.address.port(),
        server.address.ip(),
    );
    for (key, value) in settings {
        text.push_str(&format!("{key}={value}\n"));
    }
    text
}

/// A ZooKeeper server that this process started, or can start again. Dropping it kills it.
#[derive(Debug)]
pub struct ZooKeeperServer {
    command: ProcessBuilder,
    process: Option<Process>,
    address: SocketAddr,
    dir: PathBuf,
    data_dirs: [PathBuf; 2],
    member: Option<u32>,
    _temporary: Option<TempDir>,
}

impl ZooKeeperServer {
    /// Describes a server to start: a single one on a free loopback port, with temporary data, unless told otherwise.
    pub fn builder() -> ZooKeeperServerBuilder {
        ZooKeeperServerBuilder::default()
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder of its data, configuration and log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts it without waiting until it serves. Does nothing if it runs.
    ///
    /// # Errors
    /// [`Error::Spawn`] or [`Error::File`].
    pub fn launch(&mut self) -> Result<(), Error> {
        if self.process.as_ref().is_some_and(Process::is_running) {
            return Ok(());
        }
        self.process = Some(self.command.spawn()?);
        Ok(())
    }

    /// Waits until it answers as a server that serves.
    ///
    /// # Errors
    /// [`Error::Ended`] or [`Error::NotReady`], both with the end of its log.
    pub async fn wait_until_serving(&self) -> Result<ServerInfo, Error> {
        let process = self.running()?;
        let started = Instant::now();
        loop {
            process.check_running()?;
            let answer = match self.info().await {
                Ok(info) => return Ok(info),
                Err(error) => error,
            };
            if started.elapsed() > START_LIMIT {
                return Err(process.not_ready(&format!("it to serve ({answer})"), started.elapsed()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills it if it runs, starts it on the same data and port, and waits until it serves.
    ///
    /// # Errors
    /// If it cannot be started, ends at once, or does not serve in time.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.kill().await?;
        self.launch()?;
        self.wait_until_serving().await.map(|_| ())
    }

    /// Kills it as by `kill -9` and waits until it is gone. Does nothing if it does not run.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub async fn kill(&mut self) -> Result<(), Error> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Asks it to end, waits until it has, and kills it if it takes too long. Does nothing if it does not run.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub async fn stop(&mut self) -> Result<(), Error> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        if process.is_running() {
            // A paused one would not hear.
            process.resume()?;
            process.terminate()?;
            if tokio::time::timeout(STOP_LIMIT, process.wait()).await.is_ok() {
                return Ok(());
            }
        }
        process.kill().await.map(|_| ())
    }

    /// Stops all its threads, as a frozen machine would; its sockets stay open.
    ///
    /// # Errors
    /// [`Error::NotRunning`] or [`Error::Signal`].
    pub async fn pause(&self) -> Result<(), Error> {
        self.running()?.pause().await
    }

    /// Lets it go on after [`ZooKeeperServer::pause`].
    ///
    /// # Errors
    /// [`Error::NotRunning`] or [`Error::Signal`].
    pub fn resume(&self) -> Result<(), Error> {
        self.running()?.resume()
    }

    /// Whether it is stopped by [`ZooKeeperServer::pause`].
    pub fn is_paused(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_paused)
    }

    /// Kills it and deletes its data. It stays down until [`ZooKeeperServer::restart`], then starts empty.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Signal`].
    pub async fn wipe(&mut self) -> Result<(), Error> {
        self.kill().await?;
        for dir in &self.data_dirs {
            fs::remove_dir_all(dir).map_err(|source| Error::File { action: "delete", path: dir.clone(), source })?;
        }
        self.make_data_dirs()
    }

    /// The folders of its snapshots and of its transaction log.
    pub fn data_dirs(&self) -> [&Path; 2] {
        let [snapshots, transactions] = &self.data_dirs;
        [snapshots, transactions]
    }

    /// Its version, mode and size.
    ///
    /// # Errors
    /// [`Error::Answer`] if it does not serve.
    pub async fn info(&self) -> Result<ServerInfo, Error> {
        let answer = four_letter_word(self.address, "srvr").await?;
        ServerInfo::parse(&answer).ok_or_else(|| Error::Answer {
            address: self.address,
            command: "srvr".to_owned(),
            answer: answer.trim().to_owned(),
        })
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        crate::process::log_tail(&self.dir.join("zookeeper.log"))
    }

    fn running(&self) -> Result<&Process, Error> {
        self.process.as_ref().ok_or_else(|| Error::NotRunning { name: format!("zookeeper at {}", self.address) })
    }

    fn make_data_dirs(&self) -> Result<(), Error> {
        for dir in &self.data_dirs {
            fs::create_dir_all(dir).map_err(|source| Error::File { action: "make", path: dir.clone(), source })?;
        }
        if let Some(id) = self.member {
            let path = self.data_dirs[0].join("myid");
            fs::write(&path, format!("{id}\n")).map_err(|source| Error::File { action: "write", path, source })?;
        }
        Ok(())
    }
}

/// What part a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A single server.
    Standalone,
    /// The leader of an ensemble.
    Leader,
    /// A follower in an ensemble.
    Follower,
    /// A member without a vote.
    Observer,
}

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its version, like `3.8.0`.
    pub version: String,
    /// What part it has.
    pub mode: Mode,
    /// Number of znodes it holds.
    pub znodes: u64,
}

impl ServerInfo {
    fn parse(answer: &str) -> Option<Self> {
        let value = |key: &str| answer.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let mode = match value("Mode:")? {
            "standalone" => Mode::Standalone,
            "leader" => Mode::Leader,
            "follower" => Mode::Follower,
            "observer" => Mode::Observer,
            _ => return None,
        };
        let version = value("Zookeeper version:")?.split(['-', ',']).next()?.to_owned();
        let znodes = value("Node count:")?.parse().ok()?;
        Some(Self { version, mode, znodes })
    }
}

/// Sends a four-letter word to a server and returns what it answers.
///
/// # Errors
/// [`Error::Answer`] if the server cannot be reached or does not answer in time.
pub async fn four_letter_word(address: SocketAddr, command: &str) -> Result<String, Error> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(command.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let failed = |answer: String| Error::Answer { address, command: command.to_owned(), answer };
    match tokio::time::timeout(ANSWER_LIMIT, ask).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("silence for {ANSWER_LIMIT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_serve_yet_is_not_taken_for_one_that_does() {
        assert_eq!(ServerInfo::parse("This ZooKeeper instance is not currently serving requests\n"), None);
    }

    #[test]
    fn version_and_mode_are_read_from_what_a_server_says() {
        let answer = "Zookeeper version: 3.8.0-5a02a05eddb59aee6ac762f7ea82e92a68eb9c0f, built on 2022\nLatency \
                      min/avg/max: 0/0.0/0\nZxid: 0x0\nMode: standalone\nNode count: 5\n";
        let info = ServerInfo::parse(answer).expect("a full answer");
        assert_eq!(info, ServerInfo { version: "3.8.0".to_owned(), mode: Mode::Standalone, znodes: 5 });
    }
}
