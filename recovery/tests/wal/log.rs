//! What a writer may do, and what a reader believes.

use bequest_recovery::entry::Position;
use bequest_recovery::keeper::{Outcome, Reason, Refusal, Reply, Request};
use bequest_recovery::path::WalName;
use bequest_recovery::reader::{Ask, End};
use bequest_recovery::segment;
use bequest_recovery::writer::{Writer, WriterEvent};
use bytes::Bytes;

use crate::world::{acknowledged, create, done, entries, unknown, World, UUID};

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
    let tail = done(world.read(true, position));
    assert_eq!(tail.entries.len(), 1);
    assert_eq!(tail.base, position);
}
