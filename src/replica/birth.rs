//! From ZooKeeper to a local log: read what leaders left, restore a snapshot where one is needed, build the engine.
//!
//! Both an observer (a node that is born, or fell too far behind) and a successor (which has sealed) go this way. What
//! is local is a cache: it is kept where it agrees with the WAL, overruled where it does not, and never taken as proof
//! that something does not exist. Nothing before the end of this file changes anything but this node, so a crash
//! anywhere in it means only that the next life begins again.

use std::collections::BTreeMap;

use bequest_recovery::entry::Position;
use bequest_recovery::keeper::{Op, Outcome, Reason, Refusal, Reply, Request, SessionNumber, Urgency};
use bequest_recovery::reader::{End, Pass, Reader, Tail};
use bequest_recovery::record::{self, Genesis, Pin, SnapshotName, Uuid, FORMAT};
use bytes::Bytes;

use super::context::Context;
use super::engine::{conf_state, Engine, NODES_MAX};
use super::event::{default_limits, Effect, NodeId, Now, Persist};
use super::log::Log;
use super::replica::{Ask, Identity, Phase, Replica, RETRY};
use super::succession::Won;
use super::tail::Tailing;
use crate::error::GroupError;

/// Passes an observer makes before it believes that what it misses is missing: trims go on while it reads.
const OBSERVER_TRIES: u32 = 10;
/// Times a successor, or an observer without luck, tries a snapshot before it falls back to the previous one.
const SNAPSHOT_TRIES: u32 = 2;
/// Chunks asked for, or waiting for the machine, at once.
const CHUNKS_IN_FLIGHT: usize = 8;

/// A read pass, and whom it is for.
#[derive(Debug)]
pub(super) struct Reading {
    /// `None`: an observer.
    won: Option<Won>,
    /// Version the observer's pass is bound to.
    version: i32,
    reader: Option<Reader>,
    pub(super) retry_at: Option<Now>,
    tries: u32,
    snapshot_tries: u32,
    previous: bool,
    /// What was found damaged last.
    damaged: Option<(String, u64)>,
    passes: u64,
}

impl Reading {
    pub(super) fn won(&self) -> Option<&Won> {
        self.won.as_ref()
    }

    /// A number that moves while it gets on.
    pub(super) fn progress(&self) -> u64 {
        self.passes * 1_000_000 + self.reader.as_ref().map_or(0, Reader::progress)
    }
}

/// A snapshot on its way into the machine.
#[derive(Debug)]
pub(super) struct Restoring {
    reading: Reading,
    tail: Box<Tail>,
    restore: u64,
    next_asked: usize,
    next_fed: usize,
    took: usize,
    arrived: BTreeMap<usize, Bytes>,
    finishing: bool,
}

impl Restoring {
    pub(super) fn won(&self) -> Option<&Won> {
        self.reading.won.as_ref()
    }

    pub(super) fn progress(&self) -> u64 {
        1_000_000_000 + (self.next_asked + self.took) as u64
    }

    /// Whether the machine was told to put the snapshot in force.
    pub(super) fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// The ballot went to somebody else: go on as an observer.
    pub(super) fn demote(&mut self) {
        self.reading.won = None;
    }

    fn chunks(&self) -> usize {
        self.tail.snapshot.as_ref().map_or(0, |manifest| manifest.chunks.len())
    }
}

impl Replica {
    // ---- genesis --------------------------------------------------------------------------------------------------

    pub(super) fn genesis_outcome(&mut self, cx: &mut Context<'_>, ask: &Ask, outcome: Outcome) {
        match (ask, outcome) {
            (Ask::Exists, Outcome::Ok(_)) => {
                let request = Request::Get { path: self.paths.genesis().to_owned(), watch: false };
                self.call(cx, Urgency::Normal, Ask::Genesis, request);
            }
            (Ask::Exists, Outcome::Refused(Refusal { reason: Reason::NoAuth, .. })) => {
                self.stop(cx, GroupError::Denied { path: self.paths.genesis().to_owned() });
            }
            (Ask::Exists, Outcome::Refused(Refusal { reason: Reason::NoNode, .. })) => {
                self.stop(cx, GroupError::NoSuchGroup { path: self.paths.genesis().to_owned() });
            }
            (Ask::Genesis, Outcome::Ok(Reply::Data(Some((bytes, stat))))) => {
                match record::open::<Genesis>(&bytes, None) {
                    Ok(genesis) => self.identify(cx, &genesis, stat.czxid),
                    Err(error) => self.stop_damaged(cx, self.paths.genesis().to_owned(), 0, error),
                }
            }
            _ => self.phase = Phase::Genesis { retry_at: Some(cx.now + RETRY) },
        }
    }

