//! Lives in which ZooKeeper goes back to an older state, or loses everything, at some moment.
//!
//! What was committed since is gone, and nobody can bring it back. What must hold is that nobody who knows better takes
//! what is left for the whole: a node whose disk says that more was in ZooKeeper acknowledges nothing from then on, stops,
//! and keeps its log. Until it has found out, what it reads must still be all that was ever acknowledged. A node that
//! never knew of it may serve; no node can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{catch_unwind, AssertUnwindSafe};

use bequest::{GroupError, NodeError};
use bequest_recovery::entry::Position;
use rand::Rng;

use crate::blows::Blow;
use crate::counts::Counts;
use crate::dice::Part;
use crate::machine::Took;
use crate::mix::{Micros, SECOND};
use crate::steps::Step;
use crate::world::{Pid, Place, World};
use crate::{said, setting};

// Everybody has looked by then, and stopped.
const FOUND_WITHIN: Micros = 90 * SECOND;

// Lives in which it happens in each step, and how long they are.
const ROUNDS: u64 = 24;
const STEPS: u64 = 2_000;

/// What is left of the past once ZooKeeper went back.
#[derive(Debug)]
pub struct Fork {
    /// Tokens from here on were given out after it.
    token: u64,
    /// Whose disk says that there was more, by group.
    knowing: BTreeMap<(Place, usize), Knowing>,
    /// Groups of whose log nothing is missing, or all of it was brought back; it may have been trimmed since.
    whole: BTreeSet<usize>,
}

/// What a disk says of the past.
#[derive(Debug)]
struct Knowing {
    /// Up to where it is known to have been in ZooKeeper. What the node holds beyond that it may yet replace.
    reach: u64,
    /// What of the log it had, up to there.
    log: Vec<Position>,
}

impl World {
    /// Whether ZooKeeper went back, and this process' disk does not show it: what it says is another history's.
    pub fn knows_no_better(&self, pid: Pid, group: usize) -> bool {
        self.fork.is_some() && self.reach(pid, group).is_none()
    }

    /// Up to where this process' disk knows the past that ZooKeeper lost, if it knows any of it.
    fn reach(&self, pid: Pid, group: usize) -> Option<u64> {
        let place = self.processes.get(&pid)?.place;
        self.fork.as_ref()?.knowing.get(&(place, group)).map(|knowing| knowing.reach)
    }

    /// A machine applied something; `false` if that belongs to another history than ours.
    pub fn took_in_ours(&mut self, pid: Pid, group: usize, took: &Took) -> bool {
        if self.knows_no_better(pid, group) {
            return false;
        }
        match self.groups[group].mirror.does(took.index) {
            Some(does) if does == Some((took.key, took.value)) => true,
            None if self.fork.is_none() || self.is_whole_again(group) => true,
            _ => !self.follows_another(pid, group, took.index),
        }
    }

    /// A process is at an index at which ours is another history; whether that is beyond all that its disk knew.
    ///
    /// A disk may know of some of what was lost, and not of the rest. Whoever finds all that it knew of, as the leader
    /// it was lost under wrote it again, follows the new history from there on, and no node can tell.
    pub fn follows_another(&mut self, pid: Pid, group: usize, index: u64) -> bool {
        let follows = self.reach(pid, group).is_some_and(|reach| reach < index);
        if let (true, Some(fork)) = (follows, &mut self.fork) {
            fork.knowing.remove(&(self.processes[&pid].place, group));
            self.counts.one("went on in another history, beyond all that its disk knew");
        }
        follows
    }

    /// A machine was restored to a state at `applied`; whether that is not ours, though it has all that its disk knew of.
    pub fn restored_another(&mut self, pid: Pid, group: usize, applied: u64) -> bool {
        let Some(reach) = self.reach(pid, group) else { return false };
        let (_, lists) = self.processes[&pid].replicas[group].host.scan();
        let history = &self.groups[group].history;
        let holds = |up_to| (0..).zip(&lists).all(|(key, list)| list.starts_with(&history.list(key, up_to)));
        holds(reach) && !holds(applied) && self.follows_another(pid, group, applied)
    }

