//! A replica's status: what changed is told at once, counters now and then.

use std::borrow::Cow;
use std::time::Duration;

use super::context::Context;
use super::engine::Engine;
use super::event::Effect;
use super::replica::{Phase, Replica};
use super::status::{GroupStatus, Mode, Role, SuccessionReport};
use crate::error::GroupError;

/// Counters alone are told no more often than this.
const PAUSE: Duration = Duration::from_millis(50);

/// What is told at once when it changes; beside it, who leads.
#[derive(Debug)]
struct Shape<'a> {
    role: Role,
    term: u64,
    mode: Mode,
    reason: Cow<'a, str>,
}

/// What is told now and then.
#[derive(Debug, PartialEq, Eq)]
struct Figures<'a> {
    last: u64,
    commit: u64,
    applied: u64,
    snapshot: u64,
    wal_bytes: u64,
    wal_segments: u64,
    busy: u64,
    proposals: u64,
    successions: u64,
    succession: SuccessionReport,
    stopped: Option<&'a GroupError>,
}

impl<'a> Figures<'a> {
    fn told(status: &'a GroupStatus) -> Self {
        let GroupStatus { last, commit, applied, snapshot, wal_bytes, wal_segments, .. } = *status;
        let GroupStatus { busy, proposals, successions, succession, .. } = *status;
        let stopped = status.stopped.as_ref();
        Self {
            last,
            commit,
            applied,
            snapshot,
            wal_bytes,
            wal_segments,
            busy,
            proposals,
            successions,
            succession,
            stopped,
        }
    }
}

impl Replica {
    fn mode(&self, cx: &Context<'_>, role: Role) -> (Mode, Cow<'_, str>) {
        if let Phase::Stopped(error) = &self.phase {
            return (Mode::Fenced, error.to_string().into());
        }
        if !cx.facts.connected {
            return (Mode::NoKeeper, "no connection to zookeeper; writes wait until it is back".into());
        }
        let serves = match role {
            Role::Leader => true,
            Role::Follower => {
                self.holder().is_some() && cx.now.since(self.suspicion.last_heard()) < Duration::from_secs(1)
            }
            _ => false,
        };
        if !serves {
            return (Mode::Recovering, self.trouble.as_deref().unwrap_or("no leader serves yet").into());
        }
        let missing: Vec<_> = self
            .identity
            .iter()
            .flat_map(|identity| &identity.voters)
            .filter(|voter| **voter != cx.config.node)
            .filter(|voter| cx.facts.peers.get(voter).is_none_or(|peer| peer.link.is_none()))
            .map(|voter| voter.0.to_string())
            .collect();
        let (mode, mut reason) = match missing.is_empty() {
            true => (Mode::Full, Cow::from("every node is linked")),
            false => (Mode::Solo, Cow::from(format!("no link to node {}", missing.join(", ")))),
        };
        // It serves all the same, until the WAL is full.
        if let Phase::Leader(leader) = &self.phase {
            if let Some(trouble) = leader.snapshots.trouble() {
                reason = format!("{reason}; {trouble}").into();
            }
        }
        (mode, reason)
    }

    fn shape(&self, cx: &Context<'_>) -> Shape<'_> {
        let role = self.role();
        let (mode, reason) = self.mode(cx, role);
        Shape { role, term: self.engine.as_ref().map_or(0, Engine::term), mode, reason }
    }

    fn figures(&self) -> Figures<'_> {
        let engine = self.engine.as_ref();
        Figures {
            last: engine.map_or(0, Engine::last),
            commit: engine.map_or(0, Engine::commit),
            applied: self.applied,
            snapshot: self.pointer.0.newest.map_or(0, |newest| newest.index),
            wal_bytes: engine.map_or(0, |engine| engine.log().bytes()),
            wal_segments: match &self.phase {
                Phase::Leader(leader) => leader.archive.segments(),
                _ => 0,
            },
            busy: self.busy,
            proposals: self.proposals,
            successions: self.successions,
            succession: self.report,
            stopped: match &self.phase {
                Phase::Stopped(error) => Some(error),
                _ => None,
            },
        }
    }

    /// Whether the status told last has this shape, and names this leader.
    fn has_shape(&self, told: &GroupStatus, shape: &Shape<'_>) -> bool {
        let leads = match (&told.leader, self.holder()) {
            (Some(told), Some(ballot)) => {
                told.node.0 == ballot.node
                    && ballot
                        .addresses
                        .as_ref()
                        .map_or(told.addresses == Default::default(), |own| told.addresses == *own)
            }
            (told, holder) => told.is_none() && holder.is_none(),
        };
        let Shape { role, term, mode, reason } = shape;
        leads && told.role == *role && told.term == *term && told.mode == *mode && told.reason == *reason
    }

    /// Tells the status where it changed; `force`: in any case.
    pub(super) fn publish(&mut self, cx: &mut Context<'_>, force: bool) {
        // This ends every step of every replica concerned: nothing is built only to find that nothing changed.
        let (shape, figures) = (self.shape(cx), self.figures());
        let tell_at = match &self.status {
            Some((at, told)) if !force && self.has_shape(told, &shape) => {
                (Figures::told(told) != figures).then(|| *at + PAUSE)
            }
            _ => Some(cx.now),
        };
        if tell_at.is_none_or(|at| at > cx.now) {
            self.tell_at = tell_at;
            return;
        }
        let Shape { role, term, mode, reason } = shape;
        let Figures { last, commit, applied, snapshot, wal_bytes, wal_segments, .. } = figures;
        let Figures { busy, proposals, successions, succession, stopped, .. } = figures;
        let status = GroupStatus {
            role,
            term,
            leader: self.leader(),
            mode,
            reason: reason.into_owned(),
            last,
            commit,
            applied,
            snapshot,
            wal_bytes,
            wal_segments,
            busy,
            proposals,
            successions,
            succession,
            stopped: stopped.cloned(),
        };
        self.tell_at = None;
        self.status = Some((cx.now, status.clone()));
        cx.push(Effect::Status(self.number, Box::new(status)));
    }
}
