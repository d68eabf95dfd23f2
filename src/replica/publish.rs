//! A replica's status: what changed is told at once, counters now and then.

use std::borrow::Cow;
use std::time::Duration;

use super::context::Context;
use super::engine::Engine;
use super::event::{Effect, Now};
use super::replica::{Phase, Replica};
use super::status::{GroupStatus, Mode, Role};

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

/// What was told last.
#[derive(Debug)]
pub(super) struct Told {
    at: Now,
    /// Its figures are kept up to date.
    status: GroupStatus,
    /// Whether figures have changed since.
    stale: bool,
}

/// Makes it so; whether it was not.
fn set<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
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
            .filter(|voter| !cx.facts.is_linked(**voter))
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

    /// Brings the figures in a status up to date; whether any of them changed.
    fn count(&self, status: &mut GroupStatus) -> bool {
        let engine = self.engine.as_ref();
        let (segments, stopped) = match &self.phase {
            Phase::Leader(leader) => (leader.archive.segments(), None),
            Phase::Stopped(error) => (0, Some(error)),
            _ => (0, None),
        };
        let ended = status.stopped.as_ref() != stopped;
        if ended {
            status.stopped = stopped.cloned();
        }
        let changed = [
            set(&mut status.last, engine.map_or(0, Engine::last)),
            set(&mut status.commit, engine.map_or(0, Engine::commit)),
            set(&mut status.applied, self.applied),
            set(&mut status.snapshot, self.pointer.0.newest.map_or(0, |newest| newest.index)),
            set(&mut status.wal_bytes, engine.map_or(0, |engine| engine.log().bytes())),
            set(&mut status.wal_segments, segments),
            set(&mut status.busy, self.busy),
            set(&mut status.proposals, self.proposals),
            set(&mut status.successions, self.successions),
            set(&mut status.succession, self.report),
            ended,
        ];
        changed.contains(&true)
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
        let before = self.told.take();
        let shape = self.shape(cx);
        let kept = !force && before.as_ref().is_some_and(|told| self.has_shape(&told.status, &shape));
        let mut told = before.unwrap_or_else(|| Told { at: cx.now, status: GroupStatus::unknown(), stale: false });
        told.stale |= self.count(&mut told.status);
        let tell_at = match kept {
            true => told.stale.then(|| told.at + PAUSE),
            false => Some(cx.now),
        };
        if tell_at.is_none_or(|at| at > cx.now) {
            self.tell_at = tell_at;
            self.told = Some(told);
            return;
        }
        let Shape { role, term, mode, reason } = shape;
        let reason = reason.into_owned();
        let status = GroupStatus { role, term, leader: self.leader(), mode, reason, ..told.status };
        self.tell_at = None;
        cx.push(Effect::Status(self.number, Box::new(status.clone())));
        self.told = Some(Told { at: cx.now, status, stale: false });
    }
}
