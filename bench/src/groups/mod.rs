//! `groups`: many groups on one pair of nodes. What they cost while nothing happens, what they do together, and how
//! long it takes until all of them serve when a node dies.

pub(crate) mod host;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest::{bootstrap, default_limits};
use bequest_harness::{four_letter_word, Process, ZooKeeperServer};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{Measured, Timing};
use crate::machine::{busy_seconds, resident_mib};
use crate::options::{chosen, seconds, within, Common};
use crate::outcome::Outcome;
use crate::plan::{turns, Case, Kind};
use crate::plot::{plot, table, Line};
use crate::results::{told, Bound, Ratio};
use crate::stats::Spread;
use crate::world::keeper;
use host::{name, Answer, Order, Place, Report};

/// Groups that are created at once.
const CREATORS: usize = 16;
/// A thousand groups take their time to be joined.
const START_LIMIT: Duration = Duration::from_secs(3600);
/// A pair is quiet when ZooKeeper wrote nothing for so long.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_LIMIT: u32 = 60;
const BYTES: usize = 100;
const GROUPS_MAX: usize = 4096;
/// Many in each of many groups.
const IN_FLIGHT_MAX: usize = 65_536;

/// How many groups, and how to measure them.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Numbers of groups; 1,10,100,1000 by default.
    #[arg(long, value_name = "GROUPS", value_delimiter = ',', value_parser = within(GROUPS_MAX))]
    groups: Vec<usize>,
    /// Seconds in which nothing is asked; 10 by default.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle: Option<f64>,
    /// Seconds of load; 5 by default.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<f64>,
    /// Load before that does not count; 2 by default.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    warm_up: Option<f64>,
    /// Writes in flight, over all groups together.
    #[arg(long, value_name = "WRITES", default_value_t = 1024, value_parser = within(IN_FLIGHT_MAX))]
    in_flight: usize,
    /// How often everything is measured; 3 by default.
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
}

impl Options {
    fn groups(&self) -> Vec<usize> {
        chosen(&self.groups, if self.common.quick { &[1, 10] } else { &[1, 10, 100, 1000] })
    }

    fn idle(&self) -> Duration {
        Duration::from_secs_f64(self.idle.unwrap_or(if self.common.quick { 1.0 } else { 10.0 }))
    }

    fn timing(&self) -> Timing {
        let (warm_up, seconds) = if self.common.quick { (0.1, 0.3) } else { (2.0, 5.0) };
        Timing { warm_up: self.warm_up.unwrap_or(warm_up), seconds: self.seconds.unwrap_or(seconds) }
    }

    fn repeat(&self) -> u32 {
        self.repeat.unwrap_or(if self.common.quick { 1 } else { 3 })
    }
}

/// What was measured once with a number of groups.
#[derive(Clone, Debug, Serialize)]
struct Run {
    /// Seconds until all groups were there: created, joined by both nodes, led and followed.
    start: f64,
    /// While nothing is asked: transactions of ZooKeeper per second, by its own count.
    idle_writes: f64,
    /// Percent of a core: leader, follower, ZooKeeper.
    idle_cpu: [f64; 3],
    load: Measured,
    load_cpu: [f64; 3],
    /// MiB after the load: leader, follower, ZooKeeper.
    resident: [u64; 3],
    /// Milliseconds from the leader's death until every group had acknowledged a write.
    all_serve: f64,
    /// The same of each group, counted from the order to write.
    served: Vec<f64>,
}

/// All repetitions with a number of groups.
#[derive(Clone, Debug, Serialize)]
struct Row {
    groups: usize,
    runs: Vec<Run>,
}

impl Row {
    fn spread(&self, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().map(figure))
    }
}

