//! raft-rs, driven in the one order that works.
//!
//! Everything raft-rs asks of its surroundings is answered here or handed to the replica: what to send, what to
//! persist, what to apply. Seven virtual voters, the witnesses, stand for ZooKeeper. With at most seven nodes no
//! majority exists without one of them, so neither a commit nor an election can happen unless ZooKeeper took part.

use std::collections::VecDeque;

use bequest_recovery::entry::{Entry, EntryHash, Position};
use raft::eraftpb::{ConfState, Message, MessageType};
use raft::{Config as RaftConfig, ProgressState, RawNode, StateRole};

use super::event::NodeId;
use super::log::{from_raft, Log};
use super::merge::merged;

/// Witnesses of every group, whatever its size.
const WITNESSES: u64 = 7;
/// Nodes a group may have: nodes alone must never be a majority.
pub const NODES_MAX: usize = 7;
/// The bit that tells a witness' Raft id from a node's.
const WITNESS_BIT: u64 = 1 << 63;
const LAST_WITNESS: u64 = WITNESS_BIT | WITNESSES;

const _: () = assert!(NODES_MAX as u64 <= WITNESSES);

/// Bytes of entries raft-rs puts into one message to a peer.
pub(super) const MESSAGE_BYTES: u64 = 1 << 20;
/// Messages with entries to one peer without an answer.
const MESSAGES_IN_FLIGHT: usize = 64;

pub(super) fn is_witness(id: u64) -> bool {
    id & WITNESS_BIT != 0
}

fn witnesses() -> impl Iterator<Item = u64> {
    (1..=WITNESSES).map(|number| WITNESS_BIT | number)
}

/// Raft's voters for these nodes.
pub(super) fn conf_state(nodes: &[NodeId]) -> ConfState {
    let mut state = ConfState::default();
    state.set_voters(nodes.iter().map(|node| node.0).chain(witnesses()).collect());
    state
}

/// What one round with raft-rs wants done.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// To peers, at once.
    pub(super) messages: Vec<Message>,
    /// Drop the log from here on before adding `appended`.
    pub(super) truncate_from: Option<u64>,
    /// New entries of the local log.
    pub(super) appended: Vec<(Entry, EntryHash)>,
    /// Raft's term and commit index, if its term changed.
    pub(super) hard_state: Option<(u64, u64)>,
    /// Committed entries to be applied.
    pub(super) committed: Vec<Entry>,
}

/// A Ready whose entries are on their way to disk.
#[derive(Debug)]
struct Unpersisted {
    write: u64,
    ready: u64,
    messages: Vec<Message>,
}

/// One replica's Raft.
#[derive(Debug)]
pub(super) struct Engine {
    node: NodeId,
    raft: Raw,
    unpersisted: VecDeque<Unpersisted>,
    /// Highest index handed out for applying.
    handed: u64,
    /// The term last written to disk.
    term_written: u64,
}

struct Raw(RawNode<Log>);

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let raft = &self.0.raft;
        write!(f, "Raft {{ state: {:?}, term: {}, log: {:?} }}", raft.state, raft.term, raft.raft_log.store.last())
    }
}

