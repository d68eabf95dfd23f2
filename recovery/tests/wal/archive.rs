//! What a leader may publish and delete, and which late copies of it are refused.

use std::collections::VecDeque;
use std::time::Duration;

use bequest_recovery::archive::{Archive, ArchiveEvent};
use bequest_recovery::ballot::wal_header;
use bequest_recovery::entry::Position;
use bequest_recovery::keeper::{Op, Outcome, Reason, Refusal, Reply, Request, SessionNumber};
use bequest_recovery::path::WalName;
use bequest_recovery::reader::Ask;
use bequest_recovery::writer::Writer;
use bytes::Bytes;

use crate::world::{create, done, entries, World, SESSION, UUID};

/// A leadership that writes, and keeps the archive.
pub(crate) struct Keeping {
    pub(crate) wal: WalName,
    pub(crate) writer: Writer,
    pub(crate) archive: Archive,
    marked: bool,
    clock: Duration,
}

/// On which session a request is answered, and how.
pub(crate) type Answering<'a> = &'a mut dyn FnMut(&mut World, &Request) -> (SessionNumber, Outcome);

/// As a keeper does that nothing happens to.
fn well(world: &mut World, request: &Request) -> (SessionNumber, Outcome) {
    (SESSION, world.execute(request))
}

impl World {
    /// Seals, reads, and begins a WAL and the archive's care.
    pub(crate) fn keep(&mut self, node: u64) -> Keeping {
        self.keep_from(node, Position::START)
    }

    /// The same for a node whose own log is right up to here.
    pub(crate) fn keep_from(&mut self, node: u64, committed: Position) -> Keeping {
        let ballot = self.seal(node);
        let tail = done(self.read(true, committed));
        let wal = WalName { term: ballot.term, node };
        let writer = Writer::new(self.paths.clone(), UUID, wal, self.version, tail.last, tail.end);
        let archive = Archive::new(self.paths.clone(), UUID, self.version, wal, wal_header(&ballot), &tail);
        Keeping { wal, writer, archive, marked: false, clock: Duration::ZERO }
    }

    /// Appends one entry and lets the archive know.
    pub(crate) fn append_kept(&mut self, keeping: &mut Keeping) {
        self.append(&mut keeping.writer, 1);
        if !std::mem::replace(&mut keeping.marked, true) {
            keeping.archive.marked(keeping.writer.previous());
        }
        keeping.archive.acknowledged(keeping.writer.take_done());
    }

    /// Lets time pass until the archive has nothing to do.
    pub(crate) fn settle_archive(&mut self, keeping: &mut Keeping, answering: Answering<'_>) -> Vec<ArchiveEvent> {
        let step = keeping.archive.advance(keeping.clock);
        self.run(keeping, step, answering)
    }

