//! What a group's replica says about itself.

use std::time::Duration;

use crate::error::{GroupError, Leader};

/// What this replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reads ZooKeeper, before it may follow.
    Birth,
    /// Follows a leader, or waits for one.
    Follower,
    /// Has sealed, or tries to, and is on the way to lead.
    Successor,
    /// Leads and serves.
    Leader,
    /// Gives its ballot back.
    Resigning,
    /// Refused on this node until an operator acts.
    Stopped,
}

/// How well the group is off, seen from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A leader serves and every other node's link is up.
    Full,
    /// A leader serves, but not all nodes are linked.
    Solo,
    /// No leader serves yet; somebody is on the way.
    Recovering,
    /// This node has no ZooKeeper.
    NoKeeper,
    /// This node found itself fenced or stopped.
    Fenced,
}

/// What the last succession on this node took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SuccessionReport {
    /// Entries replayed from WALs.
    pub entries: u64,
    /// Bytes replayed from WALs and snapshots.
    pub bytes: u64,
    /// From the last sign of the old leader to the decision to seal.
    pub detect: Duration,
    /// From there until the seal was won.
    pub seal: Duration,
    /// From there until everything was read.
    pub read: Duration,
    /// From there until it was in the local log (and, where needed, the snapshot in the machine).
    pub replay: Duration,
    /// From there until the first entry of the term was committed.
    pub stand: Duration,
}

/// A replica's view of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// What this replica does.
    pub role: Role,
    /// Raft's term here.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<Leader>,
    /// How well the group is off.
    pub mode: Mode,
    /// Why, in words.
    pub reason: String,
    /// Highest index in the local log.
    pub last: u64,
    /// Highest index known to be committed.
    pub commit: u64,
    /// Highest index the state machine has applied.
    pub applied: u64,
    /// Index of the newest snapshot in the archive.
    pub snapshot: u64,
    /// Bytes of entries in the WAL.
    pub wal_bytes: u64,
    /// Segments in the WAL.
    pub wal_segments: u64,
    /// Proposals refused as busy since this replica was joined.
    pub busy: u64,
    /// Proposals accepted since this replica was joined.
    pub proposals: u64,
    /// Successions won on this node since the replica was joined.
    pub successions: u64,
    /// The last of them.
    pub succession: SuccessionReport,
    /// Set when stopped.
    pub stopped: Option<GroupError>,
}

impl GroupStatus {
    /// Of a group that has told nothing yet, or stopped before it did.
    pub(crate) fn unknown() -> Self {
        Self {
            role: Role::Stopped,
            term: 0,
            leader: None,
            mode: Mode::Fenced,
            reason: String::new(),
            last: 0,
            commit: 0,
            applied: 0,
            snapshot: 0,
            wal_bytes: 0,
            wal_segments: 0,
            busy: 0,
            proposals: 0,
            successions: 0,
            succession: SuccessionReport::default(),
            stopped: None,
        }
    }
}