impl Engine {
    /// A follower at `term` on this log, of which everything up to `commit` is committed and everything up to `handed`
    /// was handed to the state machine.
    ///
    /// # Panics
    /// Unless base <= handed <= commit <= last: whoever builds an engine has checked that.
    pub(super) fn new(node: NodeId, mut log: Log, term: u64, commit: u64, handed: u64) -> Self {
        let (base, last) = (log.base().index, log.last().index);
        assert!(base <= handed && handed <= commit && commit <= last, "engine: {base} {handed} {commit} {last}");
        log.set_hard_state(term, commit);
        let config = RaftConfig {
            id: node.0,
            applied: handed,
            // Nobody is ticked but leaders; the ballot does the work of elections.
            election_tick: 10,
            heartbeat_tick: 1,
            check_quorum: false,
            pre_vote: false,
            max_size_per_msg: MESSAGE_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT,
            ..RaftConfig::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        // Fails for configurations only, and this one is constant.
        let raft = RawNode::new(&config, log, &logger).unwrap_or_else(|error| panic!("raft configuration: {error}"));
        Self { node, raft: Raw(raft), unpersisted: VecDeque::new(), handed, term_written: term }
    }

    /// Gives the log back, to build another engine on it.
    pub(super) fn into_log(self) -> Log {
        // RawNode cannot be taken apart; the log is swapped out instead.
        let Raw(mut raft) = self.raft;
        std::mem::replace(raft.mut_store(), Log::new(Position::START, Vec::new(), ConfState::default()))
    }

    pub(super) fn log(&self) -> &Log {
        self.raft.0.store()
    }

    pub(super) fn log_mut(&mut self) -> &mut Log {
        self.raft.0.mut_store()
    }

    pub(super) fn term(&self) -> u64 {
        self.raft.0.raft.term
    }

    pub(super) fn commit(&self) -> u64 {
        self.raft.0.raft.raft_log.committed
    }

    /// Highest index that is both in the local log on disk and known to raft-rs to be.
    pub(super) fn persisted(&self) -> u64 {
        self.raft.0.raft.raft_log.persisted
    }

    pub(super) fn handed(&self) -> u64 {
        self.handed
    }

    pub(super) fn last(&self) -> u64 {
        self.raft.0.raft.raft_log.last_index()
    }

    fn is_leader(&self) -> bool {
        self.raft.0.raft.state == StateRole::Leader
    }

    /// Whether an entry of the current term is committed.
    pub(super) fn committed_own_term(&self) -> bool {
        self.is_leader() && self.raft.0.raft.commit_to_current_term()
    }

    /// Steps a validated message of a peer.
    pub(super) fn step(&mut self, message: Message) {
        // Errors concern messages of strangers and local messages, which validation has dropped already.
        let _ = self.raft.0.step(message);
    }

    /// Adds a command to the leader's log; `None` where raft-rs refuses for now.
    pub(super) fn propose(&mut self, data: bytes::Bytes) -> Option<u64> {
        self.raft.0.propose(Vec::new(), data.into()).ok()?;
        Some(self.last())
    }

    /// Lets a leader's heartbeat pass.
    pub(super) fn tick(&mut self) {
        if self.is_leader() {
            self.raft.0.tick();
        }
    }

    /// Becomes follower at `term` or above, never below.
    pub(super) fn follow(&mut self, term: u64) {
        let term = term.max(self.term());
        self.raft.0.raft.become_follower(term, raft::INVALID_ID);
    }

    /// Stands at `term` with the witnesses' votes; whether it leads now.
    ///
    /// The votes are ZooKeeper's: to be called only by the holder of the ballot of exactly this term, on a log that holds
    /// everything the sealed WALs do.
    pub(super) fn stand(&mut self, term: u64) -> bool {
        assert!(self.term() + 1 == term, "stands at another term: raft={} ballot={term}", self.term());
        assert!(!self.raft.0.has_ready(), "stands with work outstanding");
        if self.raft.0.campaign().is_err() || self.term() != term {
            return false;
        }
        for witness in witnesses() {
            if self.is_leader() {
                break;
            }
            let mut vote = self.witness_message(witness, MessageType::MsgRequestVoteResponse);
            vote.term = term;
            self.step(vote);
        }
        self.is_leader()
    }

    /// ZooKeeper holds everything up to `index` under this leadership: the witnesses acknowledge it.
    pub(super) fn acknowledge(&mut self, index: u64) {
        assert!(self.is_leader() && index <= self.last(), "acknowledged by nobody: index={index}");
        for witness in witnesses() {
            let progress = self.raft.0.raft.mut_prs().get_mut(witness);
            let known =
                progress.filter(|progress| progress.state == ProgressState::Replicate && witness != LAST_WITNESS);
            if let Some(progress) = known {
                // They say the same thing: to let raft-rs count the votes once is enough, at the last one's message.
                progress.maybe_update(index);
                continue;
            }
            let mut response = self.witness_message(witness, MessageType::MsgAppendResponse);
            response.index = index;
            self.step(response);
            // Nothing is ever sent to a witness: keep raft-rs from building such messages.
            self.raft.0.raft.adjust_max_inflight_msgs(witness, 0);
        }
    }

    fn witness_message(&self, witness: u64, kind: MessageType) -> Message {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.from = witness;
        message.to = self.node.0;
        message.term = self.term();
        message
    }

    /// Entries found in the leader's WAL, stepped as if the leader had sent them: attached behind `prev`.
    pub(super) fn adopt(&mut self, leader: NodeId, term: u64, prev: Position, entries: &[Entry]) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        message.from = leader.0;
        message.to = self.node.0;
        message.term = term;
        message.index = prev.index;
        message.log_term = prev.term;
        message.set_entries(entries.iter().map(super::log::to_raft).collect());
        self.step(message);
    }

    /// Everything up to `index`, which the log holds, is known to be committed.
    pub(super) fn learn_commit(&mut self, leader: NodeId, index: u64) {
        assert!(index <= self.last(), "committed beyond the log: index={index}");
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.from = leader.0;
        message.to = self.node.0;
        message.term = self.term();
        message.commit = index;
        self.step(message);
    }

