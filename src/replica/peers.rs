//! What comes over the links from other nodes' cores, and what goes out to them.

use std::time::Duration;

use bequest_recovery::planted;
use bytes::Bytes;

use super::context::Context;
use super::event::{Effect, NodeId};
use super::message::{decode_raft, judge, Body, Envelope, GroupLast, GroupVersion, Hello, Holder, Judgement};
use super::replica::{Phase, Replica};

/// Bytes of entries beyond the cache that a follower holds in memory because its disk or its machine has not taken them
/// yet. It takes no more before that: the leader does not wait for it.
const BACKLOG_BYTES_MAX: u64 = 32 << 20;

impl Replica {
    /// A message of a peer's core for this group.
    pub(super) fn raft_message(&mut self, cx: &mut Context<'_>, peer: NodeId, bytes: &[u8]) {
        // From the seal to the stand, and before birth, nothing is stepped.
        if !matches!(self.phase, Phase::Follower(_) | Phase::Leader(_)) {
            return;
        }
        let (Some(engine), Some(seen)) = (&mut self.engine, &self.seen) else { return };
        let Some(message) = decode_raft(bytes) else { return };
        let holder = Holder { term: seen.ballot.term, node: seen.ballot.node };
        match judge(&message, peer, cx.config.node, engine, holder) {
            Judgement::Step => {
                let from_holder = message.term == holder.term && peer.0 == holder.node;
                let commit = engine.commit();
                // As if it were lost on the way: the leader goes on alone, and offers it again with its heartbeats.
                let crowded = engine.log().resident_bytes() > cx.config.log_cache_bytes + BACKLOG_BYTES_MAX;
                if !crowded || message.entries.is_empty() {
                    engine.step(message);
                }
                // A leader without ZooKeeper goes on sending what it cannot commit. Only what got on is a sign of life;
                // everything else is told by beats, which such a leader withholds.
                if from_holder && engine.commit() > commit && matches!(self.phase, Phase::Follower(_)) {
                    self.heard(cx);
                }
            }
            Judgement::Ahead => self.look(cx),
            Judgement::Short => self.greet(cx, peer),
            Judgement::Drop => {}
        }
    }

    /// The holder's core gave a sign of life.
    fn heard(&mut self, cx: &Context<'_>) {
        if self.doubting {
            self.trust_all();
        }
        self.suspicion.heard(cx.now);
    }

    /// The peer's core says that it leads or succeeds under this ballot version.
    pub(super) fn beat(&mut self, cx: &mut Context<'_>, peer: NodeId, version: i32) {
        let Some(seen) = &self.seen else { return };
        match version.cmp(&seen.version) {
            std::cmp::Ordering::Equal if seen.ballot.node == peer.0 => self.heard(cx),
            std::cmp::Ordering::Greater => self.look(cx),
            _ => {}
        }
    }

    /// Nothing listens at the holder's address any more.
    pub(super) fn refused(&mut self, cx: &mut Context<'_>, peer: NodeId, incarnation: u64) {
        let Some(seen) = &self.seen else { return };
        if seen.ballot.node == peer.0 && seen.ballot.incarnation == incarnation {
            self.suspicion.refused();
            self.consider(cx);
        }
    }

    /// A link to a new life of the peer, or a new link to the same.
    pub(super) fn greeted(&mut self, peer: NodeId) {
        if let (Phase::Leader(_), Some(engine), false) = (&self.phase, &mut self.engine, planted!(StaleProgress)) {
            engine.reset_progress(peer);
        }
    }

    /// Tells every linked peer how far this log reaches, so that a leader begins where it ends.
    pub(super) fn greet_all(&mut self, cx: &mut Context<'_>) {
        let Some(identity) = &self.identity else { return };
        let peers: Vec<_> = identity.voters.iter().copied().filter(|peer| *peer != cx.config.node).collect();
        for peer in peers {
            self.greet(cx, peer);
        }
    }

    pub(super) fn greet(&self, cx: &mut Context<'_>, peer: NodeId) {
        let (Some(engine), Some(uuid)) = (&self.engine, self.uuid()) else { return };
        let group = GroupLast { group: uuid.to_bytes(), last: engine.last() };
        send(cx, peer, Body::Hello(Hello { groups: vec![group] }));
    }

    /// The leader's log does not reach back to where the peer's ends: it must fetch from the archive.
    pub(super) fn tell_fetch(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        let (Phase::Leader(leader), Some(identity)) = (&mut self.phase, &self.identity) else { return };
        leader.asked_to_fetch.retain(|(_, at)| cx.now.since(*at) < Duration::from_secs(1));
        if leader.asked_to_fetch.iter().any(|(asked, _)| *asked == peer) {
            return;
        }
        leader.asked_to_fetch.push((peer, cx.now));
        let body = Body::Fetch(GroupVersion { group: identity.uuid.to_bytes(), version: leader.won.seen.version });
        send(cx, peer, body);
    }

    /// The leader says that this replica must fetch from the archive.
    pub(super) fn told_to_fetch(&mut self, cx: &mut Context<'_>, peer: NodeId, version: i32) {
        let from_holder = self.seen.as_ref().is_some_and(|seen| seen.version == version && seen.ballot.node == peer.0);
        if from_holder && matches!(self.phase, Phase::Follower(_)) {
            self.observe_wals(cx);
        }
    }
}

/// Sends to a peer whose link is up.
pub(super) fn send(cx: &mut Context<'_>, peer: NodeId, body: Body) {
    let link = cx.facts.peers.get(&peer).and_then(|peer| peer.link);
    if let (Some(own), Some(incarnation)) = (cx.facts.incarnation(), link) {
        let message: Bytes = Envelope::new(own, incarnation, body).encoded();
        cx.push(Effect::Send { peer, message });
    }
}
