//! One state of everything, and what a process can be doing.

use super::keeper::{Ask, Keeper, Reply, Request, Tree};
use super::log::{Entry, Log};
use super::rules::Bounds;

/// Requests of one process that may be under way at once.
pub const WINDOW: usize = 2;
/// Requests nobody waits for that may be under way at once.
pub const LATE: usize = 2;
/// Two nodes, and the first process of a node that was started a second time.
pub const PROCESSES: usize = 3;
/// Where that first process is.
pub const TWIN: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No process. Of a node's, the disk is left.
    Dead,
    Follower,
    /// Its seal is under way.
    Sealing,
    /// Holds the ballot and reads: the snapshot first, then the WALs of lower terms.
    Reading,
    Leader,
}

/// A process, or what it left on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pub phase: Phase,
    pub node: u8,
    pub nonce: u8,
    /// The local Raft term.
    pub term: u8,
    pub log: Log,
    /// What it knows to be committed, and has applied.
    pub commit: u8,
    /// Its connection leads to the server that is behind.
    pub lagging: bool,
    /// As a reader: the pass was opened on this session, and closed; something was missing; next step; what was read.
    pub open: bool,
    pub closed: bool,
    pub gap: bool,
    pub step: u8,
    pub got: Log,
    /// As a leader: where its WAL begins, and what is sent and acknowledged of it.
    pub begin: u8,
    pub sent: u8,
    pub acknowledged: u8,
    /// The WAL before its own.
    pub before: u8,
    /// Requests under way, oldest first.
    pub queue: [Option<(Request, Reply)>; WINDOW],
}

impl Process {
    pub fn absent(node: u8) -> Self {
        Self {
            phase: Phase::Dead,
            node,
            nonce: 0,
            term: 0,
            log: Log::default(),
            commit: 0,
            lagging: false,
            open: false,
            closed: false,
            gap: false,
            step: 0,
            got: Log::default(),
            begin: 0,
            sent: 0,
            acknowledged: 0,
            before: 0,
            queue: [None; WINDOW],
        }
    }

    pub fn in_flight(&self) -> usize {
        self.queue.iter().flatten().count()
    }

    /// Sends a request under the term it leads.
    pub fn send(&mut self, ask: Ask) {
        let request = Request { term: self.term, node: self.node, nonce: self.nonce, ask };
        let free = self.queue.iter_mut().find(|place| place.is_none()).expect("the window was looked at");
        *free = Some((request, Reply::None));
    }

    /// Takes a request out of the window.
    pub fn take(&mut self, place: usize) -> (Request, Reply) {
        let taken = self.queue[place].take().expect("a request is there");
        self.queue[place..].rotate_left(1);
        taken
    }

    /// Nothing of what it was doing is left; its disk and its name are.
    pub fn rest(&mut self, phase: Phase) {
        *self = Self {
            phase,
            node: self.node,
            nonce: self.nonce,
            term: self.term,
            log: self.log,
            commit: self.commit,
            lagging: self.lagging,
            ..Self::absent(0)
        };
    }

    /// Whether the archive's work of a leader is under way.
    pub fn tends_archive(&self) -> bool {
        self.queue
            .iter()
            .flatten()
            .any(|(request, _)| matches!(request.ask, Ask::Publish { .. } | Ask::Trim { .. } | Ask::Forget { .. }))
    }
}

/// What the client of a proposal was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Answer {
    #[default]
    Unasked,
    Waiting,
    Done,
    Unknown,
    Failed,
}

/// What must never be true, and is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// I1: a later leader stood without something acknowledged.
    pub forgotten: bool,
    /// I3: a reader found damage where nothing was damaged by hand, or somebody had read a WAL short.
    pub damaged: bool,
    /// I3: two writers met.
    pub conflict: bool,
    /// I4: two nodes applied different entries at an index.
    pub diverged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub keeper: Keeper,
    /// What the server that is behind shows, if one is.
    pub behind: Option<Tree>,
    pub processes: [Process; PROCESSES],
    /// Requests of dead processes and broken connections that may still be served.
    pub late: [Option<Request>; LATE],
    pub answers: [Answer; 3],
    /// What was acknowledged to clients, by index, and what anybody applied first.
    pub acknowledged: Log,
    pub applied: Log,
    pub verdict: Verdict,
    /// What is left of everything that is bounded.
    pub left: Left,
    /// The one occurrence was seen that is looked for.
    pub seen: bool,
}

/// What is left of [`Bounds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub kills: u8,
    pub wipes: u8,
    pub breaks: u8,
    pub twins: u8,
    pub lags: u8,
    pub snapshots: u8,
    /// Nothing happened yet.
    pub calm: bool,
}

impl State {
    pub fn genesis(bounds: &Bounds) -> Self {
        let mut state = Self {
            keeper: Keeper::genesis(),
            behind: None,
            processes: [Process::absent(0), Process::absent(1), Process::absent(0)],
            late: [None; LATE],
            answers: [Answer::Unasked; 3],
            acknowledged: Log::default(),
            applied: Log::default(),
            verdict: Verdict::default(),
            left: Left {
                kills: bounds.kills,
                wipes: bounds.wipes,
                breaks: bounds.breaks,
                twins: bounds.twins,
                lags: bounds.lags,
                snapshots: bounds.snapshots,
                calm: true,
            },
            seen: false,
        };
        for node in 0..2 {
            state.register(node);
        }
        state
    }

    /// A process of a node begins a new incarnation.
    pub fn register(&mut self, node: usize) {
        // An incarnation is known by its node and this number.
        self.keeper.registered[node] += 1;
        let process = &mut self.processes[node];
        process.nonce = self.keeper.registered[node];
        process.phase = Phase::Follower;
    }

    /// A process commits and applies everything up to an index of its log.
    pub fn commit(&mut self, process: usize, index: u8) {
        let Process { log, commit, .. } = self.processes[process];
        for index in commit + 1..=index {
            let entry = log.get(index);
            match self.applied.get(index) {
                None => self.applied.set(index, entry),
                there => self.verdict.diverged |= there != entry,
            }
        }
        self.processes[process].commit = commit.max(index);
    }

    /// A client is told that its proposal is done.
    pub fn acknowledge(&mut self, index: u8, entry: Entry) {
        if let Some(answer) = self.answer(entry) {
            *answer = Answer::Done;
            self.acknowledged.set(index, Some(entry));
        }
    }

    pub fn answer(&mut self, entry: Entry) -> Option<&mut Answer> {
        self.answers.get_mut(usize::from(entry.proposal).checked_sub(1)?)
    }
}