    fn identify(&mut self, cx: &mut Context<'_>, genesis: &Genesis, czxid: i64) {
        let voters: Vec<_> = genesis.voters.iter().copied().map(NodeId).collect();
        let path = self.paths.genesis().to_owned();
        let (Some(uuid), 1..=NODES_MAX) = (Uuid::from_slice(&genesis.uuid), voters.len()) else {
            let what = format!("voters={voters:?}");
            return self.stop(cx, GroupError::Damaged { path, index: 0, what });
        };
        if let Some(local) = &self.local {
            if local.uuid != uuid {
                let error = GroupError::OtherGroup { name: self.name.clone(), local: local.uuid, found: uuid };
                return self.stop(cx, error);
            }
            if local.genesis_czxid != czxid {
                let error = GroupError::WentBackwards {
                    what: "genesis",
                    seen: format!("czxid {:#x}", local.genesis_czxid),
                    found: format!("czxid {czxid:#x}"),
                };
                return self.stop(cx, error);
            }
        }
        if !voters.contains(&cx.config.node) {
            let voters = genesis.voters.clone();
            return self.stop(cx, GroupError::NotAVoter { node: cx.config.node.0, voters });
        }
        let limits = genesis.limits.clone().unwrap_or_else(default_limits);
        self.identity = Some(Identity { uuid, czxid, voters, limits });
        // The ballot's arrival begins the first pass.
        self.look(cx);
    }

    // ---- reading --------------------------------------------------------------------------------------------------

    /// Reads as an observer: at birth, or because this node fell behind.
    pub(super) fn observe_wals(&mut self, cx: &mut Context<'_>) {
        self.begin_reading(cx, None, None);
    }

    /// Reads what is sealed. `opened` is the session on which the seal itself succeeded.
    pub(super) fn read_sealed(&mut self, cx: &mut Context<'_>, won: Won, opened: Option<SessionNumber>) {
        self.begin_reading(cx, Some(won), opened);
    }

    fn begin_reading(&mut self, cx: &mut Context<'_>, won: Option<Won>, opened: Option<SessionNumber>) {
        let reading = Reading {
            won,
            version: 0,
            reader: None,
            retry_at: None,
            tries: 0,
            snapshot_tries: 0,
            previous: false,
            damaged: None,
            passes: 0,
        };
        self.enter(Phase::Reading(Box::new(reading)));
        self.pass(cx, opened);
    }

    /// The position up to which the local log needs no reading, and whether the machine cannot go on from it.
    fn local_reach(&self) -> (Position, bool) {
        match (&self.engine, &self.local) {
            (Some(engine), _) => {
                let commit = engine.commit();
                (engine.log().position(commit).unwrap_or(engine.log().base()), false)
            }
            (None, Some(local)) => {
                let last = local.slots.last().map_or(local.base, |slot| slot.position);
                // How far the machine got says nothing about the log: only what the log itself knew to be committed
                // counts, or an entry that a crash brought back would overrule the WAL.
                let reach = local.commit.min(last.index);
                let at = reach.checked_sub(local.base.index + 1).and_then(|at| local.slots.get(at as usize));
                (at.map_or(local.base, |slot| slot.position), self.machine_applied < local.base.index)
            }
            (None, None) => (Position::START, false),
        }
    }

    /// Begins one pass.
    fn pass(&mut self, cx: &mut Context<'_>, opened: Option<SessionNumber>) {
        let (committed, restore) = self.local_reach();
        let (Some(uuid), Some(seen)) = (self.uuid(), self.seen.as_ref()) else { return };
        let seen_version = seen.version;
        let paths = self.paths.clone();
        self.epoch += 1;
        let Phase::Reading(reading) = &mut self.phase else { return };
        reading.retry_at = None;
        reading.passes += 1;
        reading.version = reading.won.as_ref().map_or(seen_version, |won| won.seen.version);
        let pass = Pass {
            paths,
            uuid,
            version: reading.version,
            sealed: reading.won.as_ref().map(|won| won.seen.ballot.term),
            committed,
            restore,
            previous: reading.previous,
        };
        let (reader, asks) = Reader::new(pass, opened);
        reading.reader = Some(reader);
        self.ask_pass(cx, asks);
    }

