//! The records that lie in ZooKeeper, and how their bytes are sealed and checked.
//!
//! Every record is a protobuf message whose last five bytes are field 15, a fixed 32-bit CRC32C over everything before
//! it: still valid protobuf for any reader, and checked here before a single field is believed. Field 1 is the
//! format, field 2 the uuid of the group (or of the cluster). A record of a newer format is refused, not guessed at.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::entry::Entry;

/// The newest format this code reads and the one it writes.
pub const FORMAT: u32 = 1;

// Field 15, wire type 5 (fixed 32 bits).
const CRC_TAG: u8 = 0x7d;
const CRC_BYTES: usize = 5;

/// Why bytes are not the record they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Shorter than the checksum, or the checksum is missing.
    #[error("record without checksum: kind={kind}, bytes={bytes}")]
    Unsealed {
        /// What it should have been.
        kind: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The checksum does not fit the bytes.
    #[error("record damaged: kind={kind}, crc found={found:08x}, crc computed={computed:08x}")]
    Crc {
        /// What it should have been.
        kind: &'static str,
        /// The checksum stored.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A field has a value no writer of this format gives it.
    #[error("record malformed: kind={kind}, field={field}")]
    Field {
        /// What it should have been.
        kind: &'static str,
        /// The field that does not fit.
        field: &'static str,
    },
    /// Written by a newer release.
    #[error("unsupported format: kind={kind}, found={found}, max={max}; run a newer release here")]
    UnsupportedFormat {
        /// What it should have been.
        kind: &'static str,
        /// The record's format.
        found: u32,
        /// The newest format this code reads.
        max: u32,
    },
    /// A record of another group or cluster.
    #[error("foreign record: kind={kind}, uuid found={found}, uuid expected={expected}")]
    Foreign {
        /// What it should have been.
        kind: &'static str,
        /// The uuid in the record, in hex.
        found: String,
        /// The uuid it should have.
        expected: String,
    },
}

/// Uuid of a cluster or a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Reads a uuid from a record's field.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes for a record's field.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// A record: what all of them share.
pub trait Record: Message + Default {
    /// The word for it in errors.
    const KIND: &'static str;
    /// Format and uuid fields.
    fn head(&self) -> (u32, &Bytes);
}

/// Encodes a record with its checksum.
pub fn seal<R: Record>(record: &R) -> Bytes {
    let mut bytes = BytesMut::with_capacity(record.encoded_len() + CRC_BYTES);
    record.encode_raw(&mut bytes);
    let crc = crc32c::crc32c(&bytes);
    bytes.put_u8(CRC_TAG);
    bytes.put_u32_le(crc);
    bytes.freeze()
}

/// Checks and decodes a record; `uuid` is the cluster or group it must belong to, where that is known.
///
/// # Errors
/// Every way in which bytes can fail to be a record of this kind, format and owner.
pub fn open<R: Record>(bytes: &Bytes, uuid: Option<Uuid>) -> Result<R, RecordError> {
    let kind = R::KIND;
    let Some(length) = bytes.len().checked_sub(CRC_BYTES).filter(|length| bytes[*length] == CRC_TAG) else {
        return Err(RecordError::Unsealed { kind, bytes: bytes.len() });
    };
    let tail = &bytes[length + 1..];
    let found = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    let computed = crc32c::crc32c(&bytes[..length]);
    if found != computed {
        return Err(RecordError::Crc { kind, found, computed });
    }
    let record = R::decode(bytes.slice(..length)).map_err(|_| RecordError::Field { kind, field: "protobuf" })?;
    let (format, owner) = record.head();
    if format > FORMAT {
        return Err(RecordError::UnsupportedFormat { kind, found: format, max: FORMAT });
    }
    if format == 0 {
        return Err(RecordError::Field { kind, field: "format" });
    }
    let owner = Uuid::from_slice(owner).ok_or(RecordError::Field { kind, field: "uuid" })?;
    match uuid {
        Some(expected) if owner != expected => {
            Err(RecordError::Foreign { kind, found: owner.to_string(), expected: expected.to_string() })
        }
        _ => Ok(record),
    }
}

macro_rules! records {
    ($($(#[$doc:meta])* $name:ident ($kind:literal) { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, prost::Message)]
        pub struct $name {
            /// Format version of this record.
            #[prost(uint32, tag = "1")]
            pub format: u32,
            /// Uuid of the group, or of the cluster for records that belong to no group.
            #[prost(bytes = "bytes", tag = "2")]
            pub uuid: Bytes,
            $($(#[$field_meta])* pub $field: $type,)*
        }
        impl Record for $name {
            const KIND: &'static str = $kind;
            fn head(&self) -> (u32, &Bytes) { (self.format, &self.uuid) }
        }
    )*};
}

/// Where a node can be reached.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Addresses {
    /// Peer protocol, `host:port`.
    #[prost(string, tag = "1")]
    pub peer: String,
    /// What the node tells clients: free text, for instance the URL of its HTTP interface.
    #[prost(string, tag = "2")]
    pub client: String,
}

/// Bounds of a group, set at its genesis.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Limits {
    /// Bytes of entries the WAL may hold before proposals get `Busy`.
    #[prost(uint64, tag = "1")]
    pub wal_bytes: u64,
    /// Segments the WAL may hold before proposals get `Busy`.
    #[prost(uint64, tag = "2")]
    pub wal_segments: u64,
    /// Bytes of state a state machine that knows its size accepts.
    #[prost(uint64, tag = "3")]
    pub state_bytes: u64,
}

/// One group and the ballot version under which its leader is doubted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Doubt {
    /// Uuid of the group.
    #[prost(bytes = "bytes", tag = "1")]
    pub group: Bytes,
    /// Version of the ballot znode as the challenger knows it.
    #[prost(int32, tag = "2")]
    pub version: i32,
}

/// What the challenged node's core says of one group.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Testimony {
    /// Uuid of the group.
    #[prost(bytes = "bytes", tag = "1")]
    pub group: Bytes,
    /// Version of the ballot it speaks of.
    #[prost(int32, tag = "2")]
    pub version: i32,
    /// 0 no, 1 leading, 2 succeeding.
    #[prost(uint32, tag = "3")]
    pub stand: u32,
    /// Moves while it succeeds.
    #[prost(uint64, tag = "4")]
    pub progress: u64,
}

