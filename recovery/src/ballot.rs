//! The ballot: to seal it, to give it back, and what a refusal of either means.

use bytes::Bytes;

use crate::keeper::{Op, Reason, Refusal, Request};
use crate::path::{self, GroupPaths, WalName};
use crate::planted;
use crate::record::{self, Ballot, WalHeader, FORMAT};

/// What a refused seal means. An earlier attempt of the same seal may have been applied all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealRefused {
    /// Another process registered as this node.
    Superseded,
    /// The ballot has another version: read it. Our nonce in it means that an earlier attempt won.
    Moved,
    /// The ballot does not exist.
    BallotMissing,
    /// The WAL of this very term and node exists, though its ballot was never won, or its parent is gone.
    Wal {
        /// The WAL.
        path: String,
    },
    /// Any other reason.
    Other {
        /// Znode of the operation refused.
        path: String,
        /// The reason.
        reason: Reason,
    },
}

/// The header of the WAL that a ballot's leadership writes.
pub fn wal_header(ballot: &Ballot) -> Bytes {
    record::seal(&WalHeader {
        format: FORMAT,
        uuid: ballot.uuid.clone(),
        term: ballot.term,
        node: ballot.node,
        nonce: ballot.nonce,
    })
}

/// The transaction that wins the ballot and begins a WAL. From it on, no lower term can append.
///
/// A crash right after is harmless: the ballot names a leadership that never appends, and the next seal exceeds it.
pub fn seal(paths: &GroupPaths, ballot: &Ballot, expected: i32, registration: i32) -> Request {
    let wal = WalName { term: ballot.term, node: ballot.node };
    // ZooKeeper takes -1 for any version.
    let registration = if planted!(SealBySupersededProcess) { -1 } else { registration };
    let expected = if planted!(SealWithoutCompare) { -1 } else { expected };
    Request::Multi(vec![
        Op::Check { path: path::node(ballot.node), version: registration },
        Op::Set { path: paths.ballot(), data: record::seal(ballot), version: expected },
        Op::Create { path: paths.wal(wal), data: wal_header(ballot), ephemeral: false },
    ])
}

/// Table of refusals of a seal (A4).
pub fn seal_refused(paths: &GroupPaths, wal: WalName, refusal: Refusal) -> SealRefused {
    match (refusal.op, refusal.reason) {
        (0, Reason::BadVersion | Reason::NoNode) => SealRefused::Superseded,
        (1, Reason::BadVersion) => SealRefused::Moved,
        (1, Reason::NoNode) => SealRefused::BallotMissing,
        (2, Reason::NodeExists | Reason::NoNode) => SealRefused::Wal { path: paths.wal(wal) },
        (0, reason) => SealRefused::Other { path: path::node(wal.node), reason },
        (1, reason) => SealRefused::Other { path: paths.ballot(), reason },
        (_, reason) => SealRefused::Other { path: paths.wal(wal), reason },
    }
}

/// The request that gives the ballot back: same term, vacant.
///
/// A crash right after is harmless: the ballot names nobody, and whoever seals next exceeds its term.
pub fn vacate(paths: &GroupPaths, ballot: &Ballot, expected: i32, served: bool) -> Request {
    let vacant = Ballot { vacant: true, served, ..ballot.clone() };
    let data: Bytes = record::seal(&vacant);
    Request::Multi(vec![Op::Set { path: paths.ballot(), data, version: expected }])
}
