//! Peers: where they are registered, whether their links are up, and which group their messages are for.

use bequest_recovery::planted;
use bequest_recovery::record::Addresses;
use bytes::Bytes;
use prost::Message as _;

use super::context::Context;
use super::event::{Effect, Incarnation, LinkEvent, NodeId, Now};
use super::message::{Body, Envelope};
use super::replica::Replica;
use super::Core;

impl Core {
    pub(super) fn peer_registered(
        &mut self,
        now: Now,
        peer: NodeId,
        incarnation: Incarnation,
        addresses: Addresses,
        out: &mut Vec<Effect>,
    ) {
        let known = self.facts.peers.entry(peer).or_default();
        let newer = known.registered.as_ref().is_none_or(|(registered, _)| incarnation > *registered);
        if !newer {
            return;
        }
        out.push(Effect::Dial { peer, incarnation, address: addresses.peer.clone() });
        known.registered = Some((incarnation, addresses));
        if known.meet(incarnation) {
            // Whatever link there is belongs to an earlier life.
            known.link = None;
            self.each(now, out, |r, cx| r.consider(cx));
        }
    }

    pub(super) fn link(&mut self, now: Now, peer: NodeId, event: LinkEvent, out: &mut Vec<Effect>) {
        let known = self.facts.peers.entry(peer).or_default();
        match event {
            LinkEvent::Up { incarnation } => self.linked(now, peer, incarnation, out),
            LinkEvent::Down => {
                known.link = None;
                self.touched.extend(self.replicas.keys());
            }
            LinkEvent::Refused => {
                known.link = None;
                // Once per established link: a firewall's refusal must not make two live nodes duel.
                if let (true, Some(incarnation)) = (std::mem::take(&mut known.armed), known.known) {
                    self.each(now, out, |r, cx| r.refused(cx, peer, incarnation.0));
                }
            }
            LinkEvent::Message(bytes) => self.message(now, peer, bytes, out),
        }
    }

    /// A handshake is complete.
    fn linked(&mut self, now: Now, peer: NodeId, incarnation: Incarnation, out: &mut Vec<Effect>) {
        // What raft-rs has to say so far is for the life before: a heartbeat whose commit index rests on what that life
        // acknowledged would make a new one commit entries of its own.
        if !planted!(OldMessagesToANewLife) {
            self.each(now, out, |r, cx| r.pump(cx));
        }
        let known = self.facts.peers.entry(peer).or_default();
        known.meet(incarnation);
        if known.known != Some(incarnation) {
            return;
        }
        known.link = Some(incarnation);
        known.heard = now;
        known.armed = true;
        self.each(now, out, |r, cx| {
            r.greeted(peer);
            r.greet(cx, peer);
            // A newer life than the ballot's may have been met.
            r.consider(cx);
        });
    }

    fn message(&mut self, now: Now, peer: NodeId, bytes: Bytes, out: &mut Vec<Effect>) {
        let (Ok(envelope), Some(own)) = (Envelope::decode(bytes), self.facts.incarnation()) else { return };
        let Some(known) = self.facts.peers.get_mut(&peer) else { return };
        // A delayed message of a dead incarnation, or to one, must never reach raft-rs.
        let stranger = envelope.to != own.0 || known.known != Some(Incarnation(envelope.from));
        if stranger && !planted!(AnyIncarnationIsHeard) {
            return;
        }
        known.heard = now;
        match envelope.body {
            None => {}
            Some(Body::Beat(beat)) => {
                for ballot in beat.ballots {
                    self.in_group(now, &ballot.group, out, |r, cx| r.beat(cx, peer, ballot.version));
                }
            }
            Some(Body::Raft(raft)) => {
                self.in_group(now, &raft.group, out, |r, cx| r.raft_message(cx, peer, &raft.message));
            }
            Some(Body::Hello(hello)) => {
                for group in hello.groups {
                    self.in_group(now, &group.group, out, |r, cx| {
                        // What was said so far rests on a log that may be no more.
                        r.pump(cx);
                        r.greeted(peer);
                    });
                }
            }
            Some(Body::HandOver(group)) => {
                self.in_group(now, &group.group, out, |r, cx| r.asked_to_seal(cx, peer, group.version));
            }
            Some(Body::Fetch(group)) => {
                self.in_group(now, &group.group, out, |r, cx| r.told_to_fetch(cx, peer, group.version));
            }
        }
    }

    fn in_group(
        &mut self,
        now: Now,
        uuid: &[u8],
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Replica, &mut Context<'_>),
    ) {
        if let Some(group) = self.roster.group(uuid) {
            self.with(now, group, out, act);
        }
    }
}
