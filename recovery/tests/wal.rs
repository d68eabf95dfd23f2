//! Rules of the WAL and the archive, held against the model of ZooKeeper: what a writer may do, what a reader believes.

use std::collections::VecDeque;
use std::time::Duration;

use bequest_recovery::archive::{Archive, ArchiveEvent};
use bequest_recovery::ballot::{seal, wal_header};
use bequest_recovery::entry::{Entry, Position};
use bequest_recovery::genesis::{cluster_parents, cluster_record, found_group};
use bequest_recovery::keeper::{Op, Outcome, Reason, Refusal, Reply, Request, SessionNumber};
use bequest_recovery::model::{SessionId, ZooModel};
use bequest_recovery::path::{self, GroupPaths, WalName};
use bequest_recovery::reader::{Ask, End, Pass, Reader, Tail};
use bequest_recovery::record::{Ballot, Limits, Uuid, FORMAT};
use bequest_recovery::segment;
use bequest_recovery::writer::{Writer, WriterEvent};
use bytes::Bytes;

const UUID: Uuid = Uuid([5; 16]);
const SESSION: SessionNumber = SessionNumber(1);

/// A founded group on one server, and the ballot's version.
struct World {
    zoo: ZooModel,
    session: SessionId,
    paths: GroupPaths,
    version: i32,
    term: u64,
    /// Every request so far: any of them may have a copy that ZooKeeper still holds.
    sent: Vec<Request>,
}

