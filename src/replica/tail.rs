//! Keeping up through ZooKeeper while the leader is alive but out of sight.
//!
//! The names of segments are deterministic, so a follower that knows where the leader's WAL ends can ask for the next
//! one by name and leave a watch where it is not there yet. What lies in the WAL of the ballot's holder is never taken
//! back, so it may go into the local log; whether it is committed only the leader can say.

use bequest_recovery::keeper::{Outcome, Reply, Request, Urgency};
use bequest_recovery::path::WalName;
use bequest_recovery::reader::{Place, Tail};
use bequest_recovery::segment::{self, Body};

use super::context::Context;
use super::event::{NodeId, Now};
use super::replica::{Ask, Phase, Replica, RETRY};

/// A request of the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Next,
    Watch,
}

/// Where a follower is in the leader's WAL.
#[derive(Debug)]
pub(super) struct Tailing {
    /// The next place in the WAL of the ballot's holder, as far as known.
    place: Option<Place>,
    outstanding: bool,
    pub(super) retry_at: Option<Now>,
}

impl Tailing {
    /// After a pass that read everything up to the end.
    pub(super) fn behind(tail: &Tail) -> Self {
        Self { place: Some(tail.last), outstanding: false, retry_at: None }
    }

    /// Nothing is known: a pass must find the place first.
    pub(super) fn unknown() -> Self {
        Self { place: None, outstanding: false, retry_at: None }
    }

    pub(super) fn ballot_changed(&mut self) {
        self.place = None;
    }
}

impl Replica {
    /// Whether to keep up through ZooKeeper now.
    pub(super) fn tail_tick(&mut self, cx: &mut Context<'_>) {
        if !self.suspicion.out_of_sight(cx) || !cx.facts.usable() {
            return;
        }
        let holder = self.seen.as_ref().map(|seen| WalName { term: seen.ballot.term, node: seen.ballot.node });
        let last = self.engine.as_ref().map_or(0, |engine| engine.last());
        let Phase::Follower(tailing) = &mut self.phase else { return };
        if tailing.outstanding || tailing.retry_at.is_some_and(|at| cx.now < at) {
            return;
        }
        match tailing.place {
            Some(place) if Some(place.wal) == holder && place.index > last => self.tail_next(cx),
            // The place is lost: the ballot moved, or messages came meanwhile, and what lay there may have been trimmed.
            // Read as at birth, from the local commit on.
            _ => self.observe_wals(cx),
        }
    }

    fn tail_next(&mut self, cx: &mut Context<'_>) {
        let Phase::Follower(tailing) = &mut self.phase else { return };
        let Some(place) = tailing.place else { return };
        tailing.outstanding = true;
        tailing.retry_at = None;
        let path = self.paths.segment(place.wal, place.ordinal, place.index);
        self.call(cx, Urgency::Normal, Ask::Tail(Call::Next), Request::Get { path, watch: false });
    }

    pub(super) fn tail_outcome(&mut self, cx: &mut Context<'_>, call: Call, outcome: Outcome) {
        let Some(uuid) = self.uuid() else { return };
        let Phase::Follower(tailing) = &mut self.phase else { return };
        tailing.outstanding = false;
        let Some(place) = tailing.place else { return };
        tailing.retry_at = Some(cx.now + RETRY);
        match (call, outcome) {
            (Call::Next, Outcome::Ok(Reply::Data(Some((bytes, _))))) => {
                let decoded = segment::decode(&bytes, uuid, place.wal.term, place.index);
                let (Ok(decoded), Some(engine)) = (decoded, &mut self.engine) else {
                    tailing.place = None;
                    return;
                };
                let attached = engine.log().position(decoded.prev.index) == Some(decoded.prev);
                match (&decoded.body, attached) {
                    (Body::Entries(entries), true) if engine.term() <= place.wal.term => {
                        let end = decoded.end();
                        let entries: Vec<_> = entries.iter().map(|(entry, _)| entry.clone()).collect();
                        engine.adopt(NodeId(place.wal.node), place.wal.term, decoded.prev, &entries);
                        tailing.place = Some(Place { ordinal: place.ordinal + 1, index: end.index + 1, ..place });
                        self.know(end);
                        self.pump(cx);
                        self.tail_next(cx);
                    }
                    // Closed, or not where this log ends: find the place anew.
                    _ => tailing.place = None,
                }
            }
            (Call::Next, Outcome::Ok(_)) => {
                // Not there yet; the watch tells when, and the poll where it does not.
                tailing.retry_at = Some(cx.now + cx.config.election_timeout);
                let path = self.paths.segment(place.wal, place.ordinal, place.index);
                self.call(cx, Urgency::Normal, Ask::Tail(Call::Watch), Request::Exists { path, watch: true });
            }
            (Call::Watch, Outcome::Ok(Reply::Stat(Some(_)))) => self.tail_next(cx),
            (Call::Watch, Outcome::Ok(_)) => tailing.retry_at = Some(cx.now + cx.config.election_timeout),
            (_, Outcome::Refused(_) | Outcome::Unknown(_)) => {}
        }
    }

    pub(super) fn tail_changed(&mut self, cx: &mut Context<'_>, changed: &str) {
        let Phase::Follower(tailing) = &self.phase else { return };
        let expected = tailing.place.map(|place| self.paths.segment(place.wal, place.ordinal, place.index));
        if expected.as_deref() == Some(changed) && !tailing.outstanding && self.suspicion.out_of_sight(cx) {
            self.tail_next(cx);
        }
    }
}
