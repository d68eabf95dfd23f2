//! A key-value state machine on the node's RocksDB.
//!
//! The state of a group is a [space](crate::space) of keys: pairs under `d`, the caller's rows under `r`, and the mark, how
//! far the log is applied and how large the state is, under `m`. All three change in one atomic write
//! ([`KvMachine::commit`]).
//!
//! # Why commits go past RocksDB's log
//!
//! The Raft entries are in that log already, and what a death takes of the state is applied again from them, from the mark
//! on. Whatever moment it comes, what is found is the state as of some earlier mark, whole:
//!
//! - Pairs, rows and mark lie in one column family, and a commit is one batch: it is in one write buffer as a whole.
//!   RocksDB puts the buffers of a family into files in the order in which they were filled. So a file that is there
//!   holds whole commits, and all those before them are in files too.
//! - Before such a file counts, RocksDB syncs the logs that were written before its buffer was closed, as it must where
//!   there are several families. An entry is written before it is applied. So not even a loss of power leaves a state
//!   that is ahead of its log.
//! - A state that begins ([`create`]) is logged together with its generation: a generation that is named has a mark. A
//!   restored one is flushed before its generation is named. One that is removed is not named any more, and what is left
//!   of it is removed by the next open. So what is logged of a state comes before all of its commits, or behind them.
//! - An orderly close flushes everything.
//!
//! The entries must last until the state is flushed: each compaction of a log has RocksDB begin that ([`Store::write`]).
//! A state that a death leaves behind the base of its log nevertheless is as good as lost, and restored from a snapshot.
//! What is to be applied again is bounded by the write buffers of this family, of which there are at most three, and by
//! [`Options::wal_bytes_max`](crate::Options::wal_bytes_max), which is mostly entries.
//!
//! # Why snapshots are cut by key and content, not by RocksDB's files
//!
//! Only chunks that the archive does not have are uploaded, so a snapshot must give the same bytes for what did not
//! change. RocksDB's immutable files would give that on one node, until a compaction rewrites them; but the files of
//! two nodes with the same state differ from the first flush on, so each new leader would upload everything anew, at
//! the worst time. Ranges of sorted pairs that end where a hash of a key says so depend on the state alone: the same
//! on every node, whatever was flushed, compacted, restored or written in another order, and a changed pair changes
//! the chunk around it only. See `chunk.rs` for the format.

mod chunk;
mod command;
mod lengths;
mod restore;
mod snapshot;

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use rocksdb::{ReadOptions, WriteBatch};

use crate::database::{Database, STATE};
use crate::error::StorageError;
use crate::kv::lengths::Lengths;
use crate::record;
use crate::space::Space;
use crate::store::{put_generation, read_generation, GroupUuid, Store};

pub use chunk::CHUNK_BYTES_MAX;
pub use command::{kv_answer, kv_command, kv_query, kv_response};
pub use command::{KvAnswer, KvCommand, KvPair, KvQuery, KvResponse};
pub use restore::KvRestore;
pub use snapshot::KvSnapshot;

/// Bound on a key's length; a key is not empty.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Bound on a value's length. What fits in one proposal is smaller.
pub const VALUE_BYTES_MAX: usize = 512 << 10;
/// Bound on the pairs of one scan's answer.
pub const SCAN_PAIRS_MAX: u32 = 10_000;
/// Bound on the bytes of one scan's answer; a first pair always fits.
pub const SCAN_BYTES_MAX: usize = 1 << 20;

const PAIR: u8 = b'd';
const ROW: u8 = b'r';
const MARK: u8 = b'm';
/// What a snapshot asks of the disk at once.
const READAHEAD_BYTES: usize = 1 << 20;

/// Limits of a key-value machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvOptions {
    /// Bytes of all keys and values together above which the state may not grow. It decides what a command does, so
    /// it must be the same on all nodes of the group, always.
    pub state_bytes_max: u64,
}

impl Default for KvOptions {
    fn default() -> Self {
        Self { state_bytes_max: 512 << 20 }
    }
}

/// How far a machine's durable state reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Index of the last entry whose effect is in the state; 0 for a new one.
    pub applied: u64,
    /// The caller's rows as of that index, in the order of their keys.
    pub rows: Vec<(Bytes, Bytes)>,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// The bytes are no query, or one that makes no sense.
    #[error("query is malformed: reason={reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The state could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The key-value state of one group. One machine per group may be open at a time.