impl World {
    fn new() -> Self {
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

    fn execute(&mut self, request: &Request) -> Outcome {
        self.sent.push(request.clone());
        self.zoo.execute(self.session, request)
    }

    /// Wins the ballot of the next term for `node`.
    fn seal(&mut self, node: u64) -> Ballot {
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
    fn read(&mut self, sealed: bool, committed: Position) -> End {
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

    fn tail(&mut self) -> Tail {
        match self.read(true, Position::START) {
            End::Done(tail) => *tail,
            other => panic!("not read: {other:?}"),
        }
    }

    /// Seals, reads and begins a WAL.
    fn lead(&mut self, node: u64) -> (Writer, Tail) {
        let ballot = self.seal(node);
        let tail = self.tail();
        let wal = WalName { term: ballot.term, node };
        (Writer::new(self.paths.clone(), UUID, wal, self.version, tail.last, tail.end), tail)
    }

    fn append(&mut self, writer: &mut Writer, count: u64) -> Vec<WriterEvent> {
        let ask = writer.append(entries(writer.end().index + 1, count, self.term));
        let outcome = self.execute(&ask.request);
        self.settle(writer, ask.tag, outcome)
    }

    fn settle(&mut self, writer: &mut Writer, tag: u64, outcome: Outcome) -> Vec<WriterEvent> {
        let (asks, mut events) = writer.take(tag, outcome);
        for ask in asks {
            let outcome = self.execute(&ask.request);
            events.extend(self.settle(writer, ask.tag, outcome));
        }
        events
    }
}

fn create(path: &str, data: Bytes) -> Op {
    Op::Create { path: path.to_owned(), data, ephemeral: false }
}

fn entries(from: u64, count: u64, term: u64) -> Vec<Entry> {
    let data = |index| Bytes::from(format!("entry {index}"));
    (from..from + count).map(|index| Entry { index, term, kind: 0, data: data(index), context: Bytes::new() }).collect()
}

fn unknown() -> Outcome {
    Outcome::Unknown("lost".into())
}

fn acknowledged(events: &[WriterEvent]) -> Option<u64> {
    events.iter().rev().find_map(|event| match event {
        WriterEvent::Acknowledged { index } => Some(*index),
        _ => None,
    })
}

#[test]
fn what_was_appended_is_what_the_successor_reads() {
    let mut world = World::new();
    let (mut first, _) = world.lead(1);
    assert_eq!(acknowledged(&world.append(&mut first, 3)), Some(3));
    assert_eq!(acknowledged(&world.append(&mut first, 2)), Some(5));
    let (mut second, tail) = world.lead(2);
    assert_eq!(tail.entries.iter().map(|(entry, _)| entry.index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(tail.end, first.end());
    assert_eq!(acknowledged(&world.append(&mut second, 1)), Some(6));
    let (_, tail) = world.lead(1);
    assert_eq!(tail.end.index, 6);
    assert_eq!(tail.wals.len(), 3, "root, first and second");
}

#[test]
fn an_append_under_a_lower_ballot_is_fenced_and_writes_nothing() {
    let mut world = World::new();
    let (mut old, _) = world.lead(1);
    world.append(&mut old, 1);
    let (_, tail) = world.lead(2);
    assert_eq!(world.append(&mut old, 1), [WriterEvent::Fenced]);
    assert_eq!(world.tail().end, tail.end, "the fenced append left something");
}

#[test]
fn only_the_contiguous_prefix_is_acknowledged() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    let asks: Vec<Ask> = (0..3).map(|_| writer.append(entries(writer.end().index + 1, 1, 1))).collect();
    let outcomes: Vec<Outcome> = asks.iter().map(|ask| world.execute(&ask.request)).collect();
    let events = world.settle(&mut writer, asks[2].tag, outcomes[2].clone());
    assert_eq!(acknowledged(&events), None, "a later append was acknowledged before an earlier one");
    let events = world.settle(&mut writer, asks[0].tag, outcomes[0].clone());
    assert_eq!(acknowledged(&events), Some(1));
    let events = world.settle(&mut writer, asks[1].tag, outcomes[1].clone());
    assert_eq!(acknowledged(&events), Some(3));
}

#[test]
fn appends_behind_a_lost_one_do_not_land_and_all_are_issued_again_in_order() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    world.append(&mut writer, 1);
    let asks: Vec<Ask> = (0..3).map(|_| writer.append(entries(writer.end().index + 1, 1, 1))).collect();
    // The first of three never arrives; the others do.
    let late: Vec<Outcome> = asks[1..].iter().map(|ask| world.execute(&ask.request)).collect();
    assert_eq!(late[0], Outcome::Refused(Refusal { op: 1, reason: Reason::NoNode }));
    assert!(world.settle(&mut writer, asks[0].tag, unknown()).is_empty());
    assert!(!writer.must_reissue(), "issued again while later ones are outstanding");
    for (ask, outcome) in asks[1..].iter().zip(late) {
        assert!(world.settle(&mut writer, ask.tag, outcome).is_empty());
    }
    assert!(writer.must_reissue());
    let mut events = Vec::new();
    for ask in writer.reissue() {
        let outcome = world.execute(&ask.request);
        events.extend(world.settle(&mut writer, ask.tag, outcome));
    }
    assert_eq!(acknowledged(&events), Some(4));
    assert_eq!(world.tail_of_observer().end.index, 4);
}

impl World {
    fn tail_of_observer(&mut self) -> Tail {
        match self.read(false, Position::START) {
            End::Done(tail) => *tail,
            other => panic!("not read: {other:?}"),
        }
    }
}

#[test]
fn an_append_whose_reply_was_lost_is_acknowledged_once_it_is_found() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    let ask = writer.append(entries(1, 2, 1));
    assert_eq!(world.execute(&ask.request), Outcome::Ok(Reply::Done));
    world.settle(&mut writer, ask.tag, unknown());
    let again = writer.reissue();
    let outcome = world.execute(&again[0].request);
    assert!(matches!(&outcome, Outcome::Refused(refusal) if refusal.reason == Reason::NodeExists), "{outcome:?}");
    let events = world.settle(&mut writer, again[0].tag, outcome);
    assert_eq!(events, [WriterEvent::Acknowledged { index: 2 }], "found, but not confirmed as a fence");
}

#[test]
fn other_bytes_under_an_own_name_are_a_conflict() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    world.append(&mut writer, 1);
    let wal = WalName { term: 1, node: 1 };
    let (foreign, _) = segment::encode(
        UUID,
        1,
        1,
        writer.end(),
        entries(2, 1, 1)
            .into_iter()
            .map(|mut entry| {
                entry.data = Bytes::from_static(b"foreign");
                entry
            })
            .collect(),
    );
    let path = world.paths.segment(wal, 1, 2);
    assert_eq!(world.execute(&Request::Multi(vec![create(&path, foreign)])), Outcome::Ok(Reply::Done));
    assert_eq!(world.append(&mut writer, 1), [WriterEvent::Conflict { path }]);
}

#[test]
fn a_leadership_that_read_short_collides_at_the_mark_before_anything_is_acknowledged() {
    let mut world = World::new();
    let (mut first, tail) = world.lead(1);
    world.append(&mut first, 1);
    world.seal(2);
    // As if a lagging server had hidden the first leadership's segment.
    let wal = WalName { term: 2, node: 2 };
    let mut short = Writer::new(world.paths.clone(), UUID, wal, world.version, tail.last, tail.end);
    let events = world.append(&mut short, 1);
    assert!(matches!(&events[..], [WriterEvent::ReadShort { .. }]), "{events:?}");
    assert_eq!(world.tail().end, first.end(), "the short leadership left a segment");
}

#[test]
fn a_missing_segment_is_damage_by_name_and_never_the_end_of_the_log() {
    for missing in 1..=3u64 {
        let mut world = World::new();
        let (mut writer, _) = world.lead(1);
        for _ in 0..4 {
            world.append(&mut writer, 1);
        }
        let path = world.paths.segment(WalName { term: 1, node: 1 }, missing - 1, missing);
        world.zoo.tamper(&path, None);
        world.seal(2);
        let end = world.read(true, Position::START);
        assert!(matches!(&end, End::Damaged { index, .. } if *index == missing), "missing {missing}: {end:?}");
    }
}

#[test]
fn a_damaged_segment_is_damage_by_name() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    world.append(&mut writer, 2);
    let path = world.paths.segment(WalName { term: 1, node: 1 }, 0, 1);
    world.zoo.tamper(&path, Some(Bytes::from_static(b"not a segment at all")));
    world.seal(2);
    match world.read(true, Position::START) {
        End::Damaged { path: found, index: 1, .. } => assert_eq!(found, path),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wal_that_ends_before_the_committed_index_went_backwards() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    world.append(&mut writer, 2);
    let backup = world.zoo.backup();
    let version = world.version;
    world.append(&mut writer, 2);
    let committed = writer.end();
    world.zoo.roll_back(&backup);
    world.session = world.zoo.connect(0);
    world.version = version;
    world.seal(2);
    let end = world.read(true, committed);
    assert!(matches!(&end, End::Behind { found } if found.index == 2), "{end:?}");
}

#[test]
fn another_entry_at_the_committed_index_is_told_by_hash_not_by_index() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    world.append(&mut writer, 3);
    let mut elsewhere = Position::START;
    for entry in entries(1, 3, 7) {
        elsewhere = elsewhere.next(&entry);
    }
    world.seal(2);
    let end = world.read(true, elsewhere);
    assert!(matches!(end, End::Diverged { index: 3 }), "{end:?}");
}

