//! What the clients did and saw, and what follows from it: the checker.
//!
//! Everything is judged by the times of one monotonic clock, taken before an operation is sent and after it is
//! answered. Nothing that a node says about itself enters.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bequest_harness::longest_gap;

use super::clock::{Clock, Moment};
use super::register::{Number, Register};
use super::value::{
    lasting_value, register_key, register_number, register_of, register_value, FILLERS, REGISTERS, UNIQUES,
};

/// How many violations are kept in words; all are counted.
const VIOLATIONS_KEPT: usize = 100;

/// A key that is written once, and perhaps deleted once.
#[derive(Clone, Copy, Debug, Default)]
struct Lasting {
    written: Option<Moment>,
    delete_began: Option<Moment>,
    deleted: Option<Moment>,
    lost: bool,
}

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Violation {
    /// When it was found.
    pub(crate) at: Moment,
    /// What was found, in words.
    pub(crate) what: String,
}

/// Counts of the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Totals {
    /// Writes that were acknowledged.
    pub(crate) acked: u64,
    /// Attempts to write whose outcome the client does not know.
    pub(crate) unknown: u64,
    /// Reads that were answered.
    pub(crate) reads: u64,
    /// Attempts that were refused: no effect, tried again.
    pub(crate) refused: u64,
    /// Acknowledged writes that were missing, and deletions that were undone.
    pub(crate) lost: u64,
    /// Reads that returned something older than what was acknowledged or observed before, or never written at all.
    pub(crate) stale: u64,
}

/// Whose state a page of keys was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A linearizable read.
    Leader,
    /// A node's own state, read after it had applied everything acknowledged before `as_of`.
    Own {
        /// The node.
        node: u64,
        /// What was acknowledged before must be there.
        as_of: Moment,
    },
}

/// One answer to a listing of keys: all keys in (`after`, `to`] that have a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Keys up to this one are not in it.
    pub(crate) after: String,
    /// Keys behind this one are not in it; `None` if it reaches the end.
    pub(crate) to: Option<String>,
    /// Keys and values, ascending.
    pub(crate) entries: Vec<(String, String)>,
    /// When it was asked for.
    pub(crate) start: Moment,
}

#[derive(Debug)]
struct Facts {
    registers: Vec<Register>,
    lasting: BTreeMap<String, Lasting>,
    acks: Vec<Moment>,
    index_max: u64,
    totals: Totals,
    violations: Vec<Violation>,
}

/// The record of the run, shared by all clients.
#[derive(Debug)]
pub(crate) struct Ledger {
    clock: Clock,
    clients: u32,
    slots: u32,
    facts: Mutex<Facts>,
}

impl Ledger {
    /// An empty record for `clients` clients of `slots` registers each.
    pub(crate) fn new(clock: Clock, clients: u32, slots: u32) -> Self {
        let facts = Facts {
            registers: vec![Register::default(); (clients * slots) as usize],
            lasting: BTreeMap::new(),
            acks: Vec::new(),
            index_max: 0,
            totals: Totals::default(),
            violations: Vec::new(),
        };
        Self { clock, clients, slots, facts: Mutex::new(facts) }
    }

    /// The clock everything is recorded by.
    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Number of registers in sum.
    pub(crate) fn registers(&self) -> u32 {
        self.clients * self.slots
    }

    /// The key of the register at `position`.
    pub(crate) fn register_key(&self, position: u32) -> String {
        register_key(position / self.slots, position % self.slots)
    }

    /// Notes that a client begins to overwrite its register; returns the number and value to write.
    pub(crate) fn register_write_began(&self, client: u32, slot: u32) -> (Number, String) {
        let mut facts = self.lock();
        let start = self.clock.now();
        let number = facts.registers[(client * self.slots + slot) as usize].write_began(start);
        (number, register_value(&register_key(client, slot), number))
    }

    /// Notes that this write was acknowledged, as entry `index` of the log.
    pub(crate) fn register_write_acknowledged(&self, client: u32, slot: u32, number: Number, index: u64) {
        let mut facts = self.lock();
        let end = facts.acknowledged(self.clock, index);
        facts.registers[(client * self.slots + slot) as usize].write_acknowledged(number, end);
    }