pub struct KvMachine {
    store: Store,
    options: KvOptions,
    /// The state in force.
    space: Space,
    /// The latest generation that was begun.
    newest: u64,
    /// As committed.
    mark: Mark,
    /// Bytes of the state with what is pending.
    state_bytes: u64,
    /// What was applied and not yet committed; later commands see it.
    pending: HashMap<Bytes, Option<Bytes>>,
    /// Of the state in force, as committed.
    lengths: Lengths,
    failed: Option<StorageError>,
}

/// How far the log is applied, and how large the state is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mark {
    applied: u64,
    state_bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MarkRecord {
    #[prost(uint64, tag = "1")]
    applied: u64,
    #[prost(uint64, tag = "2")]
    state_bytes: u64,
}

impl KvMachine {
    /// Opens the state of `group`, empty if there is none yet.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], or the disk failed.
    pub fn open(store: &Store, group: GroupUuid, options: KvOptions) -> Result<Self, StorageError> {
        let database = &store.shared.database;
        let space = match read_generation(database, group)? {
            Some(space) => space,
            None => create(database, group)?,
        };
        let mark = read_mark(database, space)?;
        Ok(Self {
            store: store.clone(),
            options,
            space,
            newest: space.generation,
            mark,
            state_bytes: mark.state_bytes,
            pending: HashMap::new(),
            lengths: Lengths::default(),
            failed: None,
        })
    }

