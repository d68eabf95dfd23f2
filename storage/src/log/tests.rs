use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::{Options, Store};

const GROUP: GroupUuid = [7; 16];
const OTHER: GroupUuid = [8; 16];

fn open(dir: &Path) -> Store {
    Store::open(dir, Options::default()).expect("opens").0
}

fn scratch() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("scratch directory");
    let store = open(&dir.path().join("data"));
    (dir, store)
}

fn meta(uuid: GroupUuid) -> GroupMeta {
    GroupMeta { uuid, name: format!("group-{}", uuid[0]), genesis_czxid: 42 }
}

fn entry(index: u64, term: u64) -> LogEntry {
    let data = Bytes::from(format!("data of {index}@{term}"));
    LogEntry { index, term, kind: 3, data, context: Bytes::from_static(b"context"), hash: hash(index, term) }
}

fn hash(index: u64, term: u64) -> [u8; 16] {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(&index.to_be_bytes());
    hash[8..].copy_from_slice(&term.to_be_bytes());
    hash
}

fn base(index: u64, term: u64) -> Base {
    Base { index, term, hash: hash(index, term) }
}

fn appended(group: GroupUuid, range: std::ops::RangeInclusive<u64>, term: u64) -> LogBatch {
    let entries = range.map(|index| entry(index, term)).collect();
    LogBatch { meta: Some(meta(group)), entries, ..LogBatch::new(group) }
}

fn positions(store: &Store, group: GroupUuid) -> Vec<(u64, u64)> {
    let log = store.load(group, 0).expect("loads").expect("is there");
    log.entries.iter().map(|slot| (slot.index, slot.term)).collect()
}

fn reopened(dir: &TempDir, store: Store) -> Store {
    drop(store);
    open(&dir.path().join("data"))
}

#[test]
fn what_was_written_is_loaded_again_after_reopening() {
    let (dir, store) = scratch();
    let mut batch = appended(GROUP, 1..=5, 2);
    batch.hard_state = Some(HardState { term: 3, commit: 4 });
    batch.known = Some(Known { term: 9, index: 5, entry_term: 8, hash: [1; 16] });
    store.write(&[batch.clone()], false).expect("writes");
    let store = reopened(&dir, store);
    let log = store.load(GROUP, u64::MAX).expect("loads").expect("is there");
    assert_eq!(log.meta, meta(GROUP));
    assert_eq!(log.base, Base::default());
    assert_eq!(log.hard_state, HardState { term: 3, commit: 4 });
    assert_eq!(log.known, Some(Known { term: 9, index: 5, entry_term: 8, hash: [1; 16] }));
    assert_eq!(log.entries.len(), 5);
    for (slot, entry) in log.entries.iter().zip(&batch.entries) {
        assert_eq!((slot.index, slot.term, slot.kind, slot.hash), (entry.index, entry.term, entry.kind, entry.hash));
        assert_eq!(slot.payload, Some((entry.data.clone(), entry.context.clone())));
        assert_eq!(slot.size, (entry.data.len() + entry.context.len()) as u64);
    }
    assert_eq!(store.entries(GROUP, 1, 6, u64::MAX).expect("reads"), batch.entries);
}

#[test]
fn a_group_never_written_loads_as_none_and_refuses_entries() {
    let (_dir, store) = scratch();
    assert_eq!(store.load(GROUP, 0).expect("loads"), None);
    let batch = LogBatch { entries: vec![entry(1, 1)], ..LogBatch::new(GROUP) };
    let error = store.write(&[batch], false).expect_err("no meta was given");
    assert!(matches!(error, StorageError::UnknownGroup { group: GROUP }), "{error}");
    let error = store.entries(GROUP, 1, 2, 1).expect_err("nothing is there");
    assert!(matches!(error, StorageError::UnknownGroup { group: GROUP }), "{error}");
}

