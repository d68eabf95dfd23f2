//! One group on this node: what it knows, which phase it is in, and how events reach that phase.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bequest_recovery::keeper::{Op, Outcome, Reason, Reply, Request, SessionNumber, Urgency};
use bequest_recovery::path::GroupPaths;
use bequest_recovery::record::{self, Ballot, Limits, Pointer, Uuid};

use super::agenda::{Again, Plan};
use super::context::{Context, Owner};
use super::doubt::DoubtChange;
use super::engine::Engine;
use super::event::{Birth as BirthRecord, GroupNumber, Known, LocalGroup, NodeId, Now, Token};
use super::lead::Leader;
use super::publish::Told;
use super::reading::Reading;
use super::restoring::Restoring;
use super::status::{Role, SuccessionReport};
use super::succession::{Resigning, Sealing};
use super::suspicion::Suspicion;
use super::tail::Tailing;
use crate::error::GroupError;

/// Shortest pause before something is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(20);

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

impl Call {
    pub(super) fn is_append(&self) -> bool {
        matches!(self.ask, Ask::Writer(_))
    }
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
    pub(super) told: Option<Told>,
    /// When counters that changed since are told, if something else has the replica looked at.
    pub(super) tell_at: Option<Now>,
    pub(super) handing_over: bool,
    pub(super) doubts: Vec<DoubtChange>,
    introduced: bool,
    pub(super) doubting: bool,
    /// Ballot version and progress last told in a beat.
    pub(super) told_progress: Option<(i32, u64)>,
}

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
            told: None,
            tell_at: None,
            handing_over: false,
            doubts: Vec::new(),
            introduced: false,
            doubting: false,
            told_progress: None,
        }
    }

    // ---- what it is -----------------------------------------------------------------------------------------------

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

    /// The ballot, if it is this incarnation's and not yet given back.
    pub(super) fn holding(&self) -> Option<&Seen> {
        match &self.phase {
            Phase::Leader(leader) => Some(&leader.won.seen),
            Phase::Reading(reading) => reading.won().map(|won| &won.seen),
            Phase::Restoring(restoring) => restoring.won().map(|won| &won.seen),
            _ => None,
        }
    }

    /// Enters another phase: outcomes of requests made before no longer matter.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.epoch += 1;
        self.phase = phase;
    }

    pub(super) fn uuid(&self) -> Option<Uuid> {
        self.identity.as_ref().map(|identity| identity.uuid)
    }

    /// The first write of a group: who it is.
    pub(super) fn birth_record(&self) -> Option<BirthRecord> {
        let identity = self.identity.as_ref()?;
        Some(BirthRecord { name: self.name.clone(), uuid: identity.uuid, genesis_czxid: identity.czxid })
    }

    /// Who the group is, once, when that has become known.
    pub(super) fn introduce(&mut self) -> Option<&Identity> {
        self.identity.as_ref().filter(|_| !std::mem::replace(&mut self.introduced, true))
    }

    /// Whether nothing is left to hand over or give back.
    pub(super) fn at_rest(&self) -> bool {
        matches!(self.phase, Phase::Follower(_) | Phase::Stopped(_) | Phase::Genesis { .. })
            || matches!(&self.phase, Phase::Reading(_) | Phase::Restoring(_)) && self.holding().is_none()
    }

    /// Whether another node holds the ballot, and this one has not learnt yet that anything of its term is committed.
    pub(super) fn awaits_leader(&self, own: NodeId) -> bool {
        let (Phase::Follower(_), Some(seen), Some(engine)) = (&self.phase, &self.seen, &self.engine) else {
            return false;
        };
        let committed = engine.log().position(engine.commit()).map_or(0, |position| position.term);
        !seen.ballot.vacant && seen.ballot.node != own.0 && committed < seen.ballot.term
    }

    // ---- requests -------------------------------------------------------------------------------------------------

    pub(super) fn call(&self, cx: &mut Context<'_>, urgency: Urgency, ask: Ask, request: Request) {
        let call = Call { epoch: self.epoch, ask };
        cx.call(Owner::Group(self.number, call), urgency, request);
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
                        self.ballot_missing(cx);
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

    /// When to tick again; `from`: from when on the plan before would have had it ticked.
    pub(super) fn plan(&self, cx: &Context<'_>, from: Now) -> Plan {
        match self.wake_at(cx) {
            Some((at, _)) if at <= cx.now && self.waits(cx) => {
                Plan::Rest { from: at, alone: self.alone(cx, at), wakes: true }
            }
            Some((at, idle)) => Plan::Tick { at, idle },
            None => Plan::Rest { from, alone: self.alone(cx, from), wakes: false },
        }
    }

    /// When there is something to do, or once the core was idle for so long. `None`: nobody needs to be woken.
    fn wake_at(&self, cx: &Context<'_>) -> Option<(Now, Option<Duration>)> {
        let poll = self.polled + cx.config.poll;
        let mut idle = None;
        let own = match &self.phase {
            Phase::Genesis { retry_at } => *retry_at,
            Phase::Reading(reading) => reading.retry_at,
            Phase::Sealing(sealing) => sealing.retry_at,
            Phase::Resigning(resigning) => resigning.retry_at,
            Phase::Follower(tailing) => {
                let seen = self.seen.as_ref()?;
                match self.suspicion.wake_at(cx.config, cx.facts, &seen.ballot, cx.now) {
                    Again::At(suspicion) => Some(tailing.retry_at.map_or(suspicion, |at| at.min(suspicion))),
                    Again::Idle(timeout) => {
                        idle = Some(timeout);
                        tailing.retry_at
                    }
                }
            }
            Phase::Leader(leader) => self.lead_wake_at(cx, leader),
            Phase::Restoring(_) => {
                idle = Some(cx.config.election_timeout);
                None
            }
            Phase::Stopped(_) => return None,
        };
        Some((own.map_or(poll, |own| own.min(poll)), idle))
    }

    /// Whether a tick, though it is time, would do nothing before something happens to this replica: a session comes, or
    /// an answer. Only a leader has other things to do meanwhile.
    fn waits(&self, cx: &Context<'_>) -> bool {
        let waits = match &self.phase {
            Phase::Leader(_) => false,
            Phase::Genesis { retry_at: None } if self.identity.is_none() => true,
            _ => !cx.facts.usable(),
        };
        waits && self.engine.as_ref().is_none_or(Engine::is_quiet)
    }

    /// What one that rests has to do all the same: tell its counters, and look at its ballot now and then.
    fn alone(&self, cx: &Context<'_>, from: Now) -> Option<Now> {
        let looks = cx.facts.usable() && self.identity.is_some();
        let poll = looks.then(|| self.polled + cx.config.poll);
        Some(poll.into_iter().chain(self.tell_at).min()?.max(from))
    }

    /// Ends a step: whatever raft-rs has ready, whatever can be appended, and the status.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        self.admit(cx);
        self.pump(cx);
        self.lead_settle(cx);
        self.publish(cx, false);
    }
}
