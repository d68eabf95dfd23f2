//! The boundary to ZooKeeper: requests, and what became of them.
//!
//! Nothing here does I/O. A request is answered in one of three ways ([`Outcome`]): it was done, it was
//! definitely refused, or nobody can tell. Everything above this file is written so that *unknown* is never
//! taken for either of the others; everything below it must never guess.

use bytes::Bytes;

/// One operation of a [`Request::Multi`].
///
/// Paths are absolute below the cluster's chroot and begin with `/`; `/` itself is the cluster's own record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Fails unless the znode exists with exactly this data version.
    Check {
        /// The znode.
        path: String,
        /// The data version it must have.
        version: i32,
    },
    /// Creates a znode that must not exist; its parent must.
    Create {
        /// The znode.
        path: String,
        /// Its content.
        data: Bytes,
        /// Whether it lives only as long as the session. Used for hints alone, never for a proof.
        ephemeral: bool,
    },
    /// Replaces the content of a znode whose data version is exactly `version`; its version is one more afterwards.
    Set {
        /// The znode.
        path: String,
        /// Its new content.
        data: Bytes,
        /// The data version it must have.
        version: i32,
    },
    /// Deletes a znode without children whose data version is exactly `version` (`None`: any).
    Delete {
        /// The znode.
        path: String,
        /// The data version it must have; `None` deletes whatever version is there.
        version: Option<i32>,
    },
}

impl Op {
    /// The znode this operation is about.
    pub fn path(&self) -> &str {
        match self {
            Self::Check { path, .. }
            | Self::Create { path, .. }
            | Self::Set { path, .. }
            | Self::Delete { path, .. } => path,
        }
    }

    /// A lower bound of the bytes this operation takes in ZooKeeper's request, counting path and data.
    pub fn bytes(&self) -> usize {
        // Header, lengths and ACL of one operation take at most this much beside path and data.
        const OVERHEAD: usize = 96;
        let data = match self {
            Self::Create { data, .. } | Self::Set { data, .. } => data.len(),
            Self::Check { .. } | Self::Delete { .. } => 0,
        };
        OVERHEAD + self.path().len() + data
    }
}

/// One request to ZooKeeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A transaction: all operations take effect, or none.
    Multi(Vec<Op>),
    /// Reads a znode's content. May be answered from the past; never from before an earlier answer on the same session.
    Get {
        /// The znode.
        path: String,
        /// Whether to be told once when its content changes or it is deleted. Left on an existing znode only.
        watch: bool,
    },
    /// Asks whether a znode exists.
    Exists {
        /// The znode.
        path: String,
        /// Whether to be told once when it is created, changed or deleted.
        watch: bool,
    },
    /// Lists the names of a znode's children, in no particular order.
    Children {
        /// The znode.
        path: String,
        /// Whether to be told once when a child is created or deleted, or the znode itself is deleted.
        watch: bool,
    },
}

/// What ZooKeeper says about a znode beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Transaction that created it; unique in the ensemble's life.
    pub czxid: i64,
    /// Transaction that changed its content last.
    pub mzxid: i64,
    /// Data version: how often its content was changed.
    pub version: i32,
    /// Bytes of content.
    pub data_length: i32,
    /// Number of children.
    pub num_children: i32,
}

/// The answer to a request that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A multi took effect.
    Done,
    /// A get: content and stat, or `None` where the znode does not exist *as this server saw it*.
    Data(Option<(Bytes, Stat)>),
    /// An exists.
    Stat(Option<Stat>),
    /// A listing, or `None` where the znode does not exist as this server saw it.
    Children(Option<Vec<String>>),
}

/// Why ZooKeeper definitely did not do *this attempt* of a request.
///
/// An earlier attempt of the same request may have been applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The znode, or the parent of the one to be created, does not exist.
    NoNode,
    /// The znode to be created exists.
    NodeExists,
    /// The data version is another.
    BadVersion,
    /// The znode to be deleted has children.
    NotEmpty,
    /// An ACL denies it.
    NoAuth,
    /// The ACL to be set is not acceptable.
    InvalidAcl,
    /// The parent is ephemeral.
    NoChildrenForEphemerals,
    /// An enforced quota is exhausted.
    QuotaExceeded,
    /// The server is read-only.
    NotReadOnly,
    /// ZooKeeper finds the request malformed.
    BadArguments,
}

/// A definite refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which operation of a multi failed, counted from 0; 0 for single requests.
    pub op: usize,
    /// Why.
    pub reason: Reason,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, once.
    Ok(Reply),
    /// This attempt was not done and never will be.
    Refused(Refusal),
    /// It may have been done, may be done later, or never. The cause is for the log; nothing is decided by it.
    Unknown(String),
}

/// Names one life of a ZooKeeper session in this process, counted from 1. A rebuilt client is a new session.
///
/// Answers on one session never go back in time; those of two sessions are not ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNumber(pub u64);

/// Names a request until its outcome is reported. Chosen by the caller, unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What goes first when the window of outstanding requests is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Seals, votes and answers to challenges: overtakes what is queued.
    Urgent,
    /// In the order given.
    Normal,
    /// Appends and checks, which are many: in the order given, with the normal ones. Few transactions of them are on
    /// their way at once, and those that wait share one ([`crate::bundle`]). Where that is refused because of another
    /// request, so that nothing was done, this one is sent again by itself, behind what was sent meanwhile.
    Shared,
}

/// What a keeper tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperEvent {
    /// A session is established or its connection is back. `timeout_ms` is what the server granted.
    Connected {
        /// The session.
        session: SessionNumber,
        /// Negotiated session timeout in milliseconds.
        timeout_ms: u64,
    },
    /// The connection is lost; the session may live on.
    Disconnected {
        /// The session.
        session: SessionNumber,
    },
    /// The session ended for good: every request it carried has been, or is about to be, reported unknown.
    Expired {
        /// The session.
        session: SessionNumber,
    },
    /// ZooKeeper cannot be used for a reason that retrying alone does not mend; the keeper goes on trying.
    Trouble(String),
    /// A request's outcome. Exactly one is reported for every request submitted.
    Outcome {
        /// The request.
        id: RequestId,
        /// The session it was, or would have been, carried by.
        session: SessionNumber,
        /// What became of it.
        outcome: Outcome,
    },
    /// A watch fired, or can no longer be trusted: look again. Never says what changed.
    Changed {
        /// The znode the watch was left on.
        path: String,
    },
}

/// Carries requests to ZooKeeper and reports what became of them.
///
/// Implementations never block the caller and never report through the call itself. Requests of the same urgency
/// are sent for the first time in the order submitted, at most a bounded number at once. A request is given up, as unknown, after a
/// deadline of the implementation's own. What may have been done is never sent again by it: to try again is the
/// caller's decision.
pub trait Keeper: Send + Sync {
    /// Takes a request; its outcome comes as a [`KeeperEvent::Outcome`].
    fn submit(&self, id: RequestId, urgency: Urgency, request: Request);
}
