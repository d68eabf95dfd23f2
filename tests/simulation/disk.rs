//! A node's disk: what was written, and what of it a loss of power leaves.

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
    synced: Files,
    unsynced: Vec<Write>,
    older: Option<Files>,
}

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
        self.unsynced.push(write);
    }

    /// Remembers the cluster, synced.
    pub fn identify(&mut self, cluster: Uuid) {
        self.sync();
        self.written.identity = Some(cluster);
        self.synced.identity = Some(cluster);
    }

    /// Makes everything written survive a loss of power.
    pub fn sync(&mut self) {
        self.synced = self.written.clone();
        self.unsynced.clear();
    }

    /// How many writes a loss of power may take.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Loses all but the first `kept` writes that were not synced.
    pub fn lose_power(&mut self, kept: usize) {
        let mut files = std::mem::take(&mut self.synced);
        self.unsynced.iter().take(kept).for_each(|write| files.apply(write));
        self.written = files;
        self.sync();
    }

    /// Copies the directory aside.
    pub fn back_up(&mut self) {
        self.older = Some(self.written.clone());
    }

    /// Puts the copy back; `false` if there is none.
    pub fn put_back(&mut self) -> bool {
        let Some(files) = self.older.clone() else { return false };
        self.written = files;
        self.sync();
        true
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
