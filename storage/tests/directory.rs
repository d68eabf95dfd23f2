//! Opening a data directory: whose it is, who holds it, and what becomes of damage.

use std::fs;
use std::path::{Path, PathBuf};

use bequest_storage::{
    GroupMeta, HardState, Identity, LogBatch, LogEntry, Opened, Options, Remedy, StorageError, Store,
};
use tempfile::TempDir;

const GROUP: [u8; 16] = [7; 16];

fn scratch() -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().expect("scratch directory");
    let data = scratch.path().join("data");
    (scratch, data)
}

fn open(dir: &Path) -> Result<(Store, Opened), StorageError> {
    // A small write buffer, so that some of the data lies in files.
    Store::open(dir, Options { write_buffer_bytes: 64 << 10, ..Options::default() })
}

fn batch(range: std::ops::Range<u64>) -> LogBatch {
    let entries = range.map(|index| LogEntry {
        index,
        term: 1,
        kind: 0,
        data: vec![index as u8; 1000].into(),
        context: Default::default(),
        hash: [0; 16],
    });
    LogBatch {
        meta: Some(GroupMeta { uuid: GROUP, name: "orders".into(), genesis_czxid: 3 }),
        entries: entries.collect(),
        hard_state: Some(HardState { term: 1, commit: 0 }),
        ..LogBatch::new(GROUP)
    }
}

/// A store whose data lies in files and in RocksDB's log.
fn filled(dir: &Path) {
    let (store, _) = open(dir).expect("opens");
    store.set_identity(Identity { cluster: [1; 16], node: 1 }).expect("sets");
    for turn in 0..8 {
        store.write(&[batch(turn * 100 + 1..turn * 100 + 101)], true).expect("writes");
    }
    drop(store);
    let (store, opened) = open(dir).expect("opens");
    assert_eq!(opened, Opened::Existing);
    store.write(&[batch(801..811)], true).expect("writes");
}

fn files(dir: &Path, matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("rocksdb")).expect("lists");
    let paths = entries.map(|entry| entry.expect("lists").path());
    let mut found: Vec<_> = paths.filter(|path| matches(&path.file_name().expect("named").to_string_lossy())).collect();
    found.sort();
    found
}

fn quarantined(dir: &Path) -> (Store, String) {
    match open(dir).expect("damage is moved aside") {
        (store, Opened::Quarantined { moved_to, reason }) => {
            assert!(moved_to.starts_with(dir) && moved_to.is_dir(), "{}", moved_to.display());
            assert_eq!(store.groups().expect("reads"), [], "the new store is empty");
            assert_eq!(store.identity().expect("reads"), None, "the new store is nobody's");
            store.write(&[batch(1..2)], true).expect("the new store works");
            (store, reason)
        }
        (_, opened) => panic!("not moved aside: {opened:?}"),
    }
}

#[test]
fn the_directory_is_created_once_and_found_again() {
    let (_scratch, dir) = scratch();
    let (store, opened) = open(&dir.join("deeper")).expect("opens");
    assert_eq!(opened, Opened::Created);
    drop(store);
    assert_eq!(open(&dir.join("deeper")).expect("opens").1, Opened::Existing);
}

#[test]
fn a_second_open_is_refused_and_says_which_directory() {
    let (_scratch, dir) = scratch();
    let (store, _) = open(&dir).expect("opens");
    let error = open(&dir).expect_err("is in use");
    assert!(matches!(&error, StorageError::InUse { dir: named } if *named == dir), "{error}");
    assert_eq!(error.remedy(), Remedy::Operator);
    let clone = store.clone();
    drop(store);
    assert!(matches!(open(&dir), Err(StorageError::InUse { .. })), "a clone still holds it");
    drop(clone);
    open(&dir).expect("is free again");
}

#[test]
fn a_foreign_directory_is_refused_and_left_as_it_is() {
    let (_scratch, dir) = scratch();
    fs::create_dir(&dir).expect("creates");
    fs::write(dir.join("thesis.tex"), "precious").expect("writes");
    let error = open(&dir).expect_err("is foreign");
    assert!(matches!(&error, StorageError::ForeignDirectory { found, .. } if found == "thesis.tex"), "{error}");
    let names: Vec<_> = fs::read_dir(&dir).expect("lists").map(|entry| entry.expect("lists").file_name()).collect();
    assert_eq!(names, ["thesis.tex"]);
}

#[test]
fn an_empty_directory_and_a_fresh_file_system_are_accepted() {
    let (_scratch, dir) = scratch();
    fs::create_dir_all(dir.join("lost+found")).expect("creates");
    assert_eq!(open(&dir).expect("opens").1, Opened::Created);
}