    /// A peer began a new life: what it acknowledged before means nothing.
    pub(super) fn reset_progress(&mut self, peer: NodeId) {
        if !self.is_leader() {
            return;
        }
        let last = self.last();
        let raft = &mut self.raft.0.raft;
        let Some(progress) = raft.mut_prs().get_mut(peer.0) else { return };
        progress.matched = 0;
        progress.committed_index = 0;
        progress.pending_request_snapshot = 0;
        progress.become_probe();
        progress.pending_snapshot = 0;
        progress.next_idx = last + 1;
        progress.recent_active = true;
        raft.send_append(peer.0);
    }

    /// Whether raft-rs knows that the peer has the whole log and knows what is committed: nothing is to be repeated.
    pub(super) fn is_up_to_date(&self, peer: NodeId) -> bool {
        let progress = self.raft.0.raft.prs().get(peer.0);
        progress.is_some_and(|progress| progress.matched == self.last() && progress.committed_index >= self.commit())
    }

    /// The follower among `peers` that has most of the log, and up to where.
    pub(super) fn most_caught_up(&self, peers: impl Iterator<Item = NodeId>) -> Option<(NodeId, u64)> {
        let progress = self.raft.0.raft.prs();
        peers.filter_map(|peer| Some((peer, progress.get(peer.0)?.matched))).max_by_key(|(_, matched)| *matched)
    }

    /// Takes what raft-rs has ready. `write` numbers the write that will carry this round's entries; where there is
    /// nothing to write it is not used.
    pub(super) fn round(&mut self, write: u64) -> Option<Outputs> {
        let raw = &mut self.raft.0;
        if !raw.has_ready() {
            return None;
        }
        let mut outputs = Outputs::default();
        let mut ready = raw.ready();
        assert!(ready.snapshot().is_empty(), "raft-rs was given a snapshot");
        assert!(ready.read_states().is_empty(), "raft-rs was asked to read");
        outputs.messages = merged(ready.take_messages());
        let entries = ready.take_entries();
        if let Some(first) = entries.first() {
            let last = raw.store().last().index;
            outputs.truncate_from = (first.index <= last).then_some(first.index);
            outputs.appended = raw.mut_store().append(entries.into_iter().map(from_raft));
        }
        let state = raw.raft.hard_state();
        // The commit index alone is not worth a write: a restart takes what ZooKeeper has.
        if !outputs.appended.is_empty() || state.term != self.term_written {
            outputs.hard_state = Some((state.term, state.commit));
            self.term_written = state.term;
        }
        for entry in ready.take_committed_entries() {
            assert!(entry.index == self.handed + 1, "applied out of order: {} {}", self.handed, entry.index);
            self.handed = entry.index;
            outputs.committed.push(from_raft(entry));
        }
        let number = ready.number();
        let messages = ready.take_persisted_messages();
        raw.advance_append_async(ready);
        let writes = !outputs.appended.is_empty() || outputs.hard_state.is_some();
        if writes || !self.unpersisted.is_empty() {
            // What needs no write still waits for the writes before it: raft-rs takes a number to cover all lower ones.
            let write = if writes { write } else { self.unpersisted.back().map_or(write, |last| last.write) };
            self.unpersisted.push_back(Unpersisted { write, ready: number, messages });
        } else {
            raw.on_persist_ready(number);
            outputs.messages.extend(messages);
        }
        raw.advance_apply_to(self.handed);
        Some(outputs)
    }

    /// Whether there is nothing to be taken, nor to be fetched for raft-rs, until something is told it.
    pub(super) fn is_quiet(&self) -> bool {
        let requests = self.log().requests.borrow();
        let fetches = requests.fetch.as_ref().is_some_and(|wanted| !wanted.asked);
        !fetches && requests.archive.is_empty() && !self.raft.0.has_ready()
    }

    /// The write of this number and all before it are in the local log; what may now be sent.
    pub(super) fn persisted_to(&mut self, write: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        while self.unpersisted.front().is_some_and(|first| first.write <= write) {
            if let Some(done) = self.unpersisted.pop_front() {
                self.raft.0.on_persist_ready(done.ready);
                messages.extend(done.messages);
            }
        }
        merged(messages)
    }

    /// Payloads were fetched from disk: raft-rs asks again for what it wanted to send.
    pub(super) fn on_fetched(&mut self, entries: Vec<Entry>) {
        for context in self.log_mut().fetched(entries) {
            self.raft.0.on_entries_fetched(context);
        }
        self.log_mut().drop_fetched();
    }
}
