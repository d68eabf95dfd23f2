//! How two nodes find out that they belong together, before anything else is said.
//!
//! The dialer sends a [`Hello`], the listener answers with a [`Welcome`]. A probe ends there: whoever may come learns
//! which process listens. A link goes on only if the welcome does not refuse.

use bequest_recovery::record::Uuid;
use bytes::Bytes;
use prost::Message;

use super::frame::FrameError;
use crate::replica::event::{Incarnation, NodeId};

/// Version of everything that is said between nodes. Nodes of different versions do not talk.
pub(crate) const PEER_PROTOCOL: u32 = 1;

/// Bytes of a hello or welcome: what a stranger can make this node allocate.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 1024;

const MAGIC: u64 = u64::from_le_bytes(*b"bequest\0");

/// What the dialer says.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(fixed64, tag = "1")]
    magic: u64,
    #[prost(uint32, tag = "2")]
    version: u32,
    #[prost(bytes = "bytes", tag = "3")]
    cluster: Bytes,
    #[prost(uint64, tag = "4")]
    node: u64,
    #[prost(uint64, tag = "5")]
    to_node: u64,
    #[prost(uint64, tag = "6")]
    incarnation: u64,
    #[prost(fixed64, tag = "7")]
    nonce: u64,
    #[prost(bool, tag = "8")]
    probe: bool,
}

/// What the listener answers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Welcome {
    #[prost(fixed64, tag = "1")]
    magic: u64,
    #[prost(uint32, tag = "2")]
    version: u32,
    #[prost(bytes = "bytes", tag = "3")]
    cluster: Bytes,
    #[prost(uint64, tag = "4")]
    node: u64,
    #[prost(uint64, tag = "5")]
    incarnation: u64,
    #[prost(fixed64, tag = "6")]
    nonce: u64,
    // Why there will be no link; empty where there is one.
    #[prost(string, tag = "7")]
    refused: String,
}

/// Who a node is: what it may say once it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: Uuid,
    pub(crate) incarnation: Incarnation,
}

/// Why two nodes do not talk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("not a node of this kind: {0}")]
    Stranger(&'static str),
    #[error("peer refuses: {0}")]
    Refused(String),
    #[error("deadline passed")]
    Deadline,
}

impl HandshakeError {
    /// Whether the connection was actively ended or never was, rather than answered.
    pub(crate) fn is_bad_frame(&self) -> bool {
        match self {
            Self::Frame(error) => error.is_bad_frame(),
            Self::Stranger(_) => true,
            Self::Refused(_) | Self::Deadline => false,
        }
    }
}

impl Hello {
    /// Reads what a frame carries.
    pub(crate) fn decode_checked(payload: Bytes) -> Result<Self, HandshakeError> {
        let hello = Self::decode(payload).map_err(|_| HandshakeError::Stranger("handshake malformed"))?;
        if hello.magic != MAGIC {
            return Err(HandshakeError::Stranger("no hello"));
        }
        Ok(hello)
    }

    pub(crate) fn link(me: NodeId, nonce: u64, identity: Identity, to: NodeId) -> Self {
        Self {
            magic: MAGIC,
            version: PEER_PROTOCOL,
            cluster: identity.cluster.to_bytes(),
            node: me.0,
            to_node: to.0,
            incarnation: identity.incarnation.0,
            nonce,
            probe: false,
        }
    }

    pub(crate) fn probe(me: NodeId, nonce: u64) -> Self {
        Self { magic: MAGIC, version: PEER_PROTOCOL, node: me.0, nonce, probe: true, ..Self::default() }
    }

    pub(crate) fn is_probe(&self) -> bool {
        self.probe
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node)
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    /// Why a listener does not want this link, by what does not change between two hellos.
    pub(crate) fn objection(&self, me: NodeId, identity: Option<Identity>) -> Option<&'static str> {
        let Some(identity) = identity else {
            return Some("not registered yet");
        };
        if self.version != PEER_PROTOCOL {
            Some("other protocol version")
        } else if Uuid::from_slice(&self.cluster) != Some(identity.cluster) {
            Some("other cluster")
        } else if self.to_node != me.0 {
            Some("other node expected")
        } else if self.node <= me.0 {
            Some("the lower node is dialed, it does not dial")
        } else {
            None
        }
    }
}

impl Welcome {
    /// Reads what a frame carries.
    pub(crate) fn decode_checked(payload: Bytes) -> Result<Self, HandshakeError> {
        let welcome = Self::decode(payload).map_err(|_| HandshakeError::Stranger("handshake malformed"))?;
        if welcome.magic != MAGIC {
            return Err(HandshakeError::Stranger("no welcome"));
        }
        Ok(welcome)
    }

    pub(crate) fn new(me: NodeId, nonce: u64, identity: Option<Identity>, refused: Option<&str>) -> Self {
        Self {
            magic: MAGIC,
            version: PEER_PROTOCOL,
            cluster: identity.map_or_else(Bytes::new, |identity| identity.cluster.to_bytes()),
            node: me.0,
            incarnation: identity.map_or(0, |identity| identity.incarnation.0),
            nonce,
            refused: refused.unwrap_or_default().to_owned(),
        }
    }

    pub(crate) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// The incarnation that a link goes to, if there is one.
    pub(crate) fn accept(&self, peer: NodeId, identity: Identity) -> Result<Incarnation, HandshakeError> {
        if !self.refused.is_empty() {
            // Whatever the other side wrote goes to the log: no more than a line of it.
            return Err(HandshakeError::Refused(self.refused.chars().take(100).collect()));
        }
        if self.version != PEER_PROTOCOL {
            return Err(HandshakeError::Stranger("other protocol version"));
        }
        if Uuid::from_slice(&self.cluster) != Some(identity.cluster) {
            return Err(HandshakeError::Stranger("other cluster"));
        }
        if self.node != peer.0 {
            return Err(HandshakeError::Stranger("other node answers"));
        }
        Ok(Incarnation(self.incarnation))
    }
}
