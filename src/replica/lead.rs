//! Leading: entries into the WAL, acknowledgements into Raft, reads behind the fence.
//!
//! Nothing is acknowledged before ZooKeeper has it: raft-rs commits only with the witnesses, and they speak only when
//! the writer's contiguous prefix grew. A linearizable read waits for a fenced transaction that was *issued after* the
//! read arrived; being leader a moment ago proves nothing.

use std::collections::VecDeque;
use std::time::Duration;

use bequest_recovery::archive::Archive;
use bequest_recovery::ballot::wal_header;
use bequest_recovery::keeper::{Op, Outcome, Reason, Request, Urgency};
use bequest_recovery::path::{GroupPaths, WalName};
use bequest_recovery::planted;
use bequest_recovery::reader::{Ask as WriterAsk, Tail};
use bequest_recovery::record::Uuid;
use bequest_recovery::writer::{Writer, WriterEvent};

use super::archive::Snapshots;
use super::context::Context;
use super::engine::Engine;
use super::event::{Effect, NodeId, Now, Token};
use super::log::ENTRY_OVERHEAD;
use super::propose::Gathered;
use super::replica::{Ask, Phase, Replica, RETRY};
use super::succession::Won;
use crate::error::{GroupError, ProposeError, ReadError};

/// Segments sent without waiting for a full one, so that one caller alone never waits for a batch to fill.
const EAGER_SEGMENTS: usize = 2;
/// Requests of all groups beyond which one segment of each is enough: it waits for its turn among them anyway.
const CROWDED: usize = 16;
/// Link beats between two of raft-rs' own heartbeats, which only repeat what may have been lost.
const TICK_BEATS: u32 = 4;
/// How many times as long a group's appends may wait while those of others are answered.
const TURN: u32 = 8;
/// No longer than this, however long that is.
const TURN_MAX: Duration = Duration::from_secs(10);
/// Checks for reads outstanding at once.
const CHECKS_IN_FLIGHT: usize = 4;
/// How long a handover waits for the follower before it vacates.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Whether a leader does not get on, that has moved so long ago, on a node of which any group has.
///
/// Where ZooKeeper answers appends of other groups, this one's wait for their turn behind them: another leader would only
/// make that longer. But not for ever.
fn is_stalled(own: Duration, any: Duration, patience: Duration) -> bool {
    own >= patience && (any >= patience || own >= (patience * TURN).min(TURN_MAX))
}

/// A read that waits.
#[derive(Debug)]
struct Waiting {
    token: Token,
    /// A fenced transaction of this number or later must succeed.
    fence: u64,
    /// What must be applied before.
    index: u64,
}

/// A handover under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandOver {
    since: Now,
    asked: bool,
}

/// A leadership, from the stand to its end.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) won: Won,
    pub(super) writer: Writer,
    pub(super) archive: Archive,
    pub(super) snapshots: Snapshots,
    /// An entry of this term is committed.
    pub(super) served: bool,
    reads: VecDeque<Waiting>,
    /// The highest fenced transaction known to have succeeded.
    confirmed: u64,
    checks: usize,
    retry_at: Option<Now>,
    retries: u32,
    /// When the commit path last moved, or had nothing to do.
    moved: Now,
    ticked: Now,
    /// This term's first entry.
    first_own: u64,
    pub(super) hand_over: Option<HandOver>,
    /// Accepted, and not yet given to raft-rs.
    pub(super) gathered: Gathered,
    pub(super) asked_to_fetch: Vec<(NodeId, Now)>,
}

impl Leader {
    pub(super) fn new(
        cx: &Context<'_>,
        paths: &GroupPaths,
        uuid: Uuid,
        won: Won,
        tail: &Tail,
        engine: &Engine,
    ) -> Self {
        let wal = WalName { term: won.seen.ballot.term, node: won.seen.ballot.node };
        let writer = Writer::new(paths.clone(), uuid, wal, won.seen.version, tail.last, tail.end);
        let header = wal_header(&won.seen.ballot);
        let archive = Archive::new(paths.clone(), uuid, won.seen.version, wal, header, tail);
        let newest = tail.pointer.0.newest.map_or(0, |newest| newest.index);
        let snapshots = Snapshots::new(engine.log().bytes_behind(newest));
        Self {
            won,
            writer,
            archive,
            snapshots,
            served: false,
            reads: VecDeque::new(),
            confirmed: 0,
            checks: 0,
            retry_at: None,
            retries: 0,
            moved: cx.now,
            ticked: cx.now,
            first_own: engine.last(),
            hand_over: None,
            gathered: Gathered::default(),
            asked_to_fetch: Vec::new(),
        }
    }

    /// Everybody who waits for a read.
    pub(super) fn take_reads(&mut self) -> Vec<Token> {
        std::mem::take(&mut self.reads).into_iter().map(|read| read.token).collect()
    }

