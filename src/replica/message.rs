//! What nodes say to each other, and what of it is believed.
//!
//! raft-rs panics on messages no correct peer sends. Whatever arrives is therefore checked here first, against this
//! replica's log and the ballot; what does not fit is dropped, and costs the sender nothing but a retry.

use bequest_recovery::planted;
use bequest_recovery::segment::ENTRY_BYTES_MAX;
use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};

use super::engine::Engine;
use super::event::{Incarnation, NodeId};

/// One message on a link.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    /// Incarnation of the sender.
    #[prost(uint64, tag = "1")]
    pub(super) from: u64,
    /// Incarnation of the receiver, as the sender knows it.
    #[prost(uint64, tag = "2")]
    pub(super) to: u64,
    #[prost(oneof = "Body", tags = "3, 4, 5, 6, 7")]
    pub(super) body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Body {
    /// A sign of life, with what the cores of this node hold.
    #[prost(message, tag = "3")]
    Beat(Beat),
    /// raft-rs' message of a group.
    #[prost(message, tag = "4")]
    Raft(RaftBytes),
    /// First on every link: the groups this node hosts and how far their logs reach.
    #[prost(message, tag = "5")]
    Hello(Hello),
    /// The leader asks the receiver to seal.
    #[prost(message, tag = "6")]
    HandOver(GroupVersion),
    /// The leader's log no longer reaches back to the receiver's: fetch from the archive.
    #[prost(message, tag = "7")]
    Fetch(GroupVersion),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Beat {
    /// Ballots under which this node's cores lead or succeed.
    #[prost(message, repeated, tag = "1")]
    pub(super) ballots: Vec<GroupVersion>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RaftBytes {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) group: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) message: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hello {
    #[prost(message, repeated, tag = "1")]
    pub(super) groups: Vec<GroupLast>,
}

/// A group and the last index of its log.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GroupLast {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) group: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) last: u64,
}

/// A group and a version of its ballot.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GroupVersion {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) group: Bytes,
    #[prost(int32, tag = "2")]
    pub(super) version: i32,
}

impl Envelope {
    pub(super) fn new(from: Incarnation, to: Incarnation, body: Body) -> Self {
        Self { from: from.0, to: to.0, body: Some(body) }
    }

    pub(super) fn encoded(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// Decodes raft-rs' message; `None` if it is none.
pub(super) fn decode_raft(bytes: &[u8]) -> Option<Message> {
    Message::parse_from_bytes(bytes).ok()
}

/// Encodes raft-rs' message; `None` if it cannot be (it always can).
pub(super) fn encode_raft(message: &Message) -> Option<Bytes> {
    message.write_to_bytes().ok().map(Bytes::from)
}

/// What a follower or leader knows of the ballot, as far as messages are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) term: u64,
    pub(super) node: u64,
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// Step it.
    Step,
    /// Drop it.
    Drop,
    /// Drop it, and tell the sender how far this log reaches: it believes that it reaches further.
    Short,
    /// Drop it, and look at the ballot: it speaks of a term this node has not seen there.
    Ahead,
}

/// Whether a message from `peer` may be stepped into this engine.
pub(super) fn judge(message: &Message, peer: NodeId, own: NodeId, engine: &Engine, holder: Holder) -> Judgement {
    if message.from != peer.0 || message.to != own.0 || !message.context.is_empty() || message.request_snapshot != 0 {
        return Judgement::Drop;
    }
    // Terms come from the ballot alone. A term it does not show yet is never believed from a peer.
    if message.term > holder.term && !planted!(TermsFromPeers) {
        return Judgement::Ahead;
    }
    let last = engine.last();
    let fits = match message.get_msg_type() {
        MessageType::MsgAppend => from_leader(message, holder) && entries_fit(message),
        // Beyond the log's end raft-rs panics; the leader has not heard yet that this incarnation has less.
        MessageType::MsgHeartbeat if message.commit > last && from_leader(message, holder) => return Judgement::Short,
        MessageType::MsgHeartbeat => from_leader(message, holder),
        // A hint beyond the rejected index is none that raft-rs gives, and it counts on from there.
        MessageType::MsgAppendResponse => message.index <= last && message.reject_hint <= message.index,
        MessageType::MsgHeartbeatResponse => message.commit <= last,
        // Votes are ZooKeeper's, snapshots the archive's, reads and transfers go other ways.
        _ => false,
    };
    if fits {
        Judgement::Step
    } else {
        Judgement::Drop
    }
}

fn from_leader(message: &Message, holder: Holder) -> bool {
    message.term > 0 && (message.term < holder.term || message.from == holder.node)
}

fn entries_fit(message: &Message) -> bool {
    let Some(end) = message.index.checked_add(message.entries.len() as u64) else { return false };
    if end == u64::MAX || message.log_term > message.term || (message.index == 0) != (message.log_term == 0) {
        return false;
    }
    let mut term = message.log_term;
    message.entries.iter().enumerate().all(|(at, entry)| {
        let ascends = entry.term >= term && entry.term <= message.term && entry.term > 0;
        term = entry.term;
        ascends
            && entry.index == message.index + 1 + at as u64
            && entry.get_entry_type() == EntryType::EntryNormal
            && entry.data.len() + entry.context.len() <= ENTRY_BYTES_MAX
    })
}
