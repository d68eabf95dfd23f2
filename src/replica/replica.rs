//! One group on this node: what it knows, which phase it is in, and how events reach that phase.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bequest_recovery::entry::Position;
use bequest_recovery::keeper::{Op, Outcome, Reason, Reply, Request, SessionNumber, Urgency};
use bequest_recovery::path::GroupPaths;
use bequest_recovery::record::{self, Ballot, Limits, Pointer, Testimony, Uuid};
use bytes::Bytes;

use super::challenge::Verdict;
use super::context::{Context, Owner};
use super::engine::{is_witness, Engine};
use super::event::{
    Apply, Birth as BirthRecord, Effect, GroupNumber, Known, LocalGroup, MachineEvent, NodeId, Now, Persist, Token,
};
use super::lead::Leader;
use super::message::{Body, Envelope, GroupVersion, RaftBytes};
use super::reading::Reading;
use super::restoring::Restoring;
use super::status::{GroupStatus, Role, SuccessionReport};
use super::succession::{Resigning, Sealing};
use super::suspicion::Suspicion;
use super::tail::Tailing;
use crate::error::{GroupError, Leader as LeaderInfo, ProposeError, ReadError};

/// What a request to ZooKeeper was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Does the group exist? By a transaction, whose "no" is certain.
    Exists,
    Genesis,
    Ballot,
    /// Is the ballot really gone?
    BallotGone,
    /// Is the ballot really back at this version, which lies before the one seen?
    BallotBack {
        version: i32,
        term: u64,
    },
    Pass(u64),
    Pin(bool),
    Chunk(usize),
    Seal,
    Vacate,
    Writer(u64),
    Fence(u64),
    Archive(u64),
    Pointer,
    Tail(super::tail::Call),
}

/// A request of one phase; outcomes of former phases are dropped.
#[derive(Clone, Debug)]
pub(super) struct Call {
    epoch: u64,
    ask: Ask,
}

/// What the genesis says.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) uuid: Uuid,
    pub(super) czxid: i64,
    pub(super) voters: Vec<NodeId>,
    pub(super) limits: Limits,
}

/// The ballot as last seen, and the version it had.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) version: i32,
    pub(super) ballot: Ballot,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Waits for genesis and ballot.
    Genesis {
        retry_at: Option<Now>,
    },
    Reading(Box<Reading>),
    Restoring(Box<Restoring>),
    Follower(Box<Tailing>),
    Sealing(Box<Sealing>),
    Leader(Box<Leader>),
    Resigning(Box<Resigning>),
    Stopped(GroupError),
}

/// One group's replica.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) number: GroupNumber,
    pub(super) name: String,
    pub(super) paths: GroupPaths,
    pub(super) identity: Option<Identity>,
    /// What was found on disk, until the engine is built on it.
    pub(super) local: Option<LocalGroup>,
    /// Where the machine's durable state reached at the start, or the last restore.
    pub(super) machine_applied: u64,
    /// What the machine reported.
    pub(super) applied: u64,
    pub(super) ready_to_lead: bool,
    pub(super) seen: Option<Seen>,
    pub(super) ballot_asked: bool,
    pub(super) polled: Now,
    pub(super) engine: Option<Engine>,
    pub(super) phase: Phase,
    pub(super) epoch: u64,
    pub(super) suspicion: Suspicion,
    pub(super) known: Known,
    pub(super) known_written: Known,
    /// Number of the last write to the local log.
    pub(super) writes: u64,
    pub(super) restores: u64,
    pub(super) uploads: u64,
    pub(super) pointer: (Pointer, i32),
    /// Callers waiting for entries of this leadership, by index.
    pub(super) tokens: BTreeMap<u64, (u64, Token)>,
    /// Proposals not yet applied: index and bytes.
    pub(super) outstanding: VecDeque<(u64, usize)>,
    pub(super) outstanding_bytes: usize,
    pub(super) report: SuccessionReport,
    pub(super) successions: u64,
    pub(super) busy: u64,
    pub(super) proposals: u64,
    /// Last trouble, in words, for the status.
    pub(super) trouble: Option<String>,
    pub(super) status: Option<(Now, GroupStatus)>,
    pub(super) handing_over: bool,
    /// When to tick at the latest.
    pub(super) due: Now,
    doubts: Vec<DoubtChange>,
    told_voters: bool,
    doubting: bool,
    /// Ballot version and progress last told in a beat.
    told_progress: Option<(i32, u64)>,
}