    /// Whether appends are on their way and none was acknowledged for so long.
    pub(super) fn stalled(&self, cx: &Context<'_>, patience: Duration) -> bool {
        let (own, any) = (cx.now.since(self.moved), cx.now.since(cx.facts.appended));
        self.writer.in_flight() > 0 && is_stalled(own, any, patience)
    }

    /// Whether another segment can be cut, that is full or is not.
    pub(super) fn has_room(&self, cx: &Context<'_>, full: bool) -> bool {
        let eager = if cx.calls.outstanding() > CROWDED { 1 } else { EAGER_SEGMENTS };
        let in_flight = self.writer.in_flight();
        in_flight < cx.config.segments_in_flight && (full || in_flight < eager)
    }

    /// Whether nothing is under way that time has a part in.
    fn rests(&self, cx: &Context<'_>) -> bool {
        let archive = self.snapshots.rest(cx.now) && self.archive.idle();
        cx.facts.connected && self.served && self.hand_over.is_none() && archive
    }
}

impl Replica {
    // ---- reads ----------------------------------------------------------------------------------------------------

    pub(super) fn read(&mut self, cx: &mut Context<'_>, token: Token) {
        let other = self.leader().filter(|leader| leader.node != cx.config.node);
        let error = match (&mut self.phase, &self.engine) {
            (Phase::Stopped(error), _) => ReadError::Stopped(error.clone()),
            (Phase::Leader(leader), Some(_)) if planted!(ReadWithoutFence) && leader.served => {
                cx.push(Effect::Query(self.number, token));
                return;
            }
            (Phase::Leader(leader), Some(engine)) => {
                if leader.reads.len() < cx.config.reads_in_flight {
                    // Everything committed now must be seen, and this term's first entry, which commits all before it.
                    let index = engine.commit().max(leader.first_own);
                    let fence = leader.writer.fences() + u64::from(!planted!(ReadByAnEarlierFence));
                    leader.reads.push_back(Waiting { token, fence, index });
                    return;
                }
                ReadError::Busy { reason: "reads in flight" }
            }
            _ => ReadError::NotLeader { leader: other },
        };
        cx.push(Effect::RefuseRead(token, error));
    }

    // ---- the writer -----------------------------------------------------------------------------------------------

    fn ask_writer(&self, cx: &mut Context<'_>, asks: Vec<WriterAsk>) {
        for ask in asks {
            self.call(cx, Urgency::Shared, Ask::Writer(ask.tag), ask.request);
        }
    }

    pub(super) fn writer_outcome(&mut self, cx: &mut Context<'_>, tag: u64, outcome: Outcome) {
        let Phase::Leader(leader) = &mut self.phase else { return };
        if matches!(outcome, Outcome::Unknown(_)) {
            // Doubles up to half a second, so that a struggling ZooKeeper is not trampled.
            leader.retries = (leader.retries + 1).min(8);
            leader.retry_at = Some(cx.now + Duration::from_millis(2) * (1 << leader.retries));
        } else {
            leader.retries = 0;
        }
        let failed = planted!(UnknownAppendIsFailed) && matches!(outcome, Outcome::Unknown(_));
        let (asks, events) = leader.writer.take(tag, outcome);
        if failed {
            for (_, (_, token)) in std::mem::take(&mut self.tokens) {
                cx.push(Effect::RefuseProposal(token, ProposeError::Busy { reason: "zookeeper" }));
            }
        }
        self.ask_writer(cx, asks);
        for event in events {
            self.writer_event(cx, event);
        }
    }

    fn writer_event(&mut self, cx: &mut Context<'_>, event: WriterEvent) {
        let Phase::Leader(leader) = &mut self.phase else { return };
        let seen = leader.won.seen.clone();
        match event {
            WriterEvent::Acknowledged { index } => {
                leader.moved = cx.now;
                if let Some(engine) = &mut self.engine {
                    engine.acknowledge(index);
                }
                let position = leader.writer.acknowledged();
                self.know(position);
            }
            WriterEvent::Confirmed { fence } => leader.confirmed = leader.confirmed.max(fence),
            WriterEvent::Fenced => self.fenced(cx),
            WriterEvent::BallotMissing => self.ballot_missing(cx),
            WriterEvent::Conflict { path } => self.stop(cx, GroupError::WalConflict { path }),
            WriterEvent::Vanished { path, index } => {
                let what = "deleted or changed by another hand".to_owned();
                self.stop(cx, GroupError::Damaged { path, index, what });
            }
            WriterEvent::ReadShort { path } => {
                let why = format!("the previous WAL is longer than it was read: path={path}");
                self.resign(cx, seen, &why, None);
            }
            WriterEvent::Refused { path, reason } => {
                let why = format!("append refused by zookeeper: path={path} reason={reason:?}");
                self.resign(cx, seen, &why, None);
            }
        }
    }

