//! Doubts about the ballot's holder, and what this replica says where it is doubted itself.

use std::time::Duration;

use bequest_recovery::record::{Testimony, Uuid};

use super::challenge::Verdict;
use super::context::Context;
use super::event::NodeId;
use super::message::GroupVersion;
use super::replica::{Phase, Replica};

/// A holder doubted, with group, ballot version and patience; or no longer doubted.
pub(super) type DoubtChange = (NodeId, Option<(Uuid, i32, u64, Duration)>);

impl Replica {
    /// Changes of what is doubted, since last asked.
    pub(super) fn take_doubts(&mut self) -> Vec<DoubtChange> {
        std::mem::take(&mut self.doubts)
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

    pub(super) fn judged(&mut self, cx: &mut Context<'_>, version: i32, verdict: Verdict) {
        if self.seen.as_ref().is_some_and(|seen| seen.version == version) {
            self.suspicion.judged(verdict);
            self.consider(cx);
            // A leader that turns out to be alive but out of sight is kept up with from now on, not from the next poll.
            self.tail_tick(cx);
        }
    }

    /// What this replica says when its node is challenged.
    pub(super) fn testify(&self, cx: &Context<'_>, version: i32) -> Option<Testimony> {
        let (stand, progress) = match &self.phase {
            Phase::Leader(leader) if leader.won.seen.version == version => {
                let patience = self.suspicion.timeout(cx.config, cx.facts);
                if !cx.facts.connected || leader.stalled(cx, patience) {
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
}
