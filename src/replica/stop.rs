//! The end of a replica's work on this node, and of a leadership: who waits is answered.

use bequest_recovery::planted;
use bequest_recovery::record::RecordError;

use super::context::Context;
use super::event::Effect;
use super::replica::{Phase, Replica};
use crate::error::{GroupError, ProposeError, ReadError};

impl Replica {
    pub(super) fn stop_damaged(&mut self, cx: &mut Context<'_>, path: String, index: u64, error: RecordError) {
        let error = match error {
            RecordError::UnsupportedFormat { found, max, .. } => GroupError::UnsupportedFormat { path, found, max },
            error => GroupError::Damaged { path, index, what: error.to_string() },
        };
        self.stop(cx, error);
    }

    /// Refuses the group on this node; gives the ballot back first if this node holds it.
    pub(super) fn stop(&mut self, cx: &mut Context<'_>, error: GroupError) {
        match &mut self.phase {
            Phase::Stopped(_) => {}
            Phase::Resigning(resigning) => resigning.then_stop = Some(error),
            _ => match self.holding().cloned() {
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

    /// Answers everybody who waits for this leadership: what was handed to raft-rs is unknown from now on.
    pub(super) fn release(&mut self, cx: &mut Context<'_>) {
        let waiting =
            if planted!(TokensOutliveLeadership) { Default::default() } else { std::mem::take(&mut self.tokens) };
        for (_, (_, token)) in waiting {
            cx.push(Effect::RefuseProposal(token, ProposeError::Unknown));
        }
        if let Phase::Leader(leader) = &mut self.phase {
            let (reads, gathered) = (leader.take_reads(), leader.gathered.take());
            if leader.served {
                cx.push(Effect::Leadership(self.number, false));
            }
            let leader = self.leader().filter(|leader| leader.node != cx.config.node);
            for token in reads {
                cx.push(Effect::RefuseRead(token, ReadError::NotLeader { leader: leader.clone() }));
            }
            // Of these it is certain that nothing came.
            for (token, _) in gathered {
                cx.push(Effect::RefuseProposal(token, ProposeError::NotLeader { leader: leader.clone() }));
            }
        }
        self.outstanding.clear();
        self.outstanding_bytes = 0;
    }
}