    fn ask_pass(&self, cx: &mut Context<'_>, asks: Vec<bequest_recovery::reader::Ask>) {
        let sealed = matches!(&self.phase, Phase::Reading(reading) if reading.won.is_some());
        let urgency = if sealed { Urgency::Urgent } else { Urgency::Normal };
        for ask in asks {
            self.call(cx, urgency, Ask::Pass(ask.tag), ask.request);
        }
    }

    /// Goes on after a pause or an outage.
    pub(super) fn resume(&mut self, cx: &mut Context<'_>) {
        if !cx.facts.usable() {
            return;
        }
        match &mut self.phase {
            Phase::Reading(reading) if reading.retry_at.is_some_and(|at| cx.now >= at) => self.pass(cx, None),
            Phase::Restoring(_) => self.ask_chunks(cx),
            Phase::Sealing(_) => self.seal_resume(cx),
            Phase::Resigning(_) => self.vacate_resume(cx),
            _ => {}
        }
    }

    fn again(&mut self, cx: &mut Context<'_>) {
        let pause = RETRY + cx.random.up_to(RETRY);
        if let Phase::Reading(reading) = &mut self.phase {
            reading.reader = None;
            reading.retry_at = Some(cx.now + pause);
        }
    }

    pub(super) fn pass_outcome(&mut self, cx: &mut Context<'_>, tag: u64, session: SessionNumber, outcome: Outcome) {
        let Phase::Reading(reading) = &mut self.phase else { return };
        let Some(reader) = &mut reading.reader else { return };
        let (asks, end) = reader.take(tag, session, outcome);
        self.ask_pass(cx, asks);
        if let Some(end) = end {
            self.pass_ended(cx, end);
        }
    }

    fn pass_ended(&mut self, cx: &mut Context<'_>, end: End) {
        let Phase::Reading(reading) = &mut self.phase else { return };
        let observer = reading.won.is_none();
        match end {
            End::Done(tail) => self.pass_done(cx, tail),
            // For a successor: somebody else sealed. For an observer: look again, under the new ballot.
            End::Lost => {
                self.ballot_asked = false;
                self.look(cx);
                if observer {
                    self.again(cx);
                } else {
                    self.lost(cx);
                }
            }
            End::Again(cause) => {
                self.trouble = Some(format!("reading again: {cause}"));
                self.again(cx);
            }
            End::Damaged { path, index, what, snapshot: true } => {
                reading.snapshot_tries += 1;
                // The newest may have been overtaken by a newer one, and the previous one is there for when it is bad.
                // Every pass begins with the fence, so one that is no longer this node's to judge ends as lost.
                reading.previous = (reading.snapshot_tries / SNAPSHOT_TRIES) % 2 == 1;
                if reading.snapshot_tries < SNAPSHOT_TRIES * 3 {
                    self.again(cx);
                } else {
                    self.stop(cx, GroupError::Damaged { path, index, what });
                }
            }
            End::Damaged { path, index, what, snapshot: false } => {
                // A trim that goes on while an observer reads moves from place to place; damage stays where it is.
                let moved = reading.damaged.replace((path.clone(), index)) != Some((path.clone(), index));
                reading.tries = if moved { 1 } else { reading.tries + 1 };
                if observer && reading.tries < OBSERVER_TRIES {
                    self.again(cx);
                } else {
                    self.stop(cx, GroupError::Damaged { path, index, what });
                }
            }
            End::Behind { found } => {
                let (seen, _) = self.local_reach();
                self.stop(cx, went_backwards("wal", seen, format!("index {}", found.index)));
            }
            End::Diverged { index } => {
                let (seen, _) = self.local_reach();
                self.stop(cx, went_backwards("wal", seen, format!("another entry at index {index}")));
            }
            End::Denied { path } if observer && self.engine.is_none() => self.stop(cx, GroupError::Denied { path }),
            End::Denied { path } => {
                self.trouble = Some(format!("access denied by zookeeper: path={path}"));
                match self.take_won() {
                    Some(won) => self.resign(cx, won.seen, "access denied by zookeeper", None),
                    None => self.again(cx),
                }
            }
        }
    }

