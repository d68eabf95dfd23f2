//! What each step does.

use super::action::Action;
use super::events::Occurrence;
use super::keeper::{Ask, Reply, Request};
use super::log::{Entry, Log};
use super::rules::{Broken, Rules};
use super::state::{Answer, Phase, Process, State, TWIN};

/// One step at work.
pub struct Step<'a> {
    pub state: State,
    pub rules: &'a Rules,
    pub note: &'a dyn Fn(Occurrence),
}

pub fn merged(local: Log, read: Log) -> (Log, u8) {
    let end = read.last();
    if local.last() > end && local.prefix(end) == read {
        (local, local.last() - end)
    } else {
        (read, 0)
    }
}

impl Step<'_> {
    fn note(&self, occurrence: Occurrence) {
        (self.note)(occurrence);
    }

    fn one(&mut self, process: usize) -> &mut Process {
        &mut self.state.processes[process]
    }

    /// Takes the step; `None` if it leads nowhere.
    pub fn take(mut self, action: Action) -> Option<State> {
        self.state.left.calm &= action.process().is_none();
        match action {
            Action::Start(process) => self.start(process)?,
            Action::StartTwin(process) => self.start_twin(process)?,
            Action::Kill { process, torn, late } => self.kill(process, torn, late),
            Action::Wipe { process, late } => self.wipe(process, late),
            Action::Break { process, late, lagging } => self.lose_connection(process, late, lagging),
            Action::Lag => {
                self.state.left.lags -= 1;
                self.state.behind = Some(self.state.keeper.tree);
            }
            Action::Seal(process) => self.seal(process),
            Action::Serve(process) => self.serve(process),
            Action::Hear(process) => self.hear(process),
            Action::Late(place) => self.serve_late(place),
            Action::Open(process) => self.open(process),
            Action::Read(process) => self.read(process),
            Action::Close(process) => self.close(process),
            Action::Stand(process) => self.stand(process),
            Action::Propose(process) => self.propose(process),
            Action::Append(process) => self.append(process),
            Action::Publish(process) => self.publish(process),
            Action::Trim(process) => self.trim(process),
            Action::Replicate { from, to } => self.replicate(from, to),
            Action::StepDown(process) => {
                self.note(Occurrence::Deposed);
                self.step_down(process);
            }
        }
        Some(self.state)
    }

    fn start(&mut self, process: usize) -> Option<()> {
        let others = self.state.processes.iter().all(|one| one.log == Log::default());
        if others && self.state.acknowledged != Log::default() {
            self.note(Occurrence::BothDisksLost);
        }
        let tree = self.state.keeper.tree;
        let one = *self.one(process);
        let base =
            if tree.newest > one.commit { tree.snapshot.prefix(tree.newest) } else { one.log.prefix(one.commit) };
        let mut read = base;
        for wal in &tree.wals {
            for (index, entry) in wal.log.entries() {
                if index == read.last() + 1 {
                    read.push(entry);
                } else if index > read.last() || read.get(index) != Some(entry) {
                    // A living leader trims; here nothing happens in the middle of it, so this is no way on.
                    return None;
                }
            }
        }
        self.state.register(process);
        let term = self.state.keeper.ballot.term;
        let log = merged(one.log, read).0;
        if !one.log.is_within(log) {
            self.note(Occurrence::SuffixDropped);
        }
        let one = self.one(process);
        (one.log, one.term) = (log, one.term.max(term));
        Some(())
    }

    fn start_twin(&mut self, process: usize) -> Option<()> {
        self.state.left.twins -= 1;
        self.state.processes[TWIN] = *self.one(process);
        let node = self.one(process).node;
        *self.one(process) = Process::absent(node);
        self.start(process)
    }

    /// What an ended connection had not been served yet stays in a socket somewhere, or is gone.
    fn drift(&mut self, process: usize, late: bool) {
        let queue = self.one(process).queue;
        for (request, _) in queue.into_iter().flatten().filter(|(_, reply)| late && *reply == Reply::None) {
            let used = self.state.late.iter().flatten().count();
            if used < usize::from(self.rules.bounds.late) {
                self.state.late[used] = Some(request);
            }
        }
    }

    /// Who waits for a process learns nothing from its end.
    fn forsake(&mut self, process: usize, answer: Answer) {
        let one = *self.one(process);
        if one.phase != Phase::Leader {
            return;
        }
        for (index, entry) in one.log.entries().filter(|(_, entry)| entry.term == one.term) {
            match self.state.answer(entry) {
                Some(waiting) if *waiting == Answer::Waiting => *waiting = answer,
                _ => continue,
            }
            if answer == Answer::Done {
                self.state.acknowledge(index, entry);
            }
        }
    }

    fn kill(&mut self, process: usize, torn: bool, late: bool) {
        self.state.left.kills -= 1;
        self.drift(process, late);
        self.forsake(process, Answer::Unknown);
        let one = self.one(process);
        one.rest(Phase::Dead);
        one.lagging = false;
        if torn {
            one.log = one.log.prefix(one.log.last() - 1);
            one.commit = one.commit.min(one.log.last());
        }
        if process == TWIN {
            *one = Process::absent(0);
        }
    }

    fn wipe(&mut self, process: usize, late: bool) {
        self.state.left.wipes -= 1;
        self.drift(process, late);
        self.forsake(process, Answer::Unknown);
        let one = self.one(process);
        *one = Process::absent(one.node);
    }

    fn lose_connection(&mut self, process: usize, late: bool, lagging: bool) {
        self.state.left.breaks -= 1;
        self.drift(process, late);
        let one = self.one(process);
        one.lagging = lagging;
        // What is unknown is issued again; a read pass starts over.
        one.queue.iter_mut().flatten().for_each(|(_, reply)| *reply = Reply::None);
        if one.phase == Phase::Reading && !self.rules.broken(Broken::ReadBeforeSeal) {
            let one = self.one(process);
            (one.open, one.closed, one.gap, one.step, one.got) = (false, false, false, 0, Log::default());
        }
    }

    fn seal(&mut self, process: usize) {
        let ballot = self.state.keeper.ballot;
        if ballot.term > 0 && self.state.keeper.registered[usize::from(ballot.node)] != ballot.nonce {
            self.note(Occurrence::SealAbandoned);
        }
        let term = ballot.term + 1;
        if self.rules.broken(Broken::ReadBeforeSeal) {
            // The whole pass, before the ballot is asked for.
            let saved = *self.one(process);
            self.one(process).term = term;
            (0..term).for_each(|_| self.read(process));
            let one = self.one(process);
            (one.term, one.open) = (saved.term, true);
        }
        let one = self.one(process);
        let before = one.term;
        (one.phase, one.term) = (Phase::Sealing, term);
        one.send(Ask::Seal);
        one.term = before;
    }

    /// A server that answers a transaction has everything up to it.
    fn caught_up(&mut self, process: usize) -> bool {
        if !self.one(process).lagging {
            return false;
        }
        let behind = self.state.behind.take();
        self.state.processes.iter_mut().for_each(|one| one.lagging = false);
        behind.is_some_and(|behind| behind != self.state.keeper.tree)
    }

    fn serve(&mut self, process: usize) {
        let queue = self.one(process).queue;
        let place = queue.iter().position(|request| request.is_some_and(|(_, reply)| reply == Reply::None));
        let place = place.expect("a request waits");
        let (request, _) = queue[place].expect("a request waits");
        let reply = self.state.keeper.serve(&request, self.rules);
        self.caught_up(process);
        match (request.ask, reply) {
            (Ask::Append { .. } | Ask::Seal, _) => self.one(process).queue[place] = Some((request, reply)),
            (_, Reply::Fenced) => self.step_down(process),
            (ask, reply) => {
                self.one(process).take(place);
                if reply == Reply::Done {
                    self.note_archive(ask, request.term);
                }
            }
        }
    }

    fn note_archive(&self, ask: Ask, term: u8) {
        match ask {
            Ask::Publish { .. } => self.note(Occurrence::Published),
            Ask::Trim { wal, .. } => {
                self.note(Occurrence::Trimmed);
                if wal == term {
                    self.note(Occurrence::FirstTrimmed);
                }
            }
            Ask::Forget { .. } => self.note(Occurrence::Forgotten),
            _ => {}
        }
    }

    fn serve_late(&mut self, place: usize) {
        let request = self.state.late[place].take().expect("a request is there");
        self.state.late[place..].rotate_left(1);
        match (request.ask, self.state.keeper.serve(&request, self.rules)) {
            (Ask::Append { .. }, Reply::Done) => self.note(Occurrence::LateAppendApplied),
            (Ask::Append { .. }, Reply::Fenced) => self.note(Occurrence::LateAppendFenced),
            (Ask::Append { .. }, Reply::NoPredecessor) => self.note(Occurrence::LateRefused),
            (Ask::Seal, Reply::Done) => self.note(Occurrence::LateSealApplied),
            (Ask::Trim { .. }, Reply::Fenced) => self.note(Occurrence::LateTrimFenced),
            _ => {}
        }
    }

    fn hear(&mut self, process: usize) {
        let (request, reply) = self.one(process).take(0);
        match request.ask {
            Ask::Seal => self.seal_answered(process, &request, reply),
            Ask::Append { entries, .. } => self.append_answered(process, entries.last(), reply),
            _ => {}
        }
    }

    fn seal_answered(&mut self, process: usize, request: &Request, reply: Reply) {
        let ballot = self.state.keeper.ballot;
        let same = ballot.nonce == request.nonce || self.rules.broken(Broken::BallotByNode);
        let ours = ballot.term == request.term && ballot.node == request.node && same;
        if reply != Reply::Done && !ours {
            let superseded = self.state.keeper.registered[usize::from(request.node)] != request.nonce;
            self.note(if superseded { Occurrence::TwinSealRefused } else { Occurrence::SealLost });
            self.one(process).rest(Phase::Follower);
            return;
        }
        self.note(if reply == Reply::Done { Occurrence::SealWon } else { Occurrence::SealByNonce });
        let read_already = self.rules.broken(Broken::ReadBeforeSeal);
        let one = self.one(process);
        (one.phase, one.term) = (Phase::Reading, request.term);
        if !read_already {
            // A refused seal that turns out to have been won opens no read pass.
            (one.open, one.gap, one.step, one.got) = (reply == Reply::Done, false, 0, Log::default());
        }
    }

    fn open(&mut self, process: usize) {
        let one = *self.one(process);
        let request = Request { term: one.term, node: one.node, nonce: one.nonce, ask: Ask::Check };
        if self.caught_up(process) {
            self.note(Occurrence::LaggardCaughtUp);
        }
        if self.state.keeper.serve(&request, self.rules) == Reply::Done {
            self.note(Occurrence::PassOpened);
            self.one(process).open = true;
        } else {
            self.note(Occurrence::PassLost);
            self.one(process).rest(Phase::Follower);
        }
    }

    /// The next step of a read pass: the snapshot, or the WAL of one term.
    fn read(&mut self, process: usize) {
        let one = *self.one(process);
        let tree = self.state.behind.filter(|_| one.lagging).unwrap_or(self.state.keeper.tree);
        let by_index = self.rules.broken(Broken::SkipByIndex);
        let (mut got, mut gap) = (one.got, one.gap);
        if one.step == 0 {
            let known = if by_index { one.log.last() } else { one.commit };
            got = if tree.newest > known { tree.snapshot.prefix(tree.newest) } else { one.log.prefix(known) };
        } else {
            let wal = &tree.wals[usize::from(one.step)];
            for (index, entry) in wal.log.entries() {
                if index == got.last() + 1 && !gap {
                    got.push(entry);
                } else if index > got.last() || (got.get(index) != Some(entry) && !by_index) {
                    gap = true;
                }
            }
            // A mark says where its WAL ended, even if the segments are gone.
            gap |= wal.mark > got.last() + 1;
        }
        let before = tree.wal_before(one.step + 1);
        let one = self.one(process);
        (one.got, one.gap, one.before) = (got, gap, before);
        one.step += 1;
    }

    fn close(&mut self, process: usize) {
        let one = *self.one(process);
        let request = Request { term: one.term, node: one.node, nonce: one.nonce, ask: Ask::Check };
        if self.state.keeper.serve(&request, self.rules) != Reply::Done {
            self.note(if one.gap { Occurrence::GapOfATrim } else { Occurrence::PassLost });
            self.one(process).rest(Phase::Follower);
        } else if one.gap {
            self.state.verdict.damaged = true;
            self.one(process).rest(Phase::Follower);
        } else {
            self.one(process).closed = true;
        }
    }

    fn stand(&mut self, process: usize) {
        let one = *self.one(process);
        let read = if self.rules.broken(Broken::NoReplay) { one.log } else { one.got };
        let (log, suffix) = merged(one.log, read);
        if suffix > 0 {
            self.note(Occurrence::SuffixKept);
        } else if one.log.last() > read.last() || !one.log.is_within(read) {
            self.note(Occurrence::SuffixDropped);
        }
        if self.state.keeper.tree.newest > one.commit {
            self.note(Occurrence::Restored);
        }
        let fenced_in = |entry: &Entry| entry.term < one.term;
        let acknowledged = self.state.acknowledged;
        if acknowledged.entries().any(|(index, entry)| fenced_in(&entry) && log.get(index) != Some(entry)) {
            self.state.verdict.forgotten = true;
        }
        for (proposal, answer) in (1..).zip(self.state.answers) {
            if answer == Answer::Unknown {
                let adopted = log.entries().any(|(_, entry)| entry.proposal == proposal);
                self.note(if adopted { Occurrence::UnknownAdopted } else { Occurrence::UnknownDropped });
            }
        }
        let begin = read.last();
        // A snapshot that is restored replaces what was applied; the log below it is what the snapshot says.
        self.state.verdict.diverged |= log.prefix(one.commit.min(begin)) != one.log.prefix(one.commit.min(begin));
        let one = self.one(process);
        let before = one.before;
        one.rest(Phase::Leader);
        (one.log, one.before) = (log, before);
        (one.begin, one.sent, one.acknowledged) = (begin, begin, begin);
        self.state.commit(process, begin);
        let one = self.one(process);
        one.log.push(Entry { term: one.term, proposal: 0 });
    }

    fn propose(&mut self, process: usize) {
        let asked = self.state.answers.iter().filter(|answer| **answer != Answer::Unasked).count() as u8;
        self.state.answers[usize::from(asked)] = Answer::Waiting;
        let one = self.one(process);
        let entry = Entry { term: one.term, proposal: asked + 1 };
        one.log.push(entry);
        let last = one.log.last();
        if self.rules.broken(Broken::AcknowledgeEarly) {
            self.state.acknowledge(last, entry);
        }
    }

    fn append(&mut self, process: usize) {
        let one = self.one(process);
        let first = one.sent + 1;
        let begins = one.sent == one.begin;
        let last = if begins { one.log.last() } else { first };
        let before = begins.then_some(one.before);
        one.sent = last;
        one.send(Ask::Append { first, entries: one.log.part(first, last), before });
    }

    fn append_answered(&mut self, process: usize, last: u8, reply: Reply) {
        match reply {
            Reply::Done | Reply::Exists => {
                if reply == Reply::Exists {
                    self.note(Occurrence::AppliedBefore);
                }
                let Process { acknowledged, log, term, .. } = *self.one(process);
                let one = self.one(process);
                (one.acknowledged, one.before) = (last, 0);
                self.state.commit(process, last);
                for (index, entry) in log.part(acknowledged + 1, last).entries() {
                    if entry.term == term && entry.proposal > 0 {
                        self.note(Occurrence::Acknowledged);
                        self.state.acknowledge(index, entry);
                        if entry.proposal == self.rules.bounds.proposals && term == self.rules.bounds.terms {
                            self.note(Occurrence::LastTermServes);
                        }
                    }
                }
                return;
            }
            Reply::Fenced => {
                self.note(Occurrence::AppendFenced);
                if process == TWIN {
                    self.note(Occurrence::TwinFenced);
                }
            }
            Reply::Conflict => self.state.verdict.conflict = true,
            Reply::NoMark => self.state.verdict.damaged = true,
            Reply::NoPredecessor | Reply::None | Reply::Moved => {}
        }
        self.step_down(process);
    }

    fn publish(&mut self, process: usize) {
        self.state.left.snapshots -= 1;
        let from = self.state.keeper.tree.newest;
        let one = self.one(process);
        one.send(Ask::Publish { from, to: one.commit, state: one.log.prefix(one.commit) });
    }

    fn trim(&mut self, process: usize) {
        let one = *self.one(process);
        let covered = self.state.covered(&one, self.rules);
        let ask = self.state.keeper.trimmable(one.term, covered).expect("it was looked at");
        self.one(process).send(ask);
    }

    fn replicate(&mut self, from: usize, to: usize) {
        let leader = *self.one(from);
        if self.one(to).phase == Phase::Leader {
            self.note(Occurrence::Deposed);
            self.step_down(to);
        }
        let other = *self.one(to);
        let log = merged(other.log, leader.log).0;
        if !other.log.is_within(log) {
            self.note(Occurrence::SuffixDropped);
        }
        self.state.verdict.diverged |= other.log.prefix(other.commit) != log.prefix(other.commit);
        let one = self.one(to);
        (one.log, one.term) = (log, leader.term);
        self.state.commit(to, leader.commit);
    }

    fn step_down(&mut self, process: usize) {
        let answer = if self.rules.broken(Broken::UnknownIsFailed) {
            Answer::Failed
        } else if self.rules.broken(Broken::UnknownIsDone) {
            Answer::Done
        } else {
            Answer::Unknown
        };
        self.forsake(process, answer);
        self.one(process).rest(Phase::Follower);
    }
}