    /// Notes that the write of a lasting key begins.
    pub(crate) fn lasting_write_began(&self, key: &str) {
        self.lock().lasting.insert(key.to_owned(), Lasting::default());
    }

    /// Notes that it was acknowledged.
    pub(crate) fn lasting_write_acknowledged(&self, key: &str, index: u64) {
        let mut facts = self.lock();
        let end = facts.acknowledged(self.clock, index);
        facts.lasting.entry(key.to_owned()).or_default().written = Some(end);
    }

    /// Notes that the deletion of a lasting key begins, whose write was acknowledged.
    pub(crate) fn delete_began(&self, key: &str) {
        let mut facts = self.lock();
        let start = self.clock.now();
        facts.lasting.entry(key.to_owned()).or_default().delete_began = Some(start);
    }

    /// Notes that it was acknowledged.
    pub(crate) fn delete_acknowledged(&self, key: &str, index: u64) {
        let mut facts = self.lock();
        let end = facts.acknowledged(self.clock, index);
        facts.lasting.entry(key.to_owned()).or_default().deleted = Some(end);
    }

    /// Notes an attempt to write whose outcome is not known.
    pub(crate) fn write_unknown(&self) {
        self.lock().totals.unknown += 1;
    }

    /// Notes an attempt that was refused.
    pub(crate) fn refused(&self) {
        self.lock().totals.refused += 1;
    }

    /// Judges a linearizable read of the register at `position` that began at `start` and has just been answered.
    pub(crate) fn register_read(&self, position: u32, start: Moment, value: Option<&str>) {
        let key = self.register_key(position);
        let mut facts = self.lock();
        let end = self.clock.now();
        facts.totals.reads += 1;
        let register = &mut facts.registers[position as usize];
        let Some(number) = genuine(register, &key, value) else {
            facts.stale(end, format!("read of {key} returned what was never written there: {value:?}"));
            return;
        };
        if let Some(found) = register.read(number, start, end) {
            facts.stale(
                end,
                format!(
                    "stale read of {key} begun at {:.6} s: number {number} though {:?} was in effect",
                    start.seconds(),
                    found.newer
                ),
            );
        }
    }

    /// Judges a page of a listing; returns how many of the keys it must hold were found.
    pub(crate) fn page_read(&self, prefix: &str, page: &Page, source: Source) -> u64 {
        if prefix == REGISTERS {
            self.register_page_read(page, source)
        } else {
            self.lasting_page_read(prefix, page, source)
        }
    }

    fn register_page_read(&self, page: &Page, source: Source) -> u64 {
        let found: BTreeMap<&str, &str> =
            page.entries.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut facts = self.lock();
        let end = self.clock.now();
        for key in found.keys() {
            let known = register_of(key).is_some_and(|(client, slot)| client < self.clients && slot < self.slots);
            if !known {
                facts.stale(end, format!("{source} holds a key that was never written: {key}"));
            }
        }
        let mut present = 0;
        for position in 0..self.registers() {
            let key = self.register_key(position);
            if !page.covers(&key) {
                continue;
            }
            let value = found.get(key.as_str()).copied();
            let register = &mut facts.registers[position as usize];
            let Some(number) = genuine(register, &key, value) else {
                facts.stale(end, format!("{source} holds what was never written to {key}: {value:?}"));
                continue;
            };
            present += u64::from(number > 0);
            let contradiction = match source {
                Source::Leader => register.read(number, page.start, end),
                // A node's own state may be ahead of what has been observed, and nothing is concluded from that.
                Source::Own { as_of, .. } => register.contradiction(number, as_of),
            };
            if let Some(contradiction) = contradiction {
                let newly = register.mark_lost(&contradiction);
                let what =
                    format!("{source} holds number {number} of {key} though {:?} was in effect", contradiction.newer);
                facts.lost_or_stale(end, newly, what);
            }
        }
        present
    }