    /// What a successor has won, when it gives up.
    fn take_won(&mut self) -> Option<Won> {
        match &mut self.phase {
            Phase::Reading(reading) => reading.won.take(),
            Phase::Restoring(restoring) => restoring.reading.won.take(),
            _ => None,
        }
    }

    /// Whether ZooKeeper still shows everything this node knows it to have held.
    fn behind_known(&self, tail: &Tail) -> Option<GroupError> {
        let known = self.known.position;
        if self.known.term > self.seen.as_ref().map_or(0, |seen| seen.ballot.term) {
            let found = self.seen.as_ref().map_or(0, |seen| seen.ballot.term);
            return Some(GroupError::WentBackwards {
                what: "ballot",
                seen: format!("term {}", self.known.term),
                found: format!("term {found}"),
            });
        }
        if known.index > tail.end.index {
            return Some(went_backwards("wal", known, format!("index {}", tail.end.index)));
        }
        let at = known.index.checked_sub(tail.base.index + 1)?;
        let (_, hash) = tail.entries.get(usize::try_from(at).ok()?)?;
        (*hash != known.hash).then(|| went_backwards("wal", known, format!("another entry at index {}", known.index)))
    }

    fn pass_done(&mut self, cx: &mut Context<'_>, tail: Box<Tail>) {
        let error = self.behind_known(&tail).or_else(|| {
            // A durable machine is never ahead of the WAL, unless the WAL went back.
            let applied = self.machine_applied;
            (applied > tail.end.index).then(|| GroupError::WentBackwards {
                what: "wal",
                seen: format!("index {applied} (applied)"),
                found: format!("index {}", tail.end.index),
            })
        });
        if let Some(error) = error {
            return self.stop(cx, error);
        }
        let Phase::Reading(reading) = std::mem::replace(&mut self.phase, Phase::Genesis { retry_at: None }) else {
            return;
        };
        let mut reading = *reading;
        if let Some(won) = &mut reading.won {
            won.report.read = cx.now.since(won.stage);
            won.report.entries = tail.entries.len() as u64;
            won.report.bytes = tail.bytes;
            won.stage = cx.now;
        }
        if tail.snapshot.is_some() {
            self.restore(cx, reading, tail);
        } else {
            self.built(cx, reading.won, *tail);
        }
    }

    // ---- restoring ------------------------------------------------------------------------------------------------

    fn restore(&mut self, cx: &mut Context<'_>, reading: Reading, tail: Box<Tail>) {
        self.restores += 1;
        cx.push(Effect::RestoreBegin { group: self.number, restore: self.restores });
        let restoring = Restoring {
            reading,
            tail,
            restore: self.restores,
            next_asked: 0,
            next_fed: 0,
            took: 0,
            arrived: BTreeMap::new(),
            finishing: false,
        };
        self.enter(Phase::Restoring(Box::new(restoring)));
        self.put_pin(cx, true);
        self.ask_chunks(cx);
        self.feed(cx);
    }

    /// Asks that the snapshot be kept while it is read. Advice only: nothing depends on it.
    fn put_pin(&self, cx: &mut Context<'_>, replace: bool) {
        let (Phase::Restoring(restoring), Some(uuid)) = (&self.phase, self.uuid()) else { return };
        let pin = Pin {
            format: FORMAT,
            uuid: uuid.to_bytes(),
            snapshot: Some(SnapshotName { index: restoring.tail.base.index, term: restoring.tail.base.term }),
            incarnation: cx.facts.incarnation().map_or(0, |incarnation| incarnation.0),
        };
        let path = self.paths.pin(cx.config.node.0);
        let mut ops = Vec::new();
        if replace {
            ops.push(Op::Delete { path: path.clone(), version: None });
        }
        ops.push(Op::Create { path, data: record::seal(&pin), ephemeral: false });
        self.call(cx, Urgency::Normal, Ask::Pin(replace), Request::Multi(ops));
    }