#[test]
fn a_gap_is_refused_and_nothing_of_the_whole_write_is_done() {
    let (_dir, store) = scratch();
    store.write(&[appended(GROUP, 1..=3, 1), appended(OTHER, 1..=1, 1)], false).expect("writes");
    let error = store.write(&[appended(OTHER, 2..=2, 1), appended(GROUP, 5..=6, 1)], false).expect_err("4 is missing");
    assert!(matches!(error, StorageError::Gap { group: GROUP, expected: 4, found: 5 }), "{error}");
    let error = store.write(&[appended(GROUP, 3..=4, 1)], false).expect_err("3 is there");
    assert!(matches!(error, StorageError::Gap { expected: 4, found: 3, .. }), "{error}");
    assert_eq!(positions(&store, OTHER), [(1, 1)]);
    assert_eq!(positions(&store, GROUP).len(), 3);
    store.write(&[appended(OTHER, 2..=2, 1), appended(GROUP, 4..=4, 1)], false).expect("the store is well");
}

#[test]
fn truncation_replaces_a_suffix_in_one_write() {
    let (dir, store) = scratch();
    // Both ways of deleting: few entries one by one, many as a range.
    for last in [10, 2000] {
        store.write(&[appended(OTHER, 1..=3, 1)], false).expect("writes");
        store.write(&[appended(GROUP, 1..=last, 1)], false).expect("writes");
        let batch = LogBatch { truncate_from: Some(4), ..appended(GROUP, 4..=5, 2) };
        store.write(&[batch], false).expect("writes");
        let expected = [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)];
        assert_eq!(positions(&store, GROUP), expected);
        assert_eq!(positions(&store, OTHER), [(1, 1), (2, 1), (3, 1)]);
        store.forget(OTHER).expect("forgets");
        store.forget(GROUP).expect("forgets");
    }
    store.write(&[appended(GROUP, 1..=3, 1)], false).expect("writes");
    let behind = LogBatch { truncate_from: Some(9), ..LogBatch::new(GROUP) };
    store.write(&[behind], false).expect("nothing to truncate is no error");
    assert_eq!(positions(&reopened(&dir, store), GROUP).len(), 3);
}

#[test]
fn truncation_into_the_compacted_part_is_refused() {
    let (_dir, store) = scratch();
    store.write(&[LogBatch { compact_to: Some(base(2, 1)), ..appended(GROUP, 1..=3, 1) }], false).expect("writes");
    let error = store.write(&[LogBatch { truncate_from: Some(2), ..LogBatch::new(GROUP) }], false);
    let error = error.expect_err("2 is compacted");
    assert!(matches!(error, StorageError::InvalidBatch { index: 2, .. }), "{error}");
}

#[test]
fn compaction_moves_the_base_and_only_onto_an_entry_that_is_there() {
    let (dir, store) = scratch();
    store.write(&[appended(GROUP, 1..=1000, 1)], false).expect("writes");
    let compact = |to| LogBatch { compact_to: Some(to), ..LogBatch::new(GROUP) };
    let error = store.write(&[compact(base(1001, 1))], false).expect_err("behind the end");
    assert!(matches!(error, StorageError::InvalidBatch { index: 1001, .. }), "{error}");
    let error = store.write(&[compact(base(900, 2))], false).expect_err("other term");
    assert!(matches!(error, StorageError::InvalidBatch { index: 900, .. }), "{error}");
    store.write(&[compact(base(10, 1))], false).expect("compacts");
    store.write(&[compact(base(900, 1))], false).expect("compacts");
    store.write(&[compact(base(5, 7))], false).expect("below the base it does nothing");
    let store = reopened(&dir, store);
    let log = store.load(GROUP, 0).expect("loads").expect("is there");
    assert_eq!(log.base, base(900, 1));
    assert_eq!((log.entries.len(), log.entries[0].index), (100, 901));
    let error = store.entries(GROUP, 900, 902, 1).expect_err("900 is compacted");
    assert!(matches!(error, StorageError::Unavailable { first: 901, last: 1000, .. }), "{error}");
    // An entry of the same write can be compacted at once.
    store.write(&[LogBatch { compact_to: Some(base(1001, 2)), ..appended(GROUP, 1001..=1001, 2) }], false).expect("ok");
    assert_eq!(positions(&store, GROUP), []);
    let store = reopened(&dir, store);
    store.write(&[appended(GROUP, 1002..=1002, 2)], false).expect("goes on behind the base");
}

