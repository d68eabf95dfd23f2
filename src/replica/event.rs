//! What the core is told, and what it wants done.
//!
//! The core decides and the driver acts. Effects are carried out in the order given; those that name the same
//! group's machine or disk are carried out one after the other (first in, first out), all others may overlap.

use std::time::Duration;

use bequest_recovery::entry::{Entry, EntryHash, Position};
use bequest_recovery::keeper::{KeeperEvent, Request, RequestId, Urgency};
use bequest_recovery::record::{Addresses, Limits, Uuid};
use bytes::Bytes;

use super::status::GroupStatus;
use crate::error::{GroupError, NodeError, ProposeError, ReadError};

/// Monotonic time since an arbitrary moment before this process' first event. Never the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Now(pub Duration);

impl Now {
    /// Time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Now) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Now {
    type Output = Now;
    fn add(self, duration: Duration) -> Now {
        Now(self.0.saturating_add(duration))
    }
}

/// A node: a process that hosts replicas. Not 0, high bit clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// One life of a node, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// A group as this process numbers it; chosen by the driver at [`Event::Join`], never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(pub u32);

/// A caller that waits for an answer; chosen by the driver, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What is durable on this node of one group, as read when it is joined. All of it is a cache of what is in ZooKeeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalGroup {
    /// The group's uuid.
    pub uuid: Uuid,
    /// Transaction that created the group's genesis.
    pub genesis_czxid: i64,
    /// Raft's term.
    pub term: u64,
    /// Raft's commit index.
    pub commit: u64,
    /// Where the local log begins: the entry before its first.
    pub base: Position,
    /// The log, ascending from `base.index + 1` without gaps.
    pub slots: Vec<Slot>,
    /// The highest position this node knows to be in ZooKeeper, and the highest ballot term it has seen.
    pub known: Known,
}

/// One entry of the local log. The payload may have been left on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where it is.
    pub position: Position,
    /// Bytes of data and context.
    pub bytes: u64,
    /// The entry, unless its payload was left on disk.
    pub entry: Option<Entry>,
}

/// What this node knows ZooKeeper to hold of a group. If ZooKeeper shows less, it has gone backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Known {
    /// Highest term seen in the ballot.
    pub term: u64,
    /// Highest entry known to be in the WAL or a snapshot.
    pub position: Position,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed. To be given no later than the moment in [`Effects::wake_at`].
    Tick,
    /// From ZooKeeper.
    Keeper(KeeperEvent),
    /// From the link to a peer.
    Link(NodeId, LinkEvent),
    /// Whether the process recorded at a registration's address answered (see [`Effect::Probe`]).
    Probed {
        /// The process nonce that answered; `None` if nobody did within the probe's deadline.
        nonce: Option<u64>,
    },
    /// Effects [`Effect::Persist`] of the group up to this number are in the local log.
    Persisted {
        /// The group.
        group: GroupNumber,
        /// The highest number done.
        number: u64,
    },
    /// Answer to [`Effect::FetchLog`].
    LogFetched {
        /// The group.
        group: GroupNumber,
        /// Entries from `low` on, at least one; fewer than asked for where a byte limit ended it.
        entries: Vec<Entry>,
    },
    /// From the group's state machine.
    Machine(GroupNumber, MachineEvent),
    /// Host a replica of a group.
    Join {
        /// Number by which all later events and effects call it.
        group: GroupNumber,
        /// Its name.
        name: String,
        /// What the local disk has of it.
        local: Option<LocalGroup>,
        /// Index to which the state machine's durable state reaches.
        applied: u64,
    },
    /// Replicate an encoded command (see `command.rs`).
    Propose {
        /// The group.
        group: GroupNumber,
        /// Who waits.
        token: Token,
        /// The command.
        data: Bytes,
    },
    /// Make the linearizable read of this token possible: answered by [`Effect::Query`] or [`Effect::RefuseRead`].
    Read {
        /// The group.
        group: GroupNumber,
        /// Who waits.
        token: Token,
    },
    /// Give the leadership of the group to a caught-up follower, or vacate it; ends in a changed status.
    HandOver {
        /// The group.
        group: GroupNumber,
    },
    /// Hand over everything, then emit [`Effect::ShutDown`].
    ShutDown,
}

