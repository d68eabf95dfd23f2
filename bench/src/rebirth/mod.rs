//! `rebirth`: both nodes die, both disks are deleted, and all comes back from ZooKeeper; beside a bare reader that
//! fetches the same bytes. And what keeps that short: snapshots, made while writers never pause.

mod reader;
mod results;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest::{default_limits, Limits};
use bequest_harness::kv::{Kv, Succession};
use bequest_harness::node_program;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::options::{chosen, size, Common};
use crate::outcome::Outcome;
use crate::served::{Served, Site};
use crate::services::Nodes;
use crate::steady;
use crate::values::Values;
use crate::world::keeper;
use crate::writers::Writers;
use reader::Fetched;
use results::{html, ratios, text, Reborn, Row};

/// Beside what a bare reader takes, in milliseconds: processes, sessions and a first write.
const FIXED_MS: f64 = 150.0;
/// Values that tails and states are made of, how many of them are on their way, and single writes' values.
const VALUE_BYTES: usize = 4096;
const FILLERS: u64 = 64;
const SMALL_BYTES: usize = 100;
/// A third of a log makes a snapshot: this many times a tail none, and this part of a state soon.
const WITHOUT_SNAPSHOT: u64 = 4;
const LOG_MIN: u64 = 6 << 20;
const TAIL_BYTES_MAX: u64 = 512 << 20;
const STATE_BYTES_MAX: u64 = 400 << 20;
const ENTRIES_MAX: u64 = 1_000_000;
/// How long anything that has to come about may take.
const PATIENCE: Duration = Duration::from_secs(300);
const WRITERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(2);

/// What lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Tail {
    /// So many small writes, one after the other: a segment for each.
    Entries(u64),
    /// So many bytes, written as fast as it goes.
    Bytes(u64),
}

impl FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let entries = text.bytes().all(|byte| byte.is_ascii_digit());
        let tail = if entries { text.parse().ok().map(Self::Entries) } else { size(text).ok().map(Self::Bytes) };
        let within = |tail: &Tail| match tail {
            Self::Entries(count) => (1..=ENTRIES_MAX).contains(count),
            Self::Bytes(bytes) => (1..=TAIL_BYTES_MAX).contains(bytes),
        };
        tail.filter(within).ok_or_else(|| {
            format!(
                "expected a number of entries up to {ENTRIES_MAX}, or bytes like 16MiB up to {} MiB",
                TAIL_BYTES_MAX >> 20
            )
        })
    }
}

fn state(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    let within = (1..=STATE_BYTES_MAX).contains(&bytes);
    within.then_some(bytes).ok_or_else(|| format!("expected 1B to {} MiB", STATE_BYTES_MAX >> 20))
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| (0.02..=1440.0).contains(minutes));
    minutes.ok_or_else(|| "expected 0.02 to 1440 minutes".to_owned())
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Rebirth from the log.
    Tails,
    /// Rebirth from a snapshot.
    Snapshots,
    /// Writers that never pause.
    Steady,
}

