//! One read pass after the other, until one can be believed, and what its end means.

use bequest_recovery::entry::Position;
use bequest_recovery::keeper::{Outcome, SessionNumber, Urgency};
use bequest_recovery::planted;
use bequest_recovery::reader::{self, End, Pass, Reader, Tail};

use super::context::Context;
use super::event::Now;
use super::replica::{Ask, Phase, Replica, Seen, RETRY};
use super::succession::Won;
use crate::error::GroupError;

/// Passes an observer makes before it believes that what it misses is missing: trims go on while it reads.
const OBSERVER_TRIES: u32 = 10;
/// Times a successor, or an observer without luck, tries a snapshot before it falls back to the previous one.
const SNAPSHOT_TRIES: u32 = 2;

/// A read pass, and whom it is for.
#[derive(Debug)]
pub(super) struct Reading {
    /// `None`: an observer.
    pub(super) won: Option<Won>,
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

impl Replica {
    /// Reads as an observer: at birth, or because this node fell behind.
    pub(super) fn observe_wals(&mut self, cx: &mut Context<'_>) {
        self.begin_reading(cx, None, None, None);
    }

    /// Reads what is sealed. `opened` is the session on which the seal itself succeeded, `ahead` a pass that was begun
    /// right behind it.
    pub(super) fn read_sealed(
        &mut self,
        cx: &mut Context<'_>,
        won: Won,
        opened: Option<SessionNumber>,
        ahead: Option<Reader>,
    ) {
        self.begin_reading(cx, Some(won), opened, ahead);
    }

    /// Sees to it that a pass may begin behind what is committed; whether the group goes on.
    ///
    /// Peers are not heard while a pass reads, nor from the seal on, and it begins where this log is known to be committed:
    /// whatever came with the very message that led here goes into the log first.
    pub(super) fn settle_log(&mut self, cx: &mut Context<'_>) -> bool {
        if !planted!(PassBehindWhatIsCommitted) {
            self.pump(cx);
        }
        !matches!(self.phase, Phase::Stopped(_))
    }

    fn begin_reading(
        &mut self,
        cx: &mut Context<'_>,
        won: Option<Won>,
        opened: Option<SessionNumber>,
        ahead: Option<Reader>,
    ) {
        if !self.settle_log(cx) {
            return;
        }
        let reading = Reading {
            won,
            reader: None,
            retry_at: None,
            tries: 0,
            snapshot_tries: 0,
            previous: false,
            damaged: None,
            passes: 0,
        };
        let pass = self.pass_of(reading.won().map(|won| &won.seen));
        let (Some(mut ahead), Some(session), Some(pass)) = (ahead, opened, pass) else {
            self.enter(Phase::Reading(Box::new(reading)));
            return self.pass(cx, opened);
        };
        ahead.open(pass, session);
        // Not by `enter`: the answers it waits for are those to what was asked before.
        self.phase = Phase::Reading(Box::new(Reading { reader: Some(ahead), passes: 1, ..reading }));
    }

    /// The position up to which the local log needs no reading, and whether the machine cannot go on from it.
    ///
    /// That is what is committed, and what was once seen in ZooKeeper, if it is still what the log holds there: segments
    /// never change, and no later leadership drops one.
    fn local_reach(&self) -> (Position, bool) {
        match (&self.engine, &self.local) {
            (Some(engine), _) => {
                let (commit, log) = (engine.commit(), engine.log());
                if planted!(PassBehindWhatIsCommitted) {
                    return (log.position(commit).unwrap_or(log.base()), false);
                }
                let Some(reach) = log.position(commit) else {
                    panic!("committed outside the log: commit={commit} base={:?} last={:?}", log.base(), log.last());
                };
                let known = self.known.position;
                let held = known.index > commit && log.position(known.index) == Some(known);
                (if held { known } else { reach }, false)
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

    /// What a pass of the holder of this ballot, or of an observer, has to read.
    pub(super) fn pass_of(&self, sealed: Option<&Seen>) -> Option<Pass> {
        let (committed, restore) = self.local_reach();
        let (uuid, seen) = (self.uuid()?, self.seen.as_ref()?);
        let version = sealed.map_or(seen.version, |sealed| sealed.version - i32::from(planted!(ReadBeforeSeal)));
        let sealed = sealed.map(|sealed| sealed.ballot.term);
        Some(Pass { paths: self.paths.clone(), uuid, version, sealed, committed, restore, previous: false })
    }

    /// Begins one pass.
    fn pass(&mut self, cx: &mut Context<'_>, opened: Option<SessionNumber>) {
        let Phase::Reading(reading) = &self.phase else { return };
        let Some(pass) = self.pass_of(reading.won().map(|won| &won.seen)) else { return };
        self.epoch += 1;
        let Phase::Reading(reading) = &mut self.phase else { return };
        reading.retry_at = None;
        reading.passes += 1;
        let (reader, asks) = Reader::new(Pass { previous: reading.previous, ..pass }, opened);
        reading.reader = Some(reader);
        self.ask_pass(cx, asks);
    }

    /// Asks for what a pass needs; what is sealed, or about to be, as urgently as the seal: behind it, and before
    /// everything else.
    pub(super) fn ask_pass(&self, cx: &mut Context<'_>, asks: Vec<reader::Ask>) {
        let urgency = match &self.phase {
            Phase::Sealing(_) => Urgency::Urgent,
            Phase::Reading(reading) if reading.won.is_some() => Urgency::Urgent,
            _ => Urgency::Normal,
        };
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
        let reading = match &mut self.phase {
            Phase::Reading(reading) => reading,
            // Given up by the client before the seal's outcome was known.
            Phase::Sealing(sealing) => return sealing.ahead = None,
            _ => return,
        };
        let Some(reader) = &mut reading.reader else { return };
        let (asks, end) = reader.take(tag, session, outcome);
        self.ask_pass(cx, asks);
        if let Some(end) = end {
            self.pass_ended(cx, end);
        }
    }

    pub(super) fn pass_ended(&mut self, cx: &mut Context<'_>, end: End) {
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
        // What is committed was there too, also where the machine has to begin with an older snapshot.
        let (committed, _) = self.local_reach();
        let known = if committed.index > self.known.position.index { committed } else { self.known.position };
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
        // A snapshot of this very index says what lay there as well; a later one does not.
        let hash = match known.index.checked_sub(tail.base.index)? {
            0 => tail.base.hash,
            behind => tail.entries.get(usize::try_from(behind - 1).ok()?)?.1,
        };
        (hash != known.hash).then(|| went_backwards("wal", known, format!("another entry at index {}", known.index)))
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
}

pub(super) fn went_backwards(what: &'static str, seen: Position, found: String) -> GroupError {
    GroupError::WentBackwards { what, seen: format!("index {}", seen.index), found }
}
