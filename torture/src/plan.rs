//! Which faults come when: drawn by a seed, before anything happens.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::fault::{Fault, Kind};

/// Faults of one round.
const FAULTS_MAX: usize = 4;
/// Faults of a round begin within this time, unless they must wait for each other.
const BEGIN_MS: u64 = 4000;
/// Between two faults about the same part.
const BETWEEN: Duration = Duration::from_millis(300);
/// How long ZooKeeper is down, in seconds, where there is time for it: for minutes.
const LONG_DOWN: (u64, u64) = (70, 150);

/// Draws rounds of faults. Every kind comes once before any comes again.
#[derive(Debug)]
pub(crate) struct Plan {
    random: StdRng,
    kinds: Vec<Kind>,
    deck: Vec<Kind>,
    /// Long absences of ZooKeeper still to come.
    long: bool,
    /// By how much everything is shorter.
    scale: f64,
}

impl Plan {
    /// A plan of these kinds for a run of this length.
    pub(crate) fn new(seed: u64, kinds: &[Kind], length: Duration) -> Self {
        // Where there is little time, faults are short, so that many kinds are met.
        let scale = if length < Duration::from_secs(120) { 0.4 } else { 1.0 };
        let long = length >= Duration::from_secs(600);
        Self { random: StdRng::seed_from_u64(seed), kinds: kinds.to_vec(), deck: Vec::new(), long, scale }
    }

    /// The next round, in the order of beginning.
    pub(crate) fn round(&mut self) -> Vec<Fault> {
        let count = if self.scale < 1.0 { FAULTS_MAX } else { self.random.random_range(1..=FAULTS_MAX) };
        let mut round: Vec<Fault> = Vec::new();
        for _ in 0..count {
            let mut fault = self.draw();
            // It waits for those about the same part that are there already.
            while let Some(other) = round.iter().find(|other| collide(&fault, other)) {
                fault.begin = other.end() + BETWEEN;
            }
            round.push(fault);
        }
        round.sort_by_key(|fault| fault.begin);
        round
    }

    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = self.kinds.clone();
            self.deck.shuffle(&mut self.random);
        }
        let kind = self.deck.pop().expect("there is a kind");
        let (from, to) = kind.length_ms();
        let scaled = |ms: u64| Duration::from_millis((ms as f64 * self.scale) as u64);
        let mut length = scaled(self.random.random_range(from..=to));
        if matches!(kind, Kind::Stop | Kind::StopBoth) {
            length = Duration::from_millis(from);
        }
        if kind == Kind::KeeperDown && self.long {
            self.long = false;
            length = Duration::from_secs(self.random.random_range(LONG_DOWN.0..=LONG_DOWN.1));
        }
        let begin = scaled(self.random.random_range(0..BEGIN_MS));
        Fault { kind, target: self.random.random_range(0..3), begin, length, draw: self.random.random() }
    }
}

fn collide(one: &Fault, other: &Fault) -> bool {
    let apart = one.end() + BETWEEN <= other.begin || other.end() + BETWEEN <= one.begin;
    one.parts() & other.parts() != 0 && !apart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(seed: u64, count: usize) -> Vec<Vec<Fault>> {
        let mut plan = Plan::new(seed, Kind::ALL, Duration::from_secs(900));
        (0..count).map(|_| plan.round()).collect()
    }

    #[test]
    fn a_seed_says_which_faults_come() {
        assert_eq!(rounds(7, 20), rounds(7, 20));
        assert_ne!(rounds(7, 20), rounds(8, 20));
    }

    #[test]
    fn no_two_faults_at_a_time_are_about_the_same_part() {
        for round in rounds(1, 500) {
            for (at, fault) in round.iter().enumerate() {
                assert!(round[..at].iter().all(|other| !collide(fault, other)), "{round:?}");
            }
        }
    }

    #[test]
    fn every_kind_comes_before_any_comes_again_and_several_come_at_a_time() {
        let rounds = rounds(3, 100);
        let first: Vec<Kind> = rounds.iter().flatten().map(|fault| fault.kind).collect();
        let mut kinds = first.clone();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), Kind::ALL.len());
        let counts = Kind::ALL.iter().map(|kind| first.iter().filter(|other| *other == kind).count());
        let (fewest, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
        assert!(most - fewest <= 1, "fewest={fewest} most={most}");
        let overlaps = |round: &Vec<Fault>| round.windows(2).any(|pair| pair[1].begin < pair[0].end());
        assert!(rounds.iter().filter(|round| overlaps(round)).count() > 30);
    }

    #[test]
    fn zookeeper_is_away_for_minutes_once_in_a_long_run() {
        let long = |fault: &&Fault| fault.length >= Duration::from_secs(60);
        let rounds = rounds(5, 200);
        assert_eq!(rounds.iter().flatten().filter(long).count(), 1);
    }
}
