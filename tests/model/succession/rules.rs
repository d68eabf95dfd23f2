//! What is explored: how far, and under which rules.

/// A rule of the protocol that can be taken away, to see what it is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// Appends do not check the ballot.
    NoFence,
    /// Appends do not check the segment before them.
    NoPredecessor,
    /// The WALs are read first, the ballot is won afterwards.
    ReadBeforeSeal,
    /// Trimmed is what the leader has applied, not what the previous snapshot covers.
    TrimByApplied,
    /// A proposal is answered once it is in the leader's own log.
    AcknowledgeEarly,
    /// An append is let in if nothing lies at its place; nothing else is checked.
    CreateIfAbsent,
    /// The ballot's holder stands on the log it happens to have.
    NoReplay,
    /// A read pass is not opened by a transaction on its own session.
    BelieveAnyServer,
    /// A read pass that misses nothing is not closed by a transaction.
    NoClosingCheck,
    /// A proposal whose outcome is not known is answered as failed.
    UnknownIsFailed,
    /// A proposal whose outcome is not known is answered as done.
    UnknownIsDone,
    /// A ballot that names this node is taken for this incarnation's.
    BallotByNode,
    /// Segments are skipped as far as the local log goes, committed or not.
    SkipByIndex,
    /// The first append of a leadership leaves no mark at the end of the WAL before it.
    NoMark,
}

/// How much of everything there is in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Leaderships, at most three.
    pub terms: u8,
    /// Proposals, at most three.
    pub proposals: u8,
    /// Requests of one process that ZooKeeper has not answered.
    pub window: u8,
    /// Processes that die and leave their disk, whole or without its last entry.
    pub kills: u8,
    /// Processes that die, their disk with them.
    pub wipes: u8,
    /// Connections to ZooKeeper that break.
    pub breaks: u8,
    /// Requests of dead processes and broken connections that are served late.
    pub late: u8,
    /// Nodes started a second time while the first process goes on.
    pub twins: u8,
    /// Times that a ZooKeeper server falls behind.
    pub lags: u8,
    /// Snapshots published.
    pub snapshots: u8,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub bounds: Bounds,
    pub broken: &'static [Broken],
}

impl Rules {
    pub fn broken(&self, rule: Broken) -> bool {
        self.broken.contains(&rule)
    }
}
