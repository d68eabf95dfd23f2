//! What clients were told, held against the log: I1, I4, I5 and I7.

use std::collections::BTreeMap;

use bequest::replica::status::GroupStatus;

use crate::ledger::{between, Accounts};
use crate::machine::{Took, KEYS};
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

/// What was known when a read began.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Up to which index.
    pub floor: u64,
    // How many values of each list.
    told: [usize; KEYS as usize],
}

/// Everything clients did, and what became of it.
#[derive(Debug, Default)]
pub struct History {
    /// By value.
    pub writes: BTreeMap<u64, Write>,
    // What each index did, as the first machine that applied it showed; `None` where it did nothing.
    effects: BTreeMap<u64, Took>,
    // The same by list: index and value. Whatever applies an index first has all before it in its state.
    lists: BTreeMap<u64, Vec<(u64, u64)>>,
    // The accounts after each transfer, by its index.
    ledger: Vec<(u64, Accounts)>,
    // How long each list was at least, as far as clients have been told.
    told: [usize; KEYS as usize],
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
        let key = write.key;
        if let Some(told) = self.told.get_mut(key as usize) {
            let up_to = self.lists.get(&key).map_or(0, |list| list.partition_point(|(at, _)| *at <= index));
            *told = up_to.max(*told);
        }
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
        if let Some(between) = between(took.key) {
            let mut accounts = self.ledger.last().map_or_else(Accounts::default, |(_, accounts)| *accounts);
            accounts.transfer(between, took.value);
            self.ledger.push((took.index, accounts));
        } else {
            self.lists.entry(took.key).or_default().push((took.index, took.value));
        }
        self.check_refused(took.value);
    }

    /// The list of a key in the state at an index.
    pub fn list(&self, key: u64, applied: u64) -> Vec<u64> {
        let list = self.lists.get(&key).map(Vec::as_slice).unwrap_or_default();
        list[..list.partition_point(|(index, _)| *index <= applied)].iter().map(|(_, value)| *value).collect()
    }

    /// The accounts in the state at an index.
    pub fn accounts(&self, applied: u64) -> Accounts {
        let before = self.ledger.partition_point(|(index, _)| *index <= applied);
        before.checked_sub(1).map_or_else(Accounts::default, |last| self.ledger[last].1)
    }

    /// What a read that begins now must not miss.
    pub fn known(&self) -> Known {
        Known { floor: self.floor, told: self.told }
    }

    /// A read was answered with this list, in a state at `applied`.
    pub fn read(&mut self, pid: Pid, known: &Known, applied: u64, key: u64, list: &[u64]) {
        let Known { floor, told } = known;
        assert!(
            applied >= *floor,
            "I5: {pid:?} answered a read from {applied}, though {floor} was known when it began"
        );
        let told = told[key as usize];
        assert!(list.len() >= told, "I5: {pid:?} listed {list:?} under {key}, {told} values were known when it began");
        assert_eq!(
            list,
            self.list(key, applied),
            "I4: {pid:?} answered a read of key {key} at {applied} with another state"
        );
        self.floor = self.floor.max(applied);
        let told = &mut self.told[key as usize];
        *told = list.len().max(*told);
    }

    /// A scan was answered, in a state at `applied`: it is a read of each list, all at one moment, and of the accounts.
    pub fn scan(&mut self, pid: Pid, known: &Known, applied: u64, lists: &[Vec<u64>], accounts: &Accounts) {
        assert_eq!(lists.len(), KEYS as usize, "{pid:?} scanned all lists");
        for (key, list) in (0..).zip(lists) {
            self.read(pid, known, applied, key, list);
        }
        accounts.check();
        assert_eq!(*accounts, self.accounts(applied), "I4: {pid:?} has other accounts at {applied}");
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
