//! A WAL of many buckets: who took part in it lists and reads the end alone, and whoever trims lists the rest.

use std::collections::BTreeSet;

use bequest_recovery::archive::ArchiveEvent;
use bequest_recovery::entry::{EntryHash, Position};
use bequest_recovery::keeper::{Op, Outcome, Reason, Refusal, Reply, Request, SessionNumber};
use bequest_recovery::path::{WalName, BUCKET_SEGMENTS};
use bequest_recovery::reader::{Tail, Unlisted};
use bytes::Bytes;

use crate::archive::Keeping;
use crate::world::{create, done, unknown, World, SESSION};

/// Segments of the first and the second leadership; the second ends just where a bucket does, so that its mark has one of
/// its own.
const LENGTHS: [u64; 2] = [2 * BUCKET_SEGMENTS + BUCKET_SEGMENTS / 2, 3 * BUCKET_SEGMENTS];

/// Two leaderships have written, a third has sealed and written one segment.
fn world() -> World {
    world_and_its_leader().0
}

fn world_and_its_leader() -> (World, Keeping) {
    let mut world = World::new();
    let [_, _, third] = [(1, LENGTHS[0]), (2, LENGTHS[1]), (1, 1)].map(|(node, segments)| {
        let mut keeping = world.keep(node);
        (0..segments).for_each(|_| world.append_kept(&mut keeping));
        keeping
    });
    (world, third)
}

fn position(tail: &Tail, index: u64) -> Position {
    let (entry, hash): &(_, EntryHash) = &tail.entries[index as usize - 1];
    assert_eq!(entry.index, index);
    Position { index, term: entry.term, hash: *hash }
}

fn listings(requests: &[Request]) -> usize {
    requests.iter().filter(|request| matches!(request, Request::Children { .. })).count()
}

#[test]
fn whatever_a_reader_knows_it_finds_the_same_end_and_everything_behind_that() {
    let mut world = world();
    let all = world.tail_of_observer();
    let last = LENGTHS[0] + LENGTHS[1] + 1;
    assert_eq!(all.end.index, last);
    // Around every border of a bucket or a WAL, and here and there.
    let borders = (0..=last).filter(|index| {
        let own = index.checked_sub(LENGTHS[0]).unwrap_or(*index);
        own % BUCKET_SEGMENTS <= 2 || own % BUCKET_SEGMENTS >= BUCKET_SEGMENTS - 2 || index % 61 == 0
    });
    for index in borders.filter(|index| *index > 0) {
        let known = position(&all, index);
        let tail = done(world.read(false, known));
        assert_eq!((tail.base, tail.end, tail.last), (known, all.end, all.last), "{index}");
        assert_eq!(tail.entries[..], all.entries[index as usize..], "{index}");
    }
}

#[test]
fn who_knows_nearly_everything_lists_the_last_bucket_alone() {
    let mut world = world();
    let all = world.tail_of_observer();
    let lists = |world: &mut World, index| {
        let before = world.sent.len();
        let known = if index == 0 { Position::START } else { position(&all, index) };
        let tail = done(world.read(false, known));
        (listings(&world.sent[before..]), tail.wals.iter().filter(|wal| wal.unlisted == Unlisted::All).count())
    };
    // The WALs, the last one's buckets, and its bucket.
    assert_eq!(lists(&mut world, all.end.index), (1 + 1 + 1, 3));
    let all_buckets = 1 + 3 + 4 + 1;
    assert_eq!(lists(&mut world, 0), (1 + 4 + all_buckets, 0));
}

