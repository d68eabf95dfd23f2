//! The WAL of one leadership: appends in flight, in order, each under the fence and behind its predecessor.
//!
//! Every append is one transaction: check the ballot, check the segment before it, create the segment. Several are in
//! flight at once. A broken connection may fail the middle ones while later ones arrive; since each checks its
//! predecessor, what lands is always a prefix. What is not known is issued again, the same bytes under the same name,
//! once everything issued before has an outcome. Only the contiguous prefix is ever acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::entry::{Entry, Position};
use crate::keeper::{Op, Outcome, Reason, Reply, Request};
use crate::path::{GroupPaths, WalName, BUCKET_SEGMENTS};
use crate::planted;
use crate::reader::{Ask, Place};
use crate::record::Uuid;
use crate::segment;

/// What an operation of an append's transaction is there for. Outcomes are decoded by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Ballot,
    Predecessor,
    Bucket,
    Segment,
    Mark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Issued; the outcome is to come.
    Sent,
    /// To be issued again.
    Again,
    /// Refused since its segment exists: being read, to see whether it is ours.
    Reading,
    /// In ZooKeeper.
    Done,
}

#[derive(Debug)]
struct Flight {
    ordinal: u64,
    first: u64,
    end: Position,
    record: Bytes,
    tag: u64,
    fence: u64,
    state: State,
}

/// What the leader must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterEvent {
    /// Everything up to here is in ZooKeeper, under this ballot.
    Acknowledged {
        /// Last index.
        index: u64,
    },
    /// A fenced transaction issued under this number succeeded.
    Confirmed {
        /// The number, as [`Writer::fences`] counted when it was issued.
        fence: u64,
    },
    /// The ballot is no longer this leadership's. Step down at once.
    Fenced,
    /// The ballot does not exist. Stop.
    BallotMissing,
    /// Refused for a reason that is not the fence: resign.
    Refused {
        /// Znode of the operation refused.
        path: String,
        /// The reason.
        reason: Reason,
    },
    /// The segment holds other bytes: two writers. Stop.
    Conflict {
        /// The segment.
        path: String,
    },
    /// What was acknowledged is gone from ZooKeeper. Stop.
    Vanished {
        /// The znode.
        path: String,
        /// Last index it held.
        index: u64,
    },
    /// The previous WAL goes on beyond what was read, or its end is gone: resign with an alarm.
    ReadShort {
        /// Where the mark was to be created.
        path: String,
    },
}

/// The WAL of the leadership that holds the ballot.
#[derive(Debug)]
pub struct Writer {
    paths: GroupPaths,
    uuid: Uuid,
    wal: WalName,
    version: i32,
    previous: Place,
    begin: Position,
    /// Position behind which the next segment begins.
    end: Position,
    acknowledged: Position,
    ordinal: u64,
    /// First index of the segment last acknowledged: the predecessor of the first flight.
    predecessor: Option<u64>,
    flights: VecDeque<Flight>,
    /// Segments acknowledged and not yet taken by [`Writer::take_done`].
    done: Vec<Acknowledged>,
    tags: u64,
    fences: u64,
}

/// A segment that is in ZooKeeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Place in its WAL.
    pub ordinal: u64,
    /// Its first index.
    pub first: u64,
    /// Its last index.
    pub last: u64,
}

impl Writer {
    /// The WAL that continues at `end`, where all lower terms' WALs end; `previous` is the place of the previous WAL's
    /// next segment, which is marked closed together with the first append.
    pub fn new(paths: GroupPaths, uuid: Uuid, wal: WalName, version: i32, previous: Place, end: Position) -> Self {
        assert!(previous.index == end.index + 1, "WALs overlap: previous={previous:?} end={end:?}");
        Self {
            paths,
            uuid,
            wal,
            version,
            previous,
            begin: end,
            end,
            acknowledged: end,
            ordinal: 0,
            predecessor: None,
            flights: VecDeque::new(),
            done: Vec::new(),
            tags: 0,
            fences: 0,
        }
    }

    /// Position behind which the next append begins.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The place in the previous WAL that the first append marks as closed.
    pub fn previous(&self) -> Place {
        self.previous
    }

    /// Position up to which ZooKeeper has everything.
    pub fn acknowledged(&self) -> Position {
        self.acknowledged
    }

