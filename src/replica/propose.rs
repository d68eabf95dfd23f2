//! Proposals: what is accepted, and when it is given to raft-rs.
//!
//! An entry costs the local log, the peers and ZooKeeper a write each, and so do a thousand that come together. While
//! segments are on their way, proposals are therefore gathered, and become entries when the next segment can be cut.

use bequest_recovery::segment::ENTRY_BYTES_MAX;
use bytes::Bytes;

use super::context::Context;
use super::event::{Effect, Token};
use super::log::ENTRY_OVERHEAD;
use super::replica::{Phase, Replica};
use crate::command::Command;
use crate::error::ProposeError;

/// Bytes of the largest proposal: an entry's, without what is not its data.
pub const PROPOSAL_BYTES_MAX: usize = ENTRY_BYTES_MAX - 1024;

/// Proposals that were accepted and are no entries yet. Nobody but this replica knows of them.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    list: Vec<(Token, Bytes)>,
    bytes: usize,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes that their entries will have.
    fn entry_bytes(&self) -> u64 {
        self.bytes as u64 + self.list.len() as u64 * ENTRY_OVERHEAD
    }

    fn push(&mut self, token: Token, data: Bytes) {
        self.bytes += data.len();
        self.list.push((token, data));
    }

    pub(super) fn take(&mut self) -> Vec<(Token, Bytes)> {
        self.bytes = 0;
        std::mem::take(&mut self.list)
    }
}

impl Replica {
    pub(super) fn propose(&mut self, cx: &mut Context<'_>, token: Token, data: Bytes) {
        match self.try_propose(cx, token, data) {
            Ok(()) => self.proposals += 1,
            Err(error) => {
                if matches!(error, ProposeError::Busy { .. }) {
                    self.busy += 1;
                }
                cx.push(Effect::RefuseProposal(token, error));
            }
        }
    }

    fn try_propose(&mut self, cx: &mut Context<'_>, token: Token, data: Bytes) -> Result<(), ProposeError> {
        let size = data.len();
        if size > PROPOSAL_BYTES_MAX {
            return Err(ProposeError::ProposalTooLarge { size, limit: PROPOSAL_BYTES_MAX });
        }
        if let Phase::Stopped(error) = &self.phase {
            return Err(ProposeError::Stopped(error.clone()));
        }
        if cx.facts.shutting_down {
            return Err(ProposeError::ShuttingDown);
        }
        let known = self.leader();
        let other = known.filter(|leader| leader.node != cx.config.node);
        let (Phase::Leader(leader), Some(identity), Some(engine)) = (&mut self.phase, &self.identity, &self.engine)
        else {
            return Err(ProposeError::NotLeader { leader: other });
        };
        if leader.hand_over.is_some() {
            return Err(ProposeError::Busy { reason: "handing over" });
        }
        let limits = &identity.limits;
        let (count, bytes) = (leader.gathered.list.len(), leader.gathered.bytes);
        if self.outstanding.len() + count >= cx.config.proposals_in_flight {
            return Err(ProposeError::Busy { reason: "proposals in flight" });
        }
        let alone = self.outstanding.is_empty() && count == 0;
        if self.outstanding_bytes + bytes + size > cx.config.proposal_bytes_in_flight && !alone {
            return Err(ProposeError::Busy { reason: "proposal bytes in flight" });
        }
        let needed = size as u64 + ENTRY_OVERHEAD;
        if engine.log().bytes() + leader.gathered.entry_bytes() + needed > limits.wal_bytes {
            // What no snapshot makes room for asks for none.
            if needed <= limits.wal_bytes {
                leader.snapshots.press();
            }
            return Err(ProposeError::Busy { reason: "wal bytes" });
        }
        if leader.archive.segments() >= limits.wal_segments {
            leader.snapshots.press();
            return Err(ProposeError::Busy { reason: "wal segments" });
        }
        leader.gathered.push(token, data);
        Ok(())
    }

    /// Makes entries of the proposals gathered, unless they would only wait for the segments before them.
    ///
    /// What is held back here is held back no longer than a segment is on its way: the outcome of each is followed by
    /// this.
    pub(super) fn admit(&mut self, cx: &mut Context<'_>) {
        let (Phase::Leader(leader), Some(engine)) = (&mut self.phase, &mut self.engine) else { return };
        if leader.gathered.is_empty() {
            return;
        }
        let uncut = engine.log().bytes_between(leader.writer.end().index + 1, engine.log().last().index);
        let full = uncut + leader.gathered.entry_bytes() >= cx.config.segment_bytes as u64;
        if !leader.has_room(cx, full) {
            return;
        }
        let term = engine.term();
        for (token, data) in leader.gathered.take() {
            let size = data.len();
            let Some(index) = engine.propose(data) else {
                cx.push(Effect::RefuseProposal(token, ProposeError::Busy { reason: "raft" }));
                continue;
            };
            self.tokens.insert(index, (term, token));
            self.outstanding.push_back((index, size));
            self.outstanding_bytes += size;
        }
    }

    /// Appends an entry of the library's own, which only moves the log on. Passes where proposals are refused.
    pub(super) fn propose_internal(&mut self) -> bool {
        self.engine.as_mut().is_some_and(|engine| engine.propose(Command::Internal.encode()).is_some())
    }
}