/// Something that happened on the link to a peer.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// A handshake is complete: cluster and node ids fit.
    Up {
        /// The peer's incarnation.
        incarnation: Incarnation,
    },
    /// The link ended.
    Down,
    /// A fresh connection attempt was actively refused: nothing listens at the address.
    Refused,
    /// A message arrived, as encoded by [`Effect::Send`] on the other side. May be any bytes.
    Message(Bytes),
}

/// Something the machine's thread did.
#[derive(Clone, Debug)]
pub enum MachineEvent {
    /// Everything up to this index is applied.
    Applied {
        /// The index.
        index: u64,
        /// Bytes of state, where the machine knows.
        ready_to_lead: bool,
    },
    /// A snapshot begun by [`Effect::SnapshotTake`] is of the state at this index.
    SnapshotTaken {
        /// Which.
        upload: u64,
        /// Index of the last entry in it.
        applied: u64,
    },
    /// The next chunk of a snapshot. At most the chunks granted are sent.
    SnapshotChunk {
        /// Which.
        upload: u64,
        /// Its bytes.
        chunk: Bytes,
    },
    /// All chunks of a snapshot have been sent.
    SnapshotEnd {
        /// Which.
        upload: u64,
    },
    /// A snapshot cannot be made now.
    SnapshotFailed {
        /// Which.
        upload: u64,
        /// Why.
        message: String,
    },
    /// A chunk of a restore was taken.
    RestoreTook {
        /// Which restore.
        restore: u64,
    },
    /// The restored state is in force.
    Restored {
        /// Which restore.
        restore: u64,
    },
    /// The restore was refused; the old state is in force.
    RestoreFailed {
        /// Which restore.
        restore: u64,
        /// Why.
        message: String,
    },
    /// The machine cannot go on.
    Failed {
        /// Why.
        message: String,
    },
}

/// A write to the local log. Numbers ascend per group; writes are carried out in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Persist {
    /// To be named in [`Event::Persisted`].
    pub number: u64,
    /// First write of a group: who it is.
    pub birth: Option<Birth>,
    /// Drop the whole log and begin behind this position.
    pub reset: Option<Position>,
    /// Drop entries from this index on, before `entries` are added.
    pub truncate_from: Option<u64>,
    /// Entries to add, each with the hash up to it.
    pub entries: Vec<(Entry, EntryHash)>,
    /// Raft's term and commit index.
    pub hard_state: Option<(u64, u64)>,
    /// Drop entries at and below this position.
    pub compact: Option<Position>,
    /// What ZooKeeper is known to hold.
    pub known: Option<Known>,
}

impl Persist {
    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        let Self { number: _, birth, reset, truncate_from, entries, hard_state, compact, known } = self;
        birth.is_none()
            && reset.is_none()
            && truncate_from.is_none()
            && entries.is_empty()
            && hard_state.is_none()
            && compact.is_none()
            && known.is_none()
    }
}

/// Who a group is, as its genesis says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: Uuid,
    /// Transaction that created its genesis.
    pub genesis_czxid: i64,
}

/// An entry for the state machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Apply {
    /// The committed entry.
    pub entry: Entry,
    /// Who waits for its answer on this node.
    pub token: Option<Token>,
}

