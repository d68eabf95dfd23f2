use bequest_recovery::entry::{EntryHash, Position};
use bequest_storage::Options;
use bytes::Bytes;

use super::*;
use crate::driver::inbox::inbox;
use crate::replica::event::Birth;

mod power;

const LIMIT: Duration = Duration::from_secs(20);

fn start(dir: &std::path::Path) -> (Disk, Store, Receiver<Input>) {
    let (store, _) = Store::open(dir, Options::default()).expect("opens");
    let (inbox, inputs) = inbox();
    (Disk::start(store.clone(), 1, DiskSync::Background, inbox).expect("threads"), store, inputs)
}

fn persist(number: u64, first: u64, entries: u64) -> Box<Persist> {
    let entry = |index| Entry { index, term: 1, kind: 0, data: vec![7; 300_000].into(), context: Bytes::new() };
    let entries = (first..first + entries).map(|index| (entry(index), EntryHash([1; 16]))).collect();
    Box::new(Persist { number, entries, ..Persist::default() })
}

fn birth(uuid: u8) -> Option<Birth> {
    Some(Birth { name: format!("g{uuid}"), uuid: Uuid([uuid; 16]), genesis_czxid: 5 })
}

#[test]
fn many_effects_of_many_groups_are_written_and_answered() {
    let dir = tempfile::tempdir().expect("a directory");
    let (disk, store, inputs) = start(dir.path());
    let groups = [GroupNumber(1), GroupNumber(2)];
    for (uuid, group) in (1..).zip(groups) {
        let first = Persist { birth: birth(uuid), ..*persist(1, 1, 1) };
        disk.jobs.send(DiskJob::Persist(group, Box::new(first))).expect("runs");
        for number in 2..=20 {
            disk.jobs.send(DiskJob::Persist(group, persist(number, number, 1))).expect("runs");
        }
    }
    let mut done = HashMap::new();
    while groups.iter().any(|group| done.get(group) != Some(&20)) {
        match inputs.recv_timeout(LIMIT).expect("an answer") {
            Input::Event(Event::Persisted { group, number }) => {
                assert!(done.insert(group, number).is_none_or(|before| before < number), "numbers ascend");
            }
            _ => panic!("nothing else was asked for"),
        }
    }
    disk.jobs.send(DiskJob::Fetch { group: groups[1], low: 3, high: 20 }).expect("runs");
    match inputs.recv_timeout(LIMIT).expect("an answer") {
        Input::Event(Event::LogFetched { group, entries }) => {
            let indexes: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
            assert_eq!((group, indexes), (groups[1], vec![3, 4, 5]), "as many as fit in a MiB");
        }
        _ => panic!("a fetch is answered"),
    }
    drop(disk);
    for uuid in [1, 2] {
        let log = store.load([uuid; 16], 0).expect("readable").expect("there");
        assert_eq!((log.meta.name, log.entries.len()), (format!("g{uuid}"), 20));
    }
}

#[test]
fn what_is_known_of_zookeeper_comes_back_as_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let (disk, store, _inputs) = start(dir.path());
    let position = Position { index: 1, term: 1, hash: EntryHash([1; 16]) };
    let known = Some(crate::replica::event::Known { term: 9, position });
    let first = Persist { birth: birth(1), known, hard_state: Some((9, 1)), ..*persist(1, 1, 1) };
    disk.jobs.send(DiskJob::Persist(GroupNumber(1), Box::new(first))).expect("runs");
    drop(disk);
    let log = store.load([1; 16], 0).expect("readable").expect("there");
    assert_eq!(log.known, Some(Known { term: 9, index: 1, entry_term: 1, hash: [1; 16] }));
    assert_eq!(log.hard_state, HardState { term: 9, commit: 1 });
}

#[test]
fn a_write_that_fails_ends_the_node_and_is_not_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (disk, store, inputs) = start(dir.path());
    let first = Persist { birth: birth(1), ..*persist(1, 1, 1) };
    disk.jobs.send(DiskJob::Persist(GroupNumber(1), Box::new(first))).expect("runs");
    assert!(matches!(inputs.recv_timeout(LIMIT), Ok(Input::Event(Event::Persisted { number: 1, .. }))));
    store.condemn("the test says so");
    disk.jobs.send(DiskJob::Persist(GroupNumber(1), persist(2, 2, 1))).expect("queued");
    // From the writer, or from the thread that syncs if it came first.
    match inputs.recv_timeout(LIMIT).expect("an end") {
        Input::Fatal(NodeError::Disk { message }) => assert!(message.contains("the test says so"), "{message}"),
        Input::Event(Event::Persisted { number, .. }) => panic!("acknowledged {number} after the disk failed"),
        _ => panic!("nothing else was asked for"),
    }
}
