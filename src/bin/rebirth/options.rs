//! What can be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::duration::duration;

/// The demo: two nodes die in every way there is, and clients watch whether a write is lost.
///
/// Starts a private ZooKeeper and two `bequest serve` processes, lets clients write and read through the public
/// HTTP interface, and brings death upon the nodes, cycle after cycle. Exits with 0 only if no acknowledged write
/// was lost, no read was stale and every step was served again.
#[derive(Clone, Debug, Parser)]
#[command(name = "rebirth", version, after_help = STEPS_HELP)]
pub(crate) struct Options {
    /// How often the whole schedule is run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) cycles: u64,
    /// Seeds the clients' choices and the pauses between the faults; drawn if not given, and printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Which steps a cycle has, in this order.
    #[arg(long, value_delimiter = ',', default_value = "a,b,c,d,e,f,g,h,i")]
    pub(crate) steps: Vec<Step>,
    /// Writes the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes a self-contained HTML report to this file.
    #[arg(long, value_name = "FILE", default_value = "rebirth.html")]
    pub(crate) report: PathBuf,
    /// The folder with ZooKeeper's jars; by default what ZOOKEEPER_HOME names, else Debian's package.
    #[arg(long, value_name = "DIR", conflicts_with = "zk")]
    pub(crate) zookeeper: Option<PathBuf>,
    /// An existing ZooKeeper, as zk://host:port,host:port/path; a new folder is made below it. Step h is left out.
    #[arg(long, value_name = "URL")]
    pub(crate) zk: Option<String>,
    /// How many ZooKeeper servers to start.
    #[arg(long, value_name = "SERVERS", default_value_t = 1, conflicts_with = "zk", value_parser = clap::value_parser!(u32).range(1..=7))]
    pub(crate) ensemble: u32,
    /// How many clients write and read.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) clients: u32,
    /// How long a client pauses after an operation that was answered.
    #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = duration)]
    pub(crate) pause: Duration,
    /// How long a client waits for an answer before the outcome counts as unknown.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    pub(crate) attempt_timeout: Duration,
    /// Bytes of further state to write before the first fault.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) state_bytes: u64,
    /// Bytes of log ZooKeeper may hold for the group; small ones bring about many snapshots.
    #[arg(long, value_name = "BYTES", default_value_t = bequest::default_limits().wal_bytes)]
    pub(crate) wal_bytes: u64,
    /// Segments of log ZooKeeper may hold for the group.
    #[arg(long, value_name = "SEGMENTS", default_value_t = bequest::default_limits().wal_segments)]
    pub(crate) wal_segments: u64,
    /// Session timeout of the nodes; step g stops the leader for longer than this.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) session_timeout: Duration,
    /// How long a step may go unserved before it has failed.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) patience: Duration,
    /// Where data and logs go; by default a temporary folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keeps the temporary folder with data and logs. It is always kept after a failure.
    #[arg(long)]
    pub(crate) keep: bool,
    /// The node program; by default the `bequest` beside this one.
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
}

const STEPS_HELP: &str = "\
Steps:
  a  kill -9 the leader
  b  kill -9 the follower, then return it
  c  A dies, B commits alone, B dies, A returns alone
  d  both die together and return
  e  the follower dies and its disk is deleted
  f  both die and both disks are deleted
  g  the leader is stopped for longer than its session, and continued while the other leads
  h  ZooKeeper is killed and restarted under load (of an ensemble: its leader)
  i  clean shutdown of the leader";

/// A way to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Step {
    /// Kill -9 the leader.
    A,
    /// Kill -9 the follower, then return it.
    B,
    /// A dies, B commits alone, B dies, A returns alone.
    C,
    /// Both die together and return.
    D,
    /// The follower dies and its disk is deleted.
    E,
    /// Both die and both disks are deleted.
    F,
    /// The leader is stopped for longer than its session, and continued.
    G,
    /// ZooKeeper is killed and restarted.
    H,
    /// Clean shutdown of the leader.
    I,
}

impl Step {
    /// The letter it goes by.
    pub(crate) fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
            Self::C => 'c',
            Self::D => 'd',
            Self::E => 'e',
            Self::F => 'f',
            Self::G => 'g',
            Self::H => 'h',
            Self::I => 'i',
        }
    }

    /// What happens in it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::A => "kill -9 the leader",
            Self::B => "kill -9 the follower, then return it",
            Self::C => "A dies, B commits alone, B dies, A returns alone",
            Self::D => "both die together and return",
            Self::E => "the follower dies and its disk is deleted",
            Self::F => "both die and both disks are deleted",
            Self::G => "the leader is stopped for longer than its session, and continued",
            Self::H => "ZooKeeper is killed and restarted",
            Self::I => "clean shutdown of the leader",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_named_by_their_letters() {
        let options = Options::try_parse_from(["rebirth", "--steps", "c,a,f"]).expect("three known letters");
        assert_eq!(options.steps, [Step::C, Step::A, Step::F]);
        assert!(Options::try_parse_from(["rebirth", "--steps", "a,x"]).is_err_and(|e| e.to_string().contains("'x'")));
    }
}
