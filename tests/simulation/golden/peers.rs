//! What nodes say to each other, in words. Bodies are read with a decoder of this file's own, so that a change of what
//! is on the wire shows here.

use bequest::replica::event::NodeId;
use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::decode::span;

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(uint64, tag = "1")]
    from: u64,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(oneof = "Body", tags = "3, 4, 5, 6, 7")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    #[prost(bytes = "vec", tag = "3")]
    Beat(Vec<u8>),
    #[prost(message, tag = "4")]
    Raft(RaftBytes),
    #[prost(bytes = "vec", tag = "5")]
    Hello(Vec<u8>),
    #[prost(bytes = "vec", tag = "6")]
    HandOver(Vec<u8>),
    #[prost(bytes = "vec", tag = "7")]
    Fetch(Vec<u8>),
}

#[derive(Clone, PartialEq, prost::Message)]
struct RaftBytes {
    #[prost(bytes = "vec", tag = "1")]
    group: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    message: Vec<u8>,
}

/// A message, and whether it is only a sign of life.
pub fn message(bytes: &Bytes) -> (String, bool) {
    let Some(body) = Envelope::decode(bytes.clone()).ok().and_then(|envelope| envelope.body) else {
        return ("a message nobody understands".to_owned(), false);
    };
    match body {
        Body::Beat(_) => ("beat".to_owned(), true),
        Body::Raft(RaftBytes { message, .. }) => match Message::parse_from_bytes(&message) {
            Ok(message) => raft_message(&message),
            Err(_) => ("a raft message nobody understands".to_owned(), false),
        },
        Body::Hello(_) => ("hello".to_owned(), false),
        Body::HandOver(_) => ("hand-over".to_owned(), false),
        Body::Fetch(_) => ("fetch from the archive".to_owned(), false),
    }
}

/// A heartbeat as if it were of another term; `None` if it is none.
pub fn of_term(bytes: &Bytes, term: u64) -> Option<Bytes> {
    let mut envelope = Envelope::decode(bytes.clone()).ok()?;
    let Some(Body::Raft(raft)) = &mut envelope.body else { return None };
    let mut message = Message::parse_from_bytes(&raft.message).ok()?;
    message.term = term;
    raft.message = message.write_to_bytes().ok()?;
    (message.get_msg_type() == MessageType::MsgHeartbeat).then(|| envelope.encode_to_vec().into())
}

fn raft_message(message: &Message) -> (String, bool) {
    match message.get_msg_type() {
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => ("beat".to_owned(), true),
        MessageType::MsgAppend => match (message.entries.first(), message.entries.last()) {
            (Some(first), Some(last)) => {
                (format!("entries {} (commit {})", span(first.index, last.index), message.commit), false)
            }
            _ => (format!("commit {}", message.commit), false),
        },
        MessageType::MsgAppendResponse if message.reject => {
            (format!("no to {} (has {})", message.index, message.reject_hint), false)
        }
        MessageType::MsgAppendResponse => (format!("has {}", message.index), false),
        other => (format!("{other:?}"), false),
    }
}

/// A node's name.
pub fn node(node: NodeId) -> String {
    format!("n{}", node.0)
}
