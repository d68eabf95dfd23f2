//! A node with many groups: does what it is told over the connection it makes, and ends with it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest::{Group, Mode, Node, Role};
use bequest_harness::free_port;
use bequest_storage::KvCommand;
use clap::Args;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::load::{self, Measured, Target, Timing};
use crate::plan::Case;
use crate::values::Values;

/// Groups that are joined at once.
const JOINERS: usize = 16;
/// Keys of a group: a thousand states must not fill ZooKeeper.
const KEYS: u64 = 64;
/// A thousand groups take their time to be joined.
const START_LIMIT: Duration = Duration::from_secs(3600);
const SERVE_LIMIT: Duration = Duration::from_secs(120);
/// How often a node looks whether it holds a leadership that it should give back.
const LOOK: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);

/// Which node it is, and where.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// Its id; 1 leads, 2 gives back what it leads.
    #[arg(long)]
    pub(crate) id: u64,
    /// ZooKeeper's address.
    #[arg(long)]
    pub(crate) keeper: String,
    /// Where its disk is.
    #[arg(long)]
    pub(crate) disk: PathBuf,
    /// How many groups.
    #[arg(long)]
    pub(crate) groups: usize,
    /// Who tells it what to do.
    #[arg(long)]
    pub(crate) control: SocketAddr,
    /// Seeds the values.
    #[arg(long)]
    pub(crate) seed: u64,
}

impl Place {
    /// Arguments that start it.
    pub(crate) fn arguments(&self) -> Vec<std::ffi::OsString> {
        let Self { id, keeper, disk, groups, control, seed } = self;
        let pairs: [(&str, std::ffi::OsString); 6] = [
            ("--id", id.to_string().into()),
            ("--keeper", keeper.into()),
            ("--disk", disk.into()),
            ("--groups", groups.to_string().into()),
            ("--control", control.to_string().into()),
            ("--seed", seed.to_string().into()),
        ];
        [std::ffi::OsString::from("host")]
            .into_iter()
            .chain(pairs.into_iter().flat_map(|(name, value)| [name.into(), value]))
            .collect()
    }
}

/// The name of a group.
pub(crate) fn name(group: usize) -> String {
    format!("group-{group:04}")
}

/// What it is told to do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Wait until it leads every group.
    Lead,
    /// Wait until it leads every group, each followed by the other node.
    Pair,
    /// Make a load on all groups.
    Measure(Case, Timing),
    /// Write to every group until each has acknowledged.
    ServeAll,
}

/// What it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Of a load.
    pub(crate) measured: Measured,
    /// Milliseconds after which each group had acknowledged, ascending.
    pub(crate) served: Vec<f64>,
}

/// Its answer, or why there is none.
pub(crate) type Report = Result<Answer, String>;

/// The process.
pub(crate) async fn host(place: &Place) -> Result<()> {
    let port = free_port([127, 0, 0, 1].into())?;
    let builder = Node::builder(place.id).keeper(&place.keeper).listen(format!("127.0.0.1:{port}"));
    let node = Arc::new(builder.data_dir(&place.disk).open().await?);
    let groups = join(&node, place.groups).await?;
    let all = Arc::new(All { groups, values: Values::new(place.seed) });
    if place.id != 1 {
        tokio::spawn(give_back(all.clone()));
    }
    let (orders, mut answers) = TcpStream::connect(place.control).await?.into_split();
    let mut orders = BufReader::new(orders).lines();
    let numbers = Arc::<AtomicU64>::default();
    while let Some(line) = orders.next_line().await? {
        let outcome = obey(&all, &numbers, serde_json::from_str(&line)?).await;
        let mut line = serde_json::to_string::<Report>(&outcome.map_err(|error| format!("{error:#}")))?;
        line.push('\n');
        answers.write_all(line.as_bytes()).await?;
    }
    Ok(())
}

