//! ZooKeeper's part of the model: what lies there, and what becomes of a request when it is served.

use super::log::{Entry, Log, INDEX_MAX};
use super::rules::{Broken, Rules};

/// The ballot's version is its term here: nobody gives a ballot back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ballot {
    pub term: u8,
    pub node: u8,
    /// Tells the incarnation.
    pub nonce: u8,
}

/// Whether the znode of a WAL is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Header {
    #[default]
    Absent,
    Made,
    /// Its first segment was trimmed, so its version moved on.
    Trimmed,
}

/// The WAL of one term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wal {
    pub header: Header,
    pub log: Log,
    /// Entries in the first segment; every other segment has one.
    pub first_entries: u8,
    /// Where the next WAL begins, once it does: the place of the mark. 0 is none.
    pub mark: u8,
}

impl Wal {
    fn first(&self) -> u8 {
        (1..=INDEX_MAX).find(|index| self.log.get(*index).is_some()).unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.log == Log::default() && self.mark == 0
    }
}

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tree {
    /// By term; 0 is the root WAL of genesis, which holds nothing.
    pub wals: [Wal; 4],
    /// Last index of the newest and the previous snapshot; 0 is none.
    pub newest: u8,
    pub previous: u8,
    /// What the newest one holds.
    pub snapshot: Log,
}

impl Tree {
    pub fn genesis() -> Self {
        let mut wals = [Wal::default(); 4];
        wals[0].header = Header::Made;
        Self { wals, newest: 0, previous: 0, snapshot: Log::default() }
    }

    /// The last WAL below a term with segments or a mark: the one a new leadership continues.
    pub fn wal_before(&self, term: u8) -> u8 {
        (0..term).rev().find(|term| !self.wals[usize::from(*term)].is_empty()).unwrap_or(0)
    }

    /// What somebody with an empty disk would find, if all of it is there.
    pub fn recoverable(&self) -> Option<Log> {
        let mut log = self.snapshot.prefix(self.newest);
        for wal in &self.wals {
            for (index, entry) in wal.log.entries() {
                if index == log.last() + 1 {
                    log.push(entry);
                } else if index > log.last() || log.get(index) != Some(entry) {
                    return None;
                }
            }
        }
        Some(log)
    }
}

/// A request that changes something, or that asks whether the ballot is still this process'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Seal,
    /// A check of the ballot: opens or closes a read pass.
    Check,
    /// The segment that holds these entries, the first one at this index. `before` is the WAL that the first segment of
    /// a leadership marks as closed.
    Append {
        first: u8,
        entries: Log,
        before: Option<u8>,
    },
    /// Moves the pointer from one index to another.
    Publish {
        from: u8,
        to: u8,
        state: Log,
    },
    /// Deletes the segments of a WAL up to an index.
    Trim {
        wal: u8,
        to: u8,
    },
    /// Deletes a WAL's mark and its header.
    Forget {
        wal: u8,
    },
}

/// A request and who makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub term: u8,
    pub node: u8,
    pub nonce: u8,
    pub ask: Ask,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// Not served yet.
    None,
    Done,
    /// Refused by the ballot, or, for a seal, by the registration.
    Fenced,
    /// The segment is there with the same bytes.
    Exists,
    /// The segment is there with other bytes.
    Conflict,
    /// The segment before it is not there.
    NoPredecessor,
    /// The mark's place is taken, or its WAL is gone.
    NoMark,
    /// Somebody moved or deleted that already.
    Moved,
}

/// ZooKeeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keeper {
    pub ballot: Ballot,
    /// Nonce of the latest incarnation of each node.
    pub registered: [u8; 2],
    pub tree: Tree,
    /// A request of a lower term changed something: I2.
    pub fence_broken: bool,
}

impl Keeper {
    pub fn genesis() -> Self {
        Self { ballot: Ballot::default(), registered: [0; 2], tree: Tree::genesis(), fence_broken: false }
    }

    /// Whether a check of the ballot's version passes. Every version has its own term and nonce; who takes another
    /// incarnation's ballot for its own checks that one's version.
    fn holds(&self, request: &Request, rules: &Rules) -> bool {
        let same = self.ballot.nonce == request.nonce || rules.broken(Broken::BallotByNode);
        self.ballot.term == request.term && self.ballot.node == request.node && same
    }