/// Measures every number of groups.
pub(crate) async fn measure(options: &Options, dir: &Path, seed: u64) -> Result<Outcome> {
    let groups = options.groups();
    let mut rows: Vec<Row> = groups.iter().map(|groups| Row { groups: *groups, runs: Vec::new() }).collect();
    for repetition in 0..options.repeat() {
        for turn in turns(groups.len(), seed.wrapping_add(u64::from(repetition))) {
            let count = groups[turn];
            let dir = dir.join(format!("groups-{count}-{repetition}"));
            let run = run(count, options, &dir, seed).await;
            let run = run.with_context(|| format!("{count} groups, repetition {}", repetition + 1))?;
            println!(
                "{count:>5} groups: there after {:.1} s; idle {:.2} writes/s; {:.0} writes/s; all serve after {:.0} ms",
                run.start,
                run.idle_writes,
                run.load.per_second(),
                run.all_serve
            );
            rows[turn].runs.push(run);
            // Only what failed leaves something to look at.
            let _ = std::fs::remove_dir_all(dir);
        }
    }
    let timing = options.timing();
    let about = vec![
        format!("{} repetitions; each begins with a new ZooKeeper and new nodes", options.repeat()),
        format!("idle: {:?} without a request; ZooKeeper's transactions are counted by its zxid", options.idle()),
        format!("load: {BYTES} bytes, {} in flight over all groups, {} s", options.in_flight, timing.seconds),
        "death: kill -9 of the node that leads all groups; each is written to until it acknowledges".to_owned(),
        "both nodes are processes with the library; the load is made in the leader's".to_owned(),
    ];
    Ok(Outcome {
        name: "groups",
        about,
        text: text(&rows),
        html: html(&rows),
        ratios: ratios(&rows),
        json: json!({ "measurements": rows }),
    })
}

/// A node's process, and the connection over which it is told what to do.
struct Host {
    process: Process,
    control: BufReader<TcpStream>,
}

impl Host {
    async fn start(id: u64, keeper: &str, groups: usize, dir: &Path, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let disk = dir.join(format!("node-{id}"));
        let place = Place { id, keeper: keeper.to_owned(), disk, groups, control: listener.local_addr()?, seed };
        let program = std::env::current_exe().context("cannot find this program")?;
        let builder = Process::builder(program).name(format!("node {id}")).args(place.arguments());
        let process = builder.log(dir.join(format!("node-{id}.log"))).spawn()?;
        // It connects when it has joined all groups.
        let connection = tokio::select! {
            connection = tokio::time::timeout(START_LIMIT, listener.accept()) => connection,
            status = process.wait() => anyhow::bail!("node {id} ended, {status}; its log:\n{}", process.log_tail()),
        };
        let (connection, _) = connection.map_err(|_| process.not_ready("it to join its groups", START_LIMIT))??;
        connection.set_nodelay(true)?;
        Ok(Self { process, control: BufReader::new(connection) })
    }

    async fn tell(&mut self, order: Order) -> Result<()> {
        let mut line = serde_json::to_string(&order)?;
        line.push('\n');
        Ok(self.control.write_all(line.as_bytes()).await?)
    }

    async fn answer(&mut self) -> Result<Answer> {
        let mut answer = String::new();
        if self.control.read_line(&mut answer).await? == 0 {
            self.process.check_running()?;
            anyhow::bail!("a node hung up; the end of its log:\n{}", self.process.log_tail());
        }
        serde_json::from_str::<Report>(&answer)?.map_err(anyhow::Error::msg)
    }

    async fn order(&mut self, order: Order) -> Result<Answer> {
        self.tell(order).await?;
        self.answer().await
    }
}

async fn run(groups: usize, options: &Options, dir: &Path, seed: u64) -> Result<Run> {
    std::fs::create_dir_all(dir).context("cannot make a folder")?;
    let server = keeper(options.common.zookeeper.clone()).dir(dir.join("zookeeper")).start().await?;
    let zk = format!("zk://{}/groups", server.address());
    let began = Instant::now();
    create(&zk, groups).await.context("the groups are not created")?;
    let mut leader = Host::start(1, &zk, groups, dir, seed).await?;
    leader.order(Order::Lead).await?;
    let mut follower = Host::start(2, &zk, groups, dir, seed).await?;
    leader.order(Order::Pair).await?;
    let start = began.elapsed().as_secs_f64();

    let pids = [leader.process.pid(), follower.process.pid(), server.pid().unwrap_or(0)];
    quiet(&server).await?;
    let usage = Usage::begin(pids);
    let before = zxid(&server).await?;
    tokio::time::sleep(options.idle()).await;
    let idle = usage.began.elapsed().as_secs_f64();
    let idle_writes = (zxid(&server).await? - before) as f64 / idle;
    let idle_cpu = usage.percent();

    let case = Case { kind: Kind::Append, bytes: BYTES, in_flight: options.in_flight, writers: 0 };
    let usage = Usage::begin(pids);
    let load = leader.order(Order::Measure(case, options.timing())).await?.measured;
    let load_cpu = usage.percent();
    let resident = pids.map(resident_mib);
    // Whoever was not able to lead all the time gets back what it lost.
    leader.order(Order::Pair).await?;

    let death = Instant::now();
    leader.process.kill_now()?;
    follower.tell(Order::ServeAll).await?;
    let served = follower.answer().await?.served;
    let all_serve = death.elapsed().as_secs_f64() * 1e3;
    Ok(Run { start, idle_writes, idle_cpu, load, load_cpu, resident, all_serve, served })
}