/// How to let both die.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only these parts, separated by commas.
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<Part>,
    /// Tails of the log: entries written one by one, or bytes; 1,1000,10000,1MiB,16MiB,64MiB,256MiB by default.
    #[arg(long, value_name = "TAILS", value_delimiter = ',')]
    tails: Vec<Tail>,
    /// Sizes of the state that the snapshot holds; 1MiB,16MiB,64MiB,256MiB by default.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = state)]
    snapshots: Vec<u64>,
    /// How often both nodes die at each size; 5 by default.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
    /// Sizes of the state that is written to without a pause; 1MiB,64MiB,256MiB by default.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = state)]
    states: Vec<u64>,
    /// Minutes of writing at each of these sizes; 10 by default.
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    minutes: Option<f64>,
    /// The node program; by default the `bequest` beside this one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Options {
    fn has(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn loads(&self) -> Vec<Load> {
        let mega = |mib: u64| mib << 20;
        let tails: &[Tail] = if self.common.quick {
            &[Tail::Entries(1), Tail::Bytes(1 << 20)]
        } else {
            &[
                Tail::Entries(1),
                Tail::Entries(1000),
                Tail::Entries(10_000),
                Tail::Bytes(1 << 20),
                Tail::Bytes(16 << 20),
                Tail::Bytes(64 << 20),
                Tail::Bytes(256 << 20),
            ]
        };
        let snapshots: &[u64] = if self.common.quick { &[1] } else { &[1, 16, 64, 256] };
        let snapshots: Vec<u64> = snapshots.iter().copied().map(mega).collect();
        let tails = chosen(&self.tails, tails).into_iter().map(Load::Tail).filter(|_| self.has(Part::Tails));
        let snapshots = chosen(&self.snapshots, &snapshots).into_iter().map(Load::Snapshot);
        tails.chain(snapshots.filter(|_| self.has(Part::Snapshots))).collect()
    }

    fn states(&self) -> Vec<u64> {
        let usual: &[u64] = if self.common.quick { &[1 << 20] } else { &[1 << 20, 64 << 20, 256 << 20] };
        if self.has(Part::Steady) {
            chosen(&self.states, usual)
        } else {
            Vec::new()
        }
    }

    fn repeat(&self) -> u32 {
        self.repeat.unwrap_or(if self.common.quick { 1 } else { 5 })
    }

    fn minutes(&self) -> Duration {
        Duration::from_secs_f64(self.minutes.unwrap_or(if self.common.quick { 0.05 } else { 10.0 }) * 60.0)
    }
}

/// What there is to be reborn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Load {
    Tail(Tail),
    Snapshot(u64),
}

impl Load {
    fn title(self) -> String {
        let bytes = |bytes: u64| match bytes {
            0..0x10_0000 => format!("{} KiB", bytes >> 10),
            _ => format!("{} MiB", bytes >> 20),
        };
        match self {
            Self::Tail(Tail::Entries(count)) => format!("tail of {count} entries"),
            Self::Tail(Tail::Bytes(size)) => format!("tail of {}", bytes(size)),
            Self::Snapshot(size) => format!("snapshot of {}", bytes(size)),
        }
    }

    fn limits(self) -> Limits {
        let usual = default_limits();
        match self {
            Self::Tail(Tail::Entries(count)) => {
                Limits { wal_segments: usual.wal_segments.max(count * WITHOUT_SNAPSHOT), ..usual }
            }
            Self::Tail(Tail::Bytes(bytes)) => {
                Limits { wal_bytes: usual.wal_bytes.max(bytes * WITHOUT_SNAPSHOT), ..usual }
            }
            Self::Snapshot(bytes) => Limits { wal_bytes: LOG_MIN.max(bytes / 2), ..usual },
        }
    }
}

/// Measures all parts that were asked for.
pub(crate) async fn measure(options: &Options, dir: &Path, seed: u64) -> Result<Outcome> {
    let program = node_program(options.program.as_deref())?;
    let dir = dir.join("rebirth");
    let mut rows = Vec::new();
    for (at, load) in options.loads().into_iter().enumerate() {
        let dir = dir.join(at.to_string());
        let point = Point::prepare(load, &program, options, &dir, seed).await;
        let mut point = point.with_context(|| load.title())?;
        let mut row = Row { load, reborn: Vec::new() };
        for repetition in 0..options.repeat() {
            let reborn = point.turn(repetition % 2 == 0).await;
            let reborn = reborn.with_context(|| format!("{}, repetition {}", load.title(), repetition + 1))?;
            println!("{:<28}{:>12.1} ms, bare reader {:>10.1} ms", load.title(), reborn.ours, reborn.bare);
            row.reborn.push(reborn);
        }
        rows.push(row);
    }
    let mut steadies = Vec::new();
    for (at, state) in options.states().into_iter().enumerate() {
        println!("writing for {:.1?} to {} MiB of state", options.minutes(), state >> 20);
        let dir = dir.join(format!("steady-{at}"));
        steadies.push(steady::measure(state, options.minutes(), options.common.zookeeper.clone(), &dir).await?);
    }
    Ok(Outcome {
        name: "rebirth",
        about: about(options),
        text: text(&rows, &steadies),
        html: html(&rows, &steadies),
        ratios: ratios(&rows, &steadies),
        json: json!({ "measurements": rows, "steady": steadies }),
    })
}

