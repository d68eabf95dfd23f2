//! `failover`: leaders die in every way there is, under load, and so do those of the rivals.

mod plan;
mod results;
mod scene;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::options::{seconds, within, Common};
use crate::outcome::Outcome;
use crate::plan::turns;
use plan::{Contender, Death};
use results::Row;
use scene::Scene;

/// Servers of which one may die.
const SERVERS_MIN: u32 = 3;

/// How to let leaders die.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Deaths of each kind, of each contender; 100 by default.
    #[arg(long, value_name = "DEATHS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    deaths: Option<u32>,
    /// Only these kinds of death, separated by commas.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    kinds: Vec<Death>,
    /// Only these contenders, separated by commas.
    #[arg(long, value_name = "CONTENDERS", value_delimiter = ',')]
    only: Vec<Contender>,
    /// How many ZooKeeper servers; the death of their leader needs three.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    servers: u32,
    /// How many writers there are; each pauses a millisecond between its writes.
    #[arg(long, default_value_t = 8, value_parser = within(256))]
    writers: usize,
    /// Seconds of load before each death; 2 by default. A shorter life makes a node doubt its next leader later.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    rest: Option<f64>,
    /// Seconds without a write after which a death has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    patience: f64,
    /// The node program; by default the `bequest` beside this one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Options {
    /// Whether a host has to lose its network.
    pub(crate) fn wants_links(&self) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&Death::Link)
    }

    fn deaths(&self) -> u32 {
        self.deaths.unwrap_or(if self.common.quick { 1 } else { 100 })
    }

    fn servers(&self) -> u32 {
        self.servers
    }

    fn writers(&self) -> usize {
        self.writers
    }

    fn rest(&self) -> Duration {
        Duration::from_secs_f64(self.rest.unwrap_or(if self.common.quick { 0.5 } else { 2.0 }))
    }

    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience)
    }

    /// Who dies how, in each round.
    fn entries(&self, links: bool) -> Vec<(Death, Contender)> {
        let wanted = |death: &Death| {
            (self.kinds.is_empty() || self.kinds.contains(death))
                && (links || *death != Death::Link)
                && (self.servers >= SERVERS_MIN || *death != Death::Keeper)
        };
        let chosen = |who: &Contender| self.only.is_empty() || self.only.contains(who);
        let deaths = Death::ALL.into_iter().filter(wanted);
        deaths
            .flat_map(|death| death.contenders().iter().filter(|who| chosen(who)).map(move |who| (death, *who)))
            .collect()
    }
}

/// Lets everybody die as often as was asked for.
pub(crate) async fn measure(options: &Options, links: &Result<(), String>, dir: &Path, seed: u64) -> Result<Outcome> {
    let mut left_out = Vec::new();
    if let (Err(reason), true) = (links, options.wants_links()) {
        left_out.push(format!("left out here: {}: {reason}", Death::Link.title()));
    }
    if options.servers < SERVERS_MIN {
        let what = Death::Keeper.title();
        left_out.push(format!("left out here: {what}: {} servers do not survive it, --servers 3 do", options.servers));
    }
    left_out.iter().for_each(|line| println!("{line}"));
    let entries = options.entries(links.is_ok());
    anyhow::ensure!(!entries.is_empty(), "nobody is left to die: check --kinds, --only and --servers");
    let mut scene = Scene::start(options, links.is_ok(), &dir.join("failover"), seed).await?;
    let mut rows: Vec<Row> = entries.iter().map(|(death, contender)| Row::new(*death, *contender)).collect();
    let deaths = options.deaths();
    println!("{deaths} rounds of {} deaths each, of which none takes less than {:?}", entries.len(), options.rest());
    for round in 0..deaths {
        for turn in turns(entries.len(), seed.wrapping_add(u64::from(round))) {
            let (death, contender) = entries[turn];
            let felt = scene.die(death, contender).await;
            let felt =
                felt.with_context(|| format!("{} ({}), round {}", death.title(), contender.name(), round + 1))?;
            println!("{:>4}  {:<38}{:<12}{:>10.1} ms", round + 1, death.title(), contender.name(), {
                felt.downtime.as_secs_f64() * 1e3
            });
            rows[turn].add(&felt);
        }
    }
    let version = |at: usize| scene.versions[at].clone().unwrap_or_else(|| "not measured".to_owned());
    let mut about = vec![
        format!("{deaths} deaths of each kind, each after {:?} of load", options.rest()),
        format!("load: {} writers of 100 bytes, each with a millisecond between its writes", options.writers),
        format!("ZooKeeper {} with {} servers; etcd {} with three members", version(0), options.servers, version(1)),
        "bequest: two nodes, `bequest serve` with its defaults, over HTTP; etcd: gRPC, every member is asked"
            .to_owned(),
        "etcd-fast: --heartbeat-interval 10 --election-timeout 100".to_owned(),
        "zookeeper: multi[check, setData] by a bare client with the nodes' session timeout".to_owned(),
        "downtime: the longest time between two acknowledged writes around a death, over all writers".to_owned(),
    ];
    about.extend(left_out);
    Ok(Outcome {
        name: "failover",
        about,
        text: results::text(&rows),
        html: results::html(&rows),
        ratios: results::ratios(&rows),
        json: serde_json::json!({ "deaths": deaths, "measurements": results::json(&rows) }),
    })
}