/// A holder doubted, with group, ballot version and patience; or no longer doubted.
type DoubtChange = (NodeId, Option<(Uuid, i32, u64, Duration)>);

impl Replica {
    pub(super) fn new(number: GroupNumber, name: String, local: Option<LocalGroup>, applied: u64) -> Self {
        let known = local.as_ref().map(|local| local.known).unwrap_or_default();
        Self {
            number,
            paths: GroupPaths::new(&name),
            name,
            identity: None,
            local,
            machine_applied: applied,
            applied,
            ready_to_lead: true,
            seen: None,
            ballot_asked: false,
            polled: Now::default(),
            engine: None,
            phase: Phase::Genesis { retry_at: Some(Now::default()) },
            epoch: 1,
            suspicion: Suspicion::default(),
            known,
            known_written: known,
            writes: 0,
            restores: 0,
            uploads: 0,
            pointer: (Pointer::default(), 0),
            tokens: BTreeMap::new(),
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            report: SuccessionReport::default(),
            successions: 0,
            busy: 0,
            proposals: 0,
            trouble: None,
            status: None,
            handing_over: false,
            due: Now::default(),
            doubts: Vec::new(),
            told_voters: false,
            doubting: false,
            told_progress: None,
        }
    }

    // ---- for the node ---------------------------------------------------------------------------------------------

    /// Changes of what is doubted, since last asked.
    pub(super) fn take_doubts(&mut self) -> Vec<DoubtChange> {
        std::mem::take(&mut self.doubts)
    }

    /// The group's voters, once, when they have become known.
    pub(super) fn take_voters(&mut self) -> Vec<NodeId> {
        match &self.identity {
            Some(identity) if !std::mem::replace(&mut self.told_voters, true) => identity.voters.clone(),
            _ => Vec::new(),
        }
    }

    /// Whether nothing is left to hand over or give back.
    pub(super) fn at_rest(&self) -> bool {
        matches!(self.phase, Phase::Follower(_) | Phase::Stopped(_) | Phase::Genesis { .. })
            || matches!(&self.phase, Phase::Reading(_) | Phase::Restoring(_)) && self.holding().is_none()
    }

    pub(super) fn doubt(&mut self, cx: &Context<'_>, holder: NodeId) {
        let (Some(uuid), Some(seen)) = (self.uuid(), &self.seen) else { return };
        let patience = self.suspicion.timeout(cx.config, cx.facts);
        self.doubting = true;
        self.doubts.push((holder, Some((uuid, seen.version, seen.ballot.incarnation, patience))));
    }

    /// Nobody is doubted any more.
    pub(super) fn trust_all(&mut self) {
        self.doubting = false;
        if let Some(identity) = &self.identity {
            self.doubts.extend(identity.voters.iter().map(|voter| (*voter, None)));
        }
    }

    // ---- requests -------------------------------------------------------------------------------------------------

    pub(super) fn call(&self, cx: &mut Context<'_>, urgency: Urgency, ask: Ask, request: Request) {
        let call = Call { epoch: self.epoch, ask };
        cx.call(Owner::Group(self.number, call), urgency, request);
    }