/// A pair whose log or snapshot has the wanted size, and its ZooKeeper.
struct Point {
    // Dropped in this order: the server last.
    served: Served,
    service: Arc<Nodes>,
    numbers: Arc<AtomicU64>,
    place: String,
    _keeper: bequest_harness::ZooKeeperServer,
}

impl Point {
    async fn prepare(load: Load, program: &Path, options: &Options, dir: &Path, seed: u64) -> Result<Self> {
        let keeper = keeper(options.common.zookeeper.clone()).dir(dir.join("zookeeper")).start().await?;
        let place = format!("{}/rebirth", keeper.address());
        let sites = [Site::loopback()?, Site::loopback()?];
        let mut served = Served::create(program, &format!("zk://{place}"), load.limits(), sites, dir).await?;
        served.start(0)?;
        served.start(1)?;
        let leader = served.settled().await?;
        let values = Values::printable(seed);
        let fill = Arc::new(Fill { kv: Kv::new(PATIENCE), nodes: served.addresses(), leader, values: values.clone() });
        match load {
            Load::Tail(Tail::Entries(count)) => fill.write(count, count, 1, SMALL_BYTES).await?,
            Load::Tail(Tail::Bytes(bytes)) => {
                fill.write(bytes / VALUE_BYTES as u64, 4096, FILLERS, VALUE_BYTES).await?
            }
            Load::Snapshot(bytes) => {
                let keys = (bytes / VALUE_BYTES as u64).max(1);
                let filled = fill.write(keys, keys, FILLERS, VALUE_BYTES).await?;
                fill.until_covered(&served, filled, keys).await?
            }
        };
        let service = Arc::new(Nodes::new(served.addresses(), values));
        Ok(Self { served, service, numbers: Arc::default(), place, _keeper: keeper })
    }

    /// Both of them, one after the other.
    async fn turn(&mut self, ours_first: bool) -> Result<Reborn> {
        let before = if ours_first { None } else { Some(self.fetch().await?) };
        let (ours, succession) = self.rebirth().await?;
        let fetched = match before {
            Some(fetched) => fetched,
            None => self.fetch().await?,
        };
        let bare = fetched.took.as_secs_f64() * 1e3;
        Ok(Reborn { ours, bare, bytes: fetched.bytes, znodes: fetched.znodes, succession })
    }

    /// What the bare reader does. Without nodes: a live leader may take another snapshot meanwhile, and delete what was
    /// listed before it is read.
    async fn fetch(&mut self) -> Result<Fetched> {
        self.served.bury_all().await?;
        reader::fetch(&self.place).await
    }

    async fn rebirth(&mut self) -> Result<(f64, Succession)> {
        let Self { served, service, numbers, .. } = self;
        served.bury_all().await?;
        for node in 0..2 {
            served.wipe(node)?;
        }
        let from = Instant::now();
        for node in 0..2 {
            served.start(node)?;
        }
        let writers = Writers::start(service, numbers, WRITERS);
        let ack = writers.wait_for(PATIENCE, |_| true).await.map_err(anyhow::Error::msg)?;
        writers.stop().await;
        let leader = served.settled().await?;
        let succession = served.status(leader).await.map(|status| status.succession).unwrap_or_default();
        Ok(((ack.ended - from).as_secs_f64() * 1e3, succession))
    }
}

