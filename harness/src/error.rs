//! What can go wrong while starting or tormenting a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why the harness could not do what it was asked to. The text says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No Java runtime: ZooKeeper cannot be started here.
    #[error("no java found in JAVA_HOME or PATH: run `apt-get install default-jre-headless`")]
    NoJava,
    /// Debian's ZooKeeper package is not installed.
    #[error(
        "no ZooKeeper at {}: run `apt-get install default-jre-headless zookeeper`, or name a folder with \
         ZooKeeper's jars by --zookeeper DIR or ZOOKEEPER_HOME", .path.display()
    )]
    NoDebianPackage {
        /// Where the package puts its jar.
        path: PathBuf,
    },
    /// The named folder holds no ZooKeeper jars.
    #[error(
        "no zookeeper-*.jar in {0} or {0}/lib: let --zookeeper DIR or ZOOKEEPER_HOME name the folder of an unpacked \
         ZooKeeper, or unset it to use Debian's package", .home.display()
    )]
    NoJars {
        /// The folder that was named.
        home: PathBuf,
    },
    /// etcd is not installed.
    #[error("no etcd in PATH: run `scripts/install bench` or `apt-get install etcd-server`, or measure without it")]
    NoEtcd,
    /// The node program is not where it should be.
    #[error("no node program {}: build it with `cargo build --release`, or name it by --program", .program.display())]
    NoNodeProgram {
        /// Where it was looked for.
        program: PathBuf,
    },
    /// A program could not be started.
    #[error("cannot start program={program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A process ended where it should have lived on.
    #[error("process ended: name={name}, {status}; the end of its log:\n{log_tail}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        log_tail: String,
    },
    /// A process did not get ready in time.
    #[error("not ready after {waited:?}: name={name}, waiting for {wanted}; the end of its log:\n{log_tail}")]
    NotReady {
        /// The process.
        name: String,
        /// What was waited for.
        wanted: String,
        /// How long.
        waited: Duration,
        /// The last lines it wrote.
        log_tail: String,
    },
    /// A signal was meant for a process that is not running.
    #[error("not running: name={name}")]
    NotRunning {
        /// The process.
        name: String,
    },
    /// A signal could not be sent.
    #[error("cannot signal name={name}, pid={pid}")]
    Signal {
        /// The process.
        name: String,
        /// Its process id.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder of the harness could not be used.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder for a run's data is in use.
    #[error("{} is not empty: a run begins with empty disks; name another --dir", .dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// A server did not answer, or not in words that are understood.
    #[error("no usable answer from server={address} to `{command}`: {answer}")]
    Answer {
        /// The server.
        address: SocketAddr,
        /// The four-letter word sent to it.
        command: String,
        /// What came back, or why nothing did.
        answer: String,
    },
    /// No port could be bound.
    #[error("cannot bind address={address}; if it is in use, end the process that holds it")]
    Bind {
        /// What was to be bound.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No free port was found.
    #[error("no free port below the ephemeral range after {tried} attempts")]
    NoFreePort {
        /// How many were tried.
        tried: u32,
    },
    /// An ensemble has no leader, or more than one server says it is.
    #[error("ensemble without exactly one leader: modes={modes}")]
    NoLeader {
        /// What each server said.
        modes: String,
    },
}