    /// Enters another phase: outcomes of requests made before no longer matter.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.epoch += 1;
        self.phase = phase;
    }

    pub(super) fn uuid(&self) -> Option<Uuid> {
        self.identity.as_ref().map(|identity| identity.uuid)
    }

    /// Reads the ballot and leaves a watch on it.
    pub(super) fn look(&mut self, cx: &mut Context<'_>) {
        if !self.ballot_asked && cx.facts.usable() && self.identity.is_some() {
            self.ballot_asked = true;
            let request = Request::Get { path: self.paths.ballot(), watch: true };
            self.call(cx, Urgency::Normal, Ask::Ballot, request);
        }
    }

    fn look_at_pointer(&self, cx: &mut Context<'_>) {
        if cx.facts.usable() && matches!(self.phase, Phase::Follower(_)) {
            let request = Request::Get { path: self.paths.pointer(), watch: true };
            self.call(cx, Urgency::Normal, Ask::Pointer, request);
        }
    }

    /// A session is there and this node is registered: begin, or go on.
    pub(super) fn connected(&mut self, cx: &mut Context<'_>) {
        self.ballot_asked = false;
        if let Phase::Genesis { retry_at } = &mut self.phase {
            *retry_at = None;
            let check = Op::Check { path: self.paths.genesis().to_owned(), version: 0 };
            self.call(cx, Urgency::Normal, Ask::Exists, Request::Multi(vec![check]));
            return;
        }
        self.look(cx);
        self.look_at_pointer(cx);
        self.resume(cx);
    }

    pub(super) fn changed(&mut self, cx: &mut Context<'_>, path: &str) {
        if path == self.paths.ballot() {
            self.look(cx);
        } else if path == self.paths.pointer() {
            self.look_at_pointer(cx);
        } else {
            self.tail_changed(cx, path);
        }
    }

    pub(super) fn outcome(&mut self, cx: &mut Context<'_>, call: Call, session: SessionNumber, outcome: Outcome) {
        match call.ask {
            Ask::Ballot => {
                self.ballot_asked = false;
                self.took_ballot(cx, outcome);
                return self.seal_read(cx);
            }
            Ask::BallotGone => {
                if let Outcome::Refused(refusal) = outcome {
                    if refusal.reason == Reason::NoNode {
                        let (path, what) = (self.paths.ballot(), "the ballot is missing".to_owned());
                        self.stop(cx, GroupError::Damaged { path, index: 0, what });
                    }
                }
                return;
            }
            Ask::BallotBack { version, term } => {
                if matches!(outcome, Outcome::Ok(_)) && self.seen.as_ref().is_some_and(|seen| seen.version > version) {
                    self.ballot_went_back(cx, version, term);
                }
                return;
            }
            _ if call.epoch != self.epoch => return,
            _ => {}
        }
        if let Outcome::Refused(refusal) = &outcome {
            if refusal.reason == Reason::NoAuth {
                self.trouble = Some("access denied by zookeeper; check the ACL and the credentials".to_owned());
            }
        }
        match call.ask {
            Ask::Exists | Ask::Genesis => self.genesis_outcome(cx, &call.ask, outcome),
            Ask::Pass(tag) => self.pass_outcome(cx, tag, session, outcome),
            Ask::Pin(replace) => self.pin_outcome(cx, replace, &outcome),
            Ask::Chunk(at) => self.chunk_outcome(cx, at, outcome),
            Ask::Seal => self.seal_outcome(cx, session, outcome),
            Ask::Vacate => self.vacate_outcome(cx, outcome),
            Ask::Writer(tag) => self.writer_outcome(cx, tag, outcome),
            Ask::Fence(fence) => self.fence_outcome(cx, fence, outcome),
            Ask::Archive(tag) => self.archive_outcome(cx, tag, session, outcome),
            Ask::Tail(tail) => self.tail_outcome(cx, tail, outcome),
            Ask::Pointer => {
                if let (Outcome::Ok(Reply::Data(Some((bytes, stat)))), Some(uuid)) = (outcome, self.uuid()) {
                    if let Ok(pointer) = record::open::<Pointer>(&bytes, Some(uuid)) {
                        self.pointer_seen(cx, pointer, stat.version);
                    }
                }
            }
            Ask::Ballot | Ask::BallotGone | Ask::BallotBack { .. } => {}
        }
    }

    // ---- the ballot -----------------------------------------------------------------------------------------------

    fn took_ballot(&mut self, cx: &mut Context<'_>, outcome: Outcome) {
        let Outcome::Ok(Reply::Data(data)) = outcome else {
            let denied = matches!(&outcome, Outcome::Refused(refusal) if refusal.reason == Reason::NoAuth);
            if let Phase::Genesis { retry_at } = &mut self.phase {
                if denied {
                    // At start it is a mistake in the configuration, and fails at once.
                    return self.stop(cx, GroupError::Denied { path: self.paths.ballot() });
                }
                *retry_at = Some(cx.now + RETRY);
            } else if denied {
                self.trouble = Some(format!("access denied by zookeeper: path={}", self.paths.ballot()));
            }
            return;
        };
        let Some(identity) = &self.identity else { return };
        let Some((bytes, stat)) = data else {
            // A server may lag; only a transaction's "no" is certain.
            let check = Op::Check { path: self.paths.ballot(), version: self.seen.as_ref().map_or(0, |s| s.version) };
            return self.call(cx, Urgency::Normal, Ask::BallotGone, Request::Multi(vec![check]));
        };
        if stat.czxid != identity.czxid {
            // Genesis and ballot are created by one transaction: this one was deleted and made again by hand.
            return self.stop(
                cx,
                GroupError::WentBackwards {
                    what: "ballot",
                    seen: format!("czxid {:#x}", identity.czxid),
                    found: format!("czxid {:#x}", stat.czxid),
                },
            );
        }
        match record::open::<Ballot>(&bytes, Some(identity.uuid)) {
            Ok(ballot) => {
                self.compare_ballot(cx, stat.version, &ballot);
                self.observe(cx, stat.version, ballot);
            }
            Err(error) => self.stop_damaged(cx, self.paths.ballot(), 0, error),
        }
    }

    /// Looks whether the ballot read lies before the one seen, or is another of the same version: ZooKeeper itself never
    /// goes back, so it was put back.
    fn compare_ballot(&mut self, cx: &mut Context<'_>, version: i32, ballot: &Ballot) {
        let Some(seen) = &self.seen else { return };
        match version.cmp(&seen.version) {
            std::cmp::Ordering::Greater => {}
            std::cmp::Ordering::Equal if seen.ballot.nonce == ballot.nonce => {}
            std::cmp::Ordering::Equal => self.ballot_went_back(cx, version, ballot.term),
            // A server may lag; only a transaction shows what is.
            std::cmp::Ordering::Less => {
                let check = Op::Check { path: self.paths.ballot(), version };
                let ask = Ask::BallotBack { version, term: ballot.term };
                self.call(cx, Urgency::Normal, ask, Request::Multi(vec![check]));
            }
        }
    }

    fn ballot_went_back(&mut self, cx: &mut Context<'_>, version: i32, term: u64) {
        let Some(seen) = &self.seen else { return };
        let error = GroupError::WentBackwards {
            what: "ballot",
            seen: format!("version {} of term {}", seen.version, seen.ballot.term),
            found: format!("version {version} of term {term}"),
        };
        self.stop(cx, error);
    }

    /// Learns what the ballot was at some time. Versions only rise, so an older sight is dropped.
    pub(super) fn observe(&mut self, cx: &mut Context<'_>, version: i32, ballot: Ballot) {
        if self.seen.as_ref().is_some_and(|seen| seen.version >= version) {
            return;
        }
        self.known.term = self.known.term.max(ballot.term);
        self.seen = Some(Seen { version, ballot });
        if matches!(self.phase, Phase::Leader(_)) && !self.handing_over {
            self.suspicion.blame();
        }
        self.suspicion.ballot_changed(cx);
        self.trust_all();
        self.ballot_moved(cx);
    }

    /// Who leads, as the ballot says.
    pub(super) fn leader(&self) -> Option<LeaderInfo> {
        let ballot = &self.seen.as_ref()?.ballot;
        (!ballot.vacant && ballot.node != 0)
            .then(|| LeaderInfo { node: NodeId(ballot.node), addresses: ballot.addresses.clone().unwrap_or_default() })
    }

    // ---- stopping -------------------------------------------------------------------------------------------------

    pub(super) fn stop_damaged(&mut self, cx: &mut Context<'_>, path: String, index: u64, error: record::RecordError) {
        let error = match error {
            record::RecordError::UnsupportedFormat { found, max, .. } => {
                GroupError::UnsupportedFormat { path, found, max }
            }
            error => GroupError::Damaged { path, index, what: error.to_string() },
        };
        self.stop(cx, error);
    }

    /// Refuses the group on this node; gives the ballot back first if this node holds it.
    pub(super) fn stop(&mut self, cx: &mut Context<'_>, error: GroupError) {
        match &mut self.phase {
            Phase::Stopped(_) => {}
            Phase::Resigning(resigning) => resigning.then_stop = Some(error),
            _ => match self.holding() {
                Some(seen) => self.resign(cx, seen, &error.to_string(), Some(error.clone())),
                None => self.stopped(cx, error),
            },
        }
    }

    pub(super) fn stopped(&mut self, cx: &mut Context<'_>, error: GroupError) {
        self.release(cx);
        self.enter(Phase::Stopped(error.clone()));
        self.publish(cx, true);
        cx.push(Effect::StopGroup(self.number, error));
    }

    /// The ballot, if it is this incarnation's and not yet given back.
    fn holding(&self) -> Option<Seen> {
        match &self.phase {
            Phase::Leader(leader) => Some(leader.won.seen.clone()),
            Phase::Reading(reading) => reading.won().map(|won| won.seen.clone()),
            Phase::Restoring(restoring) => restoring.won().map(|won| won.seen.clone()),
            _ => None,
        }
    }

    /// Answers everybody who waits for this leadership: what was handed to raft-rs is unknown from now on.
    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        for (_, (_, token)) in std::mem::take(&mut self.tokens) {
            cx.push(Effect::RefuseProposal(token, ProposeError::Unknown));
        }
        if let Phase::Leader(leader) = &mut self.phase {
            let reads = leader.take_reads();
            if leader.served {
                cx.push(Effect::Leadership(self.number, false));
            }
            let leader = self.leader().filter(|leader| leader.node != cx.config.node);
            for token in reads {
                cx.push(Effect::RefuseRead(token, ReadError::NotLeader { leader: leader.clone() }));
            }
        }
        self.outstanding.clear();
        self.outstanding_bytes = 0;
    }

    // ---- links ----------------------------------------------------------------------------------------------------

    /// A message of a peer's core for this group.
    pub(super) fn raft_message(&mut self, cx: &mut Context<'_>, peer: NodeId, bytes: &[u8]) {
        use super::message::{decode_raft, judge, Holder, Judgement};
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
        if let (Phase::Leader(_), Some(engine)) = (&self.phase, &mut self.engine) {
            engine.reset_progress(peer);
        }
    }

    /// What this replica says when its node is challenged.
    pub(super) fn testify(&self, cx: &Context<'_>, version: i32) -> Option<Testimony> {
        let (stand, progress) = match &self.phase {
            Phase::Leader(leader) if leader.won.seen.version == version => {
                let patience = self.suspicion.timeout(cx.config, cx.facts);
                if !cx.facts.connected || leader.stalled(cx.now, patience) {
                    return None;
                }
                // A leader whose first entry is not committed yet is still on the way.
                if leader.served {
                    (1, 0)
                } else {
                    (2, leader.writer.fences())
                }
            }
            Phase::Reading(reading) => {
                (2, reading.won().filter(|won| won.seen.version == version).map(|_| reading.progress())?)
            }
            Phase::Restoring(restoring) => {
                (2, restoring.won().filter(|won| won.seen.version == version).map(|_| restoring.progress())?)
            }
            _ => return None,
        };
        Some(Testimony { group: self.uuid()?.to_bytes(), version, stand, progress })
    }

    /// The ballot version under which this replica leads or succeeds, for the beat. One that does not get on is silent,
    /// so that others doubt it: only what the core does counts, not that the process around it lives.
    pub(super) fn standing(&mut self, cx: &Context<'_>) -> Option<GroupVersion> {
        let version = self.holding()?.version;
        let testimony = self.testify(cx, version)?;
        let moves = match testimony.stand {
            1 => true,
            2 => self.told_progress != Some((version, testimony.progress)),
            _ => false,
        };
        self.told_progress = Some((version, testimony.progress));
        moves.then_some(GroupVersion { group: testimony.group, version })
    }

    pub(super) fn judged(&mut self, cx: &mut Context<'_>, version: i32, verdict: Verdict) {
        if self.seen.as_ref().is_some_and(|seen| seen.version == version) {
            self.suspicion.judged(verdict);
            self.consider(cx);
        }
    }

    // ---- disk and machine -----------------------------------------------------------------------------------------

    pub(super) fn persisted(&mut self, cx: &mut Context<'_>, number: u64) {
        if let Some(engine) = &mut self.engine {
            let messages = engine.persisted_to(number);
            self.send(cx, messages);
        }
    }

    pub(super) fn machine(&mut self, cx: &mut Context<'_>, event: MachineEvent) {
        match event {
            MachineEvent::Applied { index, ready_to_lead } => {
                self.applied = self.applied.max(index);
                self.ready_to_lead = ready_to_lead;
                while self.outstanding.front().is_some_and(|(first, _)| *first <= index) {
                    if let Some((_, bytes)) = self.outstanding.pop_front() {
                        self.outstanding_bytes -= bytes;
                    }
                }
            }
            MachineEvent::Failed { message } => self.stop(cx, GroupError::Failed { message }),
            MachineEvent::RestoreTook { restore } => self.restore_took(cx, restore),
            MachineEvent::Restored { restore } => self.restored(cx, restore),
            MachineEvent::RestoreFailed { restore, message } => self.restore_failed(cx, restore, message),
            event => self.archive_machine(cx, event),
        }
    }

    /// Writes to the local log.
    pub(super) fn persist(&mut self, cx: &mut Context<'_>, mut persist: Persist) -> u64 {
        if self.known != self.known_written {
            self.known_written = self.known;
            persist.known = Some(self.known);
        }
        self.writes += 1;
        persist.number = self.writes;
        cx.push(Effect::Persist(self.number, persist));
        self.writes
    }

    /// Everything up to `position` is known to be in ZooKeeper.
    pub(super) fn know(&mut self, position: Position) {
        if position.index > self.known.position.index {
            self.known.position = position;
        }
    }

    // ---- raft-rs --------------------------------------------------------------------------------------------------

    /// Takes everything raft-rs has ready and sees it done.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) {
        while let Some(engine) = &mut self.engine {
            let Some(outputs) = engine.round(self.writes + 1) else { break };
            if let Some(entry) = outputs.committed.iter().find(|entry| entry.kind != 0) {
                let (index, what) = (entry.index, format!("membership change of kind {}", entry.kind));
                return self.stop(cx, GroupError::UnknownEntry { index, what });
            }
            let persist = Persist {
                truncate_from: outputs.truncate_from,
                entries: outputs.appended,
                hard_state: outputs.hard_state,
                ..Persist::default()
            };
            if !persist.is_empty() {
                self.persist(cx, persist);
            }
            self.send(cx, outputs.messages);
            if !outputs.committed.is_empty() {
                let list = outputs.committed.into_iter().map(|entry| {
                    let token = match self.tokens.remove(&entry.index) {
                        Some((term, token)) if term == entry.term => Some(token),
                        Some((_, token)) => {
                            cx.effects.push(Effect::RefuseProposal(token, ProposeError::Unknown));
                            None
                        }
                        None => None,
                    };
                    Apply { entry, token }
                });
                let list = list.collect();
                cx.push(Effect::Apply(self.number, list));
            }
        }
        self.serve_log(cx);
    }

    /// What raft-rs asked its storage for and did not get.
    fn serve_log(&mut self, cx: &mut Context<'_>) {
        let Some(engine) = &mut self.engine else { return };
        let settled = self.applied.min(engine.persisted());
        let log = engine.log_mut();
        log.shrink(settled, cx.config.log_cache_bytes);
        let (base, last) = (log.base().index, log.last().index);
        let requests = log.requests.get_mut();
        let gone = |wanted: &super::log::Wanted| !wanted.asked && (wanted.low <= base || wanted.high > last + 1);
        if requests.fetch.as_ref().is_some_and(gone) {
            // Compacted or truncated since raft-rs asked: it is to ask again, and learns so.
            engine.on_fetched(Vec::new());
            return self.pump(cx);
        }
        if let Some(wanted) = requests.fetch.as_mut().filter(|wanted| !wanted.asked) {
            wanted.asked = true;
            let (low, high) = (wanted.low, wanted.high);
            cx.push(Effect::FetchLog { group: self.number, low, high });
        }
        let archive = std::mem::take(&mut requests.archive);
        for peer in archive.into_iter().map(NodeId) {
            self.tell_fetch(cx, peer);
        }
    }

    pub(super) fn fetched(&mut self, entries: Vec<bequest_recovery::entry::Entry>) {
        if let Some(engine) = &mut self.engine {
            engine.on_fetched(entries);
        }
    }

    fn send(&self, cx: &mut Context<'_>, messages: Vec<raft::eraftpb::Message>) {
        let Some(uuid) = self.uuid() else { return };
        for message in messages {
            let peer = NodeId(message.to);
            if is_witness(message.to) || message.get_msg_type() == raft::eraftpb::MessageType::MsgRequestVote {
                continue;
            }
            if let Some(message) = super::message::encode_raft(&message) {
                send(cx, peer, Body::Raft(RaftBytes { group: uuid.to_bytes(), message }));
            }
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    pub(super) fn tick(&mut self, cx: &mut Context<'_>) {
        if cx.facts.usable() && self.identity.is_some() && cx.now.since(self.polled) >= cx.config.poll {
            self.polled = cx.now;
            self.ballot_asked = false;
            self.look(cx);
            self.look_at_pointer(cx);
        }
        match &self.phase {
            Phase::Genesis { retry_at: Some(at) } if cx.now >= *at && cx.facts.usable() => self.connected(cx),
            Phase::Follower(_) => {
                self.consider(cx);
                self.tail_tick(cx);
            }
            Phase::Leader(_) => self.lead_tick(cx),
            _ => self.resume(cx),
        }
    }

    /// When to tick again.
    pub(super) fn wake_at(&self, cx: &Context<'_>) -> Option<Now> {
        let poll = self.polled + cx.config.poll;
        let own = match &self.phase {
            Phase::Genesis { retry_at } => *retry_at,
            Phase::Reading(reading) => reading.retry_at,
            Phase::Sealing(sealing) => sealing.retry_at,
            Phase::Resigning(resigning) => resigning.retry_at,
            Phase::Follower(tailing) => {
                let seen = self.seen.as_ref()?;
                let suspicion = self.suspicion.wake_at(cx.config, cx.facts, &seen.ballot, cx.now);
                Some(tailing.retry_at.map_or(suspicion, |at| at.min(suspicion)))
            }
            Phase::Leader(leader) => Some(leader.wake_at(cx)),
            Phase::Restoring(_) => Some(cx.now + cx.config.election_timeout),
            Phase::Stopped(_) => return None,
        };
        Some(own.map_or(poll, |own| own.min(poll)))
    }

    /// Ends a step: whatever raft-rs has ready, whatever can be appended, and the status.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        self.pump(cx);
        self.lead_settle(cx);
        self.publish(cx, false);
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

/// Bytes of entries beyond the cache that a follower holds in memory because its disk or its machine has not taken them
/// yet. It takes no more before that: the leader does not wait for it.
const BACKLOG_BYTES_MAX: u64 = 32 << 20;
/// Shortest pause before something is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(20);

impl Replica {
    /// The first write of a group: who it is.
    pub(super) fn birth_record(&self) -> Option<BirthRecord> {
        let identity = self.identity.as_ref()?;
        Some(BirthRecord { name: self.name.clone(), uuid: identity.uuid, genesis_czxid: identity.czxid })
    }

    /// What this replica does, in one word.
    pub(super) fn role(&self) -> Role {
        match &self.phase {
            Phase::Genesis { .. } => Role::Birth,
            Phase::Reading(reading) if reading.won().is_none() => Role::Birth,
            Phase::Restoring(restoring) if restoring.won().is_none() => Role::Birth,
            Phase::Reading(_) | Phase::Restoring(_) | Phase::Sealing(_) => Role::Successor,
            Phase::Follower(_) => Role::Follower,
            Phase::Leader(leader) if leader.served => Role::Leader,
            Phase::Leader(_) => Role::Successor,
            Phase::Resigning(_) => Role::Resigning,
            Phase::Stopped(_) => Role::Stopped,
        }
    }
}