    /// Appends not yet acknowledged.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Segments acknowledged since last asked, in order.
    pub fn take_done(&mut self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.done)
    }

    /// How many fenced transactions were issued; the next one is one more.
    pub fn fences(&self) -> u64 {
        self.fences
    }

    /// Counts a fenced transaction that is issued elsewhere; returns its number.
    pub fn fence(&mut self) -> u64 {
        self.fences += 1;
        self.fences
    }

    /// Appends entries that directly follow [`Writer::end`]: one segment, one transaction.
    ///
    /// A crash right after is harmless: the segment is there whole or not at all, and either way behind everything
    /// acknowledged before it.
    pub fn append(&mut self, entries: Vec<Entry>) -> Ask {
        let (record, end) = segment::encode(self.uuid, self.wal.term, self.ordinal, self.end, entries);
        let flight = Flight {
            ordinal: self.ordinal,
            first: self.end.index + 1,
            end,
            record,
            tag: 0,
            fence: 0,
            state: State::Again,
        };
        self.ordinal += 1;
        self.end = end;
        self.flights.push_back(flight);
        self.issue(self.flights.len() - 1)
    }

    /// Whether something must be issued again, and nothing is outstanding that it would have to wait for.
    pub fn must_reissue(&self) -> bool {
        self.flights.iter().any(|flight| flight.state == State::Again)
            && !self.flights.iter().any(|flight| matches!(flight.state, State::Sent | State::Reading))
    }

    /// Issues everything not known to be done again, in order.
    pub fn reissue(&mut self) -> Vec<Ask> {
        (0..self.flights.len())
            .filter(|at| self.flights[*at].state == State::Again)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|at| self.issue(at))
            .collect()
    }

    /// Takes the outcome of a request of this writer.
    pub fn take(&mut self, tag: u64, outcome: Outcome) -> (Vec<Ask>, Vec<WriterEvent>) {
        let Some(at) = self.flights.iter().position(|flight| flight.tag == tag) else {
            return (Vec::new(), Vec::new());
        };
        match (self.flights[at].state, outcome) {
            (State::Sent, Outcome::Ok(_)) => {
                let fence = self.flights[at].fence;
                self.flights[at].state = State::Done;
                let mut events = vec![WriterEvent::Confirmed { fence }];
                events.extend(self.advance());
                (Vec::new(), events)
            }
            (State::Reading, Outcome::Ok(Reply::Data(data))) => self.took_segment(at, data.map(|(bytes, _)| bytes)),
            (State::Sent, Outcome::Refused(refusal)) => {
                let (purposes, ops) = self.ops(at);
                match (purposes.get(refusal.op), ops.get(refusal.op)) {
                    (Some(purpose), Some(op)) => self.refused(at, *purpose, refusal.reason, op.path().to_owned()),
                    _ => (Vec::new(), vec![WriterEvent::Refused { path: self.path(at), reason: refusal.reason }]),
                }
            }
            (State::Reading, Outcome::Refused(refusal)) => {
                (Vec::new(), vec![WriterEvent::Refused { path: self.path(at), reason: refusal.reason }])
            }
            (_, Outcome::Unknown(_)) if planted!(UnknownAppendIsDone) => {
                self.flights[at].state = State::Done;
                (Vec::new(), self.advance())
            }
            (_, Outcome::Unknown(_) | Outcome::Ok(_)) => {
                self.flights[at].state = State::Again;
                (Vec::new(), Vec::new())
            }
            (State::Again | State::Done, Outcome::Refused(_)) => (Vec::new(), Vec::new()),
        }
    }

    /// Table of refusals of an append (A4, A8). A refusal speaks for one attempt: an earlier one may have been applied.
    fn refused(&mut self, at: usize, purpose: Purpose, reason: Reason, path: String) -> (Vec<Ask>, Vec<WriterEvent>) {
        let event = match (purpose, reason) {
            (Purpose::Ballot, Reason::BadVersion) => WriterEvent::Fenced,
            (Purpose::Ballot, Reason::NoNode) => WriterEvent::BallotMissing,
            (Purpose::Predecessor, Reason::NoNode) if at > 0 => {
                // The one before it was not applied, or not yet: both go again, in order.
                self.flights[at].state = State::Again;
                return (Vec::new(), Vec::new());
            }
            (Purpose::Predecessor, Reason::NoNode | Reason::BadVersion)
            | (Purpose::Segment | Purpose::Bucket, Reason::NoNode) => {
                WriterEvent::Vanished { path, index: self.flights[at].first - 1 }
            }
            // The bucket is created with its first segment: both are there, or neither.
            (Purpose::Segment | Purpose::Bucket, Reason::NodeExists) => {
                self.tags += 1;
                self.flights[at].tag = self.tags;
                self.flights[at].state = State::Reading;
                let request = Request::Get { path: self.path(at), watch: false };
                return (vec![Ask { tag: self.tags, request }], Vec::new());
            }
            (Purpose::Mark, Reason::NodeExists | Reason::NoNode) => WriterEvent::ReadShort { path },
            (_, reason) => WriterEvent::Refused { path, reason },
        };
        (Vec::new(), vec![event])
    }

    fn took_segment(&mut self, at: usize, found: Option<Bytes>) -> (Vec<Ask>, Vec<WriterEvent>) {
        let path = self.path(at);
        match found {
            // An earlier attempt was applied.
            Some(bytes) if bytes == self.flights[at].record => {
                self.flights[at].state = State::Done;
                (Vec::new(), self.advance())
            }
            Some(_) => (Vec::new(), vec![WriterEvent::Conflict { path }]),
            // Read on a session that lags behind the one that refused, or deleted: the next attempt tells.
            None => {
                self.flights[at].state = State::Again;
                (Vec::new(), Vec::new())
            }
        }
    }

    /// Acknowledges the contiguous prefix that is done.
    fn advance(&mut self) -> Vec<WriterEvent> {
        let before = self.acknowledged.index;
        while self.flights.front().is_some_and(|flight| flight.state == State::Done) {
            if let Some(flight) = self.flights.pop_front() {
                self.acknowledged = flight.end;
                self.predecessor = Some(flight.first);
                self.done.push(Acknowledged { ordinal: flight.ordinal, first: flight.first, last: flight.end.index });
            }
        }
        let index = self.acknowledged.index;
        if index == before {
            return Vec::new();
        }
        vec![WriterEvent::Acknowledged { index }]
    }

    fn path(&self, at: usize) -> String {
        let flight = &self.flights[at];
        self.paths.segment(self.wal, flight.ordinal, flight.first)
    }

    fn issue(&mut self, at: usize) -> Ask {
        self.tags += 1;
        self.fences += 1;
        let (_, ops) = self.ops(at);
        let flight = &mut self.flights[at];
        flight.tag = self.tags;
        flight.fence = self.fences;
        flight.state = State::Sent;
        Ask { tag: self.tags, request: Request::Multi(ops) }
    }

    /// The transaction, always the same for one segment.
    fn ops(&self, at: usize) -> (Vec<Purpose>, Vec<Op>) {
        let flight = &self.flights[at];
        let create = |path, data: &Bytes| Op::Create { path, data: data.clone(), ephemeral: false };
        let predecessor = match flight.ordinal {
            0 => self.paths.wal(self.wal),
            ordinal => {
                let first = match at.checked_sub(1) {
                    Some(before) => Some(self.flights[before].first),
                    None => self.predecessor,
                };
                self.paths.segment(self.wal, ordinal - 1, first.unwrap_or_default())
            }
        };
        let mut ops = vec![
            (Purpose::Ballot, Op::Check { path: self.paths.ballot(), version: self.version }),
            (Purpose::Predecessor, Op::Check { path: predecessor, version: 0 }),
        ];
        if planted!(AppendWithoutFence | CreateIsTheFence) {
            ops.retain(|(purpose, _)| *purpose != Purpose::Ballot);
        }
        if planted!(AppendWithoutPredecessor | CreateIsTheFence) {
            ops.retain(|(purpose, _)| *purpose != Purpose::Predecessor);
        }
        if flight.ordinal.is_multiple_of(BUCKET_SEGMENTS) {
            ops.push((Purpose::Bucket, create(self.paths.bucket(self.wal, flight.ordinal), &Bytes::new())));
        }
        ops.push((
            Purpose::Segment,
            create(self.paths.segment(self.wal, flight.ordinal, flight.first), &flight.record),
        ));
        if flight.ordinal == 0 && !planted!(PreviousWalLeftOpen) {
            // A leadership that read the previous WAL short collides here, before anything is acknowledged.
            let place = self.previous;
            if place.ordinal.is_multiple_of(BUCKET_SEGMENTS) {
                ops.push((Purpose::Mark, create(self.paths.bucket(place.wal, place.ordinal), &Bytes::new())));
            }
            let term = place.wal.term;
            let mark = segment::encode_closed(self.uuid, term, place.ordinal, self.begin, self.wal.term);
            ops.push((Purpose::Mark, create(self.paths.segment(place.wal, place.ordinal, place.index), &mark)));
        }
        ops.into_iter().unzip()
    }
}
