//! A snapshot on its way from the archive into the state machine.

use std::collections::BTreeMap;

use bequest_recovery::keeper::{Op, Outcome, Reply, Request, Urgency};
use bequest_recovery::reader::{End, Tail};
use bequest_recovery::record::{self, Pin, SnapshotName, FORMAT};
use bytes::Bytes;

use super::context::Context;
use super::event::Effect;
use super::hint;
use super::reading::Reading;
use super::replica::{Ask, Phase, Replica};
use super::succession::Won;
use crate::error::GroupError;

/// Chunks asked for, or waiting for the machine, at once.
const CHUNKS_IN_FLIGHT: usize = 8;

/// A snapshot on its way into the machine.
#[derive(Debug)]
pub(super) struct Restoring {
    pub(super) reading: Reading,
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
    pub(super) fn restore(&mut self, cx: &mut Context<'_>, reading: Reading, tail: Box<Tail>) {
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
        let request = hint::put(self.paths.pin(cx.config.node.0), record::seal(&pin), replace);
        self.call(cx, Urgency::Normal, Ask::Pin(replace), request);
    }

    pub(super) fn pin_outcome(&mut self, cx: &mut Context<'_>, replace: bool, outcome: &Outcome) {
        if replace && matches!(outcome, Outcome::Refused(refusal) if refusal.op == 0) {
            self.put_pin(cx, false);
        }
    }

    /// Nothing needs the snapshot any more. If this is lost, the next restore's pin replaces it.
    fn drop_pin(&self, cx: &mut Context<'_>) {
        let path = self.paths.pin(cx.config.node.0);
        let delete = Op::Delete { path, version: None };
        self.call(cx, Urgency::Normal, Ask::Pin(false), Request::Multi(vec![delete]));
    }

    pub(super) fn ask_chunks(&mut self, cx: &mut Context<'_>) {
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
            self.drop_pin(cx);
            if let (Some(won), Some(manifest)) = (&mut reading.won, &restoring.tail.snapshot) {
                won.report.bytes += manifest.bytes;
            }
            self.built(cx, reading.won, *restoring.tail);
        }
    }
}
