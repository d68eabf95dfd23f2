//! Entries of the log as they lie in ZooKeeper, on disk and on the wire, and the rolling hash over them.

use std::fmt;

use bytes::Bytes;

/// Rolling hash over all entries of a log up to one of them: 16 bytes of BLAKE3.
///
/// Covers the hash before it and the entry's index, own term, kind, data and context, so two logs with equal hashes
/// at one index are equal up to it. The hash before the first entry is [`EntryHash::EMPTY`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryHash(pub [u8; 16]);

impl EntryHash {
    /// The hash of the empty log.
    pub const EMPTY: Self = Self([0; 16]);

    /// The hash of the log that ends with `entry` and whose hash before it is `self`.
    pub fn next(&self, entry: &Entry) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut head = [0u8; 16 + 8 + 8 + 4 + 8 + 8];
        head[..16].copy_from_slice(&self.0);
        head[16..24].copy_from_slice(&entry.index.to_le_bytes());
        head[24..32].copy_from_slice(&entry.term.to_le_bytes());
        head[32..36].copy_from_slice(&entry.kind.to_le_bytes());
        head[36..44].copy_from_slice(&(entry.data.len() as u64).to_le_bytes());
        head[44..52].copy_from_slice(&(entry.context.len() as u64).to_le_bytes());
        hasher.update(&head).update(&entry.data).update(&entry.context);
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(hash)
    }

    /// Reads a hash from a record's bytes; `None` unless there are 16 of them.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes for a record.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl fmt::Debug for EntryHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One entry of a group's log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Entry {
    /// Position in the log, counted from 1.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Term of the leader that proposed it; may be lower than the term of the WAL it lies in.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    /// Raft's entry type: 0 normal, 1 and 2 membership changes.
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    /// Payload.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// Raft's context.
    #[prost(bytes = "bytes", tag = "5")]
    pub context: Bytes,
}

/// Place of an entry: its index, its own term and the rolling hash up to it. `index` 0 is the start of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Position {
    /// Index of the entry, 0 before the first.
    pub index: u64,
    /// The entry's own term, 0 before the first.
    pub term: u64,
    /// Rolling hash up to and including the entry.
    pub hash: EntryHash,
}

impl Position {
    /// Where an empty log ends.
    pub const START: Self = Self { index: 0, term: 0, hash: EntryHash::EMPTY };

    /// The position of `entry` when it directly follows `self`.
    pub fn next(&self, entry: &Entry) -> Self {
        Self { index: entry.index, term: entry.term, hash: self.hash.next(entry) }
    }
}
