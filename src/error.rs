//! What can go wrong, by what a caller does about it.

use bequest_recovery::record::{Addresses, Uuid};

use crate::replica::event::NodeId;

/// Who leads a group, as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub node: NodeId,
    /// Where it can be reached.
    pub addresses: Addresses,
}

/// Why a proposal was not answered with a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead. Nothing was done. Ask `leader`, or wait for one.
    #[error("not leader: leader={}", named(.leader.as_ref()))]
    NotLeader {
        /// Who does, if known.
        leader: Option<Leader>,
    },
    /// A queue or the WAL is full. Nothing was done. Wait a little and try again.
    #[error("busy: {reason}; try again later")]
    Busy {
        /// Which bound was met.
        reason: &'static str,
    },
    /// It cannot fit into one request to ZooKeeper. Nothing was done. Split it.
    #[error("proposal too large: size={size} limit={limit}; split it")]
    ProposalTooLarge {
        /// Bytes of the command.
        size: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// It may take effect, may have taken effect, or never will. Find out by reading, or propose through a client
    /// session, whose retries take effect once.
    #[error("outcome unknown: the leadership ended before the proposal was answered")]
    Unknown,
    /// The client session was evicted or never opened. This attempt was not applied; earlier ones are unknown.
    #[error("client session gone: session={session}; open a new one")]
    SessionGone {
        /// The session.
        session: u64,
    },
    /// The sequence number is below one this session declared closed. This attempt was not applied.
    #[error("superseded: session={session} sequence={sequence}")]
    Superseded {
        /// The session.
        session: u64,
        /// The request's sequence number.
        sequence: u64,
    },
    /// The group is refused on this node until an operator acts. Nothing was done.
    #[error("group stopped: {0}")]
    Stopped(GroupError),
    /// The node is shutting down. Nothing was done.
    #[error("node is shutting down")]
    ShuttingDown,
}

/// Why a read was not answered with a result. A read may always be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// This node does not lead, or ceased to while the read waited. Ask `leader`, or wait for one.
    #[error("not leader: leader={}", named(.leader.as_ref()))]
    NotLeader {
        /// Who does, if known.
        leader: Option<Leader>,
    },
    /// Too many reads wait. Wait a little and try again.
    #[error("busy: {reason}; try again later")]
    Busy {
        /// Which bound was met.
        reason: &'static str,
    },
    /// The state machine refused the question.
    #[error("query refused: {message}")]
    Query {
        /// Its words.
        message: String,
    },
    /// The state machine could not read its state: its disk failed, mostly, and the node is about to end. Ask again, also
    /// another node.
    #[error("state unreadable: {message}")]
    Unreadable {
        /// The state machine's words.
        message: String,
    },
    /// The group is refused on this node until an operator acts.
    #[error("group stopped: {0}")]
    Stopped(GroupError),
    /// The node is shutting down.
    #[error("node is shutting down")]
    ShuttingDown,
}

/// Why a group is refused on this node. Nothing is lost; an operator must act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The group has no genesis: it was never created here. Joining never creates one.
    #[error("no such group: path={path}; check the ZooKeeper path, or create it once with `bequest init`")]
    NoSuchGroup {
        /// Where it was looked for.
        path: String,
    },
    /// The local disk belongs to another group of the same name.
    #[error("other group: name={name} local uuid={local} uuid in zookeeper={found}; check the ZooKeeper path and the data directory")]
    OtherGroup {
        /// The name.
        name: String,
        /// What the disk says.
        local: Uuid,
        /// What the genesis says.
        found: Uuid,
    },
    /// This node is not a voter by the genesis.
    #[error("not a voter: node={node} voters={voters:?}; check --node, or the group's name")]
    NotAVoter {
        /// This node.
        node: u64,
        /// The genesis' voters.
        voters: Vec<u64>,
    },
    /// ZooKeeper shows less than this node knows it to have held: it was restored, wiped, or is another one.
    #[error("zookeeper went backwards: {what} seen={seen} found={found}; restore ZooKeeper's newer state, local data is kept")]
    WentBackwards {
        /// What is behind.
        what: &'static str,
        /// What this node had seen.
        seen: String,
        /// What is there now.
        found: String,
    },
    /// A record in ZooKeeper is missing or damaged, confirmed under the fence. It is never skipped.
    #[error("damaged in zookeeper: path={path} index={index} {what}")]
    Damaged {
        /// The znode.
        path: String,
        /// First index concerned.
        index: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A record carries a format newer than this release reads.
    #[error("unsupported format: path={path} found={found} max={max}; run a newer release here")]
    UnsupportedFormat {
        /// The znode.
        path: String,
        /// Its format.
        found: u32,
        /// The newest this release reads.
        max: u32,
    },
    /// Somebody else wrote under this leadership's ballot. Two writers are never resolved by guessing.
    #[error("wal conflict: path={path} holds other bytes than this leadership wrote; two writers")]
    WalConflict {
        /// The znode.
        path: String,
    },
    /// ZooKeeper denies access.
    #[error("access denied by zookeeper: path={path}; check the ACL and the credentials in the address")]
    Denied {
        /// The znode.
        path: String,
    },
    /// The state machine or the local disk failed.
    #[error("{message}")]
    Failed {
        /// Its words.
        message: String,
    },
    /// A committed entry this release cannot interpret.
    #[error("entry not understood: index={index} {what}; run a newer release here")]
    UnknownEntry {
        /// Its index.
        index: u64,
        /// What is unknown about it.
        what: String,
    },
}

/// Why a node cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The chroot holds no cluster. Starting a node never creates one.
    #[error("no such cluster: path={path}; check the ZooKeeper path, or create it once with `bequest init`")]
    NoSuchCluster {
        /// Where it was looked for.
        path: String,
    },
    /// The data directory belongs to another cluster.
    #[error(
        "other cluster: local uuid={local} uuid in zookeeper={found}; check the ZooKeeper path and the data directory"
    )]
    OtherCluster {
        /// What the disk says.
        local: Uuid,
        /// What ZooKeeper says.
        found: Uuid,
    },
    /// The node is registered and the process answers at its address.
    #[error("node already running: id={id} address={address}; stop it first, or choose another --node")]
    NodeAlreadyRunning {
        /// The node.
        id: u64,
        /// Where it answers.
        address: String,
    },
    /// Another process registered as this node later.
    #[error("superseded: id={id} incarnation={incarnation} newer={newer}; another process runs as this node")]
    Superseded {
        /// The node.
        id: u64,
        /// This process' incarnation.
        incarnation: u64,
        /// The newer one.
        newer: u64,
    },
    /// ZooKeeper denies access.
    #[error("access denied by zookeeper: path={path}; check the ACL and the credentials in the address")]
    Denied {
        /// The znode.
        path: String,
    },
    /// A record that concerns the node itself is damaged or of a newer format.
    #[error("record refused: path={path} {what}")]
    Record {
        /// The znode.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The local disk failed. What it lost is in ZooKeeper: start the node again, on a disk that works.
    #[error("local disk failed: {message}")]
    Disk {
        /// Its words.
        message: String,
    },
    /// A defect of this library, found by one of its own assertions.
    #[error("defect: {message}; please report it, then start the node again")]
    Internal {
        /// Which.
        message: String,
    },
}

fn named(leader: Option<&Leader>) -> String {
    leader.map_or_else(|| "none known".to_owned(), |leader| leader.node.0.to_string())
}
