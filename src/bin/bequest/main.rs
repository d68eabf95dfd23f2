//! `bequest`: the key-value store as a node, and the act that creates its group.
#![forbid(unsafe_code)]

mod duration;
mod host;
mod http;
mod listener;
mod options;
mod serve;

use std::process::ExitCode;

use anyhow::{Context, Result};
use bequest::{Bootstrapped, Limits};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use options::{Command, Init, LogFormat, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bequest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    start_logging(&options)?;
    let connections = host::take()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot begin to run")?;
    runtime.block_on(async {
        match options.command {
            Command::Init(init) => create(init).await,
            Command::Serve(serve) => serve::serve(serve, connections).await,
        }
    })
}

fn start_logging(options: &Options) -> Result<()> {
    let filter = EnvFilter::try_new(&options.log).with_context(|| format!("bad filter: --log {}", options.log))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Human => subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

async fn create(init: Init) -> Result<()> {
    let Init { place, voters, wal_bytes, wal_segments, state_bytes } = init;
    let limits = Limits { wal_bytes, wal_segments, state_bytes };
    let group = &place.group;
    let done = bequest::bootstrap(&place.zk, group, &voters, limits).await?;
    println!(
        "{}",
        match done {
            Bootstrapped::Created => format!("group {group} is created, with nodes {voters:?}"),
            Bootstrapped::AlreadyThere =>
                format!("group {group} is there already, with nodes {voters:?}; nothing changed"),
        }
    );
    Ok(())
}