    pub(super) fn pin_outcome(&mut self, cx: &mut Context<'_>, replace: bool, outcome: &Outcome) {
        if replace && matches!(outcome, Outcome::Refused(refusal) if refusal.op == 0) {
            self.put_pin(cx, false);
        }
    }

    fn ask_chunks(&mut self, cx: &mut Context<'_>) {
        let mut requests = Vec::new();
        if let Phase::Restoring(restoring) = &mut self.phase {
            let Some(manifest) = &restoring.tail.snapshot else { return };
            while restoring.next_asked < manifest.chunks.len().min(restoring.took + CHUNKS_IN_FLIGHT) {
                let path = self.paths.chunk(&manifest.chunks[restoring.next_asked].hash);
                requests.push((restoring.next_asked, path));
                restoring.next_asked += 1;
            }
        }
        for (at, path) in requests {
            self.call(cx, Urgency::Normal, Ask::Chunk(at), Request::Get { path, watch: false });
        }
    }

    pub(super) fn chunk_outcome(&mut self, cx: &mut Context<'_>, at: usize, outcome: Outcome) {
        let Phase::Restoring(restoring) = &mut self.phase else { return };
        let Some(name) = restoring.tail.snapshot.as_ref().and_then(|manifest| manifest.chunks.get(at)) else { return };
        let path = self.paths.chunk(&name.hash);
        match outcome {
            Outcome::Ok(Reply::Data(Some((bytes, _)))) if blake3::hash(&bytes).as_bytes()[..] == name.hash[..] => {
                restoring.arrived.insert(at, bytes);
                self.feed(cx);
            }
            Outcome::Ok(Reply::Data(data)) => {
                let what = if data.is_some() { "chunk damaged" } else { "chunk missing" };
                self.restore_again(cx, path, what);
            }
            Outcome::Refused(_) => self.restore_again(cx, path, "chunk refused"),
            Outcome::Ok(_) | Outcome::Unknown(_) => {
                self.call(cx, Urgency::Normal, Ask::Chunk(at), Request::Get { path, watch: false });
            }
        }
    }

    /// Hands chunks to the machine in order.
    fn feed(&mut self, cx: &mut Context<'_>) {
        let group = self.number;
        let Phase::Restoring(restoring) = &mut self.phase else { return };
        while let Some(chunk) = restoring.arrived.remove(&restoring.next_fed) {
            restoring.next_fed += 1;
            cx.push(Effect::RestoreChunk { group, restore: restoring.restore, chunk });
        }
        if restoring.took == restoring.chunks() && !restoring.finishing {
            restoring.finishing = true;
            let (restore, applied) = (restoring.restore, restoring.tail.base.index);
            cx.push(Effect::RestoreFinish { group, restore, applied });
        }
    }

    pub(super) fn restore_took(&mut self, cx: &mut Context<'_>, restore: u64) {
        let Phase::Restoring(restoring) = &mut self.phase else { return };
        if restoring.restore == restore {
            restoring.took += 1;
            self.ask_chunks(cx);
            self.feed(cx);
        }
    }

    pub(super) fn restore_failed(&mut self, cx: &mut Context<'_>, restore: u64, message: String) {
        if matches!(&self.phase, Phase::Restoring(restoring) if restoring.restore == restore) {
            self.stop(cx, GroupError::Failed { message });
        }
    }

    /// The snapshot cannot be read: look again, there may be a newer one, or take the previous.
    fn restore_again(&mut self, cx: &mut Context<'_>, path: String, what: &str) {
        let index = self.abandon_restore(cx);
        if let Phase::Restoring(restoring) = std::mem::replace(&mut self.phase, Phase::Genesis { retry_at: None }) {
            self.enter(Phase::Reading(Box::new(restoring.reading)));
            // Confirmed or not by the fence, the next pass begins with it.
            self.pass_ended(cx, End::Damaged { path, index, what: what.to_owned(), snapshot: true });
        }
    }

    /// Drops the restore under way; the machine keeps its old state.
    pub(super) fn abandon_restore(&mut self, cx: &mut Context<'_>) -> u64 {
        let Phase::Restoring(restoring) = &self.phase else { return 0 };
        cx.push(Effect::RestoreAbandon { group: self.number, restore: restoring.restore });
        restoring.tail.base.index
    }

