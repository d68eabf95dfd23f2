//! What a pass is told, asks for and finds.

use super::WalInventory;
use crate::entry::{Entry, EntryHash, Position};
use crate::keeper::Request;
use crate::path::{GroupPaths, WalName};
use crate::record::{Manifest, Pointer, Uuid};

/// What a pass reads, and for whom.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The group's znodes.
    pub paths: GroupPaths,
    /// The group.
    pub uuid: Uuid,
    /// Version the ballot must keep during the pass.
    pub version: i32,
    /// The term that sealed: only lower terms' WALs are read. `None` for an observer.
    pub sealed: Option<u64>,
    /// The reader's own log is right up to here: nothing at or below is read again, except where WALs meet.
    pub committed: Position,
    /// The state machine cannot go on from the local log: it needs a snapshot.
    pub restore: bool,
    /// Take the pointer's previous snapshot, since the newest was found damaged.
    pub previous: bool,
}

/// What a pass found.
#[derive(Clone, Debug)]
pub struct Tail {
    /// Where `entries` begin: the committed position given, or the snapshot's.
    pub base: Position,
    /// The snapshot to restore before anything at or below `base` can be applied, where one is needed.
    pub snapshot: Option<Manifest>,
    /// Everything behind `base`, ascending without gaps, each with the hash up to it.
    pub entries: Vec<(Entry, EntryHash)>,
    /// Where the WALs end.
    pub end: Position,
    /// WALs that hold anything, or of which it is not known, in order of their terms.
    pub wals: Vec<WalInventory>,
    /// WALs that are known to hold nothing.
    pub empty: Vec<WalName>,
    /// The last WAL with segments or a mark, and the place behind its last one.
    pub last: Place,
    /// The pointer and its znode's version.
    pub pointer: (Pointer, i32),
    /// Bytes read.
    pub bytes: u64,
}

/// A place in a WAL where a segment or mark may be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The WAL.
    pub wal: WalName,
    /// Ordinal there.
    pub ordinal: u64,
    /// Index it begins with.
    pub index: u64,
}

/// How a pass ended.
#[derive(Clone, Debug)]
pub enum End {
    /// Everything was read and fits together.
    Done(Box<Tail>),
    /// Somebody else changed the ballot.
    Lost,
    /// Nothing is wrong, but this pass cannot be finished: begin another.
    Again(String),
    /// Confirmed under the fence: this is missing, short or damaged.
    Damaged {
        /// The znode.
        path: String,
        /// First index concerned.
        index: u64,
        /// What is wrong.
        what: String,
        /// Whether it is the snapshot, of which there may be another.
        snapshot: bool,
    },
    /// Confirmed under the fence: the WALs end before the committed position given.
    Behind {
        /// Where they end.
        found: Position,
    },
    /// Confirmed under the fence: at this index ZooKeeper holds another entry than the one known to be committed.
    Diverged {
        /// The index.
        index: u64,
    },
    /// ZooKeeper denies access to this znode.
    Denied {
        /// The znode.
        path: String,
    },
}

/// A request of the pass; the tag comes back with its outcome.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Unique in the pass.
    pub tag: u64,
    /// The request.
    pub request: Request,
}
