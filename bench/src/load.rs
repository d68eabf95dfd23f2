//! The load: a fixed number of requests in flight, each followed by the next as soon as it is answered.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::plan::{Case, Kind};
use crate::stats::percentile;

/// How long what is in flight in the end may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// After a refusal, doubled with each further one. The time of a request runs on from its first attempt.
const PAUSE: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(32);
/// Requests in flight while keys are filled.
const FILLERS: u64 = 64;
/// The distribution of latencies is told at these shares.
const SHARES: [f64; 25] = [
    0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95,
    0.99, 0.999, 0.9999, 1.0,
];

/// What the load is made on.
pub(crate) trait Target: Send + Sync + 'static {
    /// Writes a value; returns when it is acknowledged. No two writes have the same `number`.
    fn write(&self, worker: usize, number: u64, bytes: usize) -> impl Future<Output = Result<(), String>> + Send;
    /// Makes a linearizable read; returns when it is answered with what it must find.
    fn read(&self, worker: usize, number: u64) -> impl Future<Output = Result<(), String>> + Send;
}

/// How long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timing {
    /// Before anything counts.
    pub(crate) warm_up: f64,
    /// What counts.
    pub(crate) seconds: f64,
}

/// What was measured once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// How long.
    pub(crate) seconds: f64,
    /// Requests answered within that time.
    pub(crate) answered: u64,
    /// Requests answered in all, also before and after.
    pub(crate) answered_ever: u64,
    /// Writes acknowledged within that time beside reads.
    pub(crate) written_beside: u64,
    /// Refusals and failures, in words, with their number.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Microseconds that these shares of the answered requests took at most.
    pub(crate) latency: Vec<(f64, u32)>,
}

impl Measured {
    /// Requests answered per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// Milliseconds that this share of the requests took at most.
    pub(crate) fn millis(&self, share: f64) -> f64 {
        let found = self.latency.iter().find(|(told, _)| *told >= share);
        found.map_or(f64::NAN, |(_, micros)| f64::from(*micros) / 1000.0)
    }

    /// Refusals and failures.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Write(usize),
    Read,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    to: Instant,
}

#[derive(Debug, Default)]
struct Tally {
    latencies: Vec<u32>,
    answered_ever: u64,
    errors: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.answered_ever += other.answered_ever;
        other.errors.into_iter().for_each(|(error, times)| *self.errors.entry(error).or_default() += times);
    }
}

/// Makes the load of `case` and tells what came of it. Returns when everything in flight is answered.
///
/// # Errors
/// If something is not answered for minutes.
pub(crate) async fn measure<T: Target>(
    target: &Arc<T>,
    numbers: &Arc<AtomicU64>,
    case: Case,
    timing: Timing,
) -> Result<Measured> {
    let from = Instant::now() + Duration::from_secs_f64(timing.warm_up);
    let window = Window { from, to: from + Duration::from_secs_f64(timing.seconds) };
    let start = |count: usize, does: Work| -> Vec<_> {
        let workers = 0..count;
        workers.map(|worker| tokio::spawn(work(target.clone(), numbers.clone(), window, worker, does))).collect()
    };
    let asked = match case.kind {
        Kind::Append => start(case.in_flight, Work::Write(case.bytes)),
        Kind::Read => start(case.in_flight, Work::Read),
    };
    let beside = start(case.writers, Work::Write(case.bytes));
    let limit = window.to + DRAIN_LIMIT;
    let (mut asked, beside) = (gather(asked, limit).await?, gather(beside, limit).await?);
    asked.latencies.sort_unstable();
    let at = |share: &f64| percentile(&asked.latencies, *share).map(|micros| (*share, micros));
    let latency = SHARES.iter().filter_map(at).collect();
    let answered = asked.latencies.len() as u64;
    let mut errors = asked.errors;
    beside
        .errors
        .into_iter()
        .for_each(|(error, times)| *errors.entry(format!("writes beside: {error}")).or_default() += times);
    Ok(Measured {
        seconds: timing.seconds,
        answered,
        answered_ever: asked.answered_ever,
        written_beside: beside.latencies.len() as u64,
        errors,
        latency,
    })
}

async fn gather(workers: Vec<tokio::task::JoinHandle<Tally>>, limit: Instant) -> Result<Tally> {
    let mut sum = Tally::default();
    for worker in workers {
        let tally = tokio::time::timeout_at(limit.into(), worker).await;
        sum.add(tally.context("requests are not answered for minutes")??);
    }
    Ok(sum)
}