/// A snapshot named by the pointer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SnapshotName {
    /// Index it covers.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// Term of the entry at that index.
    #[prost(uint64, tag = "2")]
    pub term: u64,
}

/// One chunk of a snapshot.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChunkName {
    /// BLAKE3 of its bytes, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub hash: Bytes,
    /// Its length.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

records! {
    /// The cluster: content of the chroot.
    Cluster("cluster") {}
    /// A node's registration.
    Registration("registration") {
        /// Incarnation, counted from 1.
        #[prost(uint64, tag = "3")]
        incarnation: u64,
        /// Random number of the process.
        #[prost(fixed64, tag = "4")]
        nonce: u64,
        /// Where it can be reached.
        #[prost(message, optional, tag = "5")]
        addresses: Option<Addresses>,
    }
    /// A question to the node that holds ballots.
    Challenge("challenge") {
        /// Echoed by the answer.
        #[prost(fixed64, tag = "3")]
        nonce: u64,
        /// Incarnation that is asked.
        #[prost(uint64, tag = "4")]
        incarnation: u64,
        /// Groups doubted.
        #[prost(message, repeated, tag = "5")]
        doubts: Vec<Doubt>,
    }
    /// The answer to a challenge.
    Answer("answer") {
        /// The challenge's.
        #[prost(fixed64, tag = "3")]
        nonce: u64,
        /// One for each group doubted.
        #[prost(message, repeated, tag = "4")]
        testimonies: Vec<Testimony>,
    }
    /// The birth certificate of a group.
    Genesis("genesis") {
        /// Voting nodes, ascending.
        #[prost(uint64, repeated, tag = "3")]
        voters: Vec<u64>,
        /// Its bounds.
        #[prost(message, optional, tag = "4")]
        limits: Option<Limits>,
    }
    /// The one leadership allowed to write.
    Ballot("ballot") {
        /// Raft term.
        #[prost(uint64, tag = "3")]
        term: u64,
        /// Holder; 0 at genesis.
        #[prost(uint64, tag = "4")]
        node: u64,
        /// The holder's incarnation.
        #[prost(uint64, tag = "5")]
        incarnation: u64,
        /// Random number of this seal.
        #[prost(fixed64, tag = "6")]
        nonce: u64,
        /// The holder's addresses.
        #[prost(message, optional, tag = "7")]
        addresses: Option<Addresses>,
        /// Nobody leads or succeeds under this ballot any more.
        #[prost(bool, tag = "8")]
        vacant: bool,
        /// Whether the leadership that vacated it had served.
        #[prost(bool, tag = "9")]
        served: bool,
    }
    /// Head of the WAL of one leadership.
    WalHeader("wal header") {
        /// Term of the leadership.
        #[prost(uint64, tag = "3")]
        term: u64,
        /// Its node.
        #[prost(uint64, tag = "4")]
        node: u64,
        /// The ballot's nonce.
        #[prost(fixed64, tag = "5")]
        nonce: u64,
    }
    /// A batch of consecutive entries.
    Segment("segment") {
        /// Term of the leadership whose WAL it lies in.
        #[prost(uint64, tag = "3")]
        term: u64,
        /// Place in the WAL, counted from 0.
        #[prost(uint64, tag = "4")]
        ordinal: u64,
        /// Index of the entry before the first one.
        #[prost(uint64, tag = "5")]
        prev_index: u64,
        /// Term of the entry before the first one.
        #[prost(uint64, tag = "6")]
        prev_term: u64,
        /// Rolling hash before the first entry.
        #[prost(bytes = "bytes", tag = "7")]
        prev_hash: Bytes,
        /// Rolling hash after the last entry.
        #[prost(bytes = "bytes", tag = "8")]
        hash: Bytes,
        /// The entries, ascending without gaps; at least one, or none where `closed_by` is not 0.
        #[prost(message, repeated, tag = "9")]
        entries: Vec<Entry>,
        /// The mark: this WAL ended here, and the leadership of this term goes on. 0 in segments with entries.
        #[prost(uint64, tag = "10")]
        closed_by: u64,
    }
    /// A snapshot: what it covers and the chunks it is made of.
    Manifest("manifest") {
        /// Index it covers.
        #[prost(uint64, tag = "3")]
        index: u64,
        /// Term of the entry at that index.
        #[prost(uint64, tag = "4")]
        term: u64,
        /// Rolling hash at that index.
        #[prost(bytes = "bytes", tag = "5")]
        hash: Bytes,
        /// Voting nodes at that index.
        #[prost(uint64, repeated, tag = "6")]
        voters: Vec<u64>,
        /// Chunks in order.
        #[prost(message, repeated, tag = "7")]
        chunks: Vec<ChunkName>,
        /// Sum of the chunks' lengths.
        #[prost(uint64, tag = "8")]
        bytes: u64,
    }
    /// Names the snapshots that may be restored.
    Pointer("pointer") {
        /// The newest verified snapshot.
        #[prost(message, optional, tag = "3")]
        newest: Option<SnapshotName>,
        /// The one before it.
        #[prost(message, optional, tag = "4")]
        previous: Option<SnapshotName>,
    }
    /// Asks that a snapshot be kept while it is read.
    Pin("pin") {
        /// The snapshot being read.
        #[prost(message, optional, tag = "3")]
        snapshot: Option<SnapshotName>,
        /// Incarnation of the reader.
        #[prost(uint64, tag = "4")]
        incarnation: u64,
    }
}
