//! A failing run made small: delta debugging over the decisions that came true in it.
//!
//! Runs are repeated with fewer and fewer decisions allowed (Zeller's ddmin, by complements), and shorter, as long as they
//! fail in the same way. What a failing run did not come to is left out at once.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::counts::Counts;
use crate::decisions::{Allowed, Came};
use crate::mix::{Micros, Mix};
use crate::said;
use crate::world::World;

/// A run to be made.
#[derive(Clone, Debug)]
pub struct Trial {
    pub seed: u64,
    pub mix: &'static Mix,
    /// Of the cores, until every fault ends.
    pub steps: u64,
    /// When every fault ends, if there are steps enough.
    pub until: Micros,
    pub allowed: Allowed,
}

/// What came of it.
#[derive(Debug)]
pub struct Ended {
    /// What went wrong, if anything did.
    pub failure: Option<String>,
    /// When every fault ended, or the run did.
    pub faults_end: Micros,
    pub came: Vec<Came>,
    pub counts: Counts,
    pub hash: u64,
    /// The last lines of its trace, if they were wanted.
    pub lines: Vec<String>,
}

/// A failing run that fails no more if anything is taken from it, as far as was tried.
#[derive(Debug)]
pub struct Shrunk {
    /// Nothing but what came true in it is allowed.
    pub trial: Trial,
    pub ended: Ended,
    /// Decisions that came true before.
    pub from: usize,
    /// Runs it took.
    pub runs: u64,
    /// Nothing was left untried for want of runs.
    pub minimal: bool,
}

impl Trial {
    pub fn run(&self, keep_trace: bool) -> Ended {
        let mut world = World::new(self.seed, self.mix, keep_trace);
        world.decisions.allowed = self.allowed.clone();
        let result = catch_unwind(AssertUnwindSafe(|| world.live(self.steps, self.until)));
        Ended {
            failure: result.err().map(|payload| said(&*payload)),
            faults_end: world.healed_at.unwrap_or(world.now),
            came: world.decisions.came,
            counts: world.counts,
            hash: world.trace.hash(),
            lines: world.trace.lines().map(str::to_owned).collect(),
        }
    }
}

/// What a failure has in common with others of its kind: its first two clauses without values, be they numbers, hashes,
/// or what is quoted or in braces. The names of rules and nodes stay, as I1 and n2.
pub fn class(failure: &str) -> String {
    const NAME_MAX: usize = 3;
    let line = failure.lines().next().unwrap_or_default();
    let line = line.strip_prefix("assertion `left == right` failed: ").unwrap_or(line);
    let line = &line[..line.find(['{', '"', '=']).unwrap_or(line.len())];
    let mut text = String::new();
    for part in line.split_inclusive(|symbol: char| !symbol.is_ascii_alphanumeric()) {
        let end = part.find(|symbol: char| !symbol.is_ascii_alphanumeric()).unwrap_or(part.len());
        let (word, rest) = part.split_at(end);
        let name = word.len() <= NAME_MAX && !word.starts_with(|symbol: char| symbol.is_ascii_digit());
        let value = !name && word.contains(|symbol: char| symbol.is_ascii_digit());
        text.push_str(if value { "#" } else { word });
        text.push_str(rest);
    }
    let clauses: Vec<&str> = text.split(": ").take(2).collect();
    clauses.join(": ").trim().to_owned()
}

/// Makes a failing run small, in so many runs at most; `None` if it does not fail.
///
/// Its length becomes a time: without some of its faults, the cores do more steps until the others are due.
pub fn shrink(trial: &Trial, runs_max: u64, play: impl FnMut(&Trial) -> Ended) -> Option<Shrunk> {
    let mut search = Search { play, runs: 0, runs_max };
    let ended = search.run(trial)?;
    let from = ended.came.len();
    let class = class(ended.failure.as_ref()?);
    let mut best = Best { trial: Trial { steps: u64::MAX, ..trial.clone() }, ended, class };
    best.settle();
    let until = best.trial.until;
    let all = best.trial.allowed.clone();
    if !search.fails(&mut best, all, until) {
        return None;
    }
    search.drop_kinds(&mut best, until);
    search.drop_parts(&mut best, until);
    search.shorten(&mut best);
    let until = best.trial.until;
    let minimal = search.drop_parts(&mut best, until);
    Some(Shrunk { trial: best.trial, ended: best.ended, from, runs: search.runs, minimal })
}