    /// Cuts what raft-rs appended into segments.
    fn cut(&mut self, cx: &mut Context<'_>) {
        let (Phase::Leader(leader), Some(engine)) = (&mut self.phase, &self.engine) else { return };
        let mut asks = Vec::new();
        while leader.has_room(cx, true) && leader.retry_at.is_none() {
            let low = leader.writer.end().index + 1;
            let mut entries = Vec::new();
            let mut bytes = 0;
            let mut full = false;
            if low > engine.log().last().index {
                break;
            }
            for entry in engine.log().range(low, engine.log().last().index) {
                let size = entry.data.len() + entry.context.len() + ENTRY_OVERHEAD as usize;
                full = !entries.is_empty() && bytes + size > cx.config.segment_bytes;
                if full {
                    break;
                }
                bytes += size;
                entries.push(entry.clone());
            }
            // While segments are on their way the next one gathers, unless it is full already.
            if !leader.has_room(cx, full) {
                break;
            }
            if leader.writer.in_flight() == 0 {
                leader.moved = cx.now;
            }
            asks.push(leader.writer.append(entries));
        }
        let ahead = leader.writer.end().index;
        if planted!(AcknowledgedBeforeZooKeeper) && !asks.is_empty() {
            if let Some(engine) = &mut self.engine {
                engine.acknowledge(ahead);
            }
        }
        if leader.retry_at.is_none() && leader.writer.must_reissue() && cx.facts.usable() {
            asks.extend(leader.writer.reissue());
        }
        self.ask_writer(cx, asks);
    }

    /// Lets reads through whose fence is confirmed, and asks for confirmation where no append will bring it.
    fn serve_reads(&mut self, cx: &mut Context<'_>) {
        let (Phase::Leader(leader), Some(engine)) = (&mut self.phase, &self.engine) else { return };
        while let Some(read) = leader.reads.front() {
            if planted!(ReadBeforeOwnTerm) && read.fence <= leader.confirmed {
                // Whatever the machine has will do.
            } else if !leader.served || read.fence > leader.confirmed || read.index > engine.handed() {
                break;
            }
            if let Some(read) = leader.reads.pop_front() {
                // The machine's queue is first in, first out: everything handed to it comes before the query.
                cx.effects.push(Effect::Query(self.number, read.token));
            }
        }
        let needed = leader.reads.back().map_or(0, |read| read.fence);
        // An append that turned out to be in the WAL already confirms no fence: nothing that was issued may be left to
        // wait for.
        let unasked = needed > leader.writer.fences() || (leader.writer.in_flight() == 0 && leader.checks == 0);
        let quiet = leader.retry_at.is_none() && cx.facts.usable();
        if needed > leader.confirmed && unasked && leader.checks < CHECKS_IN_FLIGHT && quiet {
            leader.checks += 1;
            let fence = leader.writer.fence();
            let check = Op::Check { path: self.paths.ballot(), version: leader.won.seen.version };
            self.call(cx, Urgency::Shared, Ask::Fence(fence), Request::Multi(vec![check]));
        }
    }

