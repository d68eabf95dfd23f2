//! When a leader snapshots, and what follows from it for the local log.

use std::time::Duration;

use bequest_recovery::archive::ArchiveEvent;
use bequest_recovery::keeper::{Outcome, SessionNumber, Urgency};
use bequest_recovery::reader::Ask as ArchiveAsk;
use bequest_recovery::record::Pointer;

use super::context::Context;
use super::event::{Effect, MachineEvent, Now, Persist};
use super::replica::{Ask, Phase, Replica};

/// Chunks the machine may send before any was stored.
const CHUNKS_CREDIT: u32 = 8;
/// A snapshot that failed is tried again after this long.
const PAUSE: Duration = Duration::from_secs(1);
/// Snapshots begin when the WAL has grown by this part of its limit since the last one.
const SHARE: u64 = 3;

/// The snapshot under way, as far as the leader's timing is concerned.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Bytes appended since the newest snapshot's index.
    grown_bytes: u64,
    grown_segments: u64,
    /// No snapshot since this leadership began: what it inherited counts as grown.
    inherits: bool,
    /// Segments appended since the one under way was asked for.
    grown_meanwhile: u64,
    /// The machine is making one.
    taking: bool,
    /// A proposal found no room in the WAL since the last one, whatever the shares below say.
    pressed: bool,
    /// Why the last one failed.
    trouble: Option<String>,
    not_before: Now,
}

impl Snapshots {
    pub(super) fn new(grown_bytes: u64) -> Self {
        Self { grown_bytes, inherits: true, ..Self::default() }
    }

    /// What keeps snapshots from being made, and so the WAL from being trimmed.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether none is being taken, or waits until it may be.
    pub(super) fn rest(&self, now: Now) -> bool {
        !self.taking && now >= self.not_before
    }

    pub(super) fn grew(&mut self, bytes: u64) {
        self.grown_bytes += bytes;
        self.grown_segments += 1;
        self.grown_meanwhile += 1;
    }

    /// A proposal was refused for want of room in the WAL.
    pub(super) fn press(&mut self) {
        self.pressed = true;
    }
}

impl Replica {
    fn ask_archive(&self, cx: &mut Context<'_>, asks: Vec<ArchiveAsk>) {
        for ask in asks {
            self.call(cx, Urgency::Normal, Ask::Archive(ask.tag), ask.request);
        }
    }

    pub(super) fn archive_outcome(&mut self, cx: &mut Context<'_>, tag: u64, session: SessionNumber, outcome: Outcome) {
        let Phase::Leader(leader) = &mut self.phase else { return };
        let (asks, events) = leader.archive.take(tag, session, outcome);
        self.archived(cx, asks, events);
    }

    fn archived(&mut self, cx: &mut Context<'_>, asks: Vec<ArchiveAsk>, events: Vec<ArchiveEvent>) {
        self.ask_archive(cx, asks);
        for event in events {
            let Phase::Leader(leader) = &mut self.phase else { return };
            match event {
                ArchiveEvent::Credit(credit) => {
                    cx.push(Effect::SnapshotCredit { group: self.number, upload: self.uploads, credit });
                }
                ArchiveEvent::Published(pointer) => {
                    leader.snapshots.taking = false;
                    let newest = pointer.newest.map_or(0, |newest| newest.index);
                    let version = self.pointer.1 + 1;
                    if let Some(engine) = &self.engine {
                        leader.snapshots.grown_bytes = engine.log().bytes_behind(newest);
                    }
                    leader.snapshots.grown_segments = leader.snapshots.grown_meanwhile;
                    leader.snapshots.inherits = false;
                    leader.snapshots.pressed = false;
                    leader.snapshots.trouble = None;
                    self.pointer_seen(cx, pointer, version);
                }
                ArchiveEvent::Failed(why) => {
                    leader.snapshots.taking = false;
                    leader.snapshots.not_before = cx.now + PAUSE;
                    leader.snapshots.trouble = Some(format!("snapshot failed: {why}"));
                    cx.push(Effect::SnapshotAbandon { group: self.number, upload: self.uploads });
                }
                ArchiveEvent::Fenced => return self.fenced(cx),
                ArchiveEvent::BallotMissing => return self.ballot_missing(cx),
            }
        }
    }

