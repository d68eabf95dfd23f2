//! What a fuzzer drives that is nobody's interface: frames, handshakes, envelopes, and peers' messages up to raft-rs.
//!
//! Built for the fuzzers and for the tests that replay their corpora, and for nobody else: no feature switches it on.
//! A target says whether the input was accepted, so that a corpus of nothing but refusals is noticed.

#[allow(dead_code, unreachable_pub, reason = "shared with the fuzzers' own crate, which uses more of it")]
#[path = "../fuzz/src/source.rs"]
pub(crate) mod source;

use bequest_recovery::record::Uuid;
use bytes::{Bytes, BytesMut};

use crate::replica::event::{Incarnation, NodeId};
use crate::wire::frame::{put_frame, Header, FRAME_BYTES_MAX, HEADER_BYTES};
use crate::wire::handshake::{Hello, Identity, Welcome, HANDSHAKE_BYTES_MAX};

pub use crate::replica::fuzzing::{envelopes, messages};

const CLUSTER: Uuid = Uuid([7; 16]);
const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);

/// What arrives on the peer port, frame by frame.
pub fn frames(mut data: &[u8]) -> bool {
    let mut accepted = false;
    while let Some((header, rest)) = data.split_first_chunk::<HEADER_BYTES>() {
        let Ok(header) = Header::parse(*header, FRAME_BYTES_MAX) else { break };
        assert!(header.payload_bytes() <= FRAME_BYTES_MAX);
        let Some((payload, rest)) = rest.split_at_checked(header.payload_bytes()) else { break };
        if header.check(payload).is_err() {
            break;
        }
        let mut again = BytesMut::new();
        put_frame(&mut again, payload);
        assert_eq!(again, &data[..HEADER_BYTES + payload.len()], "one payload in two frames");
        accepted = true;
        data = rest;
    }
    accepted
}

/// A hello, then a welcome, each of a stranger; what is accepted must be of this cluster and for this node.
pub fn handshakes(data: &[u8]) -> bool {
    let payload = Bytes::copy_from_slice(&data[..data.len().min(HANDSHAKE_BYTES_MAX)]);
    let identity = Identity { cluster: CLUSTER, incarnation: Incarnation(3) };
    let mut accepted = false;
    if let Ok(hello) = Hello::decode_checked(payload.clone()) {
        assert!(hello.objection(ME, None).is_some(), "an unregistered node takes no link");
        let taken = hello.objection(ME, Some(identity)).is_none();
        assert!(!taken || hello.node() > ME, "a lower node dialed");
        accepted |= taken || hello.is_probe();
    }
    if let Ok(welcome) = Welcome::decode_checked(payload) {
        let _ = welcome.nonce();
        accepted |= welcome.accept(PEER, identity).is_ok();
    }
    accepted
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::source::replay;
    use super::*;

    fn framed(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        payloads.iter().for_each(|payload| put_frame(&mut bytes, payload));
        bytes.to_vec()
    }

    fn identity(cluster: Uuid) -> Identity {
        Identity { cluster, incarnation: Incarnation(9) }
    }

    #[test]
    fn the_corpus_of_frames_is_judged_without_a_panic() {
        let mut damaged = framed(&[b"payload"]);
        damaged[9] ^= 1;
        let seeds = [framed(&[b"", b"a", b"payload"]), damaged, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()];
        replay("frames", frames, &seeds);
    }

    #[test]
    fn the_corpus_of_handshakes_is_judged_without_a_panic() {
        let other = Uuid([8; 16]);
        let seeds = [
            Hello::link(PEER, 5, identity(CLUSTER), ME).encode_to_vec(),
            Hello::link(PEER, 5, identity(other), ME).encode_to_vec(),
            Hello::probe(PEER, 5).encode_to_vec(),
            Welcome::new(PEER, 6, Some(identity(CLUSTER)), None).encode_to_vec(),
            Welcome::new(PEER, 6, Some(identity(CLUSTER)), Some("an incarnation that has ended")).encode_to_vec(),
            Welcome::new(PEER, 6, None, None).encode_to_vec(),
        ];
        replay("handshakes", handshakes, &seeds);
    }
}