    pub(super) fn fence_outcome(&mut self, cx: &mut Context<'_>, fence: u64, outcome: Outcome) {
        let Phase::Leader(leader) = &mut self.phase else { return };
        leader.checks = leader.checks.saturating_sub(1);
        let seen = leader.won.seen.clone();
        match outcome {
            Outcome::Ok(_) => leader.confirmed = leader.confirmed.max(fence),
            Outcome::Refused(refusal) if refusal.reason == Reason::BadVersion => self.fenced(cx),
            Outcome::Refused(refusal) if refusal.reason == Reason::NoNode => self.ballot_missing(cx),
            Outcome::Refused(refusal) => {
                let why = format!("fence refused by zookeeper: reason={:?}", refusal.reason);
                self.resign(cx, seen, &why, None);
            }
            // Whoever waits needs a transaction issued after its arrival: any later one will do.
            Outcome::Unknown(_) => {
                let later = leader.writer.fences() + 1;
                for read in &mut leader.reads {
                    read.fence = if read.fence > leader.confirmed { read.fence.max(later) } else { read.fence };
                }
                leader.retry_at = leader.retry_at.or(Some(cx.now + RETRY));
            }
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    /// Whether raft-rs' heartbeats would repeat nothing that may have been lost, and nothing else waits for a tick.
    fn leads_quietly(&self, cx: &Context<'_>, leader: &Leader) -> bool {
        let (Some(engine), Some(identity)) = (&self.engine, &self.identity) else { return false };
        let mut linked = identity.voters.iter().copied().filter(|peer| cx.facts.is_linked(*peer));
        // What lies ready in raft-rs is taken when something happens to this replica, at its next tick if nothing else.
        leader.rests(cx) && engine.is_quiet() && linked.all(|peer| engine.is_up_to_date(peer))
    }

    /// When a leader is to be ticked.
    pub(super) fn lead_wake_at(&self, cx: &Context<'_>, leader: &Leader) -> Option<Now> {
        let next = leader.ticked + cx.config.beat * TICK_BEATS;
        let tick = if self.leads_quietly(cx, leader) { self.tell_at } else { Some(next) };
        leader.retry_at.into_iter().chain(tick).min()
    }

    pub(super) fn lead_tick(&mut self, cx: &mut Context<'_>) {
        let Phase::Leader(leader) = &mut self.phase else { return };
        if leader.retry_at.is_some_and(|at| cx.now >= at) {
            leader.retry_at = None;
        }
        if cx.now.since(leader.ticked) >= cx.config.beat * TICK_BEATS {
            leader.ticked = cx.now;
            if let Some(engine) = &mut self.engine {
                engine.tick();
            }
        }
        let overdue = leader.hand_over.is_some_and(|hand_over| cx.now.since(hand_over.since) >= HAND_OVER);
        let seen = leader.won.seen.clone();
        if overdue {
            return self.resign(cx, seen, "handed over, and nobody took it", None);
        }
        if cx.facts.cut_off(cx.now) {
            // Nothing can be acknowledged any more, and somebody else may lead. The ballot shows when ZooKeeper is back.
            self.trouble = Some("no zookeeper: the session must have expired".to_owned());
            self.resign(cx, seen, "no zookeeper: the session must have expired", None);
        }
    }

    /// Ends a leader's step.
    pub(super) fn lead_settle(&mut self, cx: &mut Context<'_>) {
        self.cut(cx);
        let (Phase::Leader(leader), Some(engine)) = (&mut self.phase, &self.engine) else { return };
        if !leader.served && engine.committed_own_term() {
            leader.served = true;
            leader.won.report.stand = cx.now.since(leader.won.stage);
            self.report = leader.won.report;
            self.successions += 1;
            self.trouble = None;
            cx.push(Effect::Leadership(self.number, true));
        }
        self.serve_reads(cx);
        self.archive_settle(cx);
        self.hand_over_settle(cx);
    }

    // ---- handover -------------------------------------------------------------------------------------------------

    /// Stops accepting, and once everything accepted is answered, asks a follower to take over.
    pub(super) fn hand_over(&mut self, cx: &mut Context<'_>) {
        if let Phase::Leader(leader) = &mut self.phase {
            self.handing_over = true;
            leader.hand_over = leader.hand_over.or(Some(HandOver { since: cx.now, asked: false }));
        }
    }

    fn hand_over_settle(&mut self, cx: &mut Context<'_>) {
        let (Phase::Leader(leader), Some(engine), Some(identity)) = (&mut self.phase, &self.engine, &self.identity)
        else {
            return;
        };
        let Some(hand_over) = &mut leader.hand_over else { return };
        if !self.tokens.is_empty() || !leader.gathered.is_empty() || engine.commit() < engine.last() {
            return;
        }
        let peers = identity.voters.iter().copied().filter(|peer| *peer != cx.config.node);
        let peers = peers.filter(|peer| cx.facts.is_linked(*peer));
        let seen = leader.won.seen.clone();
        match engine.most_caught_up(peers) {
            Some((peer, matched)) if matched == engine.last() => {
                // Asked once: the follower seals, or the wait runs out.
                if !std::mem::replace(&mut hand_over.asked, true) {
                    self.ask_to_seal(cx, peer);
                }
            }
            Some(_) => {}
            None => self.resign(cx, seen, "handed over", None),
        }
    }

    /// What must not outlive a leadership.
    pub(super) fn end_leading(&mut self, cx: &mut Context<'_>) {
        // Whoever handed over once may have to lead again: the other node may die.
        self.handing_over = false;
        if matches!(self.phase, Phase::Leader(_)) {
            cx.push(Effect::SnapshotAbandon { group: self.number, upload: self.uploads });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_that_wait_behind_those_of_other_groups_are_no_stall_for_a_while() {
        let [short, patience, long] = [100, 150, 8 * 150].map(Duration::from_millis);
        assert!(!is_stalled(short, short, patience), "it gets on");
        assert!(is_stalled(patience, patience, patience), "nobody does");
        assert!(!is_stalled(patience, short, patience), "others do");
        assert!(is_stalled(long, short, patience), "others do, and this one does not");
        let after_flaps = TURN_MAX * 2;
        assert!(!is_stalled(TURN_MAX, short, after_flaps));
        assert!(is_stalled(after_flaps, short, after_flaps), "patience is the least");
    }
}
