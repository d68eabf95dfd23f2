//! A simulated world around the real core: one seed, one run, the same every time.
//!
//! `BEQUEST_SEEDS` and `BEQUEST_STEPS` say how many runs and how long; `BEQUEST_SEED` with the test `one_seed` replays
//! one of them, and `BEQUEST_TRACE=1` prints what happened last in it. `BEQUEST_MIX` forces one kind of run on every seed.
//! `BEQUEST_WITHOUT` names decisions that do not come true in it.
//!
//! A seed that fails is shrunk and printed as a script, in `BEQUEST_SHRINK` runs at most; `BEQUEST_KEEP` with the test
//! `one_script` replays that (`shrunk.rs`).

// Nothing of a test program is exported; `pub` says what other files of it use.
#![allow(unreachable_pub)]
// The same world, around a core with bugs in it. Only the test that they are found runs there.
#![cfg_attr(planted, allow(dead_code))]

#[cfg(planted)]
extern crate bequest_planted as bequest;

mod aim;
mod backwards;
mod blows;
mod clients;
mod clock;
mod counts;
mod death;
mod decisions;
mod dice;
mod disk;
mod faults;
mod genesis;
mod golden;
mod healing;
mod history;
mod host;
mod keeper;
mod ledger;
mod machine;
mod mix;
mod network;
mod nightly;
mod pairs;
#[cfg(planted)]
mod planted;
mod process;
#[cfg(not(planted))]
mod replayed;
#[cfg(not(planted))]
mod scenarios;
mod schedules;
mod sessions;
mod shrink;
mod shrunk;
mod steps;
#[cfg(not(planted))]
#[path = "../model/succession/mod.rs"]
#[allow(dead_code)]
mod succession;
mod trace;
mod trouble;
mod wal;
mod words;
mod world;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Once;

use decisions::Allowed;
use shrink::{class, Ended, Trial};

const SEEDS: u64 = 500;
const STEPS: u64 = 5_000;
const THREADS: usize = 2;
// So many failures, each of its own kind, are shrunk.
const SHRUNK_MAX: usize = 3;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn steps() -> u64 {
    setting("BEQUEST_STEPS").unwrap_or(STEPS)
}

/// The words of a panic.
fn said(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does something whose panics are expected, and told in another way.
fn quietly<T>(act: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    let before = QUIET.replace(true);
    let done = act();
    QUIET.set(before);
    done
}

/// The run of a seed.
fn of_seed(seed: u64) -> Trial {
    Trial { seed, mix: mix::of_seed(seed), steps: steps(), until: mix::Micros::MAX, allowed: Allowed::All }
}

fn complaint(seed: u64, what: &str) -> String {
    let mix = mix::of_seed(seed).name;
    let settings: String = ["BEQUEST_STEPS", "BEQUEST_MIX", "BEQUEST_WITHOUT"]
        .iter()
        .filter_map(|name| std::env::var(name).ok().map(|value| format!("{name}={value:?} ")))
        .collect();
    format!(
        "seed {seed} (mix {mix}): {what}\n  replay: {settings}BEQUEST_TRACE=1 BEQUEST_SEED={seed} \
         cargo test --no-default-features --test simulation one_seed -- --nocapture"
    )
}

#[cfg_attr(not(planted), test)]
fn every_seed_keeps_the_invariants() {
    let seeds = setting("BEQUEST_SEEDS").unwrap_or(SEEDS);
    let first = setting("BEQUEST_FIRST_SEED").unwrap_or(0);
    let (counts, failed) = nightly::survey(first, seeds, THREADS);
    println!("{counts}\n{}\n{}", counts.blows, nightly::totals(&counts));
    for (seed, what) in failed.iter().take(20) {
        println!("{}", complaint(*seed, what));
    }
    let mut classes = BTreeSet::new();
    let each = failed.iter().filter(|(_, what)| classes.insert(class(what)));
    each.take(SHRUNK_MAX).for_each(|(seed, _)| drop(shrunk::tell(&of_seed(*seed))));
    let first = failed.first().map(|(seed, what)| complaint(*seed, what));
    assert!(first.is_none(), "{} of {seeds} seeds failed; the first: {}", failed.len(), first.unwrap_or_default());
    let missing = counts.missing();
    assert!(seeds < SEEDS || missing.is_empty(), "never reached: {missing:?}");
    let missing = counts.blows.missing();
    assert!(seeds < SEEDS || missing.is_empty(), "faults that never struck in a step: {missing:?}");
    let impossible = counts.blows.impossible();
    assert!(impossible.is_empty(), "faults that cannot strike in a step, and did: {impossible:?}");
}

#[cfg_attr(not(planted), test)]
fn one_seed() {
    let Some(seed) = setting("BEQUEST_SEED") else { return };
    let names = std::env::var("BEQUEST_WITHOUT").unwrap_or_default();
    let without = names.split_whitespace().map(str::to_owned).collect();
    let trial = Trial { allowed: Allowed::Without(without), ..of_seed(seed) };
    let Ended { counts, hash, failure, lines, came, .. } = trial.run(setting("BEQUEST_TRACE") == Some(1));
    lines.iter().for_each(|line| eprintln!("{line}"));
    println!("{counts}seed {seed}: {} decisions to hurt, trace hash {hash:016x}", came.len());
    if let Some(what) = failure {
        if setting("BEQUEST_SHRINK").is_some() {
            shrunk::tell(&trial);
        }
        panic!("{}", complaint(seed, &what));
    }
}

#[cfg_attr(not(planted), test)]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..mix::MIXES.len() as u64 * 3 {
        // Whether its trace is kept makes no difference either.
        let (first, second) = (of_seed(seed).run(false), of_seed(seed).run(true));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.came, second.came, "seed {seed}");
    }
}

#[cfg_attr(not(planted), test)]
fn one_script() {
    if let Some(script) = shrunk::asked_for() {
        shrunk::replay(&script);
    }
}
