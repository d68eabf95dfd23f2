//! What can be asked for on the command line, or by the environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::duration::duration;

/// A replicated key-value store of two nodes that survives repeated death: Raft whose log is also in ZooKeeper.
#[derive(Debug, Parser)]
#[command(name = "bequest", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How logs are written, to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Human, env = "BEQUEST_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
    /// What is logged: a level, or `target=level` separated by commas.
    #[arg(long, global = true, value_name = "FILTER", default_value = "info", env = "BEQUEST_LOG")]
    pub(crate) log: String,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Creates the cluster record and the group in ZooKeeper. Done once; doing it again changes nothing.
    Init(Init),
    /// Runs a node: serves the group's keys over HTTP until it is told to end by SIGTERM or SIGINT.
    Serve(Serve),
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// Where the group is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// ZooKeeper, as zk://[user:password@]host:port,host:port/path.
    #[arg(long, value_name = "URL", env = "BEQUEST_ZK", hide_env_values = true)]
    pub(crate) zk: String,
    /// The group's name.
    #[arg(long, value_name = "NAME", default_value = "kv", env = "BEQUEST_GROUP")]
    pub(crate) group: String,
}

/// Options of `bequest init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    #[command(flatten)]
    pub(crate) place: Place,
    /// The ids of the group's nodes.
    #[arg(long, value_name = "NODES", value_delimiter = ',', required = true, env = "BEQUEST_VOTERS")]
    pub(crate) voters: Vec<u64>,
    /// Bytes of log that ZooKeeper may hold for the group; proposals are busy beyond.
    #[arg(long, value_name = "BYTES", default_value_t = bequest::default_limits().wal_bytes)]
    pub(crate) wal_bytes: u64,
    /// Segments of log that ZooKeeper may hold for the group; proposals are busy beyond.
    #[arg(long, value_name = "SEGMENTS", default_value_t = bequest::default_limits().wal_segments)]
    pub(crate) wal_segments: u64,
    /// Bytes of keys and values the group may hold; beyond, only deletes and what shrinks them pass.
    #[arg(long, value_name = "BYTES", default_value_t = bequest::default_limits().state_bytes)]
    pub(crate) state_bytes: u64,
}

/// Options of `bequest serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) place: Place,
    /// This node's id: one of the group's voters, its own for ever.
    #[arg(long, value_name = "ID", env = "BEQUEST_NODE")]
    pub(crate) node: u64,
    /// Where the peer port listens, host:port.
    #[arg(long, value_name = "ADDRESS", env = "BEQUEST_LISTEN")]
    pub(crate) listen: String,
    /// Where peers reach it, if not there.
    #[arg(long, value_name = "ADDRESS", env = "BEQUEST_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// Where the HTTP interface listens.
    #[arg(long, value_name = "ADDRESS", env = "BEQUEST_HTTP")]
    pub(crate) http: SocketAddr,
    /// Where clients reach it, host:port, if not there.
    #[arg(long, value_name = "ADDRESS", env = "BEQUEST_HTTP_ADVERTISE")]
    pub(crate) http_advertise: Option<String>,
    /// Where local data goes. It is a cache: if it is lost, the node is rebuilt from ZooKeeper.
    #[arg(long, value_name = "DIR", env = "BEQUEST_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// Silence after which a leader is doubted. Grows by itself where ZooKeeper is slow.
    #[arg(long, value_name = "TIME", default_value = "150ms", value_parser = duration, env = "BEQUEST_ELECTION_TIMEOUT")]
    pub(crate) election_timeout: Duration,
    /// How often a node says to its peers that it lives.
    #[arg(long, value_name = "TIME", default_value = "30ms", value_parser = duration, env = "BEQUEST_BEAT")]
    pub(crate) beat: Duration,
    /// ZooKeeper session timeout to ask for. No takeover waits for it.
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = duration, env = "BEQUEST_SESSION_TIMEOUT")]
    pub(crate) session_timeout: Duration,
    /// Acknowledges only what is also synced to the local disk. It is safe in ZooKeeper either way.
    #[arg(long, env = "BEQUEST_SYNC_DISK")]
    pub(crate) sync_disk: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn voters_are_separated_by_commas() {
        let options = Options::try_parse_from(["bequest", "init", "--zk", "zk://h:1/p", "--voters", "1,2"]);
        match options.expect("a complete command").command {
            Command::Init(init) => assert_eq!((init.voters, init.place.group.as_str()), (vec![1, 2], "kv")),
            Command::Serve(serve) => panic!("{serve:?}"),
        }
    }
}
