//! A founded group on the model of ZooKeeper, and those who write and read its WAL.

use std::collections::VecDeque;

use bequest_recovery::ballot::seal;
use bequest_recovery::entry::{Entry, Position};
use bequest_recovery::genesis::{cluster_parents, cluster_record, found_group};
use bequest_recovery::keeper::{Op, Outcome, Reply, Request, SessionNumber};
use bequest_recovery::model::{SessionId, ZooModel};
use bequest_recovery::path::{self, GroupPaths, WalName};
use bequest_recovery::reader::{End, Pass, Reader, Tail};
use bequest_recovery::record::{Ballot, Limits, Uuid, FORMAT};
use bequest_recovery::writer::{Writer, WriterEvent};
use bytes::Bytes;

pub(crate) const UUID: Uuid = Uuid([5; 16]);
pub(crate) const SESSION: SessionNumber = SessionNumber(1);

/// A founded group on one server, and the ballot's version.
pub(crate) struct World {
    pub(crate) zoo: ZooModel,
    pub(crate) session: SessionId,
    pub(crate) paths: GroupPaths,
    pub(crate) version: i32,
    pub(crate) term: u64,
    /// Every request so far: any of them may have a copy that ZooKeeper still holds.
    pub(crate) sent: Vec<Request>,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut zoo = ZooModel::new(1);
        let session = zoo.connect(0);
        let mut cluster = vec![create("/", cluster_record(UUID))];
        cluster.extend(cluster_parents());
        let limits = Limits { wal_bytes: 1 << 20, wal_segments: 1000, state_bytes: 1 << 20 };
        for request in [Request::Multi(cluster), found_group("g", UUID, &[1, 2], limits)] {
            assert_eq!(zoo.execute(session, &request), Outcome::Ok(Reply::Done));
        }
        for node in [1, 2] {
            let registration = Request::Multi(vec![create(&path::node(node), Bytes::new())]);
            assert_eq!(zoo.execute(session, &registration), Outcome::Ok(Reply::Done));
        }
        Self { zoo, session, paths: GroupPaths::new("g"), version: 0, term: 0, sent: Vec::new() }
    }

    pub(crate) fn execute(&mut self, request: &Request) -> Outcome {
        self.sent.push(request.clone());
        self.zoo.execute(self.session, request)
    }

    /// Wins the ballot of the next term for `node`.
    pub(crate) fn seal(&mut self, node: u64) -> Ballot {
        self.term += 1;
        let uuid = UUID.to_bytes();
        let ballot =
            Ballot { format: FORMAT, uuid, term: self.term, node, incarnation: 1, nonce: 9, ..Ballot::default() };
        let request = seal(&self.paths, &ballot, self.version, 0);
        assert_eq!(self.execute(&request), Outcome::Ok(Reply::Done), "seal");
        self.version += 1;
        ballot
    }

    /// Reads everything as the holder of the newest ballot, or as an observer.
    pub(crate) fn read(&mut self, sealed: bool, committed: Position) -> End {
        let pass = Pass {
            paths: self.paths.clone(),
            uuid: UUID,
            version: self.version,
            sealed: sealed.then_some(self.term),
            committed,
            restore: false,
            previous: false,
        };
        let (mut reader, asks) = Reader::new(pass, sealed.then_some(SESSION));
        let mut queue = VecDeque::from(asks);
        while let Some(ask) = queue.pop_front() {
            let outcome = self.execute(&ask.request);
            let (more, end) = reader.take(ask.tag, SESSION, outcome);
            queue.extend(more);
            if let Some(end) = end {
                return end;
            }
        }
        panic!("the pass ran out of requests without an end");
    }

    /// What the holder of the newest ballot reads.
    pub(crate) fn tail(&mut self) -> Tail {
        done(self.read(true, Position::START))
    }

    /// What an observer reads.
    pub(crate) fn tail_of_observer(&mut self) -> Tail {
        done(self.read(false, Position::START))
    }

    /// Seals, reads and begins a WAL.
    pub(crate) fn lead(&mut self, node: u64) -> (Writer, Tail) {
        let ballot = self.seal(node);
        let tail = self.tail();
        let wal = WalName { term: ballot.term, node };
        (Writer::new(self.paths.clone(), UUID, wal, self.version, tail.last, tail.end), tail)
    }

    pub(crate) fn append(&mut self, writer: &mut Writer, count: u64) -> Vec<WriterEvent> {
        let ask = writer.append(entries(writer.end().index + 1, count, self.term));
        let outcome = self.execute(&ask.request);
        self.settle(writer, ask.tag, outcome)
    }

    pub(crate) fn settle(&mut self, writer: &mut Writer, tag: u64, outcome: Outcome) -> Vec<WriterEvent> {
        let (asks, mut events) = writer.take(tag, outcome);
        for ask in asks {
            let outcome = self.execute(&ask.request);
            events.extend(self.settle(writer, ask.tag, outcome));
        }
        events
    }
}

pub(crate) fn create(path: &str, data: Bytes) -> Op {
    Op::Create { path: path.to_owned(), data, ephemeral: false }
}

pub(crate) fn entries(from: u64, count: u64, term: u64) -> Vec<Entry> {
    let data = |index| Bytes::from(format!("entry {index}"));
    (from..from + count).map(|index| Entry { index, term, kind: 0, data: data(index), context: Bytes::new() }).collect()
}

pub(crate) fn unknown() -> Outcome {
    Outcome::Unknown("lost".into())
}

pub(crate) fn acknowledged(events: &[WriterEvent]) -> Option<u64> {
    events.iter().rev().find_map(|event| match event {
        WriterEvent::Acknowledged { index } => Some(*index),
        _ => None,
    })
}

/// What a pass read that came to its end.
pub(crate) fn done(end: End) -> Tail {
    match end {
        End::Done(tail) => *tail,
        other => panic!("not read: {other:?}"),
    }
}
