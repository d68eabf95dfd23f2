//! The Raft logs of all groups: entries under `group | index`, in one column family, written by one atomic batch.
//!
//! Byte format of an entry's value: CRC32C (4, little endian, over the key and all that follows), term (8, big
//! endian), kind (1), hash (16), length of the data (4, big endian), data, context.

mod batch;
mod read;

use bytes::Bytes;
use rocksdb::WriteBatch;

use crate::database::{Database, LOG, META};
use crate::error::StorageError;
use crate::record;
use crate::store::{GroupKey, GroupMeta, GroupUuid};

pub(crate) use batch::delete_all;

/// One entry of a group's log. The store does not look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the log, from 1.
    pub index: u64,
    /// The entry's own Raft term.
    pub term: u64,
    /// The entry's type, as the caller numbers them.
    pub kind: u8,
    /// Payload.
    pub data: Bytes,
    /// Context.
    pub context: Bytes,
    /// Rolling hash of the log up to and including this entry.
    pub hash: [u8; 16],
}

/// The position a log begins behind: the state at it comes from elsewhere. The default is the empty log's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Index of the last entry that is not in the log.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Its rolling hash.
    pub hash: [u8; 16],
}

/// The part of Raft's hard state that is kept. Nodes never vote for each other, so there is no vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Highest term seen.
    pub term: u64,
    /// Highest index known to be committed.
    pub commit: u64,
}

/// The highest position known to be in ZooKeeper: a ZooKeeper that shows less went backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Highest term seen there.
    pub term: u64,
    /// Highest index seen there.
    pub index: u64,
    /// The own term of the entry at that index.
    pub entry_term: u64,
    /// The rolling hash at that index.
    pub hash: [u8; 16],
}

/// Changes to one group, done in the order of the fields, all or none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    /// The group.
    pub group: GroupUuid,
    /// What to keep of its genesis; needed with the first batch of a group.
    pub meta: Option<GroupMeta>,
    /// Drop the whole log and begin behind this position.
    pub reset: Option<Base>,
    /// Drop the entries from this index on. It must lie behind the base; behind the last entry it does nothing.
    pub truncate_from: Option<u64>,
    /// Append these, ascending without gaps from the last index + 1.
    pub entries: Vec<LogEntry>,
    /// Replace the hard state.
    pub hard_state: Option<HardState>,
    /// Drop the entries up to and including this one, which must be in the log with this term and hash; at or below
    /// the base it does nothing.
    pub compact_to: Option<Base>,
    /// Replace what is known to be in ZooKeeper.
    pub known: Option<Known>,
}

impl LogBatch {
    /// A batch that changes nothing in `group` yet.
    pub fn new(group: GroupUuid) -> Self {
        Self { group, ..Self::default() }
    }
}

/// What the disk holds of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLog {
    /// What was kept of its genesis.
    pub meta: GroupMeta,
    /// Where the log begins.
    pub base: Base,
    /// The hard state; the default if none was written.
    pub hard_state: HardState,
    /// What was known to be in ZooKeeper.
    pub known: Option<Known>,
    /// Every entry behind the base, ascending without gaps.
    pub entries: Vec<LogSlot>,
}

/// An entry whose payload may have been left on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSlot {
    /// Position in the log.
    pub index: u64,
    /// The entry's own Raft term.
    pub term: u64,
    /// The entry's type.
    pub kind: u8,
    /// Rolling hash of the log up to and including this entry.
    pub hash: [u8; 16],
    /// Bytes of data and context.
    pub size: u64,
    /// Data and context, unless the payload budget was spent on newer entries.
    pub payload: Option<(Bytes, Bytes)>,
}

/// Where a group's log begins and ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    pub(crate) base: Base,
    /// The base's index if the log is empty.
    pub(crate) last: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PositionRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KnownRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
    #[prost(uint64, tag = "4")]
    entry_term: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HardStateRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    commit: u64,
}

