//! `all`: every measurement with its defaults, one after the other, on one page.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;
use clap::Parser;

use crate::options::{Everything, Name, Options};
use crate::outcome::{told_of, Outcome};
use crate::plan::Kind;
use crate::{failover, groups, measure, rebirth};

const NAMES: [&str; 5] = ["append", "read", "failover", "rebirth", "groups"];

/// Measures all that was asked for. What was measured before something failed is told all the same.
pub(crate) async fn run(options: &Everything, links: &Result<(), String>) -> Result<()> {
    let run = async |dir: &Path, seed, outcomes: &mut Vec<Outcome>| {
        for name in NAMES.iter().filter(|name| options.only.is_empty() || options.only.iter().any(|one| one == *name)) {
            println!("\n{name}");
            let dir = dir.join(name);
            std::fs::create_dir_all(&dir)?;
            outcomes.push(one(name, options, links, &dir, seed).await?);
        }
        Ok(())
    };
    told_of("all", &options.common, run).await
}

async fn one(name: &str, options: &Everything, links: &Result<(), String>, dir: &Path, seed: u64) -> Result<Outcome> {
    let mut words: Vec<OsString> = vec!["bench".into(), name.into()];
    if options.common.quick {
        words.push("--quick".into());
    }
    if let Some(home) = &options.common.zookeeper {
        words.extend(["--zookeeper".into(), home.into()]);
    }
    match Options::try_parse_from(words)?.name {
        Name::Append(options) => measure::measure(Kind::Append, &options, dir, seed).await,
        Name::Read(options) => measure::measure(Kind::Read, &options, dir, seed).await,
        Name::Failover(options) => failover::measure(&options, links, dir, seed).await,
        Name::Rebirth(options) => rebirth::measure(&options, dir, seed).await,
        Name::Groups(options) => groups::measure(&options, dir, seed).await,
        other => anyhow::bail!("nothing to be measured by itself: {other:?}"),
    }
}
