//! A replica's status: what changed is told at once, counters now and then.

use std::time::Duration;

use super::context::Context;
use super::event::Effect;
use super::replica::{Phase, Replica};
use super::status::{GroupStatus, Mode, Role};

/// Counters alone are told no more often than this.
const PAUSE: Duration = Duration::from_millis(50);

impl Replica {
    fn mode(&self, cx: &Context<'_>, role: Role) -> (Mode, String) {
        let trouble = |default: &str| self.trouble.clone().unwrap_or_else(|| default.to_owned());
        if let Phase::Stopped(error) = &self.phase {
            return (Mode::Fenced, error.to_string());
        }
        if !cx.facts.connected {
            return (Mode::NoKeeper, "no connection to zookeeper; writes wait until it is back".to_owned());
        }
        let missing: Vec<_> = self
            .identity
            .iter()
            .flat_map(|identity| &identity.voters)
            .filter(|voter| **voter != cx.config.node)
            .filter(|voter| cx.facts.peers.get(voter).is_none_or(|peer| peer.link.is_none()))
            .map(|voter| voter.0.to_string())
            .collect();
        let serves = match role {
            Role::Leader => true,
            Role::Follower => {
                self.leader().is_some() && cx.now.since(self.suspicion.last_heard()) < Duration::from_secs(1)
            }
            _ => false,
        };
        // It serves all the same, until the WAL is full.
        let snapshots = match &self.phase {
            Phase::Leader(leader) => leader.snapshots.trouble().map(|trouble| format!("; {trouble}")),
            _ => None,
        };
        let snapshots = snapshots.unwrap_or_default();
        match (serves, missing.is_empty()) {
            (true, true) => (Mode::Full, format!("every node is linked{snapshots}")),
            (true, false) => (Mode::Solo, format!("no link to node {}{snapshots}", missing.join(", "))),
            (false, _) => (Mode::Recovering, trouble("no leader serves yet")),
        }
    }

    /// Tells the status where it changed; `force`: in any case.
    pub(super) fn publish(&mut self, cx: &mut Context<'_>, force: bool) {
        let role = self.role();
        let (mode, reason) = self.mode(cx, role);
        let engine = self.engine.as_ref();
        let (segments, bytes) = match &self.phase {
            Phase::Leader(leader) => (leader.archive.segments(), engine.map_or(0, |e| e.log().bytes())),
            _ => (0, engine.map_or(0, |engine| engine.log().bytes())),
        };
        let status = GroupStatus {
            role,
            term: engine.map_or(0, super::engine::Engine::term),
            leader: self.leader(),
            mode,
            reason,
            last: engine.map_or(0, super::engine::Engine::last),
            commit: engine.map_or(0, super::engine::Engine::commit),
            applied: self.applied,
            snapshot: self.pointer.0.newest.map_or(0, |newest| newest.index),
            wal_bytes: bytes,
            wal_segments: segments,
            busy: self.busy,
            proposals: self.proposals,
            successions: self.successions,
            succession: self.report,
            stopped: match &self.phase {
                Phase::Stopped(error) => Some(error.clone()),
                _ => None,
            },
        };
        let due = match &self.status {
            None => true,
            Some((at, told)) => {
                let shape = |status: &GroupStatus| {
                    (status.role, status.term, status.leader.clone(), status.mode.clone(), status.reason.clone())
                };
                *told != status && (shape(told) != shape(&status) || cx.now.since(*at) >= PAUSE)
            }
        };
        if due || force {
            self.status = Some((cx.now, status.clone()));
            cx.push(Effect::Status(self.number, Box::new(status)));
            self.tell_at = None;
        } else {
            let told = self.status.as_ref().filter(|(_, told)| *told != status);
            self.tell_at = told.map(|(at, _)| *at + PAUSE);
        }
    }
}
