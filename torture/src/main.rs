//! `torture`: two nodes and an ensemble under a nemesis, and what clients were told put to the proof.
//!
//! Everything is seen from outside: nodes and servers are processes on hosts of their own, clients use the public HTTP
//! interface, and what counts is what clients were told. See `torture --help`.
#![forbid(unsafe_code)]

mod chain;
mod edn;
mod fault;
mod history;
mod http;
mod limits;
mod linear;
mod load;
mod nemesis;
mod network;
mod options;
mod plan;
mod report;
mod verdict;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest_harness::{confine, data_folder, interruption};
use clap::Parser;

use fault::Kind;
use history::{Clock, Outcome, Record, Request, Value};
use load::{Client, Load, Manner, Shared, SETS};
use nemesis::Nemesis;
use options::Options;
use plan::Plan;
use report::Report;
use world::{Permitted, World};

/// How long a node's own state may lag behind.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let options = Options::parse();
    // Before any thread: this program is replaced by one inside.
    let inside = confine::enter();
    match run(options, &inside) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run(options: Options, inside: &Result<(), String>) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let (dir, temporary) = data_folder("torture", options.dir.as_deref())?;
    println!("torture: seed={seed}; data and logs are in {}", dir.display());
    // Whatever ends this block, an interruption too, drops the processes, which kills and waits for them.
    let outcome = tokio::select! {
        outcome = torment(&options, inside, &dir, seed) => outcome,
        () = interruption() => Err(anyhow::anyhow!("interrupted; all processes are ended")),
    };
    let succeeded = matches!(&outcome, Ok(code) if *code == ExitCode::SUCCESS);
    if temporary && !options.keep && succeeded {
        // What is mounted cannot be removed. Left behind it would all be untidy and nothing else.
        for disk in world::disks(&dir) {
            let _ = confine::run("umount", &[&disk.display().to_string()]);
        }
        let _ = std::fs::remove_dir_all(&dir);
    } else if !succeeded {
        eprintln!("torture: data and logs are kept in {}", dir.display());
    }
    outcome
}

