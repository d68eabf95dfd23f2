//! A node's disk: what was written, and what of it a loss of power leaves.
//!
//! It is what a store on RocksDB shows, whose log holds one record for each atomic batch to the groups' logs: after a crash
//! the store reads that log up to the first record that is not whole. So a batch is there or not, never a part of it, for
//! all groups up to the same point. Machines' batches are not in that log: the end of the process alone takes those
//! behind the last turn of machines' states into data files, again of all groups behind the same point. RocksDB first
//! syncs what was logged before that turn, so that no machine is ever ahead of its log.
//! `src/driver/disk/tests/power.rs` holds the two against each other.

use std::collections::BTreeMap;

use bequest::replica::event::{Birth, LocalGroup, Persist, Slot};
use bequest_recovery::entry::{Entry, Position};
use bequest_recovery::record::Uuid;

use super::machine::State;

/// One write, in the order in which it reached the disk.
#[derive(Clone, Debug)]
pub enum Write {
    /// To a group's log.
    Log(usize, Box<Persist>),
    /// A durable machine's batch.
    Machine(usize, State),
}

/// What a process finds when it opens the data directory.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The cluster it belongs to.
    pub identity: Option<Uuid>,
    /// By group.
    pub groups: BTreeMap<usize, GroupFiles>,
}

/// What it finds of one group.
#[derive(Clone, Debug, Default)]
pub struct GroupFiles {
    /// The log.
    pub log: Option<LocalGroup>,
    /// A durable machine's state.
    pub machine: State,
}

/// A data directory.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// As the operating system would show it.
    pub written: Files,
    // What is in data files, and the log of what came after.
    flushed: Files,
    log: Vec<Write>,
    // So many records of the log are synced.
    synced: usize,
    // Machines' batches among the first so many writes are in data files, the others nowhere.
    machines: usize,
    copies: Vec<Files>,
}

// So long a log is turned into data files.
const LOG_MAX: usize = 200;
// Older states of a disk that are kept: the first, which is the oldest, for good.
const COPIES_MAX: usize = 3;

impl Files {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Machine(group, state) => self.groups.entry(*group).or_default().machine = state.clone(),
            Write::Log(group, persist) => apply_persist(&mut self.groups.entry(*group).or_default().log, persist),
        }
    }
}

impl Disk {
    /// Carries out a write.
    pub fn write(&mut self, write: Write) {
        self.written.apply(&write);
        self.log.push(write);
    }

    /// How many writes the end of the process may take of those that are machines'.
    pub fn unflushed(&self) -> usize {
        self.log.len() - self.machines
    }

    /// Turns machines' states into data files.
    pub fn flush_machines(&mut self) {
        self.machines = self.log.len();
        self.synced = self.log.len();
    }

    /// Remembers the cluster, synced.
    pub fn identify(&mut self, cluster: Uuid) {
        self.sync();
        self.written.identity = Some(cluster);
        self.flushed.identity = Some(cluster);
    }

    /// Makes everything written survive a loss of power.
    pub fn sync(&mut self) {
        self.synced = self.log.len();
        if self.log.len() > LOG_MAX {
            self.log.drain(..self.machines).for_each(|write| self.flushed.apply(&write));
            self.synced -= self.machines;
            self.machines = 0;
        }
    }

    fn flush(&mut self) {
        self.flushed = self.written.clone();
        self.log.clear();
        self.synced = 0;
        self.machines = 0;
    }

    /// The process that wrote died. The system keeps what it was given; of the machines' batches that is not all.
    pub fn lose_process(&mut self) {
        self.cut_log(self.log.len());
    }

    /// How many writes a loss of power may take.
    pub fn unsynced(&self) -> usize {
        self.log.len() - self.synced
    }

    /// Loses all but the first `kept` writes that were not synced, and what the end of the process takes.
    pub fn lose_power(&mut self, kept: usize) {
        self.cut_log(self.synced + kept);
    }

    /// How many records the store's own log has.
    pub fn logged(&self) -> usize {
        self.log.len()
    }