#[test]
fn batches_of_one_group_in_one_write_follow_each_other() {
    let (dir, store) = scratch();
    store.write(&[appended(GROUP, 1..=9, 1)], false).expect("writes");
    let replaced = LogBatch { truncate_from: Some(5), ..appended(GROUP, 5..=7, 2) };
    let compacted = |term| LogBatch { compact_to: Some(base(6, term)), ..LogBatch::new(GROUP) };
    let error = store.write(&[replaced.clone(), compacted(1)], false).expect_err("entry 6 is replaced before");
    assert!(matches!(error, StorageError::InvalidBatch { index: 6, .. }), "{error}");
    assert_eq!(positions(&store, GROUP).len(), 9, "nothing was written");
    store.write(&[replaced, compacted(2), appended(GROUP, 8..=8, 3)], false).expect("writes");
    assert_eq!(positions(&reopened(&dir, store), GROUP), [(7, 2), (8, 3)]);
}

#[test]
fn reset_begins_anew_behind_its_base() {
    let (dir, store) = scratch();
    store.write(&[appended(GROUP, 1..=9, 1)], false).expect("writes");
    store.write(&[LogBatch { reset: Some(base(100, 4)), ..appended(GROUP, 101..=102, 5) }], false).expect("resets");
    let store = reopened(&dir, store);
    let log = store.load(GROUP, 0).expect("loads").expect("is there");
    assert_eq!(log.base, base(100, 4));
    assert_eq!(positions(&store, GROUP), [(101, 5), (102, 5)]);
    store.write(&[LogBatch { reset: Some(base(3, 1)), ..appended(GROUP, 4..=4, 1) }], false).expect("also backwards");
    assert_eq!(positions(&store, GROUP), [(4, 1)]);
    let error = store.write(&[LogBatch { reset: Some(base(u64::MAX, 1)), ..LogBatch::new(GROUP) }], false);
    assert!(matches!(error, Err(StorageError::InvalidBatch { index: u64::MAX, .. })), "{error:?}");
}

#[test]
fn payloads_are_loaded_newest_first_within_the_budget() {
    let (_dir, store) = scratch();
    let batch = appended(GROUP, 1..=9, 1);
    let size = (batch.entries[0].data.len() + batch.entries[0].context.len()) as u64;
    store.write(&[batch], false).expect("writes");
    for (budget, with) in [(0, 0), (size - 1, 0), (size, 1), (size * 4 + 1, 4), (u64::MAX, 9)] {
        let log = store.load(GROUP, budget).expect("loads").expect("is there");
        let loaded: Vec<u64> =
            log.entries.iter().filter(|slot| slot.payload.is_some()).map(|slot| slot.index).collect();
        assert_eq!(loaded, (10 - with..=9).collect::<Vec<u64>>(), "budget {budget}");
    }
    assert_eq!(store.entries(GROUP, 2, 9, size * 3).expect("reads").len(), 3);
    assert_eq!(store.entries(GROUP, 2, 9, 0).expect("reads").len(), 1, "one entry always comes");
    assert_eq!(store.entries(GROUP, 3, 3, 9).expect("reads"), []);
}

#[test]
fn a_missing_or_altered_entry_is_damage_not_an_end() {
    let (_dir, store) = scratch();
    store.write(&[appended(GROUP, 1..=9, 1)], false).expect("writes");
    let database = &store.shared.database;
    let family = database.family(LOG).expect("is open");
    let good = database.get(LOG, &entry_key(&GROUP, 5)).expect("reads").expect("is there");
    for byte in 0..good.len() {
        let mut bad = good.clone();
        bad[byte] ^= 0x10;
        database.rocks().expect("is well").put_cf(&family, entry_key(&GROUP, 5), bad).expect("writes");
        let error = store.load(GROUP, 0).expect_err("an altered entry");
        assert!(matches!(&error, StorageError::Damaged { what, .. } if what.contains("checksum")), "{byte}: {error}");
    }
    // A whole value under another key is found too.
    database.rocks().expect("is well").put_cf(&family, entry_key(&GROUP, 6), &good).expect("writes");
    let error = store.entries(GROUP, 6, 7, 1).expect_err("a value of another key");
    assert!(matches!(&error, StorageError::Damaged { what, .. } if what.contains("checksum")), "{error}");
    database.rocks().expect("is well").delete_cf(&family, entry_key(&GROUP, 6)).expect("deletes");
    let error = store.entries(GROUP, 6, 7, 1).expect_err("a missing entry");
    assert!(matches!(&error, StorageError::Damaged { what, .. } if what.contains("missing")), "{error}");
    drop(family);
    store.forget(GROUP).expect("forgets");
    assert_eq!(store.load(GROUP, 0).expect("loads"), None);
    store.write(&[appended(GROUP, 1..=1, 1)], false).expect("a forgotten group can begin anew");
}