    /// Whether ZooKeeper went back and lacks nothing of a group's log, or lacks nothing any more: a leader issues again what it
    /// has no answer of.
    pub fn is_whole_again(&mut self, group: usize) -> bool {
        let Some(fork) = &mut self.fork else { return false };
        if self.groups[group].mirror.is_whole(&self.zoo) {
            fork.whole.insert(group);
        }
        fork.whole.contains(&group)
    }

    /// A process answers a client; `true` if it does so in another history than ours.
    pub fn answers_elsewhere(&mut self, pid: Pid, group: usize, token: u64, read: bool) -> bool {
        let Some(fork) = &self.fork else { return false };
        let knows = !self.knows_no_better(pid, group);
        let after = token >= fork.token;
        let amiss = !read && knows && after;
        if amiss && self.is_whole_again(group) {
            return true;
        }
        assert!(!amiss, "I6: {pid:?} knows that zookeeper went back, and acknowledges {token}");
        self.counts.one(match knows {
            true => "answered before it was found that zookeeper went back",
            false => "served by who could not know that zookeeper went back",
        });
        !knows
    }

    /// A life until it goes wrong, and what comes of it.
    pub fn live_backwards(&mut self, steps: u64, until: Micros, step: Option<Step>) {
        self.run(steps / 4 * 3, until / 4 * 3, |_| false);
        let backup = self.zoo.backup();
        let reached: Vec<u64> = self.groups.iter().map(|group| group.mirror.end().index).collect();
        let mut roll = self.roll(Part::Driver);
        // Sometimes nothing happens in between, and nothing is lost.
        let between = roll.random_range(0..SECOND);
        self.run(u64::MAX, self.now + between, |_| false);
        let until = self.now + 5 * SECOND;
        self.run(u64::MAX, until, |world| {
            let steps = || world.pids().into_iter().flat_map(|pid| world.steps_of(pid));
            step.is_none_or(|wanted| steps().any(|step| step == wanted))
        });
        self.struck_all(Blow::RolledBack);
        let wiped = roll.random_ratio(1, 5);
        let killed: Vec<Pid> = self.pids().into_iter().filter(|_| roll.random_bool(0.4)).collect();
        for pid in killed {
            self.kill_now(pid, false);
        }
        self.goes_back(|zoo| if wiped { zoo.wipe() } else { zoo.roll_back(&backup) }, wiped, &reached);
        self.heal();
        let until = self.now + FOUND_WITHIN;
        self.run(u64::MAX, until, |world| world.all_found());
        self.check_found(wiped);
        self.counts.one("lives in which zookeeper went back");
    }

    /// ZooKeeper goes back in this way, to where the groups' logs ended at these indexes; everybody loses the connection.
    pub fn goes_back(
        &mut self,
        how: impl FnOnce(&mut bequest_recovery::model::ZooModel),
        wiped: bool,
        reached: &[u64],
    ) {
        let mut knowing = BTreeMap::new();
        for place in self.places() {
            for (group, index) in reached.iter().enumerate() {
                let Some(log) = self.disks.get(&place).and_then(|disk| disk.group(group).log) else { continue };
                let known = log.known.position.index.max(log.commit);
                if !wiped && known <= *index {
                    continue;
                }
                // What never was in ZooKeeper may still be replaced, by a leader that has not found out.
                let written = &self.groups[group].mirror.log;
                let there = |position: &Position| {
                    let entry = written.get(position.index as usize - 1);
                    position.index <= known && entry.is_some_and(|(_, hash)| *hash == position.hash)
                };
                let log = log.slots.iter().map(|slot| slot.position).filter(there).collect();
                knowing.insert((place, group), Knowing { reach: known, log });
            }
        }
        self.counts.add("disks that knew more than zookeeper", knowing.len() as u64);
        self.fork = Some(Fork { token: self.fresh(), knowing, whole: BTreeSet::new() });
        self.hostile = true;
        self.note(("backwards", wiped), || format!("zookeeper goes back, wiped: {wiped}"));
        how(&mut self.zoo);
        for group in 0..self.groups.len() {
            self.is_whole_again(group);
        }
        for pid in self.pids() {
            self.break_connection(pid, 0);
        }
    }

