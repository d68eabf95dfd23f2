//! Succession: suspect, seal, read, replay, stand, lead; and how to give up on the way.
//!
//! Each step may crash and be repeated, by this node or another: a ballot that was sealed and never used is exceeded by
//! the next one, and nothing that was acknowledged is anywhere but in WALs and snapshots, which only the holder of the
//! newest ballot may change.

use bequest_recovery::ballot::{seal, seal_refused, vacate, SealRefused};
use bequest_recovery::keeper::{Outcome, Reason, Request, SessionNumber, Urgency};
use bequest_recovery::path::WalName;
use bequest_recovery::planted;
use bequest_recovery::reader::{Reader, Tail};
use bequest_recovery::record::{Ballot, FORMAT};

use super::context::Context;
use super::event::{Effect, NodeId, Now};
use super::lead::Leader;
use super::replica::{Ask, Phase, Replica, Seen, RETRY};
use super::status::SuccessionReport;
use super::suspicion::{Cause, Decision};
use super::tail::Tailing;
use crate::error::{GroupError, NodeError};

/// A ballot that this incarnation holds.
#[derive(Clone, Debug)]
pub(super) struct Won {
    pub(super) seen: Seen,
    /// When the current stage began.
    pub(super) stage: Now,
    pub(super) report: SuccessionReport,
}

/// A seal whose outcome is not definite.
#[derive(Debug)]
pub(super) struct Sealing {
    /// Identical at every attempt.
    request: Request,
    seen: Seen,
    report: SuccessionReport,
    began: Now,
    outstanding: bool,
    /// Refused at the ballot: reading whose it is.
    reading: bool,
    /// The pass that began right behind the first attempt: ZooKeeper serves it after the seal, so it counts if that attempt
    /// wins. Not there any more once that is not to be expected.
    pub(super) ahead: Option<Reader>,
    pub(super) retry_at: Option<Now>,
}

/// A ballot being given back.
#[derive(Debug)]
pub(super) struct Resigning {
    seen: Seen,
    request: Request,
    outstanding: bool,
    pub(super) retry_at: Option<Now>,
    pub(super) then_stop: Option<GroupError>,
}

impl Replica {
    // ---- suspect --------------------------------------------------------------------------------------------------

