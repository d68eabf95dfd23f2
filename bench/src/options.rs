//! What can be asked for on the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::load::Timing;
use crate::plan::{Contender, Kind, IN_FLIGHT_MAX, VALUE_BYTES_MAX};
use crate::values::READ_BYTES;

/// bequest beside what would be used instead of it: bare ZooKeeper and etcd, in one run on one machine.
///
/// Servers, nodes and clients are processes of their own on the loopback address, with private data. Contenders take
/// turns, measurement by measurement; the table shows medians over all repetitions, with the smallest and the
/// largest.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Options {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) name: Name,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Name {
    /// Writes: `propose` beside one create per write, whole segments, and etcd's puts.
    Append(Measure),
    /// Linearizable reads, alone and with writes, beside checks by ZooKeeper and etcd's reads.
    Read(Measure),
    /// Deaths of leaders, hosts and ZooKeeper's leader: how long nobody is served, beside etcd and a bare client.
    Failover(crate::failover::Options),
    /// Both nodes and both disks lost: time to the first write, beside a bare reader; and writes that never pause.
    Rebirth(crate::rebirth::Options),
    /// Many groups on one pair of nodes: idle cost, memory, throughput, and a node's death.
    Groups(crate::groups::Options),
    /// All of them, one after the other, on one page.
    All(Everything),
    /// A node that makes the load it is told to make. Started by this program.
    #[command(hide = true)]
    Lead(Place),
    /// The other node of the pair. Started by this program.
    #[command(hide = true)]
    Follow(Place),
    /// A node with many groups. Started by this program.
    #[command(hide = true)]
    Host(crate::groups::host::Place),
}

/// What every measurement can be told.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// A short look: little of everything, whether it works and not how fast it is. Other options overrule it.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Seeds the values and the order of turns; drawn if not given, and printed.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Writes the results as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Writes a self-contained HTML report to this file; bench-NAME.html by default.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// The folder with ZooKeeper's jars; by default what ZOOKEEPER_HOME names, else Debian's package.
    #[arg(long, value_name = "DIR")]
    pub(crate) zookeeper: Option<PathBuf>,
    /// Where data and logs go; by default a temporary folder. Its disk is what is measured.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keeps the temporary folder with data and logs. It is always kept after a failure.
    #[arg(long)]
    pub(crate) keep: bool,
    /// What is measured, to be told with the results.
    #[arg(long, value_name = "TEXT", default_value = "not told", hide = true)]
    pub(crate) commit: String,
}

/// How to measure everything.
#[derive(Clone, Debug, Args)]
pub(crate) struct Everything {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only these names, separated by commas; append,read,failover,rebirth,groups by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = ["append", "read", "failover", "rebirth", "groups"])]
    pub(crate) only: Vec<String>,
}

/// How to measure.
#[derive(Clone, Debug, Args)]
pub(crate) struct Measure {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How long each measurement takes, without its warm-up; 2 by default.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Load before each measurement that does not count; 0.5 by default. Ten times that when a contender begins.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    warm_up: Option<f64>,
    /// How often everything is measured; 5 by default.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
    /// Only these contenders, separated by commas.
    #[arg(long, value_name = "CONTENDERS", value_delimiter = ',')]
    only: Vec<Contender>,
    /// How many ZooKeeper servers: each number is measured by itself; 1,3 by default.
    #[arg(long, value_name = "SERVERS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=7))]
    servers: Vec<u32>,
    /// Sizes of values that are written; 100,1024,65536 by default. What is read has 100 bytes.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = within(VALUE_BYTES_MAX))]
    bytes: Vec<usize>,
    /// Requests in flight; 1,16,256,4096 by default, and 1,256,4096 for reads.
    #[arg(long, value_name = "REQUESTS", value_delimiter = ',', value_parser = within(IN_FLIGHT_MAX))]
    in_flight: Vec<usize>,
    /// Numbers of connections that etcd and bare ZooKeeper are measured with; by default 1,4,16 and 1,4.
    #[arg(long, value_name = "CONNECTIONS", value_delimiter = ',', value_parser = within(64))]
    connections: Vec<usize>,
}

impl Measure {
    /// How long everything takes.
    pub(crate) fn timing(&self) -> Timing {
        let (warm_up, seconds) = if self.common.quick { (0.1, 0.3) } else { (0.5, 2.0) };
        Timing { warm_up: self.warm_up.unwrap_or(warm_up), seconds: self.seconds.unwrap_or(seconds) }
    }

    /// How often.
    pub(crate) fn repeat(&self) -> u32 {
        self.repeat.unwrap_or(if self.common.quick { 1 } else { 5 })
    }

