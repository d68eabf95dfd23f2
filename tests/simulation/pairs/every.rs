//! Which runs there are, and what they come to.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::story;
use super::strike::{Kind, Outcome, Strike, Strikes};
use crate::world::World;
use crate::{said, setting, THREADS};

// Of the pairs, one of this many is run with every change. A prime: no kind of effect falls between.
const STRIDE: u64 = 499;
// Complaints printed.
const COMPLAINTS: usize = 20;

/// What runs came to.
#[derive(Debug, Default)]
struct Tally {
    singles: u64,
    pairs: u64,
    /// Pairs there are, run or not.
    possible: u64,
    /// Runs in which all strikes came about: a first one may take away what the second would hit.
    landed: u64,
    /// By kind of effect and outcome: how often it was struck so.
    struck: BTreeMap<(Kind, Outcome), u64>,
    complaints: Vec<String>,
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.singles += other.singles;
        self.pairs += other.pairs;
        self.possible += other.possible;
        self.landed += other.landed;
        for (what, count) in other.struck {
            *self.struck.entry(what).or_default() += count;
        }
        self.complaints.extend(other.complaints);
    }

    /// Kinds with outcomes that suit them and were never run.
    fn missing(&self) -> Vec<(Kind, Outcome)> {
        let all = Kind::ALL.into_iter().flat_map(|kind| Outcome::ALL.map(|outcome| (kind, outcome)));
        all.filter(|(kind, outcome)| outcome.suits(*kind) && !self.struck.contains_key(&(*kind, *outcome))).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs: {} of one strike, {} of two, of which there are {}; in {} of them all strikes came about",
            self.singles + self.pairs,
            self.singles,
            self.pairs,
            self.possible,
            self.landed
        )?;
        write!(f, "{:<26}", "strikes that came about")?;
        Outcome::ALL.iter().try_for_each(|outcome| write!(f, "{:>14}", outcome.to_string()))?;
        writeln!(f)?;
        for kind in Kind::ALL {
            write!(f, "{:<26}", kind.to_string())?;
            for outcome in Outcome::ALL {
                match self.struck.get(&(kind, outcome)) {
                    _ if !outcome.suits(kind) => write!(f, "{:>14}", "-")?,
                    count => write!(f, "{:>14}", count.copied().unwrap_or(0))?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Plays the story with these strikes; the kinds of its effects, and what it came to.
fn run(strikes: &[Strike], tally: &mut Tally) -> Vec<Kind> {
    play(strikes, tally).kinds
}

fn play(strikes: &[Strike], tally: &mut Tally) -> Strikes {
    let mut stage: Option<World> = None;
    let played = catch_unwind(AssertUnwindSafe(|| story::play(strikes.iter().copied(), false, &mut stage)));
    let world = stage.expect("it began");
    match strikes.len() {
        0 => {}
        1 => tally.singles += 1,
        _ => tally.pairs += 1,
    }
    tally.landed += u64::from(!strikes.is_empty() && world.strikes.landed.len() == strikes.len());
    for what in &world.strikes.landed {
        *tally.struck.entry(*what).or_default() += 1;
    }
    if let Err(payload) = played {
        tally.complaints.push(complaint(strikes, &said(&*payload)));
    }
    world.strikes
}

fn complaint(strikes: &[Strike], what: &str) -> String {
    let words: Vec<String> = strikes.iter().map(ToString::to_string).collect();
    let words = words.join(" ");
    format!(
        "strikes {words}: {what}\n  replay: BEQUEST_TRACE=1 BEQUEST_STRIKES=\"{words}\" \
         cargo test --release --no-default-features --test simulation one_pair -- --nocapture"
    )
}

/// All strikes on effects of these kinds from one number on.
fn strikes(kinds: &[Kind], from: usize) -> impl Iterator<Item = Strike> + '_ {
    kinds.iter().enumerate().skip(from).flat_map(|(place, kind)| {
        let suiting = Outcome::ALL.into_iter().filter(|outcome| outcome.suits(*kind));
        suiting.map(move |outcome| Strike { effect: place as u64 + 1, outcome })
    })
}

/// Runs every single strike, and of the pairs that are `wanted` each `stride`th.
fn enumerate(stride: u64, wanted: impl Fn(Strike, Strike) -> bool + Sync) -> Tally {
    let mut all = Tally::default();
    let kinds = run(&[], &mut all);
    let firsts: Vec<Strike> = strikes(&kinds, 0).collect();
    let (next, all) = (AtomicUsize::new(0), Mutex::new(all));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(first) = firsts.get(place).copied() else { return };
                let mut tally = Tally::default();
                let kinds = run(&[first], &mut tally);
                let seconds = strikes(&kinds, first.effect as usize).filter(|second| wanted(first, *second));
                let seconds: Vec<Strike> = seconds.collect();
                tally.possible += seconds.len() as u64;
                // Each first strike begins elsewhere, so that all of them together meet every second one.
                for second in seconds.into_iter().skip(place % stride as usize).step_by(stride as usize) {
                    run(&[first, second], &mut tally);
                }
                for complaint in &tally.complaints {
                    eprintln!("{complaint}");
                }
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.merge(tally);
                if setting("BEQUEST_PROGRESS") == Some(1) && place % 50 == 0 {
                    eprintln!("{place} of {} first strikes, {} pairs", firsts.len(), all.pairs);
                }
            });
        }
    });
    let tally = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} effects without a strike, {} single strikes\n{tally}", kinds.len(), firsts.len());
    tally
}

