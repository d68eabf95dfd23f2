//! What each replica is doing, told by its role and by what it has asked of ZooKeeper: the protocol's steps.

use std::collections::BTreeMap;
use std::fmt;

use bequest::replica::status::Role;
use bequest_recovery::keeper::{Op, Request, RequestId};
use bequest_recovery::path::GROUPS;

use crate::mix::{Micros, MILLI};
use crate::process::Process;
use crate::world::{Pid, World};

// A challenge is repeated while its challenger doubts; this long after the last one it has made up its mind.
const DOUBT: Micros = 200 * MILLI;

/// A step of the protocol, as a replica goes through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Registers, and reads what there is before it may follow.
    Birth,
    /// Takes the state from a snapshot.
    Restoring,
    Following,
    /// Has asked a leader that fell silent whether it leads.
    Challenging,
    Sealing,
    /// Reads the sealed WALs.
    Reading,
    /// Replays, and writes the first entry of its term.
    Standing,
    /// Leads, and neither of the next two.
    Leading,
    Snapshotting,
    Trimming,
    SteppingDown,
}

impl Step {
    pub const ALL: [Self; 11] = [
        Self::Birth,
        Self::Restoring,
        Self::Following,
        Self::Challenging,
        Self::Sealing,
        Self::Reading,
        Self::Standing,
        Self::Leading,
        Self::Snapshotting,
        Self::Trimming,
        Self::SteppingDown,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Birth => "birth",
            Self::Restoring => "restore",
            Self::Following => "follow",
            Self::Challenging => "challenge",
            Self::Sealing => "seal",
            Self::Reading => "read",
            Self::Standing => "stand",
            Self::Leading => "lead",
            Self::Snapshotting => "snapshot",
            Self::Trimming => "trim",
            Self::SteppingDown => "step down",
        })
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Challenge,
    Seal,
    /// A look at the ballot.
    Ballot,
    /// A part of a read pass.
    Read,
    Append,
    Archive,
    Deletion,
}

/// What a process has asked of ZooKeeper and has not been answered.
#[derive(Debug, Default)]
pub struct Asked {
    // With the group, unless the node itself asks.
    open: BTreeMap<RequestId, (Option<usize>, Ask)>,
    challenged: Option<Micros>,
}

fn group_of(path: &str) -> Option<usize> {
    path.strip_prefix(GROUPS)?.strip_prefix("/g")?.split('/').next()?.parse().ok()
}

fn ask_of(request: &Request) -> Option<(Option<usize>, Ask)> {
    let ops = match request {
        Request::Multi(ops) => ops,
        Request::Get { path, .. } | Request::Exists { path, .. } | Request::Children { path, .. } => {
            let group = group_of(path)?;
            return match path {
                path if path.ends_with("/ballot") => Some((Some(group), Ask::Ballot)),
                path if ["/wal", "/snapshot", "/chunks"].iter().any(|part| path.contains(part)) => {
                    Some((Some(group), Ask::Read))
                }
                _ => None,
            };
        }
    };
    let any = |what: &dyn Fn(&Op) -> bool| ops.iter().any(what);
    let writes =
        |op: &Op, part: &str| matches!(op, Op::Create { path, .. } | Op::Set { path, .. } if path.contains(part));
    let ask = if any(&|op| writes(op, "/challenge/")) {
        return Some((None, Ask::Challenge));
    } else if any(&|op| matches!(op, Op::Delete { .. })) {
        Ask::Deletion
    } else if any(&|op| writes(op, "/ballot")) {
        Ask::Seal
    } else if any(&|op| writes(op, "/wal/")) {
        Ask::Append
    } else if any(&|op| writes(op, "/chunks/") || writes(op, "/snapshot")) {
        Ask::Archive
    } else if any(&|op| matches!(op, Op::Check { path, .. } if path.ends_with("/ballot"))) {
        // The beginning or the end of a read pass, or the fence of a read.
        Ask::Read
    } else {
        return None;
    };
    Some((group_of(ops.first()?.path()).or_else(|| group_of(ops.last()?.path())), ask))
}

impl Asked {
    /// A request is submitted.
    pub fn asks(&mut self, id: RequestId, request: &Request, now: Micros) {
        let Some((group, ask)) = ask_of(request) else { return };
        if ask == Ask::Challenge {
            self.challenged = Some(now);
        }
        self.open.insert(id, (group, ask));
    }

    /// A request's outcome is told.
    pub fn answered(&mut self, id: RequestId) {
        self.open.remove(&id);
    }

    fn has(&self, group: usize, what: Ask) -> bool {
        self.open.values().any(|open| *open == (Some(group), what))
    }
}

impl Process {
    /// What its replica of a group is doing; `None` once it has stopped.
    pub fn step_of(&self, group: usize, now: Micros) -> Option<Step> {
        let replica = &self.replicas[group];
        let asks = |what| self.asked.has(group, what);
        let restores = replica.host.restoring();
        Some(match replica.role() {
            Role::Birth | Role::Successor if restores => Step::Restoring,
            Role::Birth => Step::Birth,
            Role::Follower if self.asked.challenged.is_some_and(|at| at + DOUBT > now) => Step::Challenging,
            Role::Follower => Step::Following,
            Role::Successor if asks(Ask::Append) => Step::Standing,
            Role::Successor if asks(Ask::Seal) => Step::Sealing,
            Role::Successor if asks(Ask::Read) => Step::Reading,
            Role::Successor if asks(Ask::Ballot) => Step::Sealing,
            Role::Successor => Step::Standing,
            Role::Leader if asks(Ask::Deletion) => Step::Trimming,
            Role::Leader if asks(Ask::Archive) || replica.host.uploading() => Step::Snapshotting,
            Role::Leader => Step::Leading,
            Role::Resigning => Step::SteppingDown,
            Role::Stopped => return None,
        })
    }
}

impl World {
    /// The steps that a process' replicas are in.
    pub fn steps_of(&self, pid: Pid) -> Vec<Step> {
        let Some(process) = self.processes.get(&pid) else { return Vec::new() };
        (0..process.replicas.len()).filter_map(|group| process.step_of(group, self.now)).collect()
    }
}