/// Something to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Submit a request to ZooKeeper.
    Keeper {
        /// To be named in the outcome.
        id: RequestId,
        /// What may overtake what.
        urgency: Urgency,
        /// The request.
        request: Request,
    },
    /// Keep a link to this incarnation of a peer at this address, for ever, with back-off: replaces any earlier order
    /// for the peer.
    Dial {
        /// The peer.
        peer: NodeId,
        /// Its incarnation; a handshake with an older one is to be closed.
        incarnation: Incarnation,
        /// `host:port`.
        address: String,
    },
    /// Find out, within a second or so, whether a process with some nonce answers handshakes at this address.
    Probe {
        /// `host:port`.
        address: String,
    },
    /// Send to a peer on its link; dropped where there is none or its queue is full.
    Send {
        /// The peer.
        peer: NodeId,
        /// The encoded message.
        message: Bytes,
    },
    /// Remember, synced, which cluster and node this data directory belongs to, before anything else is written.
    PersistIdentity {
        /// The cluster.
        cluster: Uuid,
    },
    /// Write to the local log.
    Persist(GroupNumber, Persist),
    /// Read entries `low..high` of the local log.
    FetchLog {
        /// The group.
        group: GroupNumber,
        /// First index.
        low: u64,
        /// Behind the last index.
        high: u64,
    },
    /// Apply entries, in order, and answer their tokens.
    Apply(GroupNumber, Vec<Apply>),
    /// Answer the read of this token from the state as it then is.
    Query(GroupNumber, Token),
    /// Take a view of the state at this place in the queue and send its chunks, no more than granted.
    SnapshotTake {
        /// The group.
        group: GroupNumber,
        /// Number for it; any earlier one is abandoned.
        upload: u64,
        /// How many chunks may be sent to begin with.
        credit: u32,
    },
    /// Send this many more chunks.
    SnapshotCredit {
        /// The group.
        group: GroupNumber,
        /// Which.
        upload: u64,
        /// How many more.
        credit: u32,
    },
    /// Stop sending chunks of this snapshot and forget it.
    SnapshotAbandon {
        /// The group.
        group: GroupNumber,
        /// Which.
        upload: u64,
    },
    /// Begin to replace the state, at this place in the queue. An earlier restore is dropped.
    RestoreBegin {
        /// The group.
        group: GroupNumber,
        /// Number for it.
        restore: u64,
    },
    /// The next chunk.
    RestoreChunk {
        /// The group.
        group: GroupNumber,
        /// Which.
        restore: u64,
        /// Its bytes.
        chunk: Bytes,
    },
    /// Put the restored state in force at this index.
    RestoreFinish {
        /// The group.
        group: GroupNumber,
        /// Which.
        restore: u64,
        /// Index it covers.
        applied: u64,
    },
    /// Drop the restore; the old state stays.
    RestoreAbandon {
        /// The group.
        group: GroupNumber,
        /// Which.
        restore: u64,
    },
    /// Tell the machine that this node leads, or no longer does.
    Leadership(GroupNumber, bool),
    /// Answer a proposal that will not be answered by [`Effect::Apply`].
    RefuseProposal(Token, ProposeError),
    /// Answer a read that will not be answered by [`Effect::Query`].
    RefuseRead(Token, ReadError),
    /// The group's status changed.
    Status(GroupNumber, Box<GroupStatus>),
    /// This group is refused on this node until an operator acts. Its other effects end here.
    StopGroup(GroupNumber, GroupError),
    /// This node cannot go on. Nothing follows.
    StopNode(NodeError),
    /// The node is registered: peers may be told this incarnation and linked to.
    Registered {
        /// The cluster.
        cluster: Uuid,
        /// This node's incarnation.
        incarnation: Incarnation,
    },
    /// Everything was handed over or given up: the process may end.
    ShutDown,
}

/// What one step wants done.
#[derive(Debug, Default)]
pub struct Effects {
    /// In order.
    pub list: Vec<Effect>,
    /// When [`Event::Tick`] must be given at the latest.
    pub wake_at: Option<Now>,
}

/// How a node is set up. Plain values, checked before by who sets them.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// Random number of this process: tells its registration from that of another with the same id.
    pub nonce: u64,
    /// Seed of the core's own pseudo-random numbers: nonces of seals, back-off.
    pub seed: u64,
    /// The cluster that the data directory belongs to, if it was used before.
    pub cluster: Option<Uuid>,
    /// Whether [`Event::Probed`] is to be asked for when the recorded process may still run.
    pub beat: Duration,
    /// Silence after which a leader is doubted; grows by itself where ZooKeeper is slow.
    pub election_timeout: Duration,
    /// How often watches are doubled by a plain read.
    pub poll: Duration,
    /// Bytes of entries a segment holds, unless one entry alone is larger.
    pub segment_bytes: usize,
    /// Segments of a group outstanding at once.
    pub segments_in_flight: usize,
    /// Bytes of proposals of a group not yet applied.
    pub proposal_bytes_in_flight: usize,
    /// Number of proposals of a group not yet applied.
    pub proposals_in_flight: usize,
    /// Reads of a group waiting at once.
    pub reads_in_flight: usize,
    /// Payload bytes kept in memory of entries that are applied and persisted, per group.
    pub log_cache_bytes: u64,
}

/// Bounds a group gets at its genesis unless told otherwise.
pub fn default_limits() -> Limits {
    Limits { wal_bytes: 256 << 20, wal_segments: 100_000, state_bytes: 512 << 20 }
}