/// Writes the format file of a version that writes this one.
fn made_by(dir: &Path, format: u32) {
    let body = format!("bequest-storage format={format}");
    let text = format!("{body} crc={:08x}\n", crc32c::crc32c(body.as_bytes()));
    fs::write(dir.join("format"), &text).expect("writes");
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let (_scratch, dir) = scratch();
    filled(&dir);
    made_by(&dir, 3);
    let before = files(&dir, |_| true);
    let error = open(&dir).expect_err("is newer");
    assert!(matches!(error, StorageError::UnsupportedFormat { found: 3, max: 2 }), "{error}");
    assert_eq!(files(&dir, |_| true), before);
}

#[test]
fn an_older_format_is_moved_aside_and_told() {
    let (_scratch, dir) = scratch();
    filled(&dir);
    made_by(&dir, 1);
    let (store, opened) = open(&dir).expect("opens");
    match opened {
        Opened::Quarantined { moved_to, reason } => {
            assert!(moved_to.join("CURRENT").exists(), "{}", moved_to.display());
            assert_eq!(reason, "it is in format 1, which this version does not read any more");
        }
        other => panic!("{other:?}"),
    }
    drop(store);
    assert_eq!(open(&dir).expect("opens").1, Opened::Existing);
}

#[test]
fn an_identity_is_set_once() {
    let (_scratch, dir) = scratch();
    let (store, _) = open(&dir).expect("opens");
    assert_eq!(store.identity().expect("reads"), None);
    let ours = Identity { cluster: [1; 16], node: 1 };
    store.set_identity(ours).expect("sets");
    store.set_identity(ours).expect("the same again changes nothing");
    drop(store);
    let (store, _) = open(&dir).expect("opens");
    for given in [Identity { node: 2, ..ours }, Identity { cluster: [2; 16], ..ours }] {
        let error = store.set_identity(given).expect_err("is another's");
        assert!(matches!(error, StorageError::IdentityMismatch { found, .. } if found == ours), "{error}");
    }
    assert_eq!(store.identity().expect("reads"), Some(ours));
}

#[test]
fn groups_are_listed_and_forgotten_one_by_one() {
    let (_scratch, dir) = scratch();
    let (store, _) = open(&dir).expect("opens");
    let metas = [1, 2].map(|number| GroupMeta { uuid: [number; 16], name: format!("g{number}"), genesis_czxid: 1 });
    let batches = metas.clone().map(|meta| LogBatch { meta: Some(meta.clone()), ..LogBatch::new(meta.uuid) });
    store.write(&batches, true).expect("writes");
    assert_eq!(store.groups().expect("lists"), metas);
    store.forget([1; 16]).expect("forgets");
    store.forget([1; 16]).expect("twice is no error");
    drop(store);
    let (store, _) = open(&dir).expect("opens");
    assert_eq!(store.groups().expect("lists"), metas[1..]);
}

#[test]
fn missing_files_move_the_database_aside() {
    for kind in ["CURRENT", "MANIFEST", ".sst"] {
        let (_scratch, dir) = scratch();
        filled(&dir);
        let missing = files(&dir, |name| name.contains(kind)).remove(0);
        fs::remove_file(&missing).expect("removes");
        let (store, reason) = quarantined(&dir);
        assert!(!reason.is_empty(), "{kind}");
        drop(store);
        assert_eq!(open(&dir).expect("opens").1, Opened::Existing, "{kind}: damage is moved aside once");
    }
}

#[test]
fn a_missing_database_folder_is_an_empty_store() {
    let (_scratch, dir) = scratch();
    filled(&dir);
    fs::remove_dir_all(dir.join("rocksdb")).expect("removes");
    let (store, opened) = open(&dir).expect("opens");
    assert_eq!((opened, store.groups().expect("lists").len()), (Opened::Created, 0));
}

#[test]
fn flipped_bytes_are_found_at_open_or_when_read_and_never_served() {
    for kind in ["CURRENT", "MANIFEST", ".sst"] {
        let (_scratch, dir) = scratch();
        filled(&dir);
        for path in files(&dir, |name| name.contains(kind)) {
            let mut bytes = fs::read(&path).expect("reads");
            // Every 64th byte: each block of a data file, and each record of a manifest, is hit.
            bytes.iter_mut().step_by(64).for_each(|byte| *byte ^= 0x40);
            fs::write(&path, bytes).expect("writes");
        }
        let (_store, reason) = quarantined(&dir);
        assert!(!reason.is_empty(), "{kind}");
    }
}

#[test]
fn damage_met_while_running_stops_the_store_and_is_moved_aside_by_the_next_open() {
    let (_scratch, dir) = scratch();
    filled(&dir);
    // The middle of the log's data files: their ends, which are read when they are opened, stay whole.
    for path in files(&dir, |name| name.ends_with(".sst")) {
        let mut bytes = fs::read(&path).expect("reads");
        if bytes.len() < 50_000 {
            continue;
        }
        let (from, to) = (bytes.len() / 4, bytes.len() / 2);
        bytes[from..to].iter_mut().step_by(64).for_each(|byte| *byte ^= 0x40);
        fs::write(&path, bytes).expect("writes");
    }
    let (store, opened) = open(&dir).expect("opens");
    assert_eq!(opened, Opened::Existing, "RocksDB reads blocks only when asked for them");
    let error = store.load(GROUP, 0).expect_err("a block is damaged");
    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
    assert_eq!(error.remedy(), Remedy::Reopen);
    let error = store.sync().expect_err("is stopped");
    assert!(matches!(error, StorageError::Poisoned { .. }), "{error}");
    drop(store);
    let (store, reason) = quarantined(&dir);
    assert!(reason.contains("Corruption"), "{reason}");
    drop(store);
    assert_eq!(open(&dir).expect("opens").1, Opened::Existing);
}

