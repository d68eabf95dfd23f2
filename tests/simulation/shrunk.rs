//! What is left of a failing run, as a script: to be read, to be replayed, and to be kept in `tests/scripts/shrunk`.
//!
//! Lines that begin with `#` say what broke. Then come the run (`seed`, `mix`, `until` so many microseconds), what it shows (`fails`, and
//! `bug` where it takes a planted one), and a line `keep` for every decision that may come true: its name, and behind it,
//! for the reader, when it did and whom it hurt. Behind `---` is the end of the trace, as it was then.
//!
//! `BEQUEST_KEEP` with the test `one_script` replays one.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::decisions::Allowed;
use crate::golden;
use crate::mix;
use crate::setting;
use crate::shrink::{class, shrink, Shrunk, Trial};

const RUNS: u64 = 300;
// Lines of the trace that a script ends with.
const TAIL: usize = 60;

/// A script, without what is only there to be read.
#[derive(Clone, Debug)]
pub struct Script {
    pub trial: Trial,
    /// The planted bug it takes.
    pub bug: Option<String>,
    /// The class of its failure.
    pub fails: String,
}

/// What is in a script.
struct Lines<'a> {
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Lines<'a> {
    fn all(&self, key: &'a str) -> impl Iterator<Item = &'a str> + '_ {
        self.values.iter().filter(move |(found, _)| *found == key).map(|(_, value)| *value)
    }

    fn one<T: FromStr>(&self, key: &'a str) -> Result<T, String> {
        let mut all = self.all(key);
        let value = all.next().filter(|_| all.next().is_none()).ok_or_else(|| format!("not one line {key:?}"))?;
        value.parse().map_err(|_| format!("{key} cannot be {value:?}"))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (head, _) = text.split_once("\n---\n").ok_or("no line --- behind the decisions")?;
        let mut lines = Lines { values: Vec::new() };
        for (place, line) in head.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
            match line.split_once(' ') {
                Some((key @ ("seed" | "mix" | "until" | "bug" | "fails" | "keep"), value)) => {
                    lines.values.push((key, value));
                }
                _ => return Err(format!("line {}: {line:?} says nothing", place + 1)),
            }
        }
        let name: String = lines.one("mix")?;
        let names = lines.all("keep").filter_map(|line| line.split_whitespace().next());
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        let bug = lines.all("bug").next().map(str::to_owned);
        Ok(Self {
            trial: Trial {
                seed: lines.one("seed")?,
                mix: mix::named(&name).ok_or_else(|| format!("no such mix: {name:?}"))?,
                steps: u64::MAX,
                until: lines.one("until")?,
                allowed: Allowed::Only(names),
            },
            bug,
            fails: lines.one("fails")?,
        })
    }
}

/// A shrunk run to be written down.
pub struct Written<'a> {
    pub shrunk: &'a Shrunk,
    pub bug: Option<String>,
    /// Where it will lie.
    pub path: &'a Path,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shrunk, bug, path } = self;
        let Shrunk { trial, ended, from, runs, minimal } = shrunk;
        let failure = ended.failure.as_deref().unwrap_or_default();
        let line: String = failure.lines().next().unwrap_or_default().chars().take(200).collect();
        let package =
            if bug.is_some() { "-p bequest-planted --test planted" } else { "--no-default-features --test simulation" };
        writeln!(f, "# {line}")?;
        writeln!(f, "#")?;
        let enough =
            if *minimal { "with none less it fails so" } else { "runs were over before it was sure that it takes all" };
        let left = ended.came.len();
        writeln!(f, "# Decisions to hurt: {from}, shrunk to {left} in {runs} runs; {enough}. To replay it:")?;
        let path = path.display();
        writeln!(f, "#   BEQUEST_KEEP={path} cargo test --release {package} one_script -- --nocapture")?;
        writeln!(f, "seed {}\nmix {}\nuntil {}", trial.seed, trial.mix.name, trial.until)?;
        if let Some(bug) = bug {
            writeln!(f, "bug {bug}")?;
        }
        writeln!(f, "fails {}", class(failure))?;
        for came in &ended.came {
            let at = came.at as f64 / 1_000.0;
            let whom = if came.whom.is_empty() { String::new() } else { format!(": {}", came.whom) };
            writeln!(f, "keep {:<32} at {at:.3} ms{whom}", came.name.to_string())?;
        }
        writeln!(f, "---")?;
        // A step by itself is noted without words.
        let told: Vec<&str> =
            ended.lines.iter().map(|line| line.trim_end()).filter(|line| !line.ends_with(" ms")).collect();
        let skipped = told.len().saturating_sub(TAIL);
        told[skipped..].iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Makes a failing run small and fills in its trace; `None` if it does not fail, or is not to be shrunk.
pub fn shrink_quietly(trial: &Trial) -> Option<Shrunk> {
    let mut shrunk = shrink(trial, setting("BEQUEST_SHRINK").unwrap_or(RUNS), |trial| trial.run(false))?;
    shrunk.ended = shrunk.trial.run(true);
    Some(shrunk)
}

/// Makes a failing run small, tells of it, and writes it down: where.
pub fn tell(trial: &Trial) -> Option<PathBuf> {
    let shrunk = crate::quietly(|| shrink_quietly(trial))?;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{}.txt", trial.seed));
    let text = Written { shrunk: &shrunk, bug: None, path: &path }.to_string();
    println!("seed {} shrunk to {} ({} decisions):\n{text}", trial.seed, path.display(), shrunk.ended.came.len());
    std::fs::write(&path, text).map_err(|error| println!("{} cannot be written: {error}", path.display())).ok()?;
    Some(path)
}

/// Where scripts are kept.
pub fn folder() -> PathBuf {
    golden::root().join("tests/scripts/shrunk")
}

/// All that are kept.
pub fn kept() -> Vec<(PathBuf, Script)> {
    let parsed = |path: PathBuf| {
        let script = golden::read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, script)
    };
    golden::texts(&folder()).into_iter().map(parsed).collect()
}

/// The script that `BEQUEST_KEEP` names.
pub fn asked_for() -> Option<Script> {
    let path = golden::root().join(std::env::var_os("BEQUEST_KEEP")?);
    Some(golden::read(&path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Replays a script, tells its trace, and panics with what went wrong in it.
pub fn replay(script: &Script) {
    let ended = script.trial.run(true);
    ended.lines.iter().for_each(|line| eprintln!("{line}"));
    println!("{}trace hash {:016x}; decisions that came true:", ended.counts, ended.hash);
    for came in &ended.came {
        println!("{:>11.3} ms  {}  {}", came.at as f64 / 1_000.0, came.name, came.whom);
    }
    if let Some(what) = ended.failure {
        let alike = if class(&what) == script.fails { "as written" } else { "in another way than written" };
        panic!("fails {alike}: {what}");
    }
}

#[cfg(not(planted))]
mod tests;