    /// How far the durable state reaches, and the rows kept with it.
    ///
    /// # Errors
    /// [`StorageError::Damaged`], or the disk failed.
    pub fn recover(&self) -> Result<Recovered, StorageError> {
        let database = self.database();
        let family = database.family(STATE)?;
        let mut iterator = database.rocks()?.raw_iterator_cf_opt(&family, kind(self.space, ROW));
        let mut rows = Vec::new();
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            rows.push((Bytes::copy_from_slice(Space::name(key)), Bytes::copy_from_slice(value)));
            iterator.next();
        }
        iterator.status().map_err(|error| database.latch(error))?;
        Ok(Recovered { applied: self.mark.applied, rows })
    }

    /// Applies the encoded [`KvCommand`] of the entry at `index`; returns its encoded [`KvResponse`]. Bytes that are no
    /// command are answered with `Invalid`: the same bytes get the same answer on every node.
    ///
    /// If the state cannot be read, the answer is empty, and the next [`KvMachine::commit`] fails with the reason:
    /// give no answer to anybody before the commit.
    pub fn apply(&mut self, index: u64, command: &[u8]) -> Bytes {
        if self.failed.is_some() {
            return Bytes::new();
        }
        match self.respond(index, command) {
            Ok(response) => response.encode_to_vec().into(),
            Err(error) => {
                self.failed = Some(error);
                Bytes::new()
            }
        }
    }

    /// Puts what was applied in force, together with the applied index and the changed rows (`None` deletes), or none
    /// of it. It survives an orderly close of the store. After a death of the process [`KvMachine::recover`] may give an
    /// earlier index that was committed, and the state as it was then: the entries behind it are to be applied again.
    ///
    /// # Errors
    /// [`StorageError::MarkBackwards`]: nothing was written. Any other: the machine is of no further use.
    pub fn commit(&mut self, applied: u64, rows: &[(Bytes, Option<Bytes>)]) -> Result<(), StorageError> {
        if let Some(error) = self.failed.take() {
            // The pending changes lack what could not be decided: they must never be written.
            self.failed = Some(StorageError::Poisoned { cause: error.to_string() });
            return Err(error);
        }
        if applied < self.mark.applied {
            return Err(StorageError::MarkBackwards { applied: self.mark.applied, given: applied });
        }
        let mark = Mark { applied, state_bytes: self.state_bytes };
        let written = self.write(mark, rows);
        if let Err(error) = &written {
            self.failed = Some(StorageError::Poisoned { cause: error.to_string() });
        } else {
            self.mark = mark;
            for (key, value) in self.pending.drain() {
                self.lengths.set(&key, value.as_ref().map(Bytes::len));
            }
        }
        written
    }

    /// Answers the encoded [`KvQuery`] from the committed state with an encoded [`KvAnswer`].
    ///
    /// # Errors
    /// [`KvError::Malformed`], or the state cannot be read.
    pub fn query(&self, query: &[u8]) -> Result<Bytes, KvError> {
        let query = KvQuery::decode(query).map_err(|_| KvError::Malformed { reason: "undecodable" })?;
        let answer = match query.query {
            Some(kv_query::Query::Get(get)) => {
                check_key(&get.key).map_err(|reason| KvError::Malformed { reason })?;
                KvAnswer::value(self.committed(&get.key)?)
            }
            Some(kv_query::Query::Scan(scan)) => self.scan(&scan)?,
            None => return Err(KvError::Malformed { reason: "no query" }),
        };
        Ok(answer.encode_to_vec().into())
    }

    /// Index of the last entry whose effect is committed here.
    pub fn applied(&self) -> u64 {
        self.mark.applied
    }

    /// Bytes of all keys and values together, as committed.
    pub fn state_bytes(&self) -> u64 {
        self.mark.state_bytes
    }

    /// Takes a consistent view of the committed state.
    ///
    /// # Errors
    /// The store is stopped, or the system has no thread left.
    pub fn snapshot(&self) -> Result<KvSnapshot, StorageError> {
        KvSnapshot::take(self.store.clone(), self.space, self.mark.applied)
    }

    /// Begins to replace the state by that of a snapshot. Until [`KvRestore::finish`] the old one is untouched.
    /// What was applied and not committed is dropped.
    ///
    /// # Errors
    /// The disk failed.
    pub fn restore(&mut self) -> Result<KvRestore<'_>, StorageError> {
        self.pending.clear();
        self.state_bytes = self.mark.state_bytes;
        KvRestore::begin(self)
    }

    fn database(&self) -> &Database {
        &self.store.shared.database
    }

    fn respond(&mut self, index: u64, command: &[u8]) -> Result<KvResponse, StorageError> {
        use kv_command::Command;
        let Ok(command) = KvCommand::decode(command) else { return Ok(KvResponse::invalid("undecodable")) };
        let Some(command) = command.command else { return Ok(KvResponse::invalid("no command")) };
        if let Err(reason) = check(&command) {
            return Ok(KvResponse::invalid(reason));
        }
        match command {
            Command::Put(put) => {
                let before = self.current_length(&put.key)?;
                Ok(self.change(index, put.key, before, Some(put.value)))
            }
            Command::Delete(delete) => {
                let before = self.current_length(&delete.key)?;
                Ok(self.change(index, delete.key, before, None))
            }
            Command::CompareAndSet(set) => {
                let current = self.current(&set.key)?;
                if current != set.expected {
                    return Ok(KvResponse::conflict(current));
                }
                let before = current.map(|value| value.len());
                Ok(self.change(index, set.key, before, set.value))
            }
        }
    }

    /// Changes `key`, whose value has `before` bytes, unless the state would grow beyond its limit.
    fn change(&mut self, index: u64, key: Bytes, before: Option<usize>, after: Option<Bytes>) -> KvResponse {
        let size = |value: Option<usize>| value.map_or(0, |value| (key.len() + value) as u64);
        let old = size(before);
        let new = size(after.as_ref().map(Bytes::len));
        let total = self.state_bytes - old + new;
        // What does not grow passes even above the limit, or a full state could not be brought down.
        if new > old && total > self.options.state_bytes_max {
            return KvResponse::state_full(self.state_bytes, self.options.state_bytes_max);
        }
        if before.is_some() || after.is_some() {
            self.state_bytes = total;
            self.pending.insert(key, after);
        }
        KvResponse::done(index)
    }

    fn current(&self, key: &Bytes) -> Result<Option<Bytes>, StorageError> {
        match self.pending.get(key) {
            Some(pending) => Ok(pending.clone()),
            None if self.lengths.get(key) == Some(None) => Ok(None),
            None => self.committed(key),
        }
    }

    fn current_length(&self, key: &Bytes) -> Result<Option<usize>, StorageError> {
        if let Some(pending) = self.pending.get(key) {
            return Ok(pending.as_ref().map(Bytes::len));
        }
        if let Some(length) = self.lengths.get(key) {
            return Ok(length);
        }
        let database = self.database();
        let family = database.family(STATE)?;
        let found = database.rocks()?.get_pinned_cf(&family, self.space.key(PAIR, key));
        Ok(found.map_err(|error| database.latch(error))?.map(|value| value.len()))
    }

    fn committed(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.database().get(STATE, &self.space.key(PAIR, key))?.map(Bytes::from))
    }

    fn scan(&self, scan: &kv_query::Scan) -> Result<KvAnswer, KvError> {
        if scan.prefix.len() > KEY_BYTES_MAX {
            return Err(KvError::Malformed { reason: "prefix is longer than a key" });
        }
        let limit = if scan.limit == 0 { SCAN_PAIRS_MAX } else { scan.limit.min(SCAN_PAIRS_MAX) } as usize;
        let low = self.space.key(PAIR, &scan.prefix);
        let high = successor(&low);
        let database = self.database();
        let family = database.family(STATE)?;
        let mut iterator = database.rocks()?.raw_iterator_cf_opt(&family, bounds(&low, &high));
        match &scan.after {
            // The least key that is greater; below the lower bound it seeks to the bound.
            Some(after) => iterator.seek([&self.space.key(PAIR, after)[..], &[0]].concat()),
            None => iterator.seek_to_first(),
        }
        let (mut pairs, mut bytes, mut more) = (Vec::new(), 0, false);
        while let Some((key, value)) = iterator.item() {
            let key = Space::name(key);
            bytes += key.len() + value.len();
            if pairs.len() == limit || (bytes > SCAN_BYTES_MAX && !pairs.is_empty()) {
                more = true;
                break;
            }
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            pairs.push(KvPair { key, value });
            iterator.next();
        }
        iterator.status().map_err(|error| database.latch(error))?;
        Ok(KvAnswer::pairs(pairs, more))
    }

    fn write(&self, mark: Mark, rows: &[(Bytes, Option<Bytes>)]) -> Result<(), StorageError> {
        let database = self.database();
        let family = database.family(STATE)?;
        let mut batch = WriteBatch::default();
        let mut pairs: Vec<_> = self.pending.iter().map(|(key, value)| (PAIR, key, value)).collect();
        // RocksDB finds the place of a key faster beside the one before it.
        pairs.sort_unstable_by_key(|(_, key, _)| *key);
        let mut place = Vec::new();
        for (kind, key, value) in pairs.into_iter().chain(rows.iter().map(|(key, value)| (ROW, key, value))) {
            self.space.set_key(&mut place, kind, key);
            match value {
                Some(value) => batch.put_cf(&family, &place, value),
                None => batch.delete_cf(&family, &place),
            }
        }
        put_mark(database, &mut batch, self.space, mark)?;
        database.write_unlogged(batch)
    }
}