    fn run(
        &mut self,
        keeping: &mut Keeping,
        step: (Vec<Ask>, Vec<ArchiveEvent>),
        answering: Answering<'_>,
    ) -> Vec<ArchiveEvent> {
        let (asks, mut events) = step;
        let mut queue = VecDeque::from(asks);
        loop {
            while let Some(ask) = queue.pop_front() {
                let (session, outcome) = answering(self, &ask.request);
                let (more, news) = keeping.archive.take(ask.tag, session, outcome);
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

    /// Publishes a snapshot of everything written.
    fn snapshot(&mut self, keeping: &mut Keeping, chunks: &[&'static [u8]]) -> Vec<ArchiveEvent> {
        self.snapshot_at(keeping, keeping.writer.end(), chunks)
    }

    pub(crate) fn snapshot_at(
        &mut self,
        keeping: &mut Keeping,
        base: Position,
        chunks: &[&'static [u8]],
    ) -> Vec<ArchiveEvent> {
        self.snapshot_answered(keeping, base, chunks, &mut well)
    }

    pub(crate) fn snapshot_answered(
        &mut self,
        keeping: &mut Keeping,
        base: Position,
        chunks: &[&'static [u8]],
        answering: Answering<'_>,
    ) -> Vec<ArchiveEvent> {
        let mut events = self.settle_archive(keeping, answering);
        keeping.archive.begin(base, vec![1, 2]);
        for chunk in chunks {
            let step = keeping.archive.chunk(Bytes::from_static(chunk));
            events.extend(self.run(keeping, step, answering));
        }
        let step = keeping.archive.end();
        events.extend(self.run(keeping, step, answering));
        events
    }

    fn count(&self, below: &str) -> usize {
        self.zoo.head().below(below).filter(|(path, _)| *path != below).count()
    }

    /// Sends a late copy of what was sent before: the version it checks has moved on.
    fn assert_refused(&mut self, late: &Request, why: &str) {
        let refused = Outcome::Refused(Refusal { op: 1, reason: Reason::BadVersion });
        assert_eq!(self.execute(late), refused, "{why}");
    }
}

#[test]
fn trimming_leaves_what_the_previous_snapshot_does_not_cover_and_the_last_segment() {
    let mut world = World::new();
    let mut keeping = world.keep(1);
    let wal = keeping.wal;
    let mut positions = vec![Position::START];
    for _ in 0..6 {
        world.append_kept(&mut keeping);
        positions.push(keeping.writer.end());
    }
    let published = |events: &[ArchiveEvent]| events.iter().any(|event| matches!(event, ArchiveEvent::Published(_)));
    assert!(published(&world.snapshot_at(&mut keeping, positions[3], &[b"one", b"two"])));
    assert_eq!(world.count(&world.paths.wal(wal)), 7, "six segments and a bucket: one snapshot trims nothing");
    assert!(published(&world.snapshot_at(&mut keeping, positions[6], &[b"one", b"three"])));
    assert_eq!(world.count(&world.paths.wal(wal)), 4, "segments 4 to 6 and a bucket");
    assert!(world.zoo.head().get(&world.paths.wal(WalName::ROOT)).is_none(), "the root WAL is covered wholly");
    assert_eq!(world.zoo.head().get(&world.paths.wal(wal)).map(|znode| znode.stat().version), Some(1));
    // A stranger with nothing at all reads snapshot and rest.
    world.seal(2);
    let tail = done(world.read(true, Position::START));
    assert_eq!(tail.base, positions[6]);
    assert_eq!(tail.end, positions[6]);
    assert_eq!(tail.snapshot.map(|manifest| manifest.chunks.len()), Some(2));
}

#[test]
fn chunks_are_stored_once_and_collected_when_no_snapshot_needs_them() {
    let mut world = World::new();
    let mut keeping = world.keep(1);
    for other in [b"aaaa", b"bbbb", b"cccc"] {
        world.append_kept(&mut keeping);
        world.snapshot(&mut keeping, &[b"same", other]);
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
    let mut keeping = world.keep(1);
    for chunk in [b"aaaa", b"bbbb", b"cccc", b"aaaa"] {
        world.append_kept(&mut keeping);
        world.snapshot(&mut keeping, &[chunk]);
    }
    let again = world.paths.chunk(blake3::hash(b"aaaa").as_bytes());
    let deletes = |request: &&Request| {
        matches!(request, Request::Multi(ops)
            if ops.iter().any(|op| matches!(op, Op::Delete { path, .. } if *path == again)))
    };
    let late: Vec<Request> = world.sent.iter().filter(deletes).cloned().collect();
    assert_eq!(late.len(), 1, "collected once");
    world.assert_refused(&late[0], "the sweep was closed");
    assert!(world.zoo.head().get(&again).is_some(), "the newest snapshot needs it");
}

#[test]
fn a_late_copy_of_a_manifest_is_refused_once_the_pointer_names_it() {
    let mut world = World::new();
    let mut keeping = world.keep(1);
    world.append_kept(&mut keeping);
    let end = keeping.writer.end();
    let manifest = world.paths.manifest(end.index, end.term);
    // Left by an upload that was given up: it is replaced.
    assert_eq!(world.execute(&Request::Multi(vec![create(&manifest, Bytes::new())])), Outcome::Ok(Reply::Done));
    world.sent.clear();
    world.snapshot(&mut keeping, &[b"state"]);
    let makes =
        |request: &&Request| matches!(request, Request::Multi(ops) if ops.iter().any(|op| op.path() == manifest));
    let late: Vec<Request> = world.sent.iter().filter(makes).cloned().collect();
    assert_eq!(late.len(), 2, "refused, then replaced");
    for request in late {
        world.assert_refused(&request, "the pointer has moved");
    }
}

#[test]
fn a_late_copy_of_a_trimmed_first_segment_is_refused() {
    let mut world = World::new();
    let mut keeping = world.keep(1);
    let late = keeping.writer.append(entries(1, 1, 1));
    let outcome = world.execute(&late.request);
    world.settle(&mut keeping.writer, late.tag, outcome);
    for _ in 0..2 {
        world.append_kept(&mut keeping);
        world.snapshot(&mut keeping, &[b"state"]);
    }
    assert!(world.zoo.head().get(&world.paths.segment(keeping.wal, 0, 1)).is_none(), "the first segment is trimmed");
    world.assert_refused(&late.request, "the header's version must refuse it");
}

#[test]
fn an_upload_under_a_lower_ballot_is_fenced_and_the_pointer_stays() {
    let mut world = World::new();
    let mut keeping = world.keep(1);
    world.append(&mut keeping.writer, 1);
    world.settle_archive(&mut keeping, &mut well);
    world.seal(2);
    let events = world.snapshot(&mut keeping, &[b"state"]);
    assert!(events.contains(&ArchiveEvent::Fenced), "{events:?}");
    let pointer = world.zoo.head().get(&world.paths.pointer()).map(|znode| znode.stat().version);
    assert_eq!(pointer, Some(0));
}
