//! `bench`: bequest beside bare ZooKeeper and etcd, in one run on one machine.
//!
//! This process starts everything, takes the turns and does the sums; it also makes the load on bare ZooKeeper and
//! etcd, and on nodes that die. Where nodes live on, the load on our own side is made in the leader's process, through
//! the library. See `bench --help` and docs/performance.md.
#![forbid(unsafe_code)]

mod all;
mod bare;
mod failover;
mod groups;
mod grpc;
mod load;
mod machine;
mod measure;
mod node;
mod options;
mod outcome;
mod pair;
mod peer;
mod plan;
mod plot;
mod rebirth;
mod report;
mod results;
mod served;
mod services;
mod stats;
mod steady;
mod values;
mod world;
mod writers;

use std::process::ExitCode;

use anyhow::{Context, Result};
use bequest_harness::confine;
use clap::Parser;

use options::{Name, Options};
use outcome::told_of;
use plan::Kind;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        // That servers are gone is what is measured, and need not be said at every attempt to reach one.
        .with_env_filter("warn,zookeeper_client=error")
        .with_writer(std::io::stderr)
        .init();
    let name = Options::parse().name;
    // A host whose cable can be cut needs a network of its own, which has to be entered before any thread is started.
    let links = match &name {
        Name::Failover(options) if !options.wants_links() => Err("not asked for".to_owned()),
        Name::Failover(_) | Name::All(_) => confine::enter(),
        _ => Err("not needed".to_owned()),
    };
    match run(name, links) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[tokio::main(flavor = "multi_thread")]
async fn run(name: Name, links: Result<(), String>) -> Result<()> {
    match name {
        Name::Append(options) => one(Kind::Append, &options).await,
        Name::Read(options) => one(Kind::Read, &options).await,
        Name::Failover(options) => {
            let run = async |dir: &std::path::Path, seed, outcomes: &mut Vec<_>| {
                outcomes.push(failover::measure(&options, &links, dir, seed).await?);
                Ok(())
            };
            told_of("failover", &options.common, run).await
        }
        Name::Rebirth(options) => {
            let run = async |dir: &std::path::Path, seed, outcomes: &mut Vec<_>| {
                outcomes.push(rebirth::measure(&options, dir, seed).await?);
                Ok(())
            };
            told_of("rebirth", &options.common, run).await
        }
        Name::Groups(options) => {
            let run = async |dir: &std::path::Path, seed, outcomes: &mut Vec<_>| {
                outcomes.push(groups::measure(&options, dir, seed).await?);
                Ok(())
            };
            told_of("groups", &options.common, run).await
        }
        Name::All(options) => all::run(&options, &links).await,
        Name::Lead(place) => node::lead(&place).await,
        Name::Follow(place) => node::follow(&place).await,
        Name::Host(place) => groups::host::host(&place).await.context("a node with many groups"),
    }
}

async fn one(kind: Kind, options: &options::Measure) -> Result<()> {
    let run = async |dir: &std::path::Path, seed, outcomes: &mut Vec<_>| {
        outcomes.push(measure::measure(kind, options, dir, seed).await?);
        Ok(())
    };
    told_of(kind.name(), &options.common, run).await
}