/// Makes a state, or a log.
#[derive(Debug)]
struct Fill {
    kv: Kv,
    nodes: [std::net::SocketAddr; 2],
    leader: usize,
    values: Values,
}

impl Fill {
    /// Makes `count` writes over `keys` keys, so many at once; the highest index they got.
    async fn write(self: &Arc<Self>, count: u64, keys: u64, at_once: u64, bytes: usize) -> Result<u64> {
        let fillers = (0..at_once).map(|filler| {
            let fill = self.clone();
            tokio::spawn(async move {
                let mut last = 0;
                for number in (filler..count.max(1)).step_by(at_once as usize) {
                    last = last.max(fill.put(number, keys, bytes).await?);
                }
                anyhow::Ok(last)
            })
        });
        let mut last = 0;
        for filler in fillers.collect::<Vec<_>>() {
            last = last.max(filler.await??);
        }
        Ok(last)
    }

    async fn put(&self, number: u64, keys: u64, bytes: usize) -> Result<u64> {
        let (began, mut node) = (Instant::now(), self.leader);
        loop {
            let key = format!("{:09}", number % keys);
            match self.kv.put(self.nodes[node], &key, self.values.text(number, bytes)).await {
                Ok(index) => return Ok(index),
                Err(failure) => {
                    anyhow::ensure!(began.elapsed() < PATIENCE, "a value could not be written: {failure:?}");
                    node = 1 - node;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Writes again and again until a snapshot covers `index`.
    async fn until_covered(self: &Arc<Self>, served: &Served, index: u64, keys: u64) -> Result<u64> {
        const ROUND: u64 = 256;
        let (began, next) = (Instant::now(), AtomicU64::new(0));
        loop {
            let snapshot = served.status(self.leader).await.map_or(0, |status| status.snapshot);
            if snapshot >= index {
                return Ok(snapshot);
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "no snapshot covers index={index}, the last is at {snapshot}");
            // Different keys in every round, of those that are there.
            let from = next.fetch_add(ROUND, Relaxed);
            let writes = (from..from + ROUND).map(|number| {
                let fill = self.clone();
                tokio::spawn(async move { fill.put(number, keys, VALUE_BYTES).await })
            });
            for write in writes.collect::<Vec<_>>() {
                write.await??;
            }
        }
    }
}

fn about(options: &Options) -> Vec<String> {
    vec![
        format!("each size {} times, ours and the bare reader in turns", options.repeat()),
        "bequest: from the start of both processes, whose disks were deleted, to the first acknowledged write"
            .to_owned(),
        "bare reader: the client library that bequest uses; from connecting to the last byte, 32 reads in flight"
            .to_owned(),
        format!(
            "tails of bytes are values of {VALUE_BYTES} bytes; entries are values of {SMALL_BYTES}, a segment each"
        ),
        format!("steady: {:.1?} of writes of 100 bytes by 1024 proposers in the leader's process", options.minutes()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_told_in_entries_or_in_bytes() {
        assert_eq!("1".parse(), Ok(Tail::Entries(1)));
        assert_eq!("16MiB".parse(), Ok(Tail::Bytes(16 << 20)));
        for wrong in ["0", "", "-1", "1000000000", "600MiB", "1TiB", "x"] {
            let refused = wrong.parse::<Tail>().expect_err(wrong);
            assert!(refused.contains("expected a number of entries"), "{refused}");
        }
    }

    #[test]
    fn a_tail_is_too_short_for_a_snapshot_and_a_state_is_not() {
        let bytes = 256 << 20;
        assert!(Load::Tail(Tail::Bytes(bytes)).limits().wal_bytes / 3 > bytes);
        assert!(Load::Tail(Tail::Entries(90_000)).limits().wal_segments / 3 > 90_000);
        assert!(Load::Snapshot(bytes).limits().wal_bytes / 3 < bytes);
    }
}