async fn join(node: &Arc<Node>, count: usize) -> Result<Vec<Group>> {
    let next = Arc::<AtomicUsize>::default();
    let joiners: Vec<_> = (0..JOINERS.min(count))
        .map(|_| {
            let (node, next) = (node.clone(), next.clone());
            tokio::spawn(async move {
                let mut joined = Vec::new();
                loop {
                    let group = next.fetch_add(1, Relaxed);
                    if group >= count {
                        return anyhow::Ok(joined);
                    }
                    let name = name(group);
                    joined.push(node.join_key_value(&name).await.with_context(|| format!("cannot join {name}"))?);
                }
            })
        })
        .collect();
    let mut groups = Vec::new();
    for joiner in joiners {
        groups.extend(joiner.await??);
    }
    Ok(groups)
}

/// Hands back any leadership while the other node is there to take it.
async fn give_back(all: Arc<All>) {
    loop {
        tokio::time::sleep(LOOK).await;
        for group in &all.groups {
            let status = group.status();
            if status.role == Role::Leader && status.mode == Mode::Full {
                // Refused means that it goes on leading until the next look.
                let _ = group.hand_over().await;
            }
        }
    }
}

async fn obey(all: &Arc<All>, numbers: &Arc<AtomicU64>, order: Order) -> Result<Answer> {
    match order {
        Order::Lead => all.wait_for(|group| group.status().role == Role::Leader).await?,
        Order::Pair => {
            let full = |group: &Group| group.status().role == Role::Leader && group.status().mode == Mode::Full;
            all.wait_for(full).await?;
        }
        Order::Measure(case, timing) => {
            let measured = load::measure(all, numbers, case, timing).await?;
            return Ok(Answer { measured, ..Answer::default() });
        }
        Order::ServeAll => return Ok(Answer { served: all.serve(numbers).await?, ..Answer::default() }),
    }
    Ok(Answer::default())
}

/// All groups of this node.
#[derive(Debug)]
struct All {
    groups: Vec<Group>,
    values: Values,
}

impl All {
    async fn wait_for(&self, holds: impl Fn(&Group) -> bool) -> Result<()> {
        let held = async {
            for group in &self.groups {
                let mut watch = group.watch_status();
                while !holds(group) {
                    watch.changed().await.context("the node has ended")?;
                }
            }
            anyhow::Ok(())
        };
        let waited = tokio::time::timeout(START_LIMIT, held).await;
        let missing = || self.groups.iter().filter(|group| !holds(group)).count();
        waited.with_context(|| format!("{} of {} groups are not there", missing(), self.groups.len()))?
    }

    /// Writes to every group until it has acknowledged; milliseconds, ascending.
    async fn serve(self: &Arc<Self>, numbers: &Arc<AtomicU64>) -> Result<Vec<f64>> {
        let began = Instant::now();
        let writers = (0..self.groups.len()).map(|group| {
            let (all, numbers) = (self.clone(), numbers.clone());
            tokio::spawn(async move {
                loop {
                    let number = numbers.fetch_add(1, Relaxed);
                    match all.put(group, number, 100).await {
                        Ok(()) => return Ok(began.elapsed().as_secs_f64() * 1e3),
                        Err(refusal) => {
                            let group = name(group);
                            anyhow::ensure!(began.elapsed() < SERVE_LIMIT, "{group} does not serve: {refusal}");
                        }
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            })
        });
        let mut served = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            served.push(writer.await??);
        }
        served.sort_by(f64::total_cmp);
        Ok(served)
    }

    async fn put(&self, group: usize, number: u64, bytes: usize) -> Result<(), String> {
        let key = format!("{:04}", number / self.groups.len() as u64 % KEYS);
        let command = KvCommand::put(key, self.values.value(number, bytes));
        let answer = self.groups[group].propose(command.encode_to_vec()).await;
        answer.map(drop).map_err(|error| error.to_string())
    }
}

impl Target for All {
    async fn write(&self, _worker: usize, number: u64, bytes: usize) -> Result<(), String> {
        let group = usize::try_from(number % self.groups.len() as u64).unwrap_or(0);
        self.put(group, number, bytes).await
    }

    async fn read(&self, _worker: usize, _number: u64) -> Result<(), String> {
        Err("nobody reads here".to_owned())
    }
}