    /// Who takes part.
    pub(crate) fn contenders(&self, kind: Kind) -> Vec<Contender> {
        let all = Contender::of(kind).iter().copied();
        all.filter(|contender| self.only.is_empty() || self.only.contains(contender)).collect()
    }

    /// Numbers of ZooKeeper servers.
    pub(crate) fn servers(&self) -> Vec<u32> {
        chosen(&self.servers, if self.common.quick { &[1] } else { &[1, 3] })
    }

    /// Sizes of values.
    pub(crate) fn bytes(&self, kind: Kind) -> Vec<usize> {
        match kind {
            Kind::Append if self.common.quick => chosen(&self.bytes, &[100, 64 * 1024]),
            Kind::Append => chosen(&self.bytes, &[100, 1024, 64 * 1024]),
            Kind::Read => vec![READ_BYTES],
        }
    }

    /// Requests in flight.
    pub(crate) fn in_flight(&self, kind: Kind) -> Vec<usize> {
        let usual: &[usize] = match kind {
            _ if self.common.quick => &[1, 256],
            Kind::Append => &[1, 16, 256, 4096],
            Kind::Read => &[1, 256, 4096],
        };
        chosen(&self.in_flight, usual)
    }

    /// Connections a contender is measured with; which of them serves it best is seen in the end.
    pub(crate) fn connections(&self, contender: Contender) -> Vec<usize> {
        let usual: &[usize] = match contender {
            // One session is part of what it is.
            Contender::Bequest | Contender::BequestSynced => return vec![1],
            _ if self.common.quick => &[1],
            Contender::Etcd => &[1, 4, 16],
            Contender::ZooKeeper | Contender::Segments => &[1, 4],
        };
        chosen(&self.connections, usual)
    }
}

/// Where a node of the pair is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// ZooKeeper's address.
    #[arg(long)]
    pub(crate) keeper: String,
    /// Where its disk is.
    #[arg(long)]
    pub(crate) disk: PathBuf,
    /// Whether its log is synced before anything is acknowledged.
    #[arg(long)]
    pub(crate) synced: bool,
    /// Who tells it what to do.
    #[arg(long)]
    pub(crate) control: SocketAddr,
    /// Seeds the values.
    #[arg(long)]
    pub(crate) seed: u64,
}

/// What was given, else what is usual; ascending.
pub(crate) fn chosen<T: Copy + Ord>(given: &[T], usual: &[T]) -> Vec<T> {
    let mut chosen = if given.is_empty() { usual.to_vec() } else { given.to_vec() };
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Seconds within reason.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| Duration::try_from_secs_f64(*seconds).is_ok());
    seconds
        .filter(|seconds| (0.01..=3600.0).contains(seconds))
        .ok_or_else(|| "expected 0.01 to 3600 seconds".to_owned())
}

/// A number from 1 on.
pub(crate) fn within(max: usize) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse::<usize>().ok().filter(|number| (1..=max).contains(number));
        number.ok_or_else(|| format!("expected 1 to {max}"))
    }
}

/// A number of bytes, like 64MiB.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let expected = || "expected a number of bytes, like 512KiB or 64MiB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(expected()),
    };
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(words: &[&str]) -> Measure {
        let words = ["bench", "append"].iter().chain(words);
        match Options::try_parse_from(words).map(|options| options.name) {
            Ok(Name::Append(measure)) => measure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sizes_and_clients_are_those_of_the_documentation() {
        let measure = measure(&[]);
        assert_eq!(measure.bytes(Kind::Append), [100, 1024, 65536]);
        assert_eq!(measure.in_flight(Kind::Append), [1, 16, 256, 4096]);
        assert_eq!(measure.in_flight(Kind::Read), [1, 256, 4096]);
        assert_eq!((measure.servers(), measure.repeat()), (vec![1, 3], 5));
    }

    #[test]
    fn quick_is_overruled_by_what_is_said() {
        let measure = measure(&["--quick", "--repeat", "3", "--in-flight", "16,1", "--only", "etcd"]);
        assert_eq!((measure.repeat(), measure.in_flight(Kind::Append)), (3, vec![1, 16]));
        assert_eq!(measure.contenders(Kind::Append), [Contender::Etcd]);
        assert_eq!(measure.timing(), Timing { warm_up: 0.1, seconds: 0.3 });
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [["--seconds", "0"], ["--bytes", "0"], ["--only", "mysql"], ["--repeat", "0"]] {
            assert!(Options::try_parse_from(["bench", "append"].iter().chain(&words)).is_err(), "{words:?}");
        }
    }
}
