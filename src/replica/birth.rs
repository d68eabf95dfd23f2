//! Birth and rebuilding: what the genesis says, and a local log put together from what was read.
//!
//! Both an observer (a node that is born, or fell too far behind) and a successor (which has sealed) come here, by way
//! of a read pass (`reading.rs`) and, where one is needed, a restored snapshot (`restoring.rs`). What is local is a
//! cache: it is kept where it agrees with the WAL, overruled where it does not, and never taken as proof that something
//! does not exist. Nothing in these three files changes anything but this node (a pin apart, which is advice), so a
//! crash anywhere in them means only that the next life begins again.

use bequest_recovery::entry::Position;
use bequest_recovery::keeper::{Outcome, Reason, Refusal, Reply, Request, Urgency};
use bequest_recovery::planted;
use bequest_recovery::reader::Tail;
use bequest_recovery::record::{self, Genesis, Uuid};

use super::context::Context;
use super::engine::{conf_state, Engine, NODES_MAX};
use super::event::{default_limits, NodeId, Persist};
use super::log::Log;
use super::replica::{Ask, Identity, Phase, Replica, RETRY};
use super::succession::Won;
use super::tail::Tailing;
use crate::error::GroupError;

impl Replica {
    // ---- genesis --------------------------------------------------------------------------------------------------

    pub(super) fn genesis_outcome(&mut self, cx: &mut Context<'_>, ask: &Ask, outcome: Outcome) {
        match (ask, outcome) {
            (Ask::Exists, Outcome::Ok(_)) => {
                let request = Request::Get { path: self.paths.genesis().to_owned(), watch: false };
                self.call(cx, Urgency::Normal, Ask::Genesis, request);
            }
            (Ask::Exists, Outcome::Refused(Refusal { reason: Reason::NoAuth, .. })) => {
                self.stop(cx, GroupError::Denied { path: self.paths.genesis().to_owned() });
            }
            (Ask::Exists, Outcome::Refused(Refusal { reason: Reason::NoNode, .. })) => {
                self.stop(cx, GroupError::NoSuchGroup { path: self.paths.genesis().to_owned() });
            }
            (Ask::Genesis, Outcome::Ok(Reply::Data(Some((bytes, stat))))) => {
                match record::open::<Genesis>(&bytes, None) {
                    Ok(genesis) => self.identify(cx, &genesis, stat.czxid),
                    Err(error) => self.stop_damaged(cx, self.paths.genesis().to_owned(), 0, error),
                }
            }
            _ => self.phase = Phase::Genesis { retry_at: Some(cx.now + RETRY) },
        }
    }

    fn identify(&mut self, cx: &mut Context<'_>, genesis: &Genesis, czxid: i64) {
        let voters: Vec<_> = genesis.voters.iter().copied().map(NodeId).collect();
        let path = self.paths.genesis().to_owned();
        let (Some(uuid), 1..=NODES_MAX) = (Uuid::from_slice(&genesis.uuid), voters.len()) else {
            let what = format!("voters={voters:?}");
            return self.stop(cx, GroupError::Damaged { path, index: 0, what });
        };
        if let Some(local) = &self.local {
            if local.uuid != uuid {
                let error = GroupError::OtherGroup { name: self.name.clone(), local: local.uuid, found: uuid };
                return self.stop(cx, error);
            }
            if local.genesis_czxid != czxid {
                let error = GroupError::WentBackwards {
                    what: "genesis",
                    seen: format!("czxid {:#x}", local.genesis_czxid),
                    found: format!("czxid {czxid:#x}"),
                };
                return self.stop(cx, error);
            }
        }
        if !voters.contains(&cx.config.node) {
            let voters = genesis.voters.clone();
            return self.stop(cx, GroupError::NotAVoter { node: cx.config.node.0, voters });
        }
        let limits = genesis.limits.clone().unwrap_or_else(default_limits);
        self.identity = Some(Identity { uuid, czxid, voters, limits });
        // The ballot's arrival begins the first pass.
        self.look(cx);
    }

