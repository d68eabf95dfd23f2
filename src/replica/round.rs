//! Rounds of raft-rs: what it has ready goes to the disk, the peers and the machine, and what they did comes back.

use bequest_recovery::entry::{Entry, Position};
use bequest_recovery::planted;

use super::context::Context;
use super::engine::is_witness;
use super::event::{Apply, Effect, MachineEvent, NodeId, Persist};
use super::log::Wanted;
use super::message::{encode_raft, Body, RaftBytes};
use super::peers::send;
use super::reading::went_backwards;
use super::replica::{Phase, Replica};
use crate::error::{GroupError, ProposeError};

impl Replica {
    // ---- raft-rs --------------------------------------------------------------------------------------------------

    /// Takes everything raft-rs has ready and sees it done.
    ///
    /// Not while a snapshot is being restored: what is committed is below it, and the machine takes nothing meanwhile.
    pub(super) fn pump(&mut self, cx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Restoring(_) | Phase::Stopped(_)) && !planted!(ApplyInTheMiddleOfARestore) {
            return;
        }
        while let Some(engine) = &mut self.engine {
            let Some(outputs) = engine.round(self.writes + 1) else { break };
            if let Some(entry) = outputs.committed.iter().find(|entry| entry.kind != 0) {
                let (index, what) = (entry.index, format!("membership change of kind {}", entry.kind));
                return self.stop(cx, GroupError::UnknownEntry { index, what });
            }
            // What lay in a WAL is in every later leader's log. One that puts something else there began with less, so
            // ZooKeeper was put back. Nothing of this round has left memory, and nothing will: the local log keeps it.
            let known = self.known.position;
            if let Some(replaced) = outputs.truncate_from.filter(|from| *from <= known.index) {
                let found = format!("a leader with another entry at index {replaced}");
                return self.stop(cx, went_backwards("wal", known, found));
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
                        Some((term, token)) if term == entry.term || planted!(TokenOfAnotherTerm) => Some(token),
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
        let gone = |wanted: &Wanted| !wanted.asked && (wanted.low <= base || wanted.high > last + 1);
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

    pub(super) fn fetched(&mut self, entries: Vec<Entry>) {
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
            if let Some(message) = encode_raft(&message) {
                send(cx, peer, Body::Raft(RaftBytes { group: uuid.to_bytes(), message }));
            }
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
}