#[test]
fn a_leader_that_listed_the_end_alone_trims_as_one_that_listed_everything() {
    let left = [true, false].map(|informed| {
        let mut world = world();
        let all = world.tail_of_observer();
        let known = if informed { all.end } else { Position::START };
        let mut keeping = world.keep_from(2, known);
        (0..3).for_each(|_| world.append_kept(&mut keeping));
        // In the midst of the second WAL's second bucket.
        let covered = position(&all, LENGTHS[0] + BUCKET_SEGMENTS + BUCKET_SEGMENTS / 2);
        world.snapshot_at(&mut keeping, covered, &[b"one"]);
        assert_eq!(keeping.archive.segments(), LENGTHS[0] + LENGTHS[1] + 1 + 3 + 4, "segments and marks");
        let newest = keeping.writer.end();
        world.snapshot_at(&mut keeping, newest, &[b"two"]);
        assert!(keeping.archive.segments() < LENGTHS[1]);
        let tree: Vec<String> = world.zoo.head().below(&world.paths.wals()).map(|(path, _)| path.to_string()).collect();
        (keeping.archive.segments(), tree)
    });
    assert_eq!(left[0], left[1]);
}

#[test]
fn what_others_put_below_an_old_wal_is_left_alone_and_hinders_no_trim() {
    let mut world = world();
    let all = world.tail_of_observer();
    let old = WalName { term: 1, node: 1 };
    let foreign = [
        world.paths.segment(old, 0, 0),
        format!("{}/notes", world.paths.bucket(old, 0)),
        format!("{}/notes", world.paths.wal(old)),
    ];
    for path in &foreign {
        assert_eq!(world.execute(&Request::Multi(vec![create(path, Bytes::new())])), Outcome::Ok(Reply::Done));
    }
    let mut keeping = world.keep_from(2, all.end);
    (0..3).for_each(|_| world.append_kept(&mut keeping));
    for (at, chunk) in [(all.end, b"one"), (keeping.writer.end(), b"two")] {
        world.snapshot_at(&mut keeping, at, &[chunk]);
    }
    let below = world.paths.wal(old);
    let left = world.zoo.head().below(&below).map(|(path, _)| path.to_string());
    let left: Vec<String> =
        left.filter(|path| path.contains("notes") || path.ends_with("/00000000000000000000")).collect();
    assert_eq!(left.len(), foreign.len(), "{left:?}");
    assert!(world.zoo.head().get(&world.paths.wal(WalName::ROOT)).is_none(), "the root WAL is trimmed");
    assert!(world.zoo.head().get(&world.paths.segment(old, 1, 2)).is_none(), "so are the old one's segments");
}

/// A world in which much is to be trimmed, and the end of its log: the leadership that published two snapshots was deposed
/// before it deleted anything.
fn untrimmed_world() -> (World, Position) {
    let (mut world, mut third) = world_and_its_leader();
    let all = world.tail_of_observer();
    let mut deposed = |world: &mut World, request: &Request| {
        let fenced = Refusal { op: 0, reason: Reason::BadVersion };
        (SESSION, if deletes(request) { Outcome::Refused(fenced) } else { world.execute(request) })
    };
    let covered = position(&all, LENGTHS[0] + BUCKET_SEGMENTS + BUCKET_SEGMENTS / 2);
    for (at, chunk) in [(covered, b"one"), (all.end, b"two")] {
        let events = world.snapshot_answered(&mut third, at, &[chunk], &mut deposed);
        assert!(events.iter().any(|event| matches!(event, ArchiveEvent::Published(_))), "{events:?}");
    }
    assert!(world.zoo.head().get(&world.paths.wal(WalName::ROOT)).is_some(), "nothing is trimmed yet");
    (world, all.end)
}

fn deletes(request: &Request) -> bool {
    matches!(request, Request::Multi(ops) if ops.iter().any(|op| matches!(op, Op::Delete { .. })))
}

/// What becomes of listings of old WALs.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// So many are answered before.
    after: usize,
    /// The outcomes of so many are unknown.
    lost: usize,
    /// On which session requests are answered from then on.
    session: SessionNumber,
}

/// What a new leader's first activity did.
#[derive(Debug, PartialEq, Eq)]
struct Activity {
    /// WALs and buckets that were listed when the first deletion was asked for.
    listed: BTreeSet<String>,
    /// What was left of all WALs.
    left: Vec<String>,
    /// How often it began to list.
    opened: usize,
    /// Listings whose outcomes were unknown.
    lost: usize,
}

