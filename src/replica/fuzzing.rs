//! Peers' messages, as bytes and as raft-rs' fields, against engines in every state a message can meet.

use bequest_recovery::entry::{Entry, EntryHash, Position};
use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{Entry as RaftEntry, EntryType, Message, MessageType};

use super::engine::{conf_state, Engine};
use super::event::{NodeId, Slot};
use super::log::Log;
use super::message::{decode_raft, encode_raft, judge, Body, Envelope, Holder, Judgement};
use crate::fuzzing::source::Source;

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const OWN: NodeId = NODES[0];

/// A message on a link, down to raft-rs' own.
pub fn envelopes(data: &[u8]) -> bool {
    let Ok(envelope) = Envelope::decode(data) else { return false };
    assert_eq!(Envelope::decode(envelope.encoded()).as_ref(), Ok(&envelope), "an envelope changes on its way");
    let Some(Body::Raft(raft)) = envelope.body else { return true };
    let Some(message) = decode_raft(&raft.message) else { return false };
    let (mut engine, holder) = engine(&mut Source::new(&[]));
    step(&mut engine, holder, message, NodeId(2));
    true
}

/// An engine and then messages to it, field by field: what is judged to be stepped must not make raft-rs panic.
pub fn messages(data: &[u8]) -> bool {
    let mut source = Source::new(data);
    let (mut engine, mut holder) = engine(&mut source);
    let mut accepted = false;
    // The numbers of writes ascend; how many of them the disk has done lags behind.
    let (mut write, mut written) = (1, 0);
    while !source.is_empty() {
        match source.pick(8) {
            0 => {
                write += 1;
                let _ = engine.round(write);
            }
            1 => {
                written = write.min(written + source.number().min(3));
                let _ = engine.persisted_to(written);
            }
            2 => engine.tick(),
            3 if holder.node == OWN.0 => {
                let _ = engine.propose(source.bytes());
                settle(&mut engine, &mut write, &mut written);
                engine.acknowledge(engine.last());
            }
            // The ballot moves on, and this node hears of it.
            4 if holder.node != OWN.0 => {
                holder = Holder { term: holder.term + 1, node: NODES[usize::from(1 + source.pick(2))].0 };
                if source.pick(2) == 0 {
                    engine.follow(holder.term);
                }
            }
            5 => engine.reset_progress(NODES[usize::from(1 + source.pick(2))]),
            _ => {
                let peer = NODES[usize::from(1 + source.pick(2))];
                let message = message(&mut source, &engine, holder, peer);
                accepted |= step(&mut engine, holder, message, peer);
            }
        }
    }
    settle(&mut engine, &mut write, &mut written);
    accepted
}

/// As the replica does it: judged, and stepped only if it fits.
fn step(engine: &mut Engine, holder: Holder, message: Message, peer: NodeId) -> bool {
    let (commit, term) = (engine.commit(), engine.term());
    let fits = judge(&message, peer, OWN, engine, holder) == Judgement::Step;
    if fits {
        engine.step(message);
    }
    assert!(engine.commit() >= commit && engine.commit() <= engine.last(), "commit went from {commit}: {engine:?}");
    assert!(engine.term() >= term && engine.term() <= holder.term, "term went from {term} to {}", engine.term());
    fits
}

fn settle(engine: &mut Engine, write: &mut u64, written: &mut u64) {
    loop {
        *write += 1;
        let more = engine.round(*write).is_some();
        *written = *write;
        let _ = engine.persisted_to(*written);
        if !more {
            return;
        }
    }
}

/// A follower or a leader, with a log that begins anywhere.
fn engine(source: &mut Source<'_>) -> (Engine, Holder) {
    let base_index = source.number().min(1 << 40);
    let mut term = if base_index == 0 { 0 } else { 1 + source.number().min(1 << 20) };
    let base = Position { index: base_index, term, hash: EntryHash([1; 16]) };
    let mut end = if base_index == 0 { Position::START } else { base };
    let base = end;
    let mut slots = Vec::new();
    for _ in 0..source.pick(12) {
        term = (term + u64::from(source.pick(3))).max(1);
        let entry =
            Entry { index: end.index + 1, term, kind: 0, data: Bytes::from_static(b"e"), context: Bytes::new() };
        end = end.next(&entry);
        slots.push(Slot { position: end, bytes: 1, entry: Some(entry) });
    }
    let commit = base.index + u64::from(source.pick(16)).min(end.index - base.index);
    let handed = base.index + u64::from(source.pick(16)).min(commit - base.index);
    let ahead = 1 + u64::from(source.pick(3));
    let mut engine = Engine::new(OWN, Log::new(base, slots, conf_state(&NODES)), end.term.max(1), commit, handed);
    let leads = source.pick(2) == 1;
    let ballot = end.term.max(1) + ahead;
    if !leads {
        return (engine, Holder { term: ballot, node: 2 });
    }
    let (mut write, mut written) = (0, 0);
    engine.follow(ballot - 1);
    settle(&mut engine, &mut write, &mut written);
    assert!(engine.stand(ballot), "the holder of a ballot wins with the witnesses alone");
    settle(&mut engine, &mut write, &mut written);
    if source.pick(2) == 1 {
        engine.acknowledge(engine.last());
        settle(&mut engine, &mut write, &mut written);
    }
    (engine, Holder { term: ballot, node: OWN.0 })
}

