//! What clients were told, held against the log: I1, I4, I5 and I7.

use std::collections::BTreeMap;

use bequest::replica::status::GroupStatus;

use crate::machine::Took;
use crate::world::Pid;

/// A value a client wants in a list.
#[derive(Debug, Default)]
pub struct Write {
    pub key: u64,
    /// Attempts whose outcome is open or unknown.
    pub open: u64,
    /// Attempts refused: definitely not done.
    pub refused: u64,
    /// Where it took effect, as the client was told.
    pub acknowledged: Option<u64>,
    /// Where it took effect, as a machine was seen to do.
    pub took: Option<u64>,
}

/// Everything clients did, and what became of it.
#[derive(Debug, Default)]
pub struct History {
    /// By value.
    pub writes: BTreeMap<u64, Write>,
    // What each index did, as the first machine that applied it showed; `None` where it did nothing.
    effects: BTreeMap<u64, Took>,
    /// Highest index whose entry was acknowledged, or shown by a read that was answered.
    pub floor: u64,
    leaders: BTreeMap<u64, Pid>,
}

impl History {
    /// A proposal is made.
    pub fn attempt(&mut self, key: u64, value: u64) {
        let write = self.writes.entry(value).or_default();
        write.key = key;
        write.open += 1;
    }

    /// An attempt was refused, definitely.
    pub fn refused(&mut self, value: u64) {
        let write = self.writes.entry(value).or_default();
        write.open -= 1;
        write.refused += 1;
        self.check_refused(value);
    }

    fn check_refused(&self, value: u64) {
        let write = &self.writes[&value];
        assert!(
            write.open > 0 || write.acknowledged.is_some() || write.took.is_none(),
            "I7: value {value} took effect at {:?} though every attempt was refused",
            write.took
        );
    }

    /// An attempt was answered: the value took effect at this index.
    pub fn acknowledged(&mut self, value: u64, index: u64, end: u64) {
        assert!(index <= end, "I1: value {value} was acknowledged at {index}, beyond the log in zookeeper ({end})");
        let write = self.writes.entry(value).or_default();
        assert_eq!(write.took, Some(index), "I1: value {value} was acknowledged at an index where it took no effect");
        assert!(
            write.acknowledged.is_none_or(|before| before == index),
            "I5: value {value} was acknowledged twice, at {index} and {:?}",
            write.acknowledged
        );
        write.acknowledged = Some(index);
        self.floor = self.floor.max(index);
    }

    /// A machine applied something.
    pub fn took(&mut self, pid: Pid, took: Took) {
        if let Some(before) = self.effects.get(&took.index) {
            assert_eq!(*before, took, "I4: {pid:?} did something else at the same index");
            return;
        }
        let write = self.writes.get_mut(&took.value).expect("only what clients proposed is applied");
        assert_eq!(write.key, took.key, "I4: another key");
        assert!(
            write.took.is_none(),
            "I5: value {} took effect twice, at {:?} and {}",
            took.value,
            write.took,
            took.index
        );
        write.took = Some(took.index);
        self.effects.insert(took.index, took);
        self.check_refused(took.value);
    }

    /// The list of a key in the state at an index.
    pub fn list(&self, key: u64, applied: u64) -> Vec<u64> {
        self.effects.range(..=applied).filter(|(_, took)| took.key == key).map(|(_, took)| took.value).collect()
    }

    /// A read that began when the floor was `floor` was answered with this list, in a state at `applied`.
    pub fn read(&mut self, pid: Pid, floor: u64, applied: u64, key: u64, list: &[u64]) {
        assert!(applied >= floor, "I5: {pid:?} answered a read from {applied}, though {floor} was known when it began");
        assert_eq!(
            list,
            self.list(key, applied),
            "I4: {pid:?} answered a read of key {key} at {applied} with another state"
        );
        self.floor = self.floor.max(applied);
    }

    /// A replica says that it leads, while the ballot has the term `ballot`.
    pub fn leads(&mut self, node: u64, pid: Pid, status: &GroupStatus, ballot: u64) {
        let first = *self.leaders.entry(status.term).or_insert(pid);
        assert_eq!(first, pid, "two leaders in term {}: {first:?} and {pid:?} of node {node}", status.term);
        // One that was sealed off and does not know it yet may well be behind.
        assert!(
            status.term < ballot || status.last >= self.floor,
            "I1: the leader of term {} has a log up to {} only, {} was acknowledged",
            status.term,
            status.last,
            self.floor
        );
    }

    /// How many leaderships there were.
    pub fn leaderships(&self) -> usize {
        self.leaders.len()
    }
}