    /// A follower decides what to do about its leader.
    pub(super) fn consider(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Follower(_)) || !cx.facts.usable() {
            return;
        }
        let (Some(seen), Some(own)) = (self.seen.clone(), cx.facts.incarnation()) else { return };
        match self.suspicion.decide(cx, seen.version, &seen.ballot, own) {
            Decision::Wait => {}
            Decision::Vacate => self.resign(cx, seen, "a seal of this incarnation landed late", None),
            Decision::Seal(_) if !self.ready_to_lead || cx.facts.shutting_down || self.handing_over => {}
            Decision::Seal(cause) => self.seal(cx, cause),
            Decision::Doubt(holder) => self.doubt(cx, holder),
        }
    }

    // ---- seal -----------------------------------------------------------------------------------------------------

    fn seal(&mut self, cx: &mut Context<'_>, cause: Cause) {
        if !self.settle_log(cx) {
            return;
        }
        let (Some(seen), Some(engine)) = (&self.seen, &self.engine) else { return };
        let (Some((incarnation, registration)), Some(uuid)) = (cx.facts.registered, self.uuid()) else { return };
        let ballot = Ballot {
            format: FORMAT,
            uuid: uuid.to_bytes(),
            term: seen.ballot.term.max(engine.term()) + 1,
            node: cx.config.node.0,
            incarnation: incarnation.0,
            nonce: cx.random.next(),
            addresses: Some(cx.config.addresses.clone()),
            vacant: false,
            served: false,
        };
        let newest = WalName { term: seen.ballot.term, node: seen.ballot.node };
        let report =
            SuccessionReport { detect: cx.now.since(self.suspicion.last_heard()), ..SuccessionReport::default() };
        let sealing = Sealing {
            request: seal(&self.paths, &ballot, seen.version, registration),
            seen: Seen { version: seen.version + 1, ballot },
            report,
            began: cx.now,
            outstanding: false,
            reading: false,
            ahead: None,
            retry_at: None,
        };
        if matches!(cause, Cause::Silent | Cause::Denied) {
            self.suspicion.blame();
        }
        self.trouble = Some(cause.words().to_owned());
        self.trust_all();
        if planted!(ReadBeforeSeal) {
            let won = Won { seen: sealing.seen, stage: cx.now, report };
            return self.read_sealed(cx, won, cx.facts.session, None);
        }
        let sealed = sealing.seen.clone();
        self.enter(Phase::Sealing(Box::new(sealing)));
        self.seal_resume(cx);
        // Nothing is done by reading, and nothing of it is looked at before the seal's outcome is known: on one session
        // outcomes come in the order of the requests.
        let Some(pass) = self.pass_of(Some(&sealed)) else { return };
        let (reader, asks) = Reader::ahead(pass, newest);
        self.ask_pass(cx, asks);
        if let Phase::Sealing(sealing) = &mut self.phase {
            sealing.ahead = Some(reader);
        }
    }

    /// Issues the identical seal, again where its outcome is unknown, until it is definite.
    pub(super) fn seal_resume(&mut self, cx: &mut Context<'_>) {
        let Phase::Sealing(sealing) = &mut self.phase else { return };
        if sealing.outstanding || sealing.reading || sealing.retry_at.is_some_and(|at| cx.now < at) {
            return;
        }
        sealing.outstanding = true;
        sealing.retry_at = None;
        let request = sealing.request.clone();
        self.call(cx, Urgency::Urgent, Ask::Seal, request);
    }

    pub(super) fn seal_outcome(&mut self, cx: &mut Context<'_>, session: SessionNumber, outcome: Outcome) {
        let Phase::Sealing(sealing) = &mut self.phase else { return };
        sealing.outstanding = false;
        let ahead = sealing.ahead.take();
        let refusal = match outcome {
            Outcome::Ok(_) => return self.sealed(cx, Some(session), ahead),
            Outcome::Unknown(_) => {
                sealing.retry_at = Some(cx.now + RETRY);
                return;
            }
            Outcome::Refused(refusal) => refusal,
        };
        let wal = WalName { term: sealing.seen.ballot.term, node: sealing.seen.ballot.node };
        match seal_refused(&self.paths, wal, refusal) {
            SealRefused::Moved => {
                // An earlier attempt may have won: the nonce tells. `ballot_moved` goes on from here.
                sealing.reading = true;
                self.ballot_asked = false;
                self.look(cx);
            }
            SealRefused::Superseded => {
                let (id, incarnation) = (cx.config.node.0, cx.facts.incarnation().map_or(0, |own| own.0));
                cx.push(Effect::StopNode(NodeError::Superseded { id, incarnation, newer: incarnation + 1 }));
            }
            SealRefused::BallotMissing => self.ballot_missing(cx),
            SealRefused::Wal { path } => {
                let what = "the WAL of a term that was never won exists, or its parent is gone".to_owned();
                self.stop(cx, GroupError::Damaged { path, index: 0, what });
            }
            SealRefused::Other { path, reason } => {
                self.trouble = Some(format!("seal refused by zookeeper: path={path} reason={reason:?}"));
                self.follow(cx);
            }
        }
    }

    /// The seal is in force: from its transaction on, no lower term can append.
    fn sealed(&mut self, cx: &mut Context<'_>, opened: Option<SessionNumber>, ahead: Option<Reader>) {
        let Phase::Sealing(sealing) = &self.phase else { return };
        let mut report = sealing.report;
        report.seal = cx.now.since(sealing.began);
        let won = Won { seen: sealing.seen.clone(), stage: cx.now, report };
        // Remembered before anything else, so that a newer ballot seen later is not mistaken for this one.
        let Seen { version, ballot } = won.seen.clone();
        self.read_sealed(cx, won, opened, ahead);
        self.observe(cx, version, ballot);
        // A still newer ballot may have been seen while the seal's outcome was unknown.
        self.ballot_moved(cx);
    }

    /// The ballot was read, or could not be: a seal that waits for whose it is goes on.
    pub(super) fn seal_read(&mut self, cx: &mut Context<'_>) {
        if let Phase::Sealing(sealing) = &mut self.phase {
            if sealing.reading {
                sealing.reading = false;
                sealing.retry_at = Some(cx.now + RETRY);
            }
        }
    }

    // ---- the ballot moved -----------------------------------------------------------------------------------------

    /// Another ballot than before was seen: what does it mean for what this replica is doing?
    pub(super) fn ballot_moved(&mut self, cx: &mut Context<'_>) {
        let Some(seen) = self.seen.clone() else { return };
        match &mut self.phase {
            Phase::Genesis { .. } if self.identity.is_some() => self.observe_wals(cx),
            Phase::Sealing(sealing) if seen.version >= sealing.seen.version => {
                let nonce = seen.ballot.nonce == sealing.seen.ballot.nonce;
                let ours = seen.version == sealing.seen.version && (nonce || planted!(AnyBallotIsOwn));
                if ours {
                    // Won by an earlier attempt. Reading it opens no read pass: the session may lag.
                    self.sealed(cx, None, None);
                } else {
                    self.lost(cx);
                }
            }
            Phase::Reading(reading) if reading.won().is_some_and(|won| won.seen.version < seen.version) => {
                self.lost(cx);
            }
            Phase::Restoring(restoring) if restoring.won().is_some_and(|won| won.seen.version < seen.version) => {
                self.lost(cx);
            }
            Phase::Leader(leader) if leader.won.seen.version < seen.version => self.fenced(cx),
            Phase::Resigning(resigning) if resigning.seen.version < seen.version => self.resigned(cx),
            Phase::Follower(tailing) => {
                tailing.ballot_changed();
                // What was put down is taken now, by who may, before whoever put it down may want it again.
                self.consider(cx);
            }
            _ => {}
        }
    }

    /// Somebody else holds the ballot: follow, after a pause that differs between nodes.
    pub(super) fn lost(&mut self, cx: &mut Context<'_>) {
        let timeout = self.suspicion.timeout(cx.config, cx.facts);
        self.suspicion.back_off(cx, timeout);
        // A restore whose end was ordered cannot be called off: the machine will be at the snapshot. What was read is
        // right all the same, so it goes on as an observer's.
        match &mut self.phase {
            Phase::Restoring(restoring) if restoring.is_finishing() => restoring.demote(),
            _ => {
                self.follow(cx);
                // What is handed to this node is taken without a pause.
                if self.seen.as_ref().is_some_and(|seen| self.suspicion.is_asked(seen.version, &seen.ballot)) {
                    self.consider(cx);
                }
            }
        }
    }

    /// This leadership was fenced: step down at once, before anything else is reported to raft-rs.
    pub(super) fn fenced(&mut self, cx: &mut Context<'_>) {
        if !self.handing_over {
            self.suspicion.blame();
        }
        if let (Phase::Leader(leader), Some(engine), true) =
            (&self.phase, &mut self.engine, planted!(DeposedAnswersDone))
        {
            engine.acknowledge(leader.writer.end().index);
            self.pump(cx);
        }
        self.trouble = Some("fenced: another node sealed".to_owned());
        self.ballot_asked = false;
        self.look(cx);
        self.lost(cx);
    }

    /// Becomes a follower, whatever it was; reads first where there is nothing to follow with.
    pub(super) fn follow(&mut self, cx: &mut Context<'_>) {
        self.abandon_restore(cx);
        self.handing_over = false;
        let leading = matches!(self.phase, Phase::Leader(_));
        let term = self.seen.as_ref().map_or(0, |seen| seen.ballot.term);
        if let Some(engine) = &mut self.engine {
            if leading {
                engine.follow(term);
            }
        }
        self.release(cx);
        self.end_leading(cx);
        if self.engine.is_some() {
            self.enter(Phase::Follower(Box::new(Tailing::unknown())));
            self.greet_all(cx);
        } else {
            self.observe_wals(cx);
        }
    }

    // ---- stand ----------------------------------------------------------------------------------------------------

    /// The log holds everything sealed: campaign, with the witnesses' votes.
    pub(super) fn stand(&mut self, cx: &mut Context<'_>, mut won: Won, tail: Tail) {
        if let (true, Some((_, registration))) = (planted!(ReadBeforeSeal), cx.facts.registered) {
            let request = seal(&self.paths, &won.seen.ballot, won.seen.version - 1, registration);
            self.call(cx, Urgency::Urgent, Ask::Seal, request);
        }
        // The ready queue must be empty before raft-rs may campaign.
        self.pump(cx);
        if matches!(self.phase, Phase::Stopped(_)) {
            return;
        }
        let (Some(engine), Some(uuid)) = (&mut self.engine, self.identity.as_ref().map(|identity| identity.uuid))
        else {
            return;
        };
        won.report.replay = cx.now.since(won.stage);
        won.stage = cx.now;
        let term = won.seen.ballot.term;
        // A node on its way out must not take a group it will not serve.
        let leaving = cx.facts.shutting_down || self.handing_over;
        if leaving || !self.ready_to_lead || !engine.stand(term) {
            engine.follow(term);
            return self.resign(cx, won.seen, "this node may not lead now", None);
        }
        let leader = Leader::new(cx, &self.paths, uuid, won, &tail, engine);
        self.enter(Phase::Leader(Box::new(leader)));
        self.greet_all(cx);
        let (pointer, version) = self.pointer.clone();
        self.pointer_seen(cx, pointer, version);
    }

    // ---- resign ---------------------------------------------------------------------------------------------------

    /// Gives the ballot back: follower first, callers answered, then vacant by compare-and-set, until definite.
    pub(super) fn resign(&mut self, cx: &mut Context<'_>, seen: Seen, why: &str, then_stop: Option<GroupError>) {
        self.trouble = Some(why.to_owned());
        self.abandon_restore(cx);
        let served = matches!(&self.phase, Phase::Leader(leader) if leader.served);
        if let Some(engine) = &mut self.engine {
            engine.follow(seen.ballot.term);
        }
        self.release(cx);
        self.end_leading(cx);
        let resigning = Resigning {
            request: vacate(&self.paths, &seen.ballot, seen.version, served),
            seen,
            outstanding: false,
            retry_at: None,
            then_stop,
        };
        self.enter(Phase::Resigning(Box::new(resigning)));
        self.vacate_resume(cx);
    }

    pub(super) fn vacate_resume(&mut self, cx: &mut Context<'_>) {
        let Phase::Resigning(resigning) = &mut self.phase else { return };
        if resigning.outstanding || !cx.facts.usable() || resigning.retry_at.is_some_and(|at| cx.now < at) {
            return;
        }
        resigning.outstanding = true;
        resigning.retry_at = None;
        let request = resigning.request.clone();
        self.call(cx, Urgency::Urgent, Ask::Vacate, request);
    }

    pub(super) fn vacate_outcome(&mut self, cx: &mut Context<'_>, outcome: Outcome) {
        let Phase::Resigning(resigning) = &mut self.phase else { return };
        resigning.outstanding = false;
        match outcome {
            Outcome::Ok(_) => {}
            // Moved: by an earlier attempt of ours, or by whoever sealed. Either way this node no longer holds it.
            Outcome::Refused(refusal) if matches!(refusal.reason, Reason::BadVersion | Reason::NoNode) => {}
            Outcome::Unknown(_) => {
                resigning.retry_at = Some(cx.now + RETRY);
                return;
            }
            Outcome::Refused(refusal) => {
                // Access denied, quota: another node exceeds this ballot; try until it is definite all the same.
                self.trouble = Some(format!("ballot cannot be given back: reason={:?}", refusal.reason));
                let Phase::Resigning(resigning) = &mut self.phase else { return };
                resigning.retry_at = Some(cx.now + cx.config.poll);
                return;
            }
        }
        self.resigned(cx);
    }

    fn resigned(&mut self, cx: &mut Context<'_>) {
        let Phase::Resigning(resigning) = &mut self.phase else { return };
        if let Some(error) = resigning.then_stop.take() {
            return self.stopped(cx, error);
        }
        let timeout = self.suspicion.timeout(cx.config, cx.facts);
        self.suspicion.back_off(cx, timeout * 4);
        self.ballot_asked = false;
        self.look(cx);
        self.follow(cx);
    }

    /// Asks a caught-up follower to take over.
    pub(super) fn ask_to_seal(&self, cx: &mut Context<'_>, peer: NodeId) {
        use super::message::{Body, GroupVersion};
        let (Phase::Leader(leader), Some(uuid)) = (&self.phase, self.uuid()) else { return };
        let body = Body::HandOver(GroupVersion { group: uuid.to_bytes(), version: leader.won.seen.version });
        super::peers::send(cx, peer, body);
    }

    /// The leader asks this node to take over.
    pub(super) fn asked_to_seal(&mut self, cx: &mut Context<'_>, peer: NodeId, version: i32) {
        if self.seen.as_ref().is_some_and(|seen| seen.version == version && seen.ballot.node == peer.0) {
            self.suspicion.asked(peer, version);
            self.consider(cx);
        }
    }
}
