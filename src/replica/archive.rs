//! Snapshots into the archive, and trimming.

use bequest_recovery::keeper::Outcome;
use bequest_recovery::path::WalName;
use bequest_recovery::reader::Tail;
use bequest_recovery::record::Pointer;

use super::context::Context;
use super::event::MachineEvent;
use super::log::Log;
use super::replica::Replica;

/// A request of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {}

/// The leader's view of the archive.
#[derive(Debug)]
pub(super) struct Archive {
    segments: u64,
}

impl Archive {
    pub(super) fn new(_wal: WalName, tail: &Tail, _log: &Log) -> Self {
        Self { segments: tail.wals.iter().map(|wal| wal.items.len() as u64).sum() }
    }

    /// Segments of former leaderships.
    pub(super) fn segments(&self) -> u64 {
        self.segments
    }
}

impl Replica {
    pub(super) fn archive_outcome(&mut self, _cx: &mut Context<'_>, call: Call, _outcome: Outcome) {
        match call {}
    }

    pub(super) fn archive_machine(&mut self, _cx: &mut Context<'_>, _event: MachineEvent) {}

    pub(super) fn archive_settle(&mut self, _cx: &mut Context<'_>) {}

    /// Another pointer was seen.
    pub(super) fn pointer_seen(&mut self, _cx: &mut Context<'_>, pointer: Pointer, version: i32) {
        if version > self.pointer.1 {
            self.pointer = (pointer, version);
        }
    }
}
