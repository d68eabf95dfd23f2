//! A WAL of many buckets: who took part in it lists and reads the end alone, and whoever trims lists the rest.

use bequest_recovery::entry::{EntryHash, Position};
use bequest_recovery::keeper::{Outcome, Reply, Request};
use bequest_recovery::path::{WalName, BUCKET_SEGMENTS};
use bequest_recovery::reader::{Tail, Unlisted};
use bytes::Bytes;

use crate::world::{create, done, World};

/// Segments of the first and the second leadership; the second ends just where a bucket does, so that its mark has one of
/// its own.
const LENGTHS: [u64; 2] = [2 * BUCKET_SEGMENTS + BUCKET_SEGMENTS / 2, 3 * BUCKET_SEGMENTS];

/// Two leaderships have written, a third has sealed and written one segment.
fn world() -> World {
    let mut world = World::new();
    for (node, segments) in [(1, LENGTHS[0]), (2, LENGTHS[1]), (1, 1)] {
        let mut keeping = world.keep(node);
        (0..segments).for_each(|_| world.append_kept(&mut keeping));
    }
    world
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