    // ---- building -------------------------------------------------------------------------------------------------

    /// Everything needed is at hand: put log and machine together, then follow or stand.
    pub(super) fn built(&mut self, cx: &mut Context<'_>, won: Option<Won>, mut tail: Tail) {
        self.know(tail.end);
        self.pointer = tail.pointer.clone();
        let term = match &won {
            Some(won) => won.seen.ballot.term - 1,
            None => self.seen.as_ref().map_or(0, |seen| seen.ballot.term),
        };
        let born = self.engine.is_none();
        self.build(cx, &mut tail, term, won.is_some());
        self.trouble = None;
        match won {
            Some(won) => self.stand(cx, won, tail),
            None => {
                self.enter(Phase::Follower(Box::new(Tailing::behind(&tail))));
                // A pass of this node's own is no sign of life of the holder; it only has not been listened for before.
                if born {
                    self.suspicion.heard(cx.now);
                }
                self.greet_all(cx);
                self.look(cx);
                // The ballot may name its own former life, or nobody.
                self.consider(cx);
            }
        }
    }

    /// Builds the engine anew on what was read. The WAL wins; a local suffix beyond its end, attached to it, is kept.
    fn build(&mut self, cx: &mut Context<'_>, tail: &mut Tail, term: u64, sealed: bool) {
        let Some(identity) = &self.identity else { return };
        let voters = conf_state(&identity.voters);
        let mut persist = Persist::default();
        let (mut log, mut commit, mut handed, local_term) = match self.engine.take() {
            Some(engine) => {
                let (commit, handed, term) = (engine.commit(), engine.handed(), engine.term());
                // Snapshots are restored by who lacks what lies before them, and nobody is taken back.
                let restored = tail.snapshot.is_some();
                assert!(!restored || handed <= tail.base.index, "taken back: applied={handed} to={:?}", tail.base);
                (engine.into_log(), commit, handed, term)
            }
            None => match self.local.take() {
                Some(local) => {
                    (Log::new(local.base, local.slots, voters.clone()), local.commit, self.machine_applied, local.term)
                }
                None => {
                    persist.birth = self.birth_record();
                    (Log::new(Position::START, Vec::new(), voters.clone()), 0, self.machine_applied, 0)
                }
            },
        };
        if tail.snapshot.is_some() {
            handed = tail.base.index;
            if log.position(tail.base.index) != Some(tail.base) && !planted!(RestoreKeepsTheOldLog) {
                log = Log::new(tail.base, Vec::new(), voters);
                persist.reset = Some(tail.base);
            }
        }
        if planted!(NoReplay) && tail.snapshot.is_none() {
            tail.entries.clear();
            tail.end = log.last();
        }
        let mut fresh = Vec::new();
        for (entry, hash) in std::mem::take(&mut tail.entries) {
            let same = |position: Position| position.hash == hash || planted!(LocalLogIsToldByIndex);
            let held = fresh.is_empty() && log.position(entry.index).is_some_and(same);
            if !held {
                fresh.push(entry);
            }
        }
        if let Some(first) = fresh.first() {
            persist.truncate_from = (first.index <= log.last().index).then_some(first.index);
            persist.entries = log.append(fresh);
        }
        assert!(log.position(tail.end.index) == Some(tail.end), "log does not hold the WAL's end: {:?}", tail.end);
        // An observer must not read ahead of the leader, who may not know yet that the end is committed. A successor
        // knows: what the sealed WALs hold is committed by its own leadership, never dropped.
        let sealed_is_committed = sealed && !planted!(SuccessorKnowsNoCommit);
        commit = if sealed_is_committed { tail.end.index } else { commit.min(log.last().index) };
        commit = commit.max(handed).max(log.base().index);
        assert!(commit <= tail.end.index.max(commit.min(log.last().index)), "committed beyond the log: {commit}");
        let term = if sealed { term } else { term.max(local_term) };
        persist.hard_state = Some((term, commit));
        self.persist(cx, persist);
        self.engine = Some(Engine::new(cx.config.node, log, term, commit, handed));
    }
}