    pub(super) fn restored(&mut self, cx: &mut Context<'_>, restore: u64) {
        if !matches!(&self.phase, Phase::Restoring(restoring) if restoring.restore == restore && restoring.finishing) {
            return;
        }
        if let Phase::Restoring(restoring) = std::mem::replace(&mut self.phase, Phase::Genesis { retry_at: None }) {
            let mut reading = restoring.reading;
            self.machine_applied = restoring.tail.base.index;
            self.applied = self.machine_applied;
            if let (Some(won), Some(manifest)) = (&mut reading.won, &restoring.tail.snapshot) {
                won.report.bytes += manifest.bytes;
            }
            self.built(cx, reading.won, *restoring.tail);
        }
    }

    // ---- building -------------------------------------------------------------------------------------------------

    /// Everything needed is at hand: put log and machine together, then follow or stand.
    fn built(&mut self, cx: &mut Context<'_>, won: Option<Won>, mut tail: Tail) {
        self.know(tail.end);
        self.pointer = tail.pointer.clone();
        let term = match &won {
            Some(won) => won.seen.ballot.term - 1,
            None => self.seen.as_ref().map_or(0, |seen| seen.ballot.term),
        };
        self.build(cx, &mut tail, term, won.is_some());
        self.trouble = None;
        match won {
            Some(won) => self.stand(cx, won, tail),
            None => {
                self.enter(Phase::Follower(Box::new(Tailing::behind(&tail))));
                self.suspicion.heard(cx.now);
                self.greet_all(cx);
                self.look(cx);
            }
        }
    }

    /// Builds the engine anew on what was read. The WAL wins; a local suffix beyond its end, attached to it, is kept.
    fn build(&mut self, cx: &mut Context<'_>, tail: &mut Tail, term: u64, sealed: bool) {
        let Some(identity) = &self.identity else { return };
        let voters = conf_state(&identity.voters);
        let mut persist = Persist::default();
        let (mut log, mut commit, mut handed, local_term) = match self.engine.take() {
            Some(engine) => {
                let (commit, handed, term) = (engine.commit(), engine.handed(), engine.term());
                (engine.into_log(), commit, handed, term)
            }
            None => match self.local.take() {
                Some(local) => {
                    (Log::new(local.base, local.slots, voters.clone()), local.commit, self.machine_applied, local.term)
                }
                None => {
                    persist.birth = self.birth_record();
                    (Log::new(Position::START, Vec::new(), voters.clone()), 0, self.machine_applied, 0)
                }
            },
        };
        if tail.snapshot.is_some() {
            handed = tail.base.index;
            if log.position(tail.base.index) != Some(tail.base) {
                log = Log::new(tail.base, Vec::new(), voters);
                persist.reset = Some(tail.base);
            }
        }
        let mut fresh = Vec::new();
        for (entry, hash) in std::mem::take(&mut tail.entries) {
            let held = fresh.is_empty() && log.position(entry.index).is_some_and(|position| position.hash == hash);
            if !held {
                fresh.push(entry);
            }
        }
        if let Some(first) = fresh.first() {
            persist.truncate_from = (first.index <= log.last().index).then_some(first.index);
            persist.entries = log.append(fresh);
        }
        assert!(log.position(tail.end.index) == Some(tail.end), "log does not hold the WAL's end: {:?}", tail.end);
        // An observer must not read ahead of the leader, who may not know yet that the end is committed. A successor
        // knows: what the sealed WALs hold is committed by its own leadership, never dropped.
        commit = if sealed { tail.end.index } else { commit.min(log.last().index) };
        commit = commit.max(handed).max(log.base().index);
        assert!(commit <= tail.end.index.max(commit.min(log.last().index)), "committed beyond the log: {commit}");
        let term = if sealed { term } else { term.max(local_term) };
        persist.hard_state = Some((term, commit));
        self.persist(cx, persist);
        self.engine = Some(Engine::new(cx.config.node, log, term, commit, handed));
    }
}

fn went_backwards(what: &'static str, seen: Position, found: String) -> GroupError {
    GroupError::WentBackwards { what, seen: format!("index {}", seen.index), found }
}
