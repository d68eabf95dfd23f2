//! A simulated world around the real core: one seed, one run, the same every time.
//!
//! `BEQUEST_SEEDS` and `BEQUEST_STEPS` say how many runs and how long; `BEQUEST_SEED` with the test `one_seed` replays
//! one of them, and `BEQUEST_TRACE=1` prints what happened last in it. `BEQUEST_MIX` forces one kind of run on every seed.

// Nothing of a test program is exported; `pub` says what other files of it use.
#![allow(unreachable_pub)]
// The same world, around a core with bugs in it. Only the test that they are found runs there.
#![cfg_attr(planted, allow(dead_code))]

#[cfg(planted)]
extern crate bequest_planted as bequest;

mod clients;
mod counts;
mod death;
mod dice;
mod disk;
mod faults;
mod genesis;
mod golden;
mod healing;
mod history;
mod host;
mod keeper;
mod machine;
mod mix;
mod network;
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
#[cfg(not(planted))]
#[path = "../model/succession/mod.rs"]
#[allow(dead_code)]
mod succession;
mod trace;
mod wal;
mod words;
mod world;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use counts::Counts;

const SEEDS: u64 = 500;
const STEPS: u64 = 5_000;
const THREADS: usize = 2;

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

/// Runs one seed; what went wrong, if anything did, and the last of its trace.
fn run(seed: u64, keep_trace: bool) -> (Counts, u64, Result<(), String>) {
    let mut world = world::of_seed(seed, keep_trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.live(steps())));
    if keep_trace {
        world.trace.lines().for_each(|line| eprintln!("{line}"));
    }
    let result = result.map_err(|payload| said(&*payload));
    (world.counts, world.trace.hash(), result)
}

fn complaint(seed: u64, what: &str) -> String {
    let mix = mix::of_seed(seed).name;
    let settings: String = ["BEQUEST_STEPS", "BEQUEST_MIX"]
        .iter()
        .filter_map(|name| std::env::var(name).ok().map(|value| format!("{name}={value} ")))
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
    let next = AtomicU64::new(first);
    let found = Mutex::new((Counts::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + seeds {
                    return;
                }
                let (counts, _, result) = run(seed, false);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.0.merge(&counts);
                if let Err(what) = result {
                    eprintln!("{}", complaint(seed, &what));
                    found.1.push(complaint(seed, &what));
                }
            });
        }
    });
    let (counts, complaints) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{counts}");
    for complaint in complaints.iter().take(20) {
        println!("{complaint}");
    }
    assert!(complaints.is_empty(), "{} of {seeds} seeds failed; the first: {}", complaints.len(), complaints[0]);
    let missing = counts.missing();
    assert!(seeds < SEEDS || missing.is_empty(), "never reached: {missing:?}");
}

#[cfg_attr(not(planted), test)]
fn one_seed() {
    let Some(seed) = setting("BEQUEST_SEED") else { return };
    let (counts, hash, result) = run(seed, setting("BEQUEST_TRACE") == Some(1));
    println!("{counts}seed {seed}: trace hash {hash:016x}");
    if let Err(what) = result {
        panic!("{}", complaint(seed, &what));
    }
}

#[cfg_attr(not(planted), test)]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..mix::MIXES.len() as u64 * 3 {
        let (_, first, _) = run(seed, false);
        let (_, second, _) = run(seed, false);
        assert_eq!(first, second, "seed {seed}");
    }
}