impl Cursor {
    pub(crate) fn read(database: &Database, group: &GroupUuid) -> Result<Self, StorageError> {
        let base = match read_position(database, "log base", GroupKey::Base, group)? {
            Some((index, term, hash)) => Base { index, term, hash },
            None => Base::default(),
        };
        let last = read::last_index(database, group, base.index)?;
        Ok(Self { base, last })
    }
}

fn read_position(
    database: &Database,
    what: &str,
    key: GroupKey,
    group: &GroupUuid,
) -> Result<Option<(u64, u64, [u8; 16])>, StorageError> {
    let key = key.of(group);
    let Some(bytes) = database.get(META, &key)? else { return Ok(None) };
    let record: PositionRecord = record::open(what, &key, &bytes)?;
    let hash = record.hash.try_into().map_err(|_| record::damaged(what, "hash has not 16 bytes", &key))?;
    Ok(Some((record.index, record.term, hash)))
}

fn read_known(database: &Database, group: &GroupUuid) -> Result<Option<Known>, StorageError> {
    let key = GroupKey::Known.of(group);
    let Some(bytes) = database.get(META, &key)? else { return Ok(None) };
    let record: KnownRecord = record::open("known position", &key, &bytes)?;
    let hash = record.hash.try_into();
    let hash = hash.map_err(|_| record::damaged("known position", "hash has not 16 bytes", &key))?;
    Ok(Some(Known { term: record.term, index: record.index, entry_term: record.entry_term, hash }))
}

fn put_position(
    database: &Database,
    batch: &mut WriteBatch,
    key: Vec<u8>,
    (index, term, hash): (u64, u64, [u8; 16]),
) -> Result<(), StorageError> {
    let value = record::seal(&key, &PositionRecord { term, index, hash: hash.to_vec() });
    batch.put_cf(&database.family(META)?, key, value);
    Ok(())
}

fn entry_key(group: &GroupUuid, index: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(group);
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}

fn entry_value(key: &[u8], entry: &LogEntry) -> Vec<u8> {
    let mut value = Vec::with_capacity(33 + entry.data.len() + entry.context.len());
    value.extend_from_slice(&[0; 4]);
    value.extend_from_slice(&entry.term.to_be_bytes());
    value.push(entry.kind);
    value.extend_from_slice(&entry.hash);
    let length = u32::try_from(entry.data.len()).expect("the batch was checked against ENTRY_BYTES_MAX");
    value.extend_from_slice(&length.to_be_bytes());
    value.extend_from_slice(&entry.data);
    value.extend_from_slice(&entry.context);
    record::seal_in_place(key, &mut value);
    value
}

/// An entry's value, checked and taken apart, still where RocksDB put it.
struct EntryView<'a> {
    term: u64,
    kind: u8,
    hash: [u8; 16],
    data: &'a [u8],
    context: &'a [u8],
}

impl<'a> EntryView<'a> {
    fn parse(key: &[u8], value: &'a [u8]) -> Result<Self, StorageError> {
        let body = record::unseal("log entry", key, value)?;
        let parse = || {
            let (term, body) = body.split_first_chunk()?;
            let (kind, body) = body.split_first()?;
            let (hash, body) = body.split_first_chunk()?;
            let (length, body) = body.split_first_chunk()?;
            let (data, context) = body.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            Some(Self { term: u64::from_be_bytes(*term), kind: *kind, hash: *hash, data, context })
        };
        parse().ok_or_else(|| record::damaged("log entry", "too short", key))
    }

    fn size(&self) -> u64 {
        (self.data.len() + self.context.len()) as u64
    }

    fn payload(&self) -> (Bytes, Bytes) {
        (Bytes::copy_from_slice(self.data), Bytes::copy_from_slice(self.context))
    }
}

fn get_entry(database: &Database, group: &GroupUuid, index: u64) -> Result<Option<(u64, [u8; 16])>, StorageError> {
    let key = entry_key(group, index);
    let Some(value) = database.get(LOG, &key)? else { return Ok(None) };
    let view = EntryView::parse(&key, &value)?;
    Ok(Some((view.term, view.hash)))
}

#[cfg(test)]
mod tests;