async fn create(zk: &str, groups: usize) -> Result<()> {
    // The first one makes the cluster.
    bootstrap(zk, &name(0), &[1, 2], default_limits()).await?;
    let next = Arc::new(AtomicUsize::new(1));
    let creators: Vec<_> = (0..CREATORS.min(groups))
        .map(|_| {
            let (zk, next) = (zk.to_owned(), next.clone());
            tokio::spawn(async move {
                loop {
                    let group = next.fetch_add(1, Relaxed);
                    if group >= groups {
                        return anyhow::Ok(());
                    }
                    bootstrap(&zk, &name(group), &[1, 2], default_limits()).await?;
                }
            })
        })
        .collect();
    for creator in creators {
        creator.await??;
    }
    Ok(())
}

/// Waits until nothing is written any more of what the start left to be done; gives up silently, since idle writes are
/// what is measured next.
async fn quiet(server: &ZooKeeperServer) -> Result<()> {
    for _ in 0..QUIET_LIMIT {
        let before = zxid(server).await?;
        tokio::time::sleep(QUIET).await;
        if zxid(server).await? == before {
            break;
        }
    }
    Ok(())
}

/// How many transactions there were, by ZooKeeper's own count.
async fn zxid(server: &ZooKeeperServer) -> Result<u64> {
    let answer = four_letter_word(server.address(), "srvr").await?;
    let line = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
    let zxid = line.and_then(|zxid| u64::from_str_radix(zxid.trim(), 16).ok());
    zxid.with_context(|| format!("not understood: {answer}"))
}

/// What processes use from a moment on.
struct Usage {
    pids: [u32; 3],
    began: Instant,
    before: [f64; 3],
}

impl Usage {
    fn begin(pids: [u32; 3]) -> Self {
        Self { pids, began: Instant::now(), before: pids.map(busy_seconds) }
    }

    /// Of one core.
    fn percent(&self) -> [f64; 3] {
        let elapsed = self.began.elapsed().as_secs_f64();
        let mut percent = self.pids.map(busy_seconds);
        percent.iter_mut().zip(self.before).for_each(|(now, before)| *now = (*now - before) / elapsed * 100.0);
        percent
    }
}

fn ratios(rows: &[Row]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    let one = rows.iter().find(|row| row.groups == 1);
    for row in rows {
        let name = |what: &str| format!("{} groups: {what}", row.groups);
        let mut add = |what: &str, spread: Option<Spread>, bound: Bound| {
            ratios.extend(spread.map(|spread| Ratio { name: name(what), spread, bound: Some(bound) }));
        };
        add("idle writes to ZooKeeper per second", row.spread(|run| run.idle_writes), Bound::AtMost(1.0));
        add("ms until all serve after a death", row.spread(|run| run.all_serve), Bound::AtMost(2000.0));
        if let Some(one) = one.filter(|one| one.groups != row.groups) {
            let pairs = row.runs.iter().zip(&one.runs);
            let spread = Spread::of(pairs.map(|(run, one)| run.load.per_second() / one.load.per_second()));
            add("writes per second / those of one group", spread, Bound::AtLeast(0.8));
        }
    }
    ratios
}

const HEAD: [&str; 10] = [
    "groups",
    "start s",
    "idle writes/s",
    "idle cpu % (leader follower ZooKeeper)",
    "writes/s",
    "p50 ms",
    "p99 ms",
    "load cpu %",
    "rss MiB (leader follower ZooKeeper)",
    "all serve after ms",
];