#[test]
fn a_failed_sync_stops_the_store_for_good() {
    let (dir, store) = scratch();
    store.write(&[appended(GROUP, 1..=1, 1)], false).expect("writes");
    store.shared.database.fail_next_sync.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = store.sync().expect_err("was made to fail");
    assert!(matches!(&error, StorageError::Database { cause, .. } if cause.contains("injected")), "{error}");
    // The next sync would succeed: it must not be tried, or what the first one lost would count as durable.
    let poisoned = |error: StorageError| assert!(matches!(error, StorageError::Poisoned { .. }), "{error}");
    poisoned(store.sync().expect_err("stopped"));
    poisoned(store.write(&[appended(GROUP, 2..=2, 1)], false).expect_err("stopped"));
    poisoned(store.write(&[], false).expect_err("stopped"));
    poisoned(store.load(GROUP, 0).expect_err("stopped"));
    poisoned(store.entries(GROUP, 1, 2, 1).expect_err("stopped"));
    poisoned(store.forget(GROUP).expect_err("stopped"));
    poisoned(store.identity().expect_err("stopped"));
    poisoned(store.groups().expect_err("stopped"));
    let store = reopened(&dir, store);
    store.sync().expect("a new handle is well");
}

/// The model: what the log must look like after each batch.
#[derive(Clone, Default)]
struct Model {
    base: Base,
    entries: Vec<LogEntry>,
}

impl Model {
    fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    fn term_at(&self, index: u64) -> u64 {
        let place = (index - self.base.index) as usize;
        place.checked_sub(1).map_or(self.base.term, |place| self.entries[place].term)
    }
}

#[test]
fn random_batches_leave_what_a_simple_model_says_across_reopening() {
    let (dir, mut store) = scratch();
    let mut random = StdRng::seed_from_u64(1);
    let mut models = [Model::default(), Model::default()];
    for turn in 0..1500 {
        let mut batches = Vec::new();
        for (model, group) in models.iter_mut().zip([GROUP, OTHER]) {
            batches.push(random_batch(&mut random, model, group));
        }
        store.write(&batches, random.random_bool(0.02)).expect("a valid batch");
        if turn % 50 == 0 {
            store = reopened(&dir, store);
        }
        if turn % 10 == 0 {
            for (model, group) in models.iter().zip([GROUP, OTHER]) {
                let log = store.load(group, u64::MAX).expect("loads").expect("is there");
                assert_eq!(log.base, model.base, "turn {turn}");
                let entries = store.entries(group, log.base.index + 1, model.last() + 1, u64::MAX).expect("reads");
                assert_eq!(entries, model.entries, "turn {turn}");
                assert_eq!(log.entries.len(), model.entries.len(), "turn {turn}");
            }
        }
    }
}

fn random_batch(random: &mut StdRng, model: &mut Model, group: GroupUuid) -> LogBatch {
    let mut batch = LogBatch { meta: Some(meta(group)), ..LogBatch::new(group) };
    if random.random_bool(0.02) {
        let index = random.random_range(0..50_000);
        model.base = base(index, 1 + index % 5);
        model.entries.clear();
        batch.reset = Some(model.base);
    }
    if random.random_bool(0.2) && model.last() > model.base.index {
        let from = random.random_range(model.base.index + 1..=model.last());
        model.entries.truncate((from - model.base.index - 1) as usize);
        batch.truncate_from = Some(from);
    }
    for _ in 0..random.random_range(0..60) {
        let index = model.last() + 1;
        let entry = entry(index, model.term_at(index - 1) + u64::from(random.random_bool(0.02)));
        model.entries.push(entry.clone());
        batch.entries.push(entry);
    }
    if random.random_bool(0.05) && model.last() > model.base.index {
        let to = random.random_range(model.base.index + 1..=model.last());
        let position = base(to, model.term_at(to));
        model.entries.drain(..(to - model.base.index) as usize);
        model.base = position;
        batch.compact_to = Some(position);
    }
    batch
}