#[test]
fn a_pass_ends_as_lost_once_somebody_else_sealed() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    world.append(&mut writer, 1);
    world.seal(2);
    world.version -= 1;
    assert!(matches!(world.read(false, Position::START), End::Lost));
}

#[test]
fn what_is_known_locally_is_not_read_again() {
    let mut world = World::new();
    let (mut writer, _) = world.lead(1);
    for _ in 0..10 {
        world.append(&mut writer, 1);
    }
    let committed = Position { index: 9, ..Position::START };
    let mut position = Position::START;
    for entry in entries(1, 9, 1) {
        position = position.next(&entry);
    }
    assert_eq!(position.index, committed.index);
    world.seal(2);
    match world.read(true, position) {
        End::Done(tail) => {
            assert_eq!(tail.entries.len(), 1);
            assert_eq!(tail.base, position);
        }
        other => panic!("{other:?}"),
    }
}

// ---- archive ------------------------------------------------------------------------------------------------------

struct Keeping {
    archive: Archive,
    clock: Duration,
}

impl World {
    fn archive(&self, tail: &Tail, ballot: &Ballot) -> Keeping {
        let wal = WalName { term: ballot.term, node: ballot.node };
        let header = wal_header(ballot);
        let archive = Archive::new(self.paths.clone(), UUID, self.version, wal, header, tail);
        Keeping { archive, clock: Duration::ZERO }
    }

    fn run(&mut self, keeping: &mut Keeping, step: (Vec<Ask>, Vec<ArchiveEvent>)) -> Vec<ArchiveEvent> {
        let (asks, mut events) = step;
        let mut queue = VecDeque::from(asks);
        loop {
            while let Some(ask) = queue.pop_front() {
                let outcome = self.execute(&ask.request);
                let (more, news) = keeping.archive.take(ask.tag, SESSION, outcome);
                queue.extend(more);
                events.extend(news);
            }
            keeping.clock += Duration::from_secs(1);
            let (more, news) = keeping.archive.advance(keeping.clock);
            events.extend(news);
            if more.is_empty() {
                return events;
            }
            queue.extend(more);
        }
    }

