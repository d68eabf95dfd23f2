//! `bench`: bequest beside bare ZooKeeper and etcd, in one run on one machine.
//!
//! This process starts everything, takes the turns and does the sums; it also makes the load on bare ZooKeeper and
//! etcd. The load on our own side is made in the leader's process, through the library. See `bench --help` and
//! docs/performance.md.
#![forbid(unsafe_code)]

mod bare;
mod grpc;
mod load;
mod machine;
mod node;
mod options;
mod pair;
mod peer;
mod plan;
mod report;
mod results;
mod stats;
mod values;
mod world;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bequest_harness::{data_folder, interruption};
use clap::Parser;

use machine::Machine;
use options::{Measure, Name, Options};
use plan::{entries, turns, Contender, Kind};
use report::Report;
use results::{who, Results, Row};
use stats::Spread;
use world::{Versions, World};

#[tokio::main(flavor = "multi_thread")]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
    let outcome = match Options::parse().name {
        Name::Append(options) => measure(Kind::Append, &options).await,
        Name::Read(options) => measure(Kind::Read, &options).await,
        Name::Lead(place) => node::lead(&place).await,
        Name::Follow(place) => node::follow(&place).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn measure(kind: Kind, options: &Measure) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let (dir, temporary) = data_folder("bench", options.dir.as_deref())?;
    println!("bench {}: seed={seed}; data and logs are in {}", kind.name(), dir.display());
    // Whatever ends this block, an interruption too, drops the processes, which kills and waits for them.
    let outcome = tokio::select! {
        outcome = run(kind, options, &dir, seed) => outcome,
        () = interruption() => Err(anyhow::anyhow!("interrupted; all processes are ended")),
    };
    if temporary && !options.keep && outcome.is_ok() {
        let _ = std::fs::remove_dir_all(&dir);
    } else if outcome.is_err() {
        eprintln!("bench: data and logs are kept in {}", dir.display());
    }
    outcome
}

async fn run(kind: Kind, options: &Measure, dir: &Path, seed: u64) -> Result<()> {
    let contenders = options.contenders(kind);
    anyhow::ensure!(!contenders.is_empty(), "nobody is left to be measured: check --only");
    let machine = Machine::look(dir)?;
    println!("{}", machine.in_words());
    let mut results = Results::default();
    let mut versions = Versions::default();
    for servers in options.servers() {
        let dir = dir.join(format!("servers-{servers}"));
        let mut world = World::start(kind, servers, options, &contenders, &dir, seed).await?;
        versions = world.versions.clone();
        rounds(kind, servers, options, &contenders, &mut world, seed, &mut results).await?;
    }
    let about = about(kind, options, &versions, seed);
    about.iter().for_each(|line| println!("{line}"));
    println!("{}", results.table());

    let report = options.report(kind);
    let html = Report { name: kind.name(), about: &about, machine: &machine, results: &results }.html();
    write(&report, &html, "--report")?;
    println!("report: {}", report.display());
    if let Some(path) = &options.json {
        let ratios = results.ratios();
        let json = serde_json::json!({
            "name": kind.name(), "commit": options.commit, "seed": seed, "about": about, "machine": machine,
            "versions": versions, "timing": options.timing(), "ratios": ratios, "summary": summary(&results),
            "measurements": results.rows,
        });
        write(path, &serde_json::to_string_pretty(&json)?, "--json")?;
    }
    Ok(())
}

/// All repetitions: in each, every measurement once, in which the contenders take turns.
async fn rounds(
    kind: Kind,
    servers: u32,
    options: &Measure,
    contenders: &[Contender],
    world: &mut World,
    seed: u64,
    results: &mut Results,
) -> Result<()> {
    let connections = |contender| options.connections(contender);
    let sides = entries(kind, servers, &options.bytes(kind), &options.in_flight(kind), contenders, connections);
    // Rows keep the order in which things were planned.
    for entry in sides.iter().flatten() {
        results.rows.push(Row { entry: *entry, runs: Vec::new() });
    }
    let timing = options.timing();
    let count = sides.iter().flatten().count() as f64 * f64::from(options.repeat());
    let minutes = count * (timing.warm_up + timing.seconds) / 60.0;
    println!("ZooKeeper servers: {servers}; {count} measurements, {minutes:.1} minutes and what lies between them");
    for contender in contenders {
        let first = sides.iter().flatten().find(|entry| entry.contender == *contender);
        let entry = first.with_context(|| format!("{} has nothing to do here", contender.name()))?;
        world.warm_up(entry, timing).await.with_context(|| format!("{}, warming up", contender.name()))?;
    }
    for repetition in 0..options.repeat() {
        println!("repetition {} of {}", repetition + 1, options.repeat());
        for (at, side) in sides.iter().enumerate() {
            for turn in turns(side.len(), seed.wrapping_add(u64::from(repetition)).wrapping_add(at as u64)) {
                let entry = side[turn];
                let measured = world.measure(&entry, timing).await;
                let what = || format!("{}, {}", results::title(&entry), who(entry.contender, entry.connections));
                results.add(entry, measured.with_context(what)?);
            }
        }
    }
    Ok(())
}

/// What was measured, how, and with which releases.
fn about(kind: Kind, options: &Measure, versions: &Versions, seed: u64) -> Vec<String> {
    let timing = options.timing();
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "not measured".to_owned());
    let mut about = vec![
        format!("commit: {}; seed {seed}", options.commit),
        format!("{} repetitions of {} s after {} s of warm-up", options.repeat(), timing.seconds, timing.warm_up),
        "load: each request in flight is followed by the next when it is answered".to_owned(),
        format!("ZooKeeper {}; etcd {}", version(&versions.zookeeper), version(&versions.etcd)),
        "etcd: three members, default timers; gRPC over HTTP/2 (crate h2) to its leader, put and linearizable range"
            .to_owned(),
        format!(
            "bequest: nodes accept {} MiB of proposals at once; all else as by default",
            node::PROPOSAL_BYTES_IN_FLIGHT >> 20
        ),
    ];
    if kind == Kind::Append {
        about.push(
            "zookeeper: multi[check, create] for each write; segments: the same with 100 KiB, 8 in flight".to_owned(),
        );
    } else {
        about.push("zookeeper: multi[check] for each read; it returns no value".to_owned());
    }
    about
}

/// Medians and their spread, for who does not want to form them anew.
fn summary(results: &Results) -> Vec<serde_json::Value> {
    let rows = results.rows.iter().map(|row| {
        let spread = |number: fn(&load::Measured) -> f64| -> Option<Spread> { row.spread(number) };
        serde_json::json!({
            "entry": row.entry,
            "per_second": spread(load::Measured::per_second),
            "p50_ms": spread(|run| run.millis(0.5)),
            "p99_ms": spread(|run| run.millis(0.99)),
        })
    });
    rows.collect()
}

fn write(path: &Path, text: &str, option: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}: check {option}", path.display()))
}
