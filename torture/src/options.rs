//! What can be asked for on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::fault::Kind;

/// Two nodes, an ensemble of three ZooKeeper servers, clients, and a nemesis.
///
/// Everything runs in network namespaces of its own, which vanish with it. Faults are drawn by a seed, several at a
/// time, in rounds; after each, the group must serve again. What clients were told is checked in the end: every key
/// for linearizability, counters for having counted exactly once, accounts for their sums. Exits with 0 only if all is
/// well. The last line is the verdict.
#[derive(Clone, Debug, Parser)]
#[command(name = "torture", version)]
pub(crate) struct Options {
    /// How long faults go on.
    #[arg(long, value_name = "MINUTES", default_value_t = 3.0, value_parser = minutes)]
    pub(crate) minutes: f64,
    /// Seeds the faults and the clients' choices; drawn if not given, and printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Only these faults, separated by commas.
    #[arg(long, value_name = "FAULTS", value_delimiter = ',')]
    pub(crate) faults: Vec<Kind>,
    /// How many clients write and read.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=24))]
    pub(crate) clients: u64,
    /// Milliseconds a client pauses after a request.
    #[arg(long, value_name = "MS", default_value_t = 8)]
    pub(crate) pause_ms: u64,
    /// Milliseconds a client waits for an answer before the outcome counts as unknown.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub(crate) timeout_ms: u64,
    /// Seconds the group may take to serve again when a round of faults is over.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) patience: u64,
    /// Writes the history to this file, as Jepsen does.
    #[arg(long, value_name = "FILE")]
    pub(crate) edn: Option<PathBuf>,
    /// Writes a self-contained HTML report to this file.
    #[arg(long, value_name = "FILE", default_value = "torture.html")]
    pub(crate) report: PathBuf,
    /// The folder with ZooKeeper's jars; by default what ZOOKEEPER_HOME names, else Debian's package.
    #[arg(long, value_name = "DIR")]
    pub(crate) zookeeper: Option<PathBuf>,
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

impl Options {
    /// How long faults go on.
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    /// How long the group may take to serve again.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| *minutes > 0.0 && *minutes <= 100_000.0);
    minutes.ok_or_else(|| "expected minutes, like 15 or 0.5".to_owned())
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
    fn faults_are_named_as_they_are_told() {
        for kind in Kind::ALL {
            let options = Options::try_parse_from(["torture", "--faults", kind.name()]).expect("a known fault");
            assert_eq!(options.faults, [*kind]);
        }
        assert!(Options::try_parse_from(["torture", "--faults", "earthquake"]).is_err());
    }

    #[test]
    fn time_is_positive() {
        assert!(Options::try_parse_from(["torture", "--minutes", "0.5"]).is_ok());
        assert!(Options::try_parse_from(["torture", "--minutes", "0"]).is_err());
        assert!(Options::try_parse_from(["torture", "--minutes", "NaN"]).is_err());
    }
}