async fn work<T: Target>(target: Arc<T>, numbers: Arc<AtomicU64>, window: Window, worker: usize, does: Work) -> Tally {
    let mut tally = Tally::default();
    let mut began = Instant::now();
    let mut now = began;
    let mut pause = PAUSE;
    while now < window.to {
        let number = numbers.fetch_add(1, Relaxed);
        let outcome = match does {
            Work::Write(bytes) => target.write(worker, number, bytes).await,
            Work::Read => target.read(worker, number).await,
        };
        now = Instant::now();
        match outcome {
            Ok(()) => {
                tally.answered_ever += 1;
                if window.from <= now && now < window.to {
                    tally.latencies.push(u32::try_from((now - began).as_micros()).unwrap_or(u32::MAX));
                }
                (began, pause) = (now, PAUSE);
            }
            Err(error) => {
                *tally.errors.entry(error).or_default() += 1;
                // Thousands that try again at once would be a load of their own.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                now = Instant::now();
            }
        }
    }
    tally
}

/// Writes each of `count` keys once.
///
/// # Errors
/// If one is refused for a minute.
pub(crate) async fn fill<T: Target>(target: &Arc<T>, numbers: &Arc<AtomicU64>, count: u64, bytes: usize) -> Result<()> {
    let first = numbers.fetch_add(count, Relaxed);
    let limit = Instant::now() + DRAIN_LIMIT;
    let fillers = (0..FILLERS).map(|filler| {
        let target = target.clone();
        tokio::spawn(async move {
            for number in (first + filler..first + count).step_by(FILLERS as usize) {
                while let Err(error) = target.write(filler as usize, number, bytes).await {
                    anyhow::ensure!(Instant::now() < limit, "a key could not be written: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Ok(())
        })
    });
    for filler in fillers.collect::<Vec<_>>() {
        filler.await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const TIMING: Timing = Timing { warm_up: 0.02, seconds: 0.1 };

    /// Answers at once, refuses every tenth write, and notes what it was asked.
    #[derive(Debug, Default)]
    struct Echo {
        writes: Mutex<Vec<u64>>,
        reads: AtomicU64,
        at_once: AtomicU64,
        most: AtomicU64,
    }

    impl Target for Echo {
        async fn write(&self, _worker: usize, number: u64, _bytes: usize) -> Result<(), String> {
            self.most.fetch_max(self.at_once.fetch_add(1, Relaxed) + 1, Relaxed);
            tokio::task::yield_now().await;
            self.at_once.fetch_sub(1, Relaxed);
            if number.is_multiple_of(10) {
                return Err("refused".to_owned());
            }
            self.writes.lock().expect("not poisoned").push(number);
            Ok(())
        }

        async fn read(&self, _worker: usize, _number: u64) -> Result<(), String> {
            tokio::task::yield_now().await;
            self.reads.fetch_add(1, Relaxed);
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_answer_and_every_refusal_counts_and_no_number_comes_twice() {
        let (echo, numbers) = (Arc::new(Echo::default()), Arc::<AtomicU64>::default());
        let case = Case { kind: Kind::Append, bytes: 1, in_flight: 7, writers: 0 };
        let measured = measure(&echo, &numbers, case, TIMING).await.expect("measured");
        let mut writes = std::mem::take(&mut *echo.writes.lock().expect("not poisoned"));
        assert_eq!(measured.answered_ever, writes.len() as u64);
        assert_eq!(measured.answered_ever + measured.failed(), numbers.load(Relaxed));
        assert!(measured.answered <= measured.answered_ever && measured.errors["refused"] > 0, "{measured:?}");
        assert_eq!(echo.most.load(Relaxed), 7, "that many are in flight at once, and never more");
        writes.sort_unstable();
        writes.dedup();
        assert_eq!(measured.answered_ever, writes.len() as u64);
    }

    #[tokio::test]
    async fn writes_beside_reads_are_counted_apart() {
        let (echo, numbers) = (Arc::new(Echo::default()), Arc::<AtomicU64>::default());
        let case = Case { kind: Kind::Read, bytes: 1, in_flight: 3, writers: 2 };
        let measured = measure(&echo, &numbers, case, TIMING).await.expect("measured");
        assert_eq!(measured.answered_ever, echo.reads.load(Relaxed));
        let writes = echo.writes.lock().expect("not poisoned").len() as u64;
        assert!(measured.written_beside > 0 && measured.written_beside <= writes, "{measured:?}");
        assert!(measured.errors.keys().all(|error| error == "writes beside: refused"), "{measured:?}");
    }

    #[tokio::test]
    async fn filling_writes_every_key_once() {
        let (echo, numbers) = (Arc::new(Echo::default()), Arc::new(AtomicU64::new(1)));
        fill(&echo, &numbers, 9, 1).await.expect("filled");
        assert_eq!(echo.writes.lock().expect("not poisoned").len(), 9);
        assert_eq!(numbers.load(Relaxed), 10);
    }
}