fn judge(tally: &Tally) {
    let complaints = &tally.complaints;
    for complaint in complaints.iter().take(COMPLAINTS) {
        println!("{complaint}");
    }
    assert!(complaints.is_empty(), "{} runs failed; the first: {}", complaints.len(), complaints[0]);
}

#[test]
fn every_failure_and_some_pairs_are_survived() {
    let tally = enumerate(setting("BEQUEST_STRIDE").unwrap_or(STRIDE), |_, _| true);
    judge(&tally);
    assert_eq!(tally.missing(), [], "never struck so");
}

/// Of a transaction whose answer is lost nobody knows whether it was applied. It is issued again, and may be refused then for
/// a reason that has nothing to do with it.
#[test]
fn what_is_refused_when_it_is_issued_again_may_have_been_done_before() {
    let mut tally = Tally::default();
    let kinds = run(&[], &mut tally);
    let firsts: Vec<Strike> = strikes(&kinds, 0)
        .filter(|strike| kinds[strike.effect as usize - 1] == Kind::Write)
        .filter(|strike| matches!(strike.outcome, Outcome::Lost | Outcome::Silent | Outcome::Late))
        .collect();
    for first in firsts {
        if let Some(effect) = play(&[first], &mut tally).again {
            run(&[first, Strike { effect, outcome: Outcome::Refused }], &mut tally);
        }
    }
    println!("{tally}");
    judge(&tally);
    assert!(tally.pairs > 50, "{} transactions were issued again", tally.pairs);
}

#[test]
#[ignore = "takes long: scripts/nightly runs it"]
fn every_pair_of_failures_is_survived() {
    let tally = enumerate(1, |first, second| !first.outcome.wipes() && !second.outcome.wipes());
    judge(&tally);
    assert_eq!(tally.missing(), [], "never struck so");
}

#[test]
#[ignore = "takes long: scripts/nightly runs it"]
fn every_pair_of_failures_that_takes_a_disk_is_survived() {
    let tally = enumerate(1, |first, second| first.outcome.wipes() || second.outcome.wipes());
    judge(&tally);
    assert_eq!(tally.missing(), [], "never struck so");
}

#[test]
fn one_pair() {
    let Ok(text) = std::env::var("BEQUEST_STRIKES") else { return };
    let strikes = text.split_whitespace().map(|strike| strike.parse().unwrap_or_else(|error| panic!("{error}")));
    let strikes: Vec<Strike> = strikes.collect();
    let mut stage: Option<World> = None;
    let played = catch_unwind(AssertUnwindSafe(|| {
        story::play(strikes.iter().copied(), setting("BEQUEST_TRACE") == Some(1), &mut stage);
    }));
    let world = stage.expect("it began");
    world.trace.lines().for_each(|line| eprintln!("{line}"));
    println!("{}{} effects, came about: {:?}", world.counts, world.strikes.kinds.len(), world.strikes.landed);
    if let Err(payload) = played {
        panic!("{}", complaint(&strikes, &said(&*payload)));
    }
}

#[test]
fn a_strike_is_read_as_it_is_written() {
    for outcome in Outcome::ALL {
        let strike = Strike { effect: 17, outcome };
        assert_eq!(strike.to_string().parse(), Ok(strike));
    }
    assert_eq!("17:eaten".parse::<Strike>(), Err("no strike: \"17:eaten\"; one is like 17:late".to_owned()));
}