/// A message near what a correct peer says, and far from it.
fn message(source: &mut Source<'_>, engine: &Engine, holder: Holder, peer: NodeId) -> Message {
    const KINDS: [MessageType; 8] = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgHeartbeat,
        MessageType::MsgHeartbeatResponse,
        MessageType::MsgSnapshot,
        MessageType::MsgRequestVote,
        MessageType::MsgTransferLeader,
        MessageType::MsgUnreachable,
    ];
    let mut message = Message::default();
    message.set_msg_type(KINDS[usize::from(source.pick(8))]);
    message.from = source.near(peer.0);
    message.to = source.near(OWN.0);
    message.term = match source.pick(4) {
        0 => source.number(),
        1 => engine.term(),
        _ => holder.term,
    };
    // Indexes count back from the log's end, where a message means something, or are anything.
    let index = |source: &mut Source<'_>| match source.pick(4) {
        0 => source.number(),
        _ => engine.last().saturating_sub(u64::from(source.pick(14))),
    };
    message.index = index(source);
    message.commit = index(source);
    message.reject_hint = index(source);
    message.reject = source.pick(2) == 1;
    message.log_term = match source.pick(3) {
        0 => source.number(),
        1 => message.term,
        _ => engine.log().position(message.index).map_or(0, |position| position.term),
    };
    let mut term = message.log_term;
    let entries = (0..source.pick(5)).map(|at| {
        term = source.near(term);
        RaftEntry {
            index: source.near(message.index.wrapping_add(1 + u64::from(at))),
            term,
            data: source.bytes(),
            entry_type: if source.byte() == 0 { EntryType::EntryConfChangeV2 } else { EntryType::EntryNormal },
            ..RaftEntry::default()
        }
    });
    let entries: Vec<_> = entries.collect();
    message.set_entries(entries.into());
    // What was built is also what arrives.
    encode_raft(&message).and_then(|bytes| decode_raft(&bytes)).expect("raft-rs decodes what it encodes")
}

#[cfg(test)]
mod tests {
    use super::super::event::Incarnation;
    use super::super::message::{Beat, GroupLast, GroupVersion, Hello, RaftBytes};
    use super::*;
    use crate::fuzzing::source::replay;

    #[test]
    fn the_corpus_of_envelopes_is_judged_without_a_panic() {
        let group = Bytes::from_static(&[7; 16]);
        let version = GroupVersion { group: group.clone(), version: 4 };
        let (engine, holder) = engine(&mut Source::new(&[]));
        let append = message(&mut Source::new(&[0, 9, 9, 9, 1]), &engine, holder, NodeId(2));
        let message = encode_raft(&append).expect("encodes");
        let bodies = [
            Body::Beat(Beat { ballots: vec![version.clone()] }),
            Body::Raft(RaftBytes { group: group.clone(), message }),
            Body::Raft(RaftBytes { group: group.clone(), message: Bytes::from_static(&[0xff; 9]) }),
            Body::Hello(Hello { groups: vec![GroupLast { group, last: u64::MAX }] }),
            Body::HandOver(version.clone()),
            Body::Fetch(version),
        ];
        let seeds = bodies.map(|body| Envelope::new(Incarnation(3), Incarnation(4), body).encoded().to_vec());
        replay("envelopes", envelopes, &seeds);
    }

    #[test]
    fn the_corpus_of_messages_never_makes_raft_panic() {
        // A follower and a leader, each told everything once.
        let told: Vec<u8> =
            (0..8).flat_map(|kind| [7, 0, kind, 9, 9, 2, 1, 0, 1, 0, 1, 0, 0, 2, 1, 9, 9, 1, 0, 1]).collect();
        let state = |leads: u8| vec![0, 5, 1, 0, 1, 0, 0, 3, 3, 1, leads, 1];
        let impossible = [7, 0, 2, 9, 9, 2, 1, 0, 0, 255, 1, 0, 0, 0, 0];
        let seeds = [0, 1].into_iter().flat_map(|leads| {
            [[state(leads), told.clone()].concat(), [state(leads), impossible.to_vec()].concat(), state(leads)]
        });
        replay("messages", messages, &seeds.collect::<Vec<_>>());
    }
}