fn cells(row: &Row) -> Vec<String> {
    let three = |figure: &dyn Fn(&Run, usize) -> f64, digits: usize| {
        let medians = (0..3).map(|at| row.spread(|run| figure(run, at)).map_or(f64::NAN, |spread| spread.median));
        medians.map(|median| format!("{median:.digits$}")).collect::<Vec<_>>().join(" ")
    };
    vec![
        row.groups.to_string(),
        told(row.spread(|run| run.start), 1),
        told(row.spread(|run| run.idle_writes), 2),
        three(&|run, at| run.idle_cpu[at], 1),
        told(row.spread(|run| run.load.per_second()), 0),
        told(row.spread(|run| run.load.millis(0.5)), 2),
        told(row.spread(|run| run.load.millis(0.99)), 2),
        three(&|run, at| run.load_cpu[at], 0),
        three(&|run, at| run.resident[at] as f64, 0),
        told(row.spread(|run| run.all_serve), 0),
    ]
}

fn refusals(rows: &[Row]) -> Vec<String> {
    let runs = rows.iter().flat_map(|row| row.runs.iter().map(move |run| (row.groups, run)));
    let told = runs.flat_map(|(groups, run)| {
        run.load.errors.iter().map(move |(error, times)| format!("{groups} groups: {times} times: {error}"))
    });
    told.collect()
}

fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        text += &HEAD.iter().zip(cells(row)).map(|(name, cell)| format!("{name:<42}{cell}\n")).collect::<String>();
        text.push('\n');
    }
    refusals(rows).iter().for_each(|line| text += &format!("{line}\n"));
    text
}

fn html(rows: &[Row]) -> String {
    let marks: Vec<(f64, String)> =
        rows.iter().map(|row| ((row.groups as f64).log2(), row.groups.to_string())).collect();
    let of = |figure: &dyn Fn(&Run) -> f64| -> Vec<(f64, f64)> {
        let medians = rows.iter().filter_map(|row| Some(((row.groups as f64).log2(), row.spread(figure)?.median)));
        medians.collect()
    };
    let line = |name: &str, figure: &dyn Fn(&Run) -> f64| -> Line { (name.to_owned(), of(figure)) };
    let plots = [
        plot(
            "throughput",
            "writes per second over groups",
            &marks,
            &[line("all groups", &|run| run.load.per_second())],
        ),
        plot(
            "a node's death",
            "milliseconds over groups",
            &marks,
            &[
                line("first serves", &|run| run.served.first().copied().unwrap_or(f64::NAN)),
                line("half serve", &|run| run.served.get(run.served.len() / 2).copied().unwrap_or(f64::NAN)),
                line("all serve", &|run| run.all_serve),
            ],
        ),
        plot(
            "memory",
            "MiB over groups",
            &marks,
            &[
                line("leader", &|run| run.resident[0] as f64),
                line("follower", &|run| run.resident[1] as f64),
                line("ZooKeeper", &|run| run.resident[2] as f64),
            ],
        ),
    ];
    format!(
        "<h2>Groups</h2>\n{}<div class=\"plots\">{}</div>\n{}",
        table(&HEAD, rows.iter().map(cells)),
        plots.concat(),
        table(&["refused under load"], refusals(rows).into_iter().map(|line| vec![line])),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_groups_are_held_against_one() {
        let run = |answered, all_serve| Run {
            start: 1.0,
            idle_writes: 0.0,
            idle_cpu: [1.0; 3],
            load: Measured { seconds: 1.0, answered, ..Measured::default() },
            load_cpu: [50.0; 3],
            resident: [100; 3],
            all_serve,
            served: vec![1.0, all_serve],
        };
        let rows = [
            Row { groups: 1, runs: vec![run(1000, 9.0), run(500, 9.0)] },
            Row { groups: 10, runs: vec![run(900, 2500.0), run(450, 2500.0)] },
        ];
        let ratios = ratios(&rows);
        let told = |name: &str| {
            let found = ratios.iter().find(|ratio| ratio.name.starts_with(name)).map(Ratio::verdict);
            found.unwrap_or_else(|| panic!("{name}: {ratios:?}"))
        };
        assert_eq!(told("10 groups: writes"), "met: at least 0.8");
        assert_eq!(told("10 groups: ms until"), "missed: at most 2000");
        assert_eq!(told("1 groups: idle"), "met: at most 1");
        assert!(html(&rows).contains("<svg") && text(&rows).contains("2500"));
    }
}