    /// Where a group was stopped, or the whole node.
    pub fn found(&self) -> BTreeSet<Place> {
        let place = |pid: &Pid| {
            let living = self.processes.get(pid).map(|process| process.place);
            living.or_else(|| self.last_places.get(pid).copied())
        };
        let groups = self.stops.iter().filter_map(|(pid, _)| place(pid));
        groups.chain(self.node_stops.iter().filter_map(|(pid, _)| place(pid))).collect()
    }

    fn all_found(&self) -> bool {
        let Some(fork) = &self.fork else { return true };
        let found = self.found();
        fork.knowing.keys().all(|(place, _)| found.contains(place))
    }

    /// Whoever knew more has stopped, says why, and kept its log.
    pub fn check_found(&mut self, wiped: bool) {
        let Some(fork) = &self.fork else { return };
        let found = self.found();
        let mut whole = 0;
        for ((place, group), Knowing { log, .. }) in &fork.knowing {
            // A leader issues again what it has no answer of. If that is all there was, nothing is missing.
            whole += u64::from(!found.contains(place));
            assert!(!wiped || found.contains(place), "{place:?} says nothing of a zookeeper that was wiped");
            let kept = self.disks[place].group(*group).log.expect("a log is never deleted");
            let there = |position: &Position| {
                position.index <= kept.base.index || kept.slots.iter().any(|slot| slot.position == *position)
            };
            assert!(log.iter().all(there), "{place:?} changed its log to match a zookeeper that went back");
        }
        let stopped = found.len() as u64;
        for (_, error) in &self.stops {
            let named = matches!(error, GroupError::WentBackwards { .. } | GroupError::Damaged { .. });
            assert!(named || wiped, "stopped for another reason: {error}");
        }
        for (_, error) in &self.node_stops {
            // Registrations went back as well: a process whose own is gone takes itself for superseded.
            let gone = matches!(error, NodeError::Superseded { .. });
            let named = wiped && matches!(error, NodeError::NoSuchCluster { .. });
            assert!(named || gone, "stopped for another reason: {error}");
        }
        assert!(!wiped || self.zoo.head().iter().count() == 0, "a wiped zookeeper was founded anew");
        self.counts.add("stopped because zookeeper went back", stopped);
        self.counts.add("zookeeper made whole again, or not looked at to the end", whole);
    }
}

fn life(seed: u64, keep_trace: bool) -> World {
    let mix = crate::mix::MIXES.iter().find(|mix| mix.backwards).expect("there is such a mix");
    let step = Step::ALL[(seed % Step::ALL.len() as u64) as usize];
    let mut world = World::new(seed, mix, keep_trace);
    let lived = catch_unwind(AssertUnwindSafe(|| world.live_backwards(STEPS, Micros::MAX, Some(step))));
    world.trace.lines().for_each(|line| eprintln!("{line}"));
    let Err(what) = lived else { return world };
    panic!(
        "seed {seed}, when somebody is in {step}: {}\n  replay: BEQUEST_SEED_BACKWARDS={seed} cargo test \
         --no-default-features --test simulation goes_back_at_any_step -- --nocapture",
        said(&*what)
    );
}

/// Every step is met by it, again and again.
#[cfg_attr(not(planted), test)]
fn a_zookeeper_that_goes_back_at_any_step_is_refused_by_whoever_knew_more() {
    if let Some(seed) = setting("BEQUEST_SEED_BACKWARDS") {
        println!("{}", life(seed, true).counts);
        return;
    }
    let mut counts = Counts::default();
    (0..ROUNDS * Step::ALL.len() as u64).for_each(|seed| counts.merge(&life(seed, false).counts));
    println!("{counts}{}", counts.blows);
    assert_eq!(counts.blows.never_struck(Blow::RolledBack), [], "steps in which zookeeper never went back");
    assert!(counts.get("disks that knew more than zookeeper") > 100, "{counts}");
}
