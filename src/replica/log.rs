//! The log as raft-rs reads it: in memory, so that no read can fail or block.
//!
//! Position and size of every entry are always here. Payloads are dropped, oldest first, beyond a byte budget and only
//! at or below what is both applied and persisted; raft-rs, which then asks for them only to bring a peer up to date,
//! is told that they are temporarily unavailable and asks again once they were fetched from disk.

use std::cell::RefCell;
use std::collections::VecDeque;

use bequest_recovery::entry::{Entry, EntryHash, Position};
use protobuf::ProtobufEnum;
use raft::eraftpb::{ConfState, Entry as RaftEntry, EntryType, HardState, Snapshot};
use raft::storage::RaftState;
use raft::{Error, GetEntriesContext, Result, Storage, StorageError};

use super::event::Slot;

/// A fetch of payloads from disk that raft-rs waits for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) low: u64,
    pub(super) high: u64,
    contexts: Vec<GetEntriesContext>,
    /// Whether the driver was asked.
    pub(super) asked: bool,
}

/// What raft-rs asked for that is not in memory. Behind a cell, since raft-rs reads through a shared reference.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) fetch: Option<Wanted>,
    /// Peers that need what lies before the log: they must fetch from the archive.
    pub(super) archive: Vec<u64>,
}

/// Bytes an entry takes in a segment beside data and context, at most.
pub(super) const ENTRY_OVERHEAD: u64 = 32;

/// The in-memory log.
#[derive(Debug)]
pub(super) struct Log {
    base: Position,
    slots: VecDeque<Slot>,
    /// Entries before this index have no payload here.
    payloads_from: u64,
    payload_bytes: u64,
    total_bytes: u64,
    fetched: Vec<Entry>,
    hard_state: HardState,
    voters: ConfState,
    pub(super) requests: RefCell<Requests>,
}

/// raft-rs' form of an entry.
pub(super) fn to_raft(entry: &Entry) -> RaftEntry {
    RaftEntry {
        entry_type: EntryType::from_i32(entry.kind as i32).unwrap_or(EntryType::EntryNormal),
        term: entry.term,
        index: entry.index,
        data: entry.data.clone(),
        context: entry.context.clone(),
        ..RaftEntry::default()
    }
}

/// Our form of an entry.
pub(super) fn from_raft(entry: RaftEntry) -> Entry {
    Entry {
        index: entry.index,
        term: entry.term,
        kind: entry.entry_type.value() as u32,
        data: entry.data,
        context: entry.context,
    }
}

fn size(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64
}

impl Log {
    /// A log that begins behind `base`. Slots must follow it without gaps.
    pub(super) fn new(base: Position, slots: Vec<Slot>, voters: ConfState) -> Self {
        let mut log = Self {
            base,
            slots: VecDeque::with_capacity(slots.len()),
            payloads_from: base.index + 1,
            payload_bytes: 0,
            total_bytes: 0,
            fetched: Vec::new(),
            hard_state: HardState::default(),
            voters,
            requests: RefCell::default(),
        };
        for slot in slots {
            assert!(slot.position.index == log.last().index + 1, "gap in slots: {:?}", slot.position);
            match slot.entry {
                Some(_) => log.payload_bytes += slot.bytes,
                None => {
                    log.payloads_from = slot.position.index + 1;
                    log.payload_bytes = 0;
                }
            }
            log.total_bytes += slot.bytes;
            log.slots.push_back(slot);
        }
        log
    }

    /// Where the log begins: the entry before its first.
    pub(super) fn base(&self) -> Position {
        self.base
    }

    /// Its last entry.
    pub(super) fn last(&self) -> Position {
        self.slots.back().map_or(self.base, |slot| slot.position)
    }

    /// The position at this index, if the log reaches there.
    pub(super) fn position(&self, index: u64) -> Option<Position> {
        if index == self.base.index {
            return Some(self.base);
        }
        let at = index.checked_sub(self.base.index + 1)?;
        self.slots.get(usize::try_from(at).ok()?).map(|slot| slot.position)
    }

    /// Bytes of all entries, with what each takes beside its payload.
    pub(super) fn bytes(&self) -> u64 {
        self.total_bytes + self.slots.len() as u64 * ENTRY_OVERHEAD
    }

    /// Bytes of all entries behind `index`, with what each takes beside its payload.
    pub(super) fn bytes_behind(&self, index: u64) -> u64 {
        let skip = index.saturating_sub(self.base.index) as usize;
        self.slots.iter().skip(skip).map(|slot| slot.bytes + ENTRY_OVERHEAD).sum()
    }

    /// Bytes of entries `low..=high`, with what each takes beside its payload.
    pub(super) fn bytes_between(&self, low: u64, high: u64) -> u64 {
        let skip = low.saturating_sub(self.base.index + 1) as usize;
        let count = (high + 1).saturating_sub(low) as usize;
        self.slots.iter().skip(skip).take(count).map(|slot| slot.bytes + ENTRY_OVERHEAD).sum()
    }

    /// Sets what raft-rs reads at its start.
    pub(super) fn set_hard_state(&mut self, term: u64, commit: u64) {
        self.hard_state = HardState { term, commit, ..HardState::default() };
    }