    pub(super) fn archive_machine(&mut self, cx: &mut Context<'_>, event: MachineEvent) {
        let current = self.uploads;
        let voters: Vec<u64> =
            self.identity.iter().flat_map(|identity| &identity.voters).map(|voter| voter.0).collect();
        let (Phase::Leader(leader), Some(engine)) = (&mut self.phase, &self.engine) else { return };
        let archive = &mut leader.archive;
        let (asks, events) = match event {
            MachineEvent::SnapshotTaken { upload, applied } if upload == current && leader.snapshots.taking => {
                match engine.log().position(applied) {
                    // One snapshot of an index is enough.
                    Some(base)
                        if archive.idle()
                            && archive.pointer().newest.is_none_or(|newest| newest.index < base.index) =>
                    {
                        archive.begin(base, voters);
                        return;
                    }
                    _ => archive.abandon(format!("no snapshot can be made of index {applied}")),
                }
            }
            MachineEvent::SnapshotChunk { upload, chunk } if upload == current => archive.chunk(chunk),
            MachineEvent::SnapshotEnd { upload } if upload == current => archive.end(),
            MachineEvent::SnapshotFailed { upload, message } if upload == current => archive.abandon(message),
            _ => return,
        };
        self.archived(cx, asks, events);
    }

    /// Ends a leader's step: sweep, snapshot, or wait.
    pub(super) fn archive_settle(&mut self, cx: &mut Context<'_>) {
        let (Phase::Leader(leader), Some(engine), Some(identity)) = (&mut self.phase, &self.engine, &self.identity)
        else {
            return;
        };
        let (done, place) = (leader.writer.take_done(), leader.writer.previous());
        if done.first().is_some_and(|segment| segment.ordinal == 0) {
            leader.archive.marked(place);
        }
        for segment in &done {
            let low = segment.first.max(engine.log().base().index + 1);
            let bytes = engine.log().bytes_between(low, segment.last);
            leader.snapshots.grew(bytes);
        }
        leader.archive.acknowledged(done);
        // Nothing is trimmed or deleted before this leadership's own first segment is acknowledged.
        if !leader.served || !cx.facts.usable() {
            return;
        }
        let limits = &identity.limits;
        let newest = self.pointer.0.newest.map_or(0, |newest| newest.index);
        let snapshots = &mut leader.snapshots;
        // A large proposal may find no room long before the WAL is nearly full.
        let full = snapshots.pressed
            || engine.log().bytes() * 10 >= limits.wal_bytes * 9
            || leader.archive.segments() * 10 >= limits.wal_segments * 9;
        // Without the mark that this leadership's first append has set.
        let inherited = if snapshots.inherits { leader.archive.inherited().saturating_sub(1) } else { 0 };
        let grown = snapshots.grown_bytes >= limits.wal_bytes / SHARE
            || snapshots.grown_segments + inherited >= (limits.wal_segments / SHARE).max(1);
        let due = (grown || full) && !snapshots.taking && cx.now >= snapshots.not_before && leader.archive.idle();
        let mut internal = false;
        if due && self.applied > newest {
            snapshots.taking = true;
            snapshots.grown_meanwhile = 0;
            self.uploads += 1;
            cx.effects.push(Effect::SnapshotTake { group: self.number, upload: self.uploads, credit: CHUNKS_CREDIT });
        } else if due && full && engine.last() == newest && leader.archive.deletes() {
            // Another snapshot must exist before this one becomes the previous one, up to which the WAL is trimmed. Where
            // nothing is trimmed any more, entries and snapshots would follow each other without an end.
            internal = true;
        }
        let (asks, events) = leader.archive.advance(cx.now.0);
        if internal {
            self.propose_internal();
        }
        self.archived(cx, asks, events);
    }

    /// Another pointer was seen: the local log need not reach further back than its previous snapshot.
    pub(super) fn pointer_seen(&mut self, cx: &mut Context<'_>, pointer: Pointer, version: i32) {
        if version > self.pointer.1 {
            self.pointer = (pointer, version);
        }
        let previous = self.pointer.0.previous.map_or(0, |previous| previous.index);
        let newest = self.pointer.0.newest.unwrap_or_default();
        let Some(engine) = &mut self.engine else { return };
        // What a snapshot covers is committed, whoever tells: a follower cut off from its leader need not keep it all.
        if let (Phase::Follower(_), Some(seen)) = (&self.phase, &self.seen) {
            let held = engine.log().position(newest.index).is_some_and(|position| position.term == newest.term);
            if held && newest.index > engine.commit() && engine.term() <= seen.ballot.term {
                engine.learn_commit(super::event::NodeId(seen.ballot.node), newest.index);
            }
        }
        let index = previous.min(self.applied).min(engine.persisted());
        if index > engine.log().base().index {
            let base = engine.log_mut().compact(index);
            self.persist(cx, Persist { compact: Some(base), ..Persist::default() });
        }
    }
}
