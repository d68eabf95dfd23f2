//! `rebirth`: two nodes die in every way there is, and clients watch whether a write is lost.
//!
//! Everything is seen from outside: nodes are processes, clients use the public HTTP interface, and what counts is
//! what clients were told. See `rebirth --help`.
#![forbid(unsafe_code)]

mod clock;
#[path = "../bequest/duration.rs"]
mod duration;
mod journal;
mod ledger;
mod load;
mod options;
mod register;
mod report;
mod schedule;
mod summary;
mod value;
mod verify;
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bequest_harness::{data_folder, interruption};
use clap::Parser;

use clock::Clock;
use journal::Journal;
use ledger::Ledger;
use load::Manner;
use options::{Options, Step};
use schedule::Run;
use summary::Summary;
use world::{Processes, World};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rebirth: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run(mut options: Options) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    if options.zk.is_some() && options.steps.contains(&Step::H) {
        println!("step h is left out: an existing ZooKeeper is not harmed");
        options.steps.retain(|step| *step != Step::H);
    }
    let (dir, temporary) = data_folder("rebirth", options.dir.as_deref())?;
    println!("rebirth: seed={seed}; data and logs are in {}", dir.display());
    // Whatever ends this block, an interruption too, drops the processes, which kills and waits for them.
    let outcome = tokio::select! {
        outcome = demonstrate(&options, &dir, seed) => outcome,
        () = interruption() => Err(anyhow::anyhow!("interrupted; all processes are ended")),
    };
    let succeeded = matches!(&outcome, Ok(code) if *code == ExitCode::SUCCESS);
    if temporary && !options.keep && succeeded {
        // Left behind it would be untidy and nothing else.
        let _ = std::fs::remove_dir_all(&dir);
    } else if !succeeded && std::fs::remove_dir(&dir).is_err() {
        // Only an empty folder can be removed so: what failed left something to look at.
        eprintln!("rebirth: data and logs are kept in {}", dir.display());
    }
    outcome
}

async fn demonstrate(options: &Options, dir: &Path, seed: u64) -> Result<ExitCode> {
    let mut world = Processes::prepare(options, dir, seed).await?;
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(clock, options.clients, load::SLOTS));
    let manner = Manner {
        nodes: world.addresses().map(|address| address.http).to_vec(),
        clients: options.clients,
        pause: options.pause,
        attempt_timeout: options.attempt_timeout,
        seed,
    };
    for node in 0..2 {
        world.start(node)?;
    }
    let run = Run::new(world, Arc::clone(&ledger), Journal::new(clock, true), manner, options, seed);
    let (journal, cycles) = run.all().await?;
    let summary = Summary::new(&journal, &ledger, cycles, seed);
    let report = report::html(&summary, &journal, &ledger.acks());
    std::fs::write(&options.report, report)
        .with_context(|| format!("cannot write the report to {}: check --report", options.report.display()))?;
    if let Some(path) = &options.json {
        let json = serde_json::to_vec_pretty(&summary.json(&journal))?;
        std::fs::write(path, json)
            .with_context(|| format!("cannot write the results to {}: check --json", path.display()))?;
    }
    println!("\n{}", summary.table());
    for violation in &summary.violations {
        println!("{:>7.2} s  VIOLATION: {}", violation.at.seconds(), violation.what);
    }
    for failure in &summary.failures {
        println!("FAILED: {failure}");
    }
    println!("report: {}   again: rebirth --seed {seed}", options.report.display());
    println!("{}", summary.last_line());
    Ok(if summary.succeeded() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