    fn lasting_page_read(&self, prefix: &str, page: &Page, source: Source) -> u64 {
        let found: BTreeMap<&str, &str> =
            page.entries.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut facts = self.lock();
        let end = self.clock.now();
        let start = match source {
            Source::Leader => page.start,
            Source::Own { as_of, .. } => as_of,
        };
        for (key, value) in &found {
            if !facts.lasting.contains_key(*key) {
                facts.stale(end, format!("{source} holds a key that was never written: {key}"));
            } else if *value != lasting_value(key) {
                facts.stale(end, format!("{source} holds what was never written to {key}: {value:?}"));
            }
        }
        let range = (
            Bound::Excluded(page.after.as_str().max(prefix)),
            page.to.as_deref().map_or(Bound::Unbounded, Bound::Included),
        );
        let mut present = 0;
        let mut missing = Vec::new();
        for (key, lasting) in facts.lasting.range_mut::<str, _>(range) {
            if !key.starts_with(prefix) {
                break;
            }
            let is_there = found.contains_key(key.as_str());
            present += u64::from(is_there);
            let must_be_there =
                lasting.written.is_some_and(|written| written < start) && lasting.delete_began.is_none();
            let must_be_gone = lasting.deleted.is_some_and(|deleted| deleted < start);
            if !lasting.lost && ((must_be_there && !is_there) || (must_be_gone && is_there)) {
                lasting.lost = true;
                missing.push((key.clone(), is_there));
            }
        }
        for (key, is_there) in missing {
            let what =
                if is_there { "holds a key whose deletion was acknowledged" } else { "lacks an acknowledged key" };
            facts.lost_or_stale(end, 1, format!("{source} {what}: {key}"));
        }
        present
    }

    /// Highest index of an acknowledged write.
    pub(crate) fn index_max(&self) -> u64 {
        self.lock().index_max
    }

    /// Counts so far.
    pub(crate) fn totals(&self) -> Totals {
        self.lock().totals
    }

    /// What was found wrong so far, in words; at most the first hundred.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// Moments of all acknowledgements of writes, ascending.
    pub(crate) fn acks(&self) -> Vec<Moment> {
        self.lock().acks.clone()
    }

    /// How many writes were acknowledged after `moment`.
    pub(crate) fn acks_after(&self, moment: Moment) -> usize {
        let facts = self.lock();
        facts.acks.len() - facts.acks.partition_point(|ack| *ack <= moment)
    }

    /// The longest time without an acknowledged write that overlaps `from` to `to`, and when it began and ended.
    pub(crate) fn longest_gap(&self, from: Moment, to: Moment) -> (Duration, Moment, Moment) {
        let facts = self.lock();
        longest_gap(&facts.acks, from, to)
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // Every change of the facts is complete before anything can panic, so a poisoned lock guards sound facts.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    /// Takes the moment under the lock, so that moments are recorded in their order.
    fn acknowledged(&mut self, clock: Clock, index: u64) -> Moment {
        let end = clock.now();
        self.totals.acked += 1;
        self.index_max = self.index_max.max(index);
        self.acks.push(end);
        end
    }

    fn stale(&mut self, at: Moment, what: String) {
        self.totals.stale += 1;
        self.keep(at, what);
    }

    fn lost_or_stale(&mut self, at: Moment, lost: u64, what: String) {
        self.totals.lost += lost;
        if lost == 0 {
            self.totals.stale += 1;
        }
        self.keep(at, what);
    }

    fn keep(&mut self, at: Moment, what: String) {
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(Violation { at, what });
        }
    }
}

impl Page {
    fn covers(&self, key: &str) -> bool {
        key > self.after.as_str() && self.to.as_deref().is_none_or(|to| key <= to)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Own { node, .. } => write!(f, "node {node}'s own state"),
        }
    }
}

/// All prefixes a verification lists.
pub(crate) const PREFIXES: [&str; 3] = [REGISTERS, UNIQUES, FILLERS];

/// The number of a value read from a register, if exactly this was once written there.
fn genuine(register: &Register, key: &str, value: Option<&str>) -> Option<Number> {
    let Some(value) = value else { return Some(0) };
    let number = register_number(value)?;
    (number > 0 && register.knows(number) && register_value(key, number) == value).then_some(number)
}

#[cfg(test)]
mod tests;