/// The smallest run so far.
struct Best {
    trial: Trial,
    ended: Ended,
    class: String,
}

impl Best {
    /// Allows what came true, for as long as it took.
    fn settle(&mut self) {
        self.trial.allowed = only(&self.ended.came);
        self.trial.until = self.ended.faults_end;
    }
}

fn only<'a>(came: impl IntoIterator<Item = &'a Came>) -> Allowed {
    Allowed::Only(came.into_iter().map(|came| came.name.to_string()).collect())
}

struct Search<P> {
    play: P,
    runs: u64,
    runs_max: u64,
}

impl<P: FnMut(&Trial) -> Ended> Search<P> {
    /// `None` if there are no more runs to be had.
    fn run(&mut self, trial: &Trial) -> Option<Ended> {
        (self.runs < self.runs_max).then(|| {
            self.runs += 1;
            (self.play)(trial)
        })
    }

    /// Whether it fails in the same way with this allowed alone; if so it is the best so far.
    fn fails(&mut self, best: &mut Best, allowed: Allowed, until: Micros) -> bool {
        let trial = Trial { allowed, until, ..best.trial.clone() };
        let ended = self.run(&trial).filter(|ended| ended.failure.as_deref().map(class).as_ref() == Some(&best.class));
        let Some(ended) = ended else { return false };
        best.trial = trial;
        best.ended = ended;
        best.settle();
        true
    }

    /// Leaves out every decision, or all of one kind: much of what goes wrong in a run is noise.
    fn drop_kinds(&mut self, best: &mut Best, until: Micros) {
        if self.fails(best, Allowed::Only(BTreeSet::new()), until) {
            return;
        }
        let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
        best.ended.came.iter().for_each(|came| *kinds.entry(came.name.what).or_default() += 1);
        let mut kinds: Vec<(usize, &'static str)> = kinds.into_iter().map(|(what, count)| (count, what)).collect();
        kinds.sort_unstable_by(|one, other| other.cmp(one));
        for (_, what) in kinds {
            let rest = only(best.ended.came.iter().filter(|came| came.name.what != what));
            self.fails(best, rest, until);
        }
    }

    /// Leaves out one part of the decisions after the other, in ever smaller parts; `true` if none is left that can be
    /// left out alone.
    fn drop_parts(&mut self, best: &mut Best, until: Micros) -> bool {
        let mut parts = 2;
        while !best.ended.came.is_empty() {
            let count = best.ended.came.len();
            let size = count.div_ceil(parts);
            let mut smaller = false;
            for from in (0..count).step_by(size) {
                let (before, after) = (&best.ended.came[..from], &best.ended.came[(from + size).min(count)..]);
                let rest = only(before.iter().chain(after));
                smaller = self.fails(best, rest, until);
                if smaller {
                    break;
                }
            }
            if self.runs == self.runs_max {
                return false;
            }
            match (smaller, size) {
                (true, _) => parts = (parts - 1).max(2),
                (false, 1) => return true,
                (false, _) => parts = (parts * 2).min(count),
            }
        }
        true
    }

    /// Ends the faults earlier.
    fn shorten(&mut self, best: &mut Best) {
        let mut passes = 0;
        // A shorter run may fail where a longer one does not, so this finds no least length: a few tries are enough.
        for _ in 0..6 {
            let until = passes + (best.trial.until - passes) / 2;
            let allowed = best.trial.allowed.clone();
            if !self.fails(best, allowed, until) {
                passes = until;
            }
        }
    }
}