    /// Serves a request.
    pub fn serve(&mut self, request: &Request, rules: &Rules) -> Reply {
        let holds = self.holds(request, rules);
        let before = self.tree;
        let reply = match request.ask {
            Ask::Seal => return self.seal(request),
            Ask::Check if holds => Reply::Done,
            Ask::Append { first, entries, before } => {
                let unfenced = rules.broken(Broken::NoFence) || rules.broken(Broken::CreateIfAbsent);
                if holds || unfenced {
                    self.append(request.term, first, entries, before, rules)
                } else {
                    Reply::Fenced
                }
            }
            _ if !holds => Reply::Fenced,
            Ask::Check => Reply::Fenced,
            Ask::Publish { from, to, state } if self.tree.newest == from => {
                self.tree.previous = self.tree.newest;
                self.tree.newest = to;
                self.tree.snapshot = state;
                Reply::Done
            }
            Ask::Publish { .. } => Reply::Moved,
            Ask::Trim { wal, to } => self.trim(request.term, wal, to),
            Ask::Forget { wal } => {
                let gone = self.tree.wals[usize::from(wal)].header == Header::Absent;
                self.tree.wals[usize::from(wal)] = Wal::default();
                if gone {
                    Reply::Moved
                } else {
                    Reply::Done
                }
            }
        };
        self.fence_broken |= !holds && self.tree != before;
        reply
    }

    fn seal(&mut self, request: &Request) -> Reply {
        let registered = self.registered[usize::from(request.node)] == request.nonce;
        if !registered || self.ballot.term + 1 != request.term {
            return Reply::Fenced;
        }
        self.ballot = Ballot { term: request.term, node: request.node, nonce: request.nonce };
        self.tree.wals[usize::from(request.term)].header = Header::Made;
        Reply::Done
    }

    fn append(&mut self, term: u8, first: u8, entries: Log, before: Option<u8>, rules: &Rules) -> Reply {
        let wal = self.tree.wals[usize::from(term)];
        let last = entries.last();
        let absent_only = rules.broken(Broken::CreateIfAbsent);
        if !absent_only && !rules.broken(Broken::NoPredecessor) {
            let there = match before {
                Some(_) => wal.header == Header::Made,
                None => wal.log.get(first - 1).is_some(),
            };
            if !there {
                return Reply::NoPredecessor;
            }
        }
        if wal.log.get(first).is_some() || (absent_only && wal.mark == first) {
            let same = wal.log.part(first, last) == entries;
            return if same { Reply::Exists } else { Reply::Conflict };
        }
        if let Some(closed) = before.filter(|_| !rules.broken(Broken::NoMark)) {
            let closed = &mut self.tree.wals[usize::from(closed)];
            let taken = closed.log.get(first).is_some() || closed.mark == first;
            if taken || closed.header == Header::Absent {
                return Reply::NoMark;
            }
            closed.mark = first;
        }
        let wal = &mut self.tree.wals[usize::from(term)];
        entries.entries().for_each(|(index, entry)| wal.log.set(index, Some(entry)));
        if before.is_some() {
            wal.first_entries = last + 1 - first;
        }
        Reply::Done
    }

    fn trim(&mut self, own: u8, term: u8, to: u8) -> Reply {
        let wal = &mut self.tree.wals[usize::from(term)];
        let first = wal.first();
        if first == 0 || first > to {
            return Reply::Moved;
        }
        for index in first..=to {
            wal.log.set(index, None::<Entry>);
        }
        if term == own && wal.first_entries > 0 {
            wal.header = Header::Trimmed;
        }
        wal.first_entries = 0;
        Reply::Done
    }

    /// What the holder of a term may delete next, given the index it may delete up to.
    pub fn trimmable(&self, own: u8, covered: u8) -> Option<Ask> {
        if covered == 0 {
            return None;
        }
        for term in 0..=own {
            let wal = &self.tree.wals[usize::from(term)];
            let first = wal.first();
            let last = wal.log.last();
            if first != 0 {
                // Whole segments only, and never the last one of the current WAL.
                let end = first + wal.first_entries.max(1) - 1;
                let most = if term == own { last.saturating_sub(1) } else { last };
                let to = covered.min(most);
                return (to >= end && end <= most).then_some(Ask::Trim { wal: term, to });
            }
            if term < own && wal.mark != 0 && wal.mark - 1 <= covered {
                return Some(Ask::Forget { wal: term });
            }
        }
        None
    }
}