    /// Adds entries, first dropping everything from the first one's index on. Returns each with its hash.
    ///
    /// # Panics
    /// If they leave a gap or reach back before the log's beginning.
    pub(super) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) -> Vec<(Entry, EntryHash)> {
        let mut added = Vec::new();
        for entry in entries {
            if added.is_empty() {
                self.truncate(entry.index);
            }
            let last = self.last();
            assert!(entry.index == last.index + 1, "gap: last={} entry={}", last.index, entry.index);
            let position = last.next(&entry);
            let bytes = size(&entry);
            self.payload_bytes += bytes;
            self.total_bytes += bytes;
            added.push((entry.clone(), position.hash));
            self.slots.push_back(Slot { position, bytes, entry: Some(entry) });
        }
        added
    }

    /// Drops everything from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        assert!(index > self.base.index, "truncated before the log: base={} index={index}", self.base.index);
        while self.last().index >= index {
            if let Some(slot) = self.slots.pop_back() {
                self.total_bytes -= slot.bytes;
                if slot.entry.is_some() {
                    self.payload_bytes -= slot.bytes;
                }
            }
        }
        self.payloads_from = self.payloads_from.min(self.last().index + 1);
    }

    /// Drops everything at and below `index`, which the log must reach. Returns the new base.
    pub(super) fn compact(&mut self, index: u64) -> Position {
        while self.base.index < index {
            let Some(slot) = self.slots.pop_front() else { break };
            self.total_bytes -= slot.bytes;
            if slot.entry.is_some() {
                self.payload_bytes -= slot.bytes;
            }
            self.base = slot.position;
        }
        assert!(self.base.index >= index, "compacted beyond the end: last={} index={index}", self.base.index);
        self.payloads_from = self.payloads_from.max(self.base.index + 1);
        self.base
    }

    /// Bytes of the entries whose payloads are in memory, with what each takes beside its payload.
    pub(super) fn resident_bytes(&self) -> u64 {
        self.payload_bytes + (self.last().index + 1).saturating_sub(self.payloads_from) * ENTRY_OVERHEAD
    }

    /// Drops payloads, oldest first, until at most `budget` bytes are left, but none above `settled`.
    pub(super) fn shrink(&mut self, settled: u64, budget: u64) {
        while self.payload_bytes > budget && self.payloads_from <= settled.min(self.last().index) {
            let at = (self.payloads_from - self.base.index - 1) as usize;
            if self.slots[at].entry.take().is_some() {
                self.payload_bytes -= self.slots[at].bytes;
            }
            self.payloads_from += 1;
        }
    }

    /// Entries `low..=high` whose payloads are all in memory.
    ///
    /// # Panics
    /// If one is not: nobody may ask for what is applied and persisted, and nothing else is dropped.
    pub(super) fn range(&self, low: u64, high: u64) -> impl Iterator<Item = &Entry> {
        assert!(low > self.base.index && high <= self.last().index, "range {low}..={high} outside the log");
        let from = (low - self.base.index - 1) as usize;
        let count = (high + 1 - low) as usize;
        self.slots.iter().skip(from).take(count).map(|slot| {
            slot.entry.as_ref().unwrap_or_else(|| panic!("payload dropped too early: index={}", slot.position.index))
        })
    }

    /// Takes payloads that were fetched from disk, to answer raft-rs' next question; returns who asked.
    pub(super) fn fetched(&mut self, entries: Vec<Entry>) -> Vec<GetEntriesContext> {
        let requests = self.requests.get_mut();
        let Some(wanted) = requests.fetch.take() else { return Vec::new() };
        // What was truncated or compacted meanwhile must not come back.
        self.fetched = entries
            .into_iter()
            .skip_while(|entry| entry.index != wanted.low)
            .take_while(|entry| {
                self.base.index < entry.index
                    && self
                        .slots
                        .get((entry.index - self.base.index - 1) as usize)
                        .is_some_and(|slot| slot.position.term == entry.term)
            })
            .collect();
        wanted.contexts
    }

    /// Forgets fetched payloads once raft-rs had its chance.
    pub(super) fn drop_fetched(&mut self) {
        self.fetched = Vec::new();
    }

    fn stored(&self, low: u64, high: u64) -> Option<Vec<RaftEntry>> {
        if low >= self.payloads_from {
            return Some(self.range(low, high - 1).map(to_raft).collect());
        }
        let first = self.fetched.first()?.index;
        let from = usize::try_from(low.checked_sub(first)?).ok()?;
        let found: Vec<_> = self.fetched.get(from..)?.iter().take_while(|e| e.index < high).map(to_raft).collect();
        (!found.is_empty()).then_some(found)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.voters.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> Result<Vec<RaftEntry>> {
        if low <= self.base.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        let max_size = max_size.into();
        match self.stored(low, high) {
            Some(mut entries) => {
                raft::util::limit_size(&mut entries, max_size);
                Ok(entries)
            }
            None if context.can_async() => {
                let mut requests = self.requests.borrow_mut();
                match &mut requests.fetch {
                    Some(wanted) => wanted.contexts.push(context),
                    None => requests.fetch = Some(Wanted { low, high, contexts: vec![context], asked: false }),
                }
                Err(Error::Store(StorageError::LogTemporarilyUnavailable))
            }
            // Entries that were not applied yet are never dropped, and raft-rs reads no others synchronously.
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn term(&self, index: u64) -> Result<u64> {
        match self.position(index) {
            Some(position) => Ok(position.term),
            None if index < self.base.index => Err(Error::Store(StorageError::Compacted)),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> Result<Snapshot> {
        // State never travels between nodes: the archive has it already, verified and fenced.
        let mut requests = self.requests.borrow_mut();
        if !requests.archive.contains(&to) {
            requests.archive.push(to);
        }
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