async fn torment(options: &Options, inside: &Result<(), String>, dir: &Path, seed: u64) -> Result<ExitCode> {
    let links = inside.clone().and_then(|()| network::make());
    let disks = nemesis::disks_permitted(inside.is_ok(), dir);
    let wanted = if options.faults.is_empty() { Kind::ALL } else { &options.faults };
    let (kinds, left_out) = nemesis::available(wanted, &links, &disks);
    for (kind, why) in &left_out {
        println!("left out here: {} ({why})", kind.name());
    }
    anyhow::ensure!(!kinds.is_empty(), "no fault is left to bring about");

    let clock = Clock::start();
    // Disks that can be filled are small, and there only where they are to be filled.
    let permitted = Permitted { links: links.is_ok(), disks: kinds.contains(&Kind::DiskFull) };
    let mut world = World::start(options, &permitted, dir, clock).await?;
    let zookeeper = world.ensemble.servers()[0].info().await.map_or_else(|_| String::new(), |info| info.version);
    let shared = Shared::new(clock);
    let manner = Manner {
        nodes: world.nodes.iter().map(|node| node.http).collect(),
        clients: options.clients,
        pause: Duration::from_millis(options.pause_ms),
        timeout: Duration::from_millis(options.timeout_ms),
        seed,
    };
    let load = Load::start(&manner, &shared);
    let mut nemesis = Nemesis::new(clock);
    nemesis.wait_until_served(&mut world, &shared, options.patience()).await?;
    anyhow::ensure!(nemesis.served, "the group does not serve even without faults: {:?}", world.failures);
    nemesis.rounds.clear();
    world.note(format!("serving, with ZooKeeper {zookeeper}"));

    let mut plan = Plan::new(seed, &kinds, options.length());
    let began = Instant::now();
    while began.elapsed() < options.length() && nemesis.served {
        nemesis.torment(&mut world, &plan.round()).await?;
        nemesis.wait_until_served(&mut world, &shared, options.patience()).await?;
        if let Some(round) = nemesis.rounds.last() {
            let after = round.served.seconds_since(round.over);
            world.note(format!("round {} is over, served after {after:.1} s", nemesis.rounds.len()));
        }
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let mut records = load.stop().await;
    world.note("clients have ended; reading everything");
    let (last, read) = last_reads(&mut world, &manner, &shared, &records, options.patience()).await;
    records.extend(read);
    compare(&mut world, &last).await;

    for wrong in shared.wrong() {
        world.fail(format!("an answer no node must give: {wrong}"));
    }
    for defect in world.defects() {
        world.fail(format!("a defect is logged: {defect}"));
    }
    let verdict = verdict::judge(&records, &last);
    let served = nemesis.served;
    let clean = verdict.is_clean() && world.failures.is_empty() && served;
    let last_line = format!(
        "torture: minutes={minutes:.1} faults={} ops={} acked={} unknown={} lost={} twice={} sums={} failures={} \
         linearizable={} served={served}",
        nemesis.spans.len(),
        verdict.operations,
        verdict.acknowledged,
        verdict.unknown,
        verdict.lost,
        verdict.twice,
        if verdict.sums == 0 { "kept" } else { "broken" },
        world.failures.len(),
        verdict.refuted == 0,
    );
    let report = Report {
        seed,
        last_line: &last_line,
        clean,
        verdict: &verdict,
        failures: &world.failures,
        left_out: &left_out,
        zookeeper: &zookeeper,
        records: &records,
        spans: &nemesis.spans,
        rounds: &nemesis.rounds,
        events: &world.events,
    };
    write(&options.report, &report.html(), "--report")?;
    if let Some(path) = &options.edn {
        write(path, &edn::edn(&records), "--edn")?;
    }
    if !clean {
        write(&dir.join("history.edn"), &edn::edn(&records), "--dir")?;
        write(&dir.join("report.html"), &report.html(), "--dir")?;
    }
    for text in world.failures.iter().chain(&verdict.violations) {
        println!("FAILED: {text}");
    }
    tell_kinds(&kinds, &nemesis);
    println!("report: {}   the same faults again: torture --seed {seed}", options.report.display());
    println!("{last_line}");
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How often each kind came; one that did not is named.
fn tell_kinds(kinds: &[Kind], nemesis: &Nemesis) {
    let count = |kind: &Kind| nemesis.spans.iter().filter(|span| span.fault.kind == *kind).count();
    let counts: Vec<String> = kinds.iter().map(|kind| format!("{}={}", kind.name(), count(kind))).collect();
    println!("faults: {}", counts.join(" "));
    let never: Vec<&str> = kinds.iter().filter(|kind| count(kind) == 0).map(|kind| kind.name()).collect();
    if !never.is_empty() {
        println!("not met in so short a time: {}", never.join(" "));
    }
}

/// Reads every key that was ever asked for, of whoever leads.
async fn last_reads(
    world: &mut World,
    manner: &Manner,
    shared: &std::sync::Arc<Shared>,
    records: &[Record],
    patience: Duration,
) -> (BTreeMap<String, Value>, Vec<Record>) {
    let asked: BTreeSet<&str> =
        records.iter().filter(|record| record.request != Request::Scan).map(|record| record.key.as_str()).collect();
    // Keys of sets are many, and are read by their prefixes.
    let place = |key: &str| match key.strip_prefix(SETS).and_then(|rest| rest.split_once('/')) {
        Some((generation, _)) => format!("{SETS}{generation}/"),
        None => key.to_owned(),
    };
    let places: BTreeSet<String> = asked.iter().map(|key| place(key)).collect();
    let (found, read) = Client::new(manner, shared, 0).read_all(places, patience).await;
    let mut last = BTreeMap::new();
    for (place, answer) in found {
        match answer {
            Some(Outcome::Value(value)) => drop(last.insert(place, value)),
            Some(Outcome::Page(pairs)) => {
                let below = asked.range(place.as_str()..).take_while(|key| key.starts_with(&place));
                last.extend(below.map(|key| ((*key).to_owned(), None)));
                last.extend(pairs.into_iter().map(|(key, value)| (key, Some(value))));
            }
            _ => world.fail(format!("{place} could not be read in the end")),
        }
    }
    (last, read)
}

/// Both nodes' own states are what was read, at once or when they have caught up.
async fn compare(world: &mut World, last: &BTreeMap<String, Value>) {
    for node in 0..world.nodes.len() {
        let began = Instant::now();
        loop {
            let differing = match world.own_state(node).await {
                Ok(own) => verdict::differences(node as u64 + 1, &own.into_iter().collect(), last),
                Err(failure) => vec![format!("node {}: {failure}", node + 1)],
            };
            if differing.is_empty() {
                break;
            }
            if began.elapsed() > CATCH_UP_LIMIT {
                differing.into_iter().for_each(|text| world.fail(text));
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn write(path: &Path, text: &str, option: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}: check {option}", path.display()))
}