fn first_activity(world: &mut World, end: Position, trouble: Trouble) -> Activity {
    let mut keeping = world.keep_from(2, end);
    (0..3).for_each(|_| world.append_kept(&mut keeping));
    let (mut listed, mut opened, mut lost, mut answered, mut deleted) = (BTreeSet::new(), 0, 0, 0, false);
    let wals = world.paths.wals();
    let events = world.settle_archive(&mut keeping, &mut |world, request| {
        let troubled = answered >= trouble.after;
        let session = if troubled && lost > 0 { trouble.session } else { SESSION };
        match request {
            Request::Children { path, .. } if path.starts_with(&wals) => {
                if troubled && lost < trouble.lost {
                    lost += 1;
                    return (session, unknown());
                }
                answered += 1;
                assert!(!deleted, "listed behind a deletion: {path}");
                listed.insert(path.clone());
            }
            Request::Multi(ops) if ops.len() == 1 => opened += 1,
            request => deleted |= deletes(request),
        }
        (session, world.execute(request))
    });
    assert!(deleted && events.is_empty(), "{events:?}");
    let left = world.zoo.head().below(&wals).map(|(path, _)| path.to_string()).collect();
    Activity { listed, left, opened, lost }
}

#[test]
fn a_listing_whose_outcome_is_unknown_is_asked_again_on_whatever_session_before_anything_is_trimmed() {
    let (mut world, end) = untrimmed_world();
    let (backup, version, term) = (world.zoo.backup(), world.version, world.term);
    let mut activity = |trouble| {
        world.zoo.roll_back(&backup);
        (world.session, world.version, world.term) = (world.zoo.connect(0), version, term);
        first_activity(&mut world, end, trouble)
    };
    let well = activity(Trouble { after: 0, lost: 0, session: SESSION });
    // Three WALs that the takeover did not look at, and their buckets.
    assert_eq!((well.listed.len(), well.opened), (3 + 1 + 3 + 4, 1));
    let next = SessionNumber(SESSION.0 + 1);
    for after in 0..well.listed.len() {
        // That one alone, or whatever else is on its way too.
        for (lost, session) in [(1, SESSION), (1, next), (20, SESSION), (20, next)] {
            let trouble = Trouble { after, lost, session };
            let Activity { listed, left, opened, lost: found } = activity(trouble);
            assert_eq!(found, lost, "{trouble:?}");
            assert_eq!((&listed, &left), (&well.listed, &well.left), "{trouble:?}");
            // What one session shows may be older than what another has shown.
            assert_eq!(opened, if session == SESSION { 1 } else { 2 }, "{trouble:?}");
        }
    }
}

#[test]
fn an_old_wal_without_its_mark_keeps_a_last_segment_that_is_covered_in_part() {
    let mut world = World::new();
    let mut first = world.keep(1);
    (0..2).for_each(|_| world.append_kept(&mut first));
    world.append(&mut first.writer, 5);
    for node in [2, 1] {
        let mut keeping = world.keep(node);
        (0..2).for_each(|_| world.append_kept(&mut keeping));
    }
    let all = world.tail_of_observer();
    let mark = world.paths.segment(first.wal, 3, 8);
    assert!(world.zoo.head().get(&mark).is_some());
    world.zoo.tamper(&mark, None);
    let mut keeping = world.keep_from(2, all.end);
    world.append_kept(&mut keeping);
    let newest = keeping.writer.end();
    let mut left = Vec::new();
    for (at, chunk) in [(position(&all, 4), b"one"), (all.end, b"two"), (newest, b"six")] {
        world.snapshot_at(&mut keeping, at, &[chunk]);
        let there = |path: String| world.zoo.head().get(&path).is_some();
        left.push([1, 3].map(|index| there(world.paths.segment(first.wal, 0, index))));
    }
    assert_eq!(left, [[true, true], [false, true], [false, false]], "nothing, 4 and all.end are covered");
    assert!(world.zoo.head().get(&world.paths.wal(first.wal)).is_none());
}