impl std::fmt::Debug for KvMachine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KvMachine").field("applied", &self.mark.applied).finish_non_exhaustive()
    }
}

/// A new state: empty, and in force. A crash leaves all of it or nothing.
fn create(database: &Database, group: GroupUuid) -> Result<Space, StorageError> {
    let space = Space { group, generation: 1 };
    let mut batch = WriteBatch::default();
    put_mark(database, &mut batch, space, Mark::default())?;
    put_generation(database, &mut batch, space)?;
    database.write(batch, false)?;
    Ok(space)
}

pub(crate) fn read_mark(database: &Database, space: Space) -> Result<Mark, StorageError> {
    let key = space.key(MARK, &[]);
    let Some(bytes) = database.get(STATE, &key)? else { return Err(record::damaged("state mark", "missing", &key)) };
    let record: MarkRecord = record::open("state mark", &key, &bytes)?;
    Ok(Mark { applied: record.applied, state_bytes: record.state_bytes })
}

fn put_mark(database: &Database, batch: &mut WriteBatch, space: Space, mark: Mark) -> Result<(), StorageError> {
    let key = space.key(MARK, &[]);
    let value = record::seal(&key, &MarkRecord { applied: mark.applied, state_bytes: mark.state_bytes });
    batch.put_cf(&database.family(STATE)?, key, value);
    Ok(())
}

fn check(command: &kv_command::Command) -> Result<(), &'static str> {
    use kv_command::Command;
    let (key, values) = match command {
        Command::Put(put) => (&put.key, [Some(&put.value), None]),
        Command::Delete(delete) => (&delete.key, [None, None]),
        Command::CompareAndSet(set) => (&set.key, [set.value.as_ref(), set.expected.as_ref()]),
    };
    check_key(key)?;
    match values.into_iter().flatten().all(|value| value.len() <= VALUE_BYTES_MAX) {
        true => Ok(()),
        false => Err("value is longer than 512 KiB"),
    }
}

fn check_key(key: &[u8]) -> Result<(), &'static str> {
    match key.len() {
        0 => Err("key is empty"),
        1..=KEY_BYTES_MAX => Ok(()),
        _ => Err("key is longer than 4 KiB"),
    }
}

/// The least key above all that start with `prefix`, in which there is a kind and so a byte that is not the greatest.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let keep = prefix.iter().rposition(|byte| *byte != u8::MAX).expect("a kind is not the greatest byte");
    let mut successor = prefix[..=keep].to_vec();
    successor[keep] += 1;
    successor
}

/// Bounds of all keys of this kind.
fn kind(space: Space, kind: u8) -> ReadOptions {
    bounds(&space.key(kind, &[]), &space.key(kind + 1, &[]))
}

fn bounds(low: &[u8], high: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(low);
    options.set_iterate_upper_bound(high);
    options
}

#[cfg(test)]
mod tests;
