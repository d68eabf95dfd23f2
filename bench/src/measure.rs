//! `append` and `read`: a load on every contender in turn, repetition by repetition.

use std::path::Path;

use anyhow::{Context, Result};

use crate::load;
use crate::node;
use crate::options::Measure;
use crate::outcome::Outcome;
use crate::pair;
use crate::plan::{entries, turns, Contender, Kind};
use crate::report::Report;
use crate::results::{self, who, Results, Row};
use crate::stats::Spread;
use crate::world::{Versions, World};

/// Measures everything that was asked for.
pub(crate) async fn measure(kind: Kind, options: &Measure, dir: &Path, seed: u64) -> Result<Outcome> {
    let contenders = options.contenders(kind);
    anyhow::ensure!(!contenders.is_empty(), "nobody is left to be measured: check --only");
    let mut results = Results::default();
    let mut versions = Versions::default();
    for servers in options.servers() {
        let dir = dir.join(format!("servers-{servers}"));
        let mut world = World::start(kind, servers, options, &contenders, &dir, seed).await?;
        versions = world.versions.clone();
        rounds(kind, servers, options, &contenders, &mut world, seed, &mut results).await?;
    }
    let (text, html, ratios) = (results.table(), Report { results: &results }.html(), results.ratios());
    let json = serde_json::json!({
        "versions": versions, "timing": options.timing(), "summary": summary(&results), "measurements": results.rows,
    });
    Ok(Outcome { name: kind.name(), about: about(kind, options, &versions), text, html, ratios, json })
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
fn about(kind: Kind, options: &Measure, versions: &Versions) -> Vec<String> {
    let timing = options.timing();
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "not measured".to_owned());
    let mut about = vec![
        format!("{} repetitions of {} s after {} s of warm-up", options.repeat(), timing.seconds, timing.warm_up),
        "load: each request in flight is followed by the next when it is answered".to_owned(),
        format!("ZooKeeper {}; etcd {}", version(&versions.zookeeper), version(&versions.etcd)),
        "etcd: three members, default timers; gRPC over HTTP/2 (crate h2) to its leader, put and linearizable range"
            .to_owned(),
        format!(
            "bequest: nodes accept {} MiB of proposals at once, the log may have {} MiB; all else as by default",
            node::PROPOSAL_BYTES_IN_FLIGHT >> 20,
            pair::WAL_BYTES >> 20
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