    fn snapshot(&mut self, keeping: &mut Keeping, base: Position, chunks: &[&'static [u8]]) -> Vec<ArchiveEvent> {
        let idle = keeping.archive.advance(keeping.clock);
        let mut events = self.run(keeping, idle);
        keeping.archive.begin(base, vec![1, 2]);
        for chunk in chunks {
            let step = keeping.archive.chunk(Bytes::from_static(chunk));
            events.extend(self.run(keeping, step));
        }
        let step = keeping.archive.end();
        events.extend(self.run(keeping, step));
        events
    }

    fn count(&self, below: &str) -> usize {
        self.zoo.head().below(below).filter(|(path, _)| *path != below).count()
    }
}

#[test]
fn trimming_leaves_what_the_previous_snapshot_does_not_cover_and_the_last_segment() {
    let mut world = World::new();
    let ballot = world.seal(1);
    let tail = world.tail();
    let wal = WalName { term: 1, node: 1 };
    let mut writer = Writer::new(world.paths.clone(), UUID, wal, world.version, tail.last, tail.end);
    let mut keeping = world.archive(&tail, &ballot);
    let mut positions = vec![Position::START];
    for round in 0..6 {
        world.append(&mut writer, 1);
        positions.push(writer.end());
        let done = writer.take_done();
        if round == 0 {
            keeping.archive.marked(writer.previous());
        }
        keeping.archive.acknowledged(done);
    }
    let published = |events: &[ArchiveEvent]| events.iter().any(|event| matches!(event, ArchiveEvent::Published(_)));
    assert!(published(&world.snapshot(&mut keeping, positions[3], &[b"one", b"two"])));
    assert_eq!(world.count(&world.paths.wal(wal)), 7, "six segments and a bucket: one snapshot trims nothing");
    assert!(published(&world.snapshot(&mut keeping, positions[6], &[b"one", b"three"])));
    assert_eq!(world.count(&world.paths.wal(wal)), 4, "segments 4 to 6 and a bucket");
    assert!(world.zoo.head().get(&world.paths.wal(WalName::ROOT)).is_none(), "the root WAL is covered wholly");
    assert_eq!(world.zoo.head().get(&world.paths.wal(wal)).map(|znode| znode.stat().version), Some(1));
    // A stranger with nothing at all reads snapshot and rest.
    world.seal(2);
    match world.read(true, Position::START) {
        End::Done(tail) => {
            assert_eq!(tail.base, positions[6]);
            assert_eq!(tail.end, positions[6]);
            assert_eq!(tail.snapshot.map(|manifest| manifest.chunks.len()), Some(2));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn chunks_are_stored_once_and_collected_when_no_snapshot_needs_them() {
    let mut world = World::new();
    let ballot = world.seal(1);
    let tail = world.tail();
    let wal = WalName { term: 1, node: 1 };
    let mut writer = Writer::new(world.paths.clone(), UUID, wal, world.version, tail.last, tail.end);
    let mut keeping = world.archive(&tail, &ballot);
    for (round, chunks) in [[b"same", b"aaaa"], [b"same", b"bbbb"], [b"same", b"cccc"]].into_iter().enumerate() {
        world.append(&mut writer, 1);
        if round == 0 {
            keeping.archive.marked(writer.previous());
        }
        keeping.archive.acknowledged(writer.take_done());
        let chunks: Vec<&'static [u8]> = chunks.into_iter().map(|chunk| &chunk[..]).collect();
        world.snapshot(&mut keeping, writer.end(), &chunks);
    }
    let chunks = world.paths.chunks();
    assert_eq!(world.count(&chunks), 3, "same, bbbb, cccc");
    let collected = world.paths.chunk(blake3::hash(b"aaaa").as_bytes());
    assert!(world.zoo.head().get(&collected).is_none(), "aaaa belongs to no snapshot any more");
    assert_eq!(world.count(&world.paths.manifests()), 2);
}

#[test]
fn a_late_copy_of_a_deletion_cannot_take_what_a_later_upload_brought_back() {
    let mut world = World::new();
    let ballot = world.seal(1);
    let tail = world.tail();
    let wal = WalName { term: 1, node: 1 };
    let mut writer = Writer::new(world.paths.clone(), UUID, wal, world.version, tail.last, tail.end);
    let mut keeping = world.archive(&tail, &ballot);
    for (round, chunk) in [b"aaaa", b"bbbb", b"cccc", b"aaaa"].into_iter().enumerate() {
        world.append(&mut writer, 1);
        if round == 0 {
            keeping.archive.marked(writer.previous());
        }
        keeping.archive.acknowledged(writer.take_done());
        world.snapshot(&mut keeping, writer.end(), &[&chunk[..]]);
    }
    let again = world.paths.chunk(blake3::hash(b"aaaa").as_bytes());
    let deletes = |request: &&Request| {
        matches!(request, Request::Multi(ops)
            if ops.iter().any(|op| matches!(op, Op::Delete { path, .. } if *path == again)))
    };
    let late: Vec<Request> = world.sent.iter().filter(deletes).cloned().collect();
    assert_eq!(late.len(), 1, "collected once");
    assert_eq!(world.execute(&late[0]), Outcome::Refused(Refusal { op: 1, reason: Reason::BadVersion }));
    assert!(world.zoo.head().get(&again).is_some(), "the newest snapshot needs it");
}

#[test]
fn a_late_copy_of_a_manifest_is_refused_once_the_pointer_names_it() {
    let mut world = World::new();
    let ballot = world.seal(1);
    let tail = world.tail();
    let wal = WalName { term: 1, node: 1 };
    let mut writer = Writer::new(world.paths.clone(), UUID, wal, world.version, tail.last, tail.end);
    let mut keeping = world.archive(&tail, &ballot);
    world.append(&mut writer, 1);
    keeping.archive.marked(writer.previous());
    keeping.archive.acknowledged(writer.take_done());
    let manifest = world.paths.manifest(writer.end().index, writer.end().term);
    // Left by an upload that was given up: it is replaced.
    assert_eq!(world.execute(&Request::Multi(vec![create(&manifest, Bytes::new())])), Outcome::Ok(Reply::Done));
    world.sent.clear();
    world.snapshot(&mut keeping, writer.end(), &[b"state"]);
    let makes =
        |request: &&Request| matches!(request, Request::Multi(ops) if ops.iter().any(|op| op.path() == manifest));
    let late: Vec<Request> = world.sent.iter().filter(makes).cloned().collect();
    assert_eq!(late.len(), 2, "refused, then replaced");
    for request in late {
        assert_eq!(world.execute(&request), Outcome::Refused(Refusal { op: 1, reason: Reason::BadVersion }));
    }
}

#[test]
fn a_late_copy_of_a_trimmed_first_segment_is_refused() {
    let mut world = World::new();
    let ballot = world.seal(1);
    let tail = world.tail();
    let wal = WalName { term: 1, node: 1 };
    let mut writer = Writer::new(world.paths.clone(), UUID, wal, world.version, tail.last, tail.end);
    let mut keeping = world.archive(&tail, &ballot);
    let late = writer.append(entries(1, 1, 1));
    let outcome = world.execute(&late.request);
    world.settle(&mut writer, late.tag, outcome);
    keeping.archive.marked(writer.previous());
    for _ in 0..2 {
        world.append(&mut writer, 1);
        keeping.archive.acknowledged(writer.take_done());
        world.snapshot(&mut keeping, writer.end(), &[b"state"]);
    }
    assert!(world.zoo.head().get(&world.paths.segment(wal, 0, 1)).is_none(), "the first segment is trimmed");
    assert_eq!(
        world.execute(&late.request),
        Outcome::Refused(Refusal { op: 1, reason: Reason::BadVersion }),
        "the header's version must refuse it"
    );
}

#[test]
fn an_upload_under_a_lower_ballot_is_fenced_and_the_pointer_stays() {
    let mut world = World::new();
    let (mut writer, tail) = world.lead(1);
    let ballot = Ballot { format: FORMAT, uuid: UUID.to_bytes(), term: 1, node: 1, ..Ballot::default() };
    let mut keeping = world.archive(&tail, &ballot);
    world.append(&mut writer, 1);
    let idle = keeping.archive.advance(Duration::ZERO);
    world.run(&mut keeping, idle);
    world.seal(2);
    let events = world.snapshot(&mut keeping, writer.end(), &[b"state"]);
    assert!(events.contains(&ArchiveEvent::Fenced), "{events:?}");
    let pointer = world.zoo.head().get(&world.paths.pointer()).map(|znode| znode.stat().version);
    assert_eq!(pointer, Some(0));
}