#[test]
fn a_condemned_store_is_moved_aside_by_the_next_open() {
    let (_scratch, dir) = scratch();
    filled(&dir);
    let (store, _) = open(&dir).expect("opens");
    store.condemn("its log contradicts zookeeper");
    assert!(matches!(store.groups(), Err(StorageError::Poisoned { .. })), "it is stopped");
    drop(store);
    let (_store, reason) = quarantined(&dir);
    assert_eq!(reason, "its log contradicts zookeeper");
    let kept = fs::read_dir(dir.join("damaged-1")).expect("lists").count();
    assert!(kept > 5, "the evidence is kept: {kept} files");
}

#[test]
fn a_damaged_format_file_and_an_interrupted_creation_are_moved_aside() {
    for damage in [Some("bequest-storage format=1 crc=00000000\n"), Some(""), None] {
        let (_scratch, dir) = scratch();
        filled(&dir);
        match damage {
            Some(text) => fs::write(dir.join("format"), text).expect("writes"),
            None => fs::remove_file(dir.join("format")).expect("removes"),
        }
        let (_store, reason) = quarantined(&dir);
        assert!(reason.contains("format file"), "{reason}");
    }
}

#[test]
fn a_torn_end_of_the_log_loses_a_suffix_only() {
    let (_scratch, dir) = scratch();
    filled(&dir);
    let (store, _) = open(&dir).expect("opens");
    for index in 811..900 {
        store.write(&[batch(index..index + 1)], false).expect("writes");
    }
    drop(store);
    let wal = files(&dir, |name| name.ends_with(".log")).pop().expect("RocksDB has a log");
    let length = fs::metadata(&wal).expect("looks").len();
    fs::File::options().write(true).open(&wal).expect("opens").set_len(length - 1500).expect("cuts");
    let (store, opened) = open(&dir).expect("opens");
    assert_eq!(opened, Opened::Existing);
    let log = store.load(GROUP, 0).expect("loads").expect("is there");
    let last = log.entries.last().expect("not empty").index;
    assert!((890..899).contains(&last), "last={last}");
    assert_eq!(log.entries.len() as u64, last, "no gap");
    store.write(&[batch(last + 1..last + 3)], true).expect("goes on");
}

#[test]
fn a_flipped_byte_in_the_database_log_loses_a_suffix_or_moves_all_aside() {
    let (scratch, dir) = scratch();
    filled(&dir);
    let wal = files(&dir, |name| name.ends_with(".log")).pop().expect("RocksDB has a log");
    let whole = fs::read(&wal).expect("reads");
    for place in (0..whole.len()).step_by(whole.len() / 40 + 1) {
        let copy = scratch.path().join(format!("copy-{place}"));
        fs::create_dir_all(copy.join("rocksdb")).expect("creates");
        for path in files(&dir, |name| name != "LOCK") {
            fs::copy(&path, copy.join("rocksdb").join(path.file_name().expect("named"))).expect("copies");
        }
        fs::copy(dir.join("format"), copy.join("format")).expect("copies");
        let mut bytes = whole.clone();
        bytes[place] ^= 0x40;
        fs::write(copy.join("rocksdb").join(wal.file_name().expect("named")), bytes).expect("writes");
        let (store, opened) = open(&copy).expect("opens");
        let Some(log) = store.load(GROUP, u64::MAX).expect("loads") else {
            assert!(matches!(opened, Opened::Quarantined { .. }), "{place}: {opened:?}");
            continue;
        };
        assert!((800..=810).contains(&log.entries.len()), "{place}: {}", log.entries.len());
        for slot in log.entries {
            let payload = slot.payload.expect("the budget has no end").0;
            assert_eq!(payload, vec![slot.index as u8; 1000], "{place}");
        }
    }
}

#[test]
fn a_directory_removed_while_in_use_is_noticed() {
    let (_scratch, dir) = scratch();
    let (store, _) = open(&dir).expect("opens");
    store.write(&[batch(1..2)], false).expect("writes");
    fs::remove_dir_all(&dir).expect("removes");
    let error = store.sync().expect_err("the directory is gone");
    assert!(matches!(error, StorageError::Vanished { .. }), "{error}");
    assert!(matches!(store.sync(), Err(StorageError::Poisoned { .. })), "it is stopped");
}
