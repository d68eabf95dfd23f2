//! As many lives as are asked for, on every processor there is, and what they met altogether.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::counts::Counts;
use crate::shrink::Ended;
use crate::{complaint, of_seed, setting};

// Enough for ten million faults and a million successions.
const SEEDS: u64 = 110_000;
// A line each so many lives.
const TOLD: u64 = 5_000;

/// Lives so many seeds from the first on, on so many threads; what they met, and the seeds that failed, with why.
pub fn survey(first: u64, seeds: u64, threads: usize) -> (Counts, Vec<(u64, String)>) {
    let next = AtomicU64::new(first);
    let found = Mutex::new((Counts::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + seeds {
                    return;
                }
                let Ended { counts, failure, .. } = of_seed(seed).run(false);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.0.merge(&counts);
                if let Some(what) = failure {
                    eprintln!("{}", complaint(seed, &what));
                    found.1.push((seed, what));
                }
                if (seed + 1 - first).is_multiple_of(TOLD) {
                    eprintln!("{} lives: {}", seed + 1 - first, totals(&found.0));
                }
            });
        }
    });
    let (counts, mut failed) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    (counts, failed)
}

/// What the lives came to, in one line.
pub fn totals(counts: &Counts) -> String {
    format!(
        "{} faults, {} successions, {} acknowledged, {} s simulated without idle time",
        counts.blows.sum(),
        counts.get("leaderships"),
        counts.get("acknowledged"),
        counts.get("milliseconds simulated") / 1_000,
    )
}

#[cfg_attr(not(planted), test)]
#[cfg_attr(not(planted), ignore = "takes hours")]
fn ten_million_faults_break_nothing() {
    let (first, seeds) = (setting("BEQUEST_FIRST_SEED").unwrap_or(0), setting("BEQUEST_SEEDS").unwrap_or(SEEDS));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (counts, failed) = survey(first, seeds, threads);
    println!("{counts}\n{}", counts.blows);
    println!("seeds {first} to {}, {} failed: {}", first + seeds - 1, failed.len(), totals(&counts));
    println!(
        "BEQUEST_FIRST_SEED={first} BEQUEST_SEEDS={seeds} cargo test --release --no-default-features --test simulation \
         ten_million_faults -- --ignored --nocapture"
    );
    assert!(failed.is_empty(), "the first: {}", complaint(failed[0].0, &failed[0].1));
    let missing = counts.blows.missing();
    assert!(missing.is_empty(), "faults that never struck in a step: {missing:?}");
    if seeds >= SEEDS {
        assert!(
            counts.blows.sum() >= 10_000_000 && counts.get("leaderships") >= 1_000_000,
            "too few: {}",
            totals(&counts)
        );
    }
}