    /// The store's own log is read up to here only, synced or not: a record behind is not what was written. Before the last
    /// turn of machines' states into data files it would be damage that is found.
    pub fn cut_log(&mut self, kept: usize) {
        self.keep(kept.max(self.machines), self.machines);
    }

    /// Keeps the logs' writes among the first `logs`, and the machines' among the first `machines`.
    pub fn keep(&mut self, logs: usize, machines: usize) {
        let mut files = std::mem::take(&mut self.flushed);
        for (place, write) in self.log.iter().enumerate() {
            match write {
                Write::Log(..) if place < logs => files.apply(write),
                Write::Machine(..) if place < machines => files.apply(write),
                Write::Log(..) | Write::Machine(..) => {}
            }
        }
        self.written = files;
        // Who opens the store again turns what it found into data files.
        self.flush();
    }

    /// What is damaged of a group was found so, and removed.
    pub fn forget(&mut self, group: usize) {
        self.written.groups.remove(&group);
        self.flush();
    }

    /// Copies the directory aside.
    pub fn back_up(&mut self) {
        if self.copies.len() == COPIES_MAX {
            self.copies.remove(1);
        }
        self.copies.push(self.written.clone());
    }

    /// How many copies there are.
    pub fn copies(&self) -> usize {
        self.copies.len()
    }

    /// Puts a copy back.
    pub fn put_back(&mut self, copy: usize) {
        self.written = self.copies[copy].clone();
        self.flush();
    }

    /// What there is of a group.
    pub fn group(&self, group: usize) -> GroupFiles {
        self.written.groups.get(&group).cloned().unwrap_or_default()
    }

    /// Entries `low..high` of a group, as far as they are there.
    pub fn entries(&self, group: usize, low: u64, high: u64) -> Vec<Entry> {
        let Some(log) = self.group(group).log else { return Vec::new() };
        log.slots
            .iter()
            .filter(|slot| (low..high).contains(&slot.position.index))
            .filter_map(|slot| slot.entry.clone())
            .collect()
    }
}

fn apply_persist(log: &mut Option<LocalGroup>, persist: &Persist) {
    let Persist { number: _, birth, reset, truncate_from, entries, hard_state, compact, known } = persist;
    if let Some(Birth { name: _, uuid, genesis_czxid }) = birth {
        assert!(log.is_none(), "a group is born once on a disk");
        *log = Some(LocalGroup {
            uuid: *uuid,
            genesis_czxid: *genesis_czxid,
            term: 0,
            commit: 0,
            base: Position::START,
            slots: Vec::new(),
            known: Default::default(),
        });
    }
    let log = log.as_mut().expect("the first write of a group says who it is");
    if let Some(base) = reset {
        log.base = *base;
        log.slots.clear();
    }
    if let Some(from) = truncate_from {
        assert!(*from > log.base.index, "truncated from {from} in a log that begins behind {:?}", log.base);
        log.slots.retain(|slot| slot.position.index < *from);
    }
    for (entry, hash) in entries {
        let last = log.slots.last().map_or(log.base, |slot| slot.position);
        assert_eq!(entry.index, last.index + 1, "persisted with a gap or twice");
        assert_eq!(*hash, last.hash.next(entry), "persisted with another hash: index={}", entry.index);
        let bytes = (entry.data.len() + entry.context.len()) as u64;
        let position = Position { index: entry.index, term: entry.term, hash: *hash };
        log.slots.push(Slot { position, bytes, entry: Some(entry.clone()) });
    }
    if let Some((term, commit)) = hard_state {
        assert!(*term >= log.term, "term went back on disk: {} -> {term}", log.term);
        (log.term, log.commit) = (*term, *commit);
    }
    if let Some(base) = compact {
        if base.index > log.base.index {
            if let Some(slot) = log.slots.iter().find(|slot| slot.position.index == base.index) {
                assert_eq!(slot.position, *base, "compacted at a position that is not in the log");
            } else {
                panic!("compacted beyond the log: {base:?}");
            }
            log.base = *base;
            log.slots.retain(|slot| slot.position.index > base.index);
        }
    }
    if let Some(known) = known {
        log.known = *known;
    }
}
