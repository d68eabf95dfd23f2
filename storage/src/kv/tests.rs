use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use rocksdb::properties;
use tempfile::TempDir;

use super::kv_response::{Conflict, Response, StateFull};
use super::*;
use crate::database::LOG;
use crate::{Base, GroupMeta, LogBatch, LogEntry, Options};

mod snapshots;

const GROUP: GroupUuid = [7; 16];

fn open_store(dir: &Path) -> Store {
    // A small write buffer, so that states of different history lie in different files.
    Store::open(dir, Options { write_buffer_bytes: 256 << 10, ..Options::default() }).expect("opens").0
}

fn open(store: &Store) -> KvMachine {
    KvMachine::open(store, GROUP, KvOptions::default()).expect("opens")
}

fn scratch() -> (TempDir, Store, KvMachine) {
    let dir = tempfile::tempdir().expect("scratch directory");
    let store = open_store(&dir.path().join("data"));
    let machine = open(&store);
    (dir, store, machine)
}

fn reopened(dir: &TempDir, store: Store, machine: KvMachine) -> (Store, KvMachine) {
    drop((store, machine));
    let store = open_store(&dir.path().join("data"));
    let machine = open(&store);
    (store, machine)
}

fn apply(machine: &mut KvMachine, index: u64, command: &KvCommand) -> Response {
    let response = machine.apply(index, &command.encode_to_vec());
    KvResponse::decode(response).expect("decodes").response.expect("is one")
}

fn put(machine: &mut KvMachine, key: &str, value: &[u8]) {
    let index = machine.applied() + 1;
    let response = apply(machine, index, &KvCommand::put(key.to_owned(), value.to_vec()));
    assert_eq!(response, done(index));
}

fn done(index: u64) -> Response {
    Response::Done(kv_response::Done { index })
}

fn get(machine: &KvMachine, key: &str) -> Option<Bytes> {
    let answer = machine.query(&KvQuery::get(key.to_owned()).encode_to_vec()).expect("answers");
    match KvAnswer::decode(answer).expect("decodes").answer {
        Some(kv_answer::Answer::Value(value)) => value.value,
        other => panic!("not a value: {other:?}"),
    }
}

fn scan(machine: &KvMachine, prefix: &str, after: Option<&str>, limit: u32) -> (Vec<KvPair>, bool) {
    let after = after.map(|after| Bytes::from(after.to_owned()));
    let query = KvQuery::scan(prefix.to_owned(), after, limit);
    let answer = machine.query(&query.encode_to_vec()).expect("answers");
    match KvAnswer::decode(answer).expect("decodes").answer {
        Some(kv_answer::Answer::Pairs(pairs)) => (pairs.pairs, pairs.more),
        other => panic!("not pairs: {other:?}"),
    }
}

fn all(machine: &KvMachine) -> BTreeMap<Bytes, Bytes> {
    let mut found = BTreeMap::new();
    let mut after = None;
    loop {
        let answer = machine.query(&KvQuery::scan("", after, 0).encode_to_vec()).expect("answers");
        let Some(kv_answer::Answer::Pairs(page)) = KvAnswer::decode(answer).expect("decodes").answer else {
            panic!("not pairs");
        };
        after = page.pairs.last().map(|pair| pair.key.clone());
        found.extend(page.pairs.into_iter().map(|pair| (pair.key, pair.value)));
        if !page.more {
            return found;
        }
    }
}

fn chunks(machine: &KvMachine) -> Vec<Bytes> {
    written(machine.snapshot().expect("takes a view"))
}

fn written(snapshot: KvSnapshot) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let result: Result<(), StorageError> = snapshot.write_to(&mut |chunk: Bytes| {
        assert!((1..=CHUNK_BYTES_MAX).contains(&chunk.len()), "{}", chunk.len());
        chunks.push(chunk);
        Ok(())
    });
    result.expect("writes");
    chunks
}

#[test]
fn commands_do_what_they_say_and_see_those_before_them() {
    let (_dir, _store, mut machine) = scratch();
    let some = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let conflict = |current| Response::Conflict(Conflict { current });
    let cas = |expected, value| KvCommand::compare_and_set("a", expected, value);
    let steps = [
        (KvCommand::delete("a"), done(1), None),
        (cas(some("x"), some("y")), conflict(None), None),
        (cas(None, None), done(3), None),
        (cas(None, some("1")), done(4), some("1")),
        (cas(None, some("2")), conflict(some("1")), some("1")),
        (cas(some("1"), some("2")), done(6), some("2")),
        (KvCommand::put("a", "3"), done(7), some("3")),
        (cas(some("2"), None), conflict(some("3")), some("3")),
        (cas(some("3"), None), done(9), None),
        (KvCommand::put("a", ""), done(10), some("")),
        (cas(None, some("4")), conflict(some("")), some("")),
        (cas(some(""), some("5")), done(12), some("5")),
        (KvCommand::delete("a"), done(13), None),
    ];
    // Committed after each step, and all in one batch: the answers are the same.
    for (number, (command, response, value)) in steps.iter().enumerate() {
        let index = number as u64 + 1;
        assert_eq!(apply(&mut machine, index, command), *response, "{index}");
        machine.commit(index, &[]).expect("commits");
        assert_eq!(get(&machine, "a"), *value, "{index}");
    }
    for (number, (command, response, _)) in steps.iter().enumerate() {
        assert_eq!(apply(&mut machine, number as u64 + 1, command), *response, "{number}");
    }
    machine.commit(14, &[]).expect("commits");
    assert_eq!(machine.state_bytes(), 0);
}

#[test]
fn bytes_that_are_no_command_are_invalid_alike_everywhere_and_change_nothing() {
    let (_dir, _store, mut machine) = scratch();
    let mut random = StdRng::seed_from_u64(3);
    let invalid = |reason: &str| Response::Invalid(kv_response::Invalid { reason: reason.to_owned() });
    let cases = [
        (KvCommand { command: None }, "no command"),
        (KvCommand::put("", "v"), "key is empty"),
        (KvCommand::delete(vec![0; KEY_BYTES_MAX + 1]), "key is longer than 4 KiB"),
        (KvCommand::put("k", vec![0; VALUE_BYTES_MAX + 1]), "value is longer than 512 KiB"),
        (
            KvCommand::compare_and_set("k", None, Some(vec![0; VALUE_BYTES_MAX + 1].into())),
            "value is longer than 512 KiB",
        ),
    ];
    for (command, reason) in cases {
        assert_eq!(apply(&mut machine, 1, &command), invalid(reason));
    }
    let response = machine.apply(1, &[0xff; 9]);
    assert_eq!(KvResponse::decode(response).expect("decodes").response, Some(invalid("undecodable")));
    for _ in 0..20_000 {
        let mut bytes = vec![0; random.random_range(0..40)];
        random.fill_bytes(&mut bytes);
        let response = KvResponse::decode(machine.apply(1, &bytes)).expect("decodes").response;
        assert!(response.is_some());
    }
    machine.pending.clear();
    let error = machine.query(&[0xff]).expect_err("no query");
    assert!(matches!(error, KvError::Malformed { reason: "undecodable" }), "{error}");
    let error = machine.query(&[]).expect_err("no query");
    assert!(matches!(error, KvError::Malformed { reason: "no query" }), "{error}");
}

#[test]
fn a_full_state_refuses_growth_and_lets_everything_else_pass() {
    let (_dir, store, _) = scratch();
    let mut machine = KvMachine::open(&store, [9; 16], KvOptions { state_bytes_max: 100 }).expect("opens");
    let full = |bytes| Response::StateFull(StateFull { bytes, limit: 100 });
    let value = |length| vec![b'v'; length];
    assert_eq!(apply(&mut machine, 1, &KvCommand::put("a", value(99))), done(1));
    assert_eq!(apply(&mut machine, 2, &KvCommand::put("b", "")), full(100));
    assert_eq!(apply(&mut machine, 3, &KvCommand::put("a", value(100))), full(100));
    assert_eq!(apply(&mut machine, 4, &KvCommand::put("a", vec![b'w'; 99])), done(4));
    assert_eq!(apply(&mut machine, 5, &KvCommand::put("a", value(98))), done(5));
    assert_eq!(apply(&mut machine, 6, &KvCommand::put("b", "")), done(6));
    let cas = KvCommand::compare_and_set("c", None, Some("1".into()));
    assert_eq!(apply(&mut machine, 7, &cas), full(100));
    let cas = KvCommand::compare_and_set("a", Some("?".into()), Some(value(500).into()));
    assert!(matches!(apply(&mut machine, 8, &cas), Response::Conflict(_)), "a conflict is told first");
    machine.commit(8, &[]).expect("commits");
    assert_eq!(machine.state_bytes(), 100);
    drop(machine);
    // A limit that was lowered: what shrinks still passes.
    let mut machine = KvMachine::open(&store, [9; 16], KvOptions { state_bytes_max: 10 }).expect("opens");
    assert!(matches!(apply(&mut machine, 9, &KvCommand::put("d", "")), Response::StateFull(_)));
    assert_eq!(apply(&mut machine, 10, &KvCommand::put("a", value(50))), done(10));
    assert_eq!(apply(&mut machine, 11, &KvCommand::delete("a")), done(11));
    assert_eq!(apply(&mut machine, 12, &KvCommand::put("d", "")), done(12));
    machine.commit(12, &[]).expect("commits");
    assert_eq!(machine.state_bytes(), 2);
}

#[test]
fn what_was_committed_survives_with_its_rows_and_what_was_not_is_gone() {
    let (dir, store, mut machine) = scratch();
    let row = |key: &'static str, value: Option<&'static str>| (key.into(), value.map(Bytes::from));
    put(&mut machine, "a", b"1");
    machine.commit(5, &[row("x", Some("1")), row("y", Some("2"))]).expect("commits");
    put(&mut machine, "a", b"2");
    put(&mut machine, "b", b"2");
    let (store, mut machine) = reopened(&dir, store, machine);
    let rows = vec![("x".into(), "1".into()), ("y".into(), "2".into())];
    assert_eq!(machine.recover().expect("recovers"), Recovered { applied: 5, rows });
    assert_eq!((get(&machine, "a"), get(&machine, "b")), (Some("1".into()), None));
    assert_eq!(machine.state_bytes(), 2);
    machine.commit(6, &[row("x", None), row("z", Some("")), row("y", Some("3"))]).expect("commits rows alone");
    let error = machine.commit(5, &[]).expect_err("backwards");
    assert!(matches!(error, StorageError::MarkBackwards { applied: 6, given: 5 }), "{error}");
    let (_store, machine) = reopened(&dir, store, machine);
    let rows = vec![("y".into(), "3".into()), ("z".into(), "".into())];
    assert_eq!(machine.recover().expect("recovers"), Recovered { applied: 6, rows });
}

#[test]
fn a_compaction_of_a_log_begins_a_flush_of_what_was_committed_past_rocksdb_s_log() {
    let (_dir, store, mut machine) = scratch();
    let buffered = || {
        let database = &store.shared.database;
        let (rocks, family) = (database.rocks().expect("is open"), database.family(STATE).expect("is there"));
        let entries = rocks.property_int_value_cf(&family, properties::NUM_ENTRIES_ACTIVE_MEM_TABLE);
        entries.expect("answers").expect("is known")
    };
    let entry = |index| LogEntry { index, term: 1, kind: 0, data: "a".into(), context: Bytes::new(), hash: [1; 16] };
    let mut batch = LogBatch::new(GROUP);
    batch.meta = Some(GroupMeta { uuid: GROUP, name: "g".into(), genesis_czxid: 1 });
    batch.entries = vec![entry(1), entry(2)];
    store.write(&[batch], false).expect("writes");
    put(&mut machine, "a", b"1");
    machine.commit(2, &[]).expect("commits");
    assert!(buffered() > 0);
    let compacted = LogBatch { compact_to: Some(Base { index: 1, term: 1, hash: [1; 16] }), ..LogBatch::new(GROUP) };
    store.write(std::slice::from_ref(&compacted), false).expect("compacts");
    assert_eq!(buffered(), 0, "on its way to a file");
    put(&mut machine, "a", b"2");
    machine.commit(3, &[]).expect("commits");
    store.write(&[compacted], false).expect("is compacted already");
    assert!(buffered() > 0, "nothing was deleted");
}

#[test]
fn queries_see_committed_state_only() {
    let (_dir, _store, mut machine) = scratch();
    put(&mut machine, "a", b"1");
    assert_eq!(get(&machine, "a"), None);
    machine.commit(1, &[]).expect("commits");
    assert_eq!(get(&machine, "a"), Some("1".into()));
}

#[test]
fn a_scan_gives_the_pairs_of_a_prefix_in_pages() {
    let (_dir, _store, mut machine) = scratch();
    for key in ["a", "b", "b1", "b2", "b3", "b\u{7f}", "c"] {
        put(&mut machine, key, key.as_bytes());
    }
    machine.commit(1, &[("b2".into(), Some("a row is not a pair".into()))]).expect("commits");
    let keys = |(pairs, more): (Vec<KvPair>, bool)| {
        let keys: Vec<String> = pairs.iter().map(|pair| String::from_utf8_lossy(&pair.key).into_owned()).collect();
        (keys.join(" "), more)
    };
    assert_eq!(keys(scan(&machine, "b", None, 0)), ("b b1 b2 b3 b\u{7f}".into(), false));
    assert_eq!(keys(scan(&machine, "b", None, 2)), ("b b1".into(), true));
    assert_eq!(keys(scan(&machine, "b", Some("b1"), 2)), ("b2 b3".into(), true));
    assert_eq!(keys(scan(&machine, "b", Some("b3"), 2)), ("b\u{7f}".into(), false));
    assert_eq!(keys(scan(&machine, "b", Some("a"), 1)), ("b".into(), true));
    assert_eq!(keys(scan(&machine, "b", Some("c"), 1)), (String::new(), false));
    assert_eq!(keys(scan(&machine, "", None, 0)).0.split(' ').count(), 7);
    assert_eq!(keys(scan(&machine, "d", None, 0)), (String::new(), false));
    for number in 0..3 {
        put(&mut machine, &format!("big{number}"), &vec![0; VALUE_BYTES_MAX]);
    }
    machine.commit(2, &[]).expect("commits");
    assert_eq!(keys(scan(&machine, "big", None, 0)), ("big0".into(), true), "bytes are bounded too");
}

#[test]
fn a_prefix_of_the_greatest_bytes_ends_where_pairs_end() {
    assert_eq!(successor(b"d"), b"e");
    assert_eq!(successor(b"dab"), b"dac");
    assert_eq!(successor(b"d\xff\xff"), b"e");
    assert_eq!(successor(b"da\xff"), b"db");
}

#[test]
fn random_commands_leave_what_a_map_says_across_crashes_and_restores() {
    // However many lengths of values it remembers: about none, a few, all.
    for (seed, lengths_bytes_max) in [(0, 0), (1, 1000), (2, 4000), (3, 1 << 20)] {
        random_run(seed, lengths_bytes_max);
    }
}

fn random_run(seed: u64, lengths_bytes_max: usize) {
    let limit = KvOptions { state_bytes_max: 3000 };
    let open = |store: &Store| {
        let mut machine = KvMachine::open(store, GROUP, limit).expect("opens");
        machine.lengths = Lengths::new(lengths_bytes_max);
        machine
    };
    let mut random = StdRng::seed_from_u64(seed);
    let (dir, mut store, machine) = scratch();
    drop(machine);
    let mut machine = open(&store);
    let mut committed: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut current = committed.clone();
    let mut saved = (chunks(&machine), committed.clone());
    let mut refused = 0;
    for turn in 1..3000_u64 {
        let command = random_command(&mut random);
        let expected = model(&mut current, turn, &command, limit.state_bytes_max);
        refused += u32::from(matches!(expected, Response::StateFull(_)));
        assert_eq!(apply(&mut machine, turn, &command), expected, "seed {seed}, turn {turn}");
        match random.random_range(0..100) {
            0..20 => {
                machine.commit(turn, &[("row".into(), Some(turn.to_string().into()))]).expect("commits");
                committed = current.clone();
            }
            20..22 => {
                let applied = machine.applied();
                // Dropped without a word: what was not committed must be gone.
                drop((machine, store));
                store = open_store(&dir.path().join("data"));
                machine = open(&store);
                let recovered = machine.recover().expect("recovers");
                assert_eq!(recovered.applied, applied, "seed {seed}, turn {turn}");
                let row = (applied > 0).then(|| ("row".into(), applied.to_string().into()));
                assert_eq!(recovered.rows, row.into_iter().collect::<Vec<_>>());
                current = committed.clone();
            }
            22 => saved = (chunks(&machine), committed.clone()),
            23 => {
                // Another state than the one in force; given up half-way, it leaves that.
                let (applied, rows) = (machine.applied(), machine.recover().expect("recovers").rows);
                let mut restore = machine.restore().expect("begins");
                saved.0.iter().for_each(|chunk| restore.write(chunk).expect("takes"));
                if random.random_bool(0.5) {
                    restore.finish(applied, &rows).expect("finishes");
                    committed = saved.1.clone();
                }
                current = committed.clone();
            }
            _ => {}
        }
        if turn % 50 == 0 {
            assert_eq!(all(&machine), committed, "seed {seed}, turn {turn}");
            let bytes: usize = committed.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert_eq!(machine.state_bytes(), bytes as u64);
        }
    }
    assert!(refused > 10, "the limit was met {refused} times only");
}

fn random_command(random: &mut StdRng) -> KvCommand {
    let key = format!("k{}", random.random_range(0..60));
    let mut value = |absent: f64| {
        let length = random.random_range(0..4) * 70;
        (!random.random_bool(absent)).then(|| Bytes::from(vec![b'v'; length]))
    };
    let (first, second) = (value(0.3), value(0.3));
    match random.random_range(0..5) {
        0..3 => KvCommand::put(key, first.unwrap_or_default()),
        3 => KvCommand::delete(key),
        _ => KvCommand::compare_and_set(key, first, second),
    }
}

fn model(state: &mut BTreeMap<Bytes, Bytes>, index: u64, command: &KvCommand, limit: u64) -> Response {
    use kv_command::Command;
    let (key, expected, value) = match command.command.clone().expect("is one") {
        Command::Put(put) => (put.key, None, Some(put.value)),
        Command::Delete(delete) => (delete.key, None, None),
        Command::CompareAndSet(set) => (set.key, Some(set.expected), set.value),
    };
    let current = state.get(&key).cloned();
    if expected.is_some_and(|expected| expected != current) {
        return Response::Conflict(Conflict { current });
    }
    let before: u64 = state.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
    let mut after = state.clone();
    match value {
        Some(value) => after.insert(key, value),
        None => after.remove(&key),
    };
    let bytes: u64 = after.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
    if bytes > limit && bytes > before {
        return Response::StateFull(StateFull { bytes: before, limit });
    }
    *state = after;
    done(index)
}

#[test]
fn a_key_that_changed_lately_is_not_read_again_and_a_restore_forgets_it() {
    let (_dir, _store, mut machine) = scratch();
    let known = |machine: &KvMachine| ["a", "b"].map(|key| machine.lengths.get(key.as_bytes()));
    put(&mut machine, "a", b"1");
    assert_eq!(apply(&mut machine, 2, &KvCommand::delete("b")), done(2));
    assert_eq!(known(&machine), [None, None], "what is not committed is not remembered");
    machine.commit(2, &[]).expect("commits");
    assert_eq!(known(&machine), [Some(Some(1)), None]);
    put(&mut machine, "b", b"22");
    assert_eq!(apply(&mut machine, 4, &KvCommand::delete("a")), done(4));
    machine.commit(1, &[]).expect_err("backwards");
    assert_eq!(known(&machine), [Some(Some(1)), None], "nothing was written");
    machine.commit(4, &[]).expect("commits");
    assert_eq!(known(&machine), [Some(None), Some(Some(2))]);
    drop(machine.restore().expect("begins"));
    assert_eq!(known(&machine), [Some(None), Some(Some(2))], "the old state is in force");
    let empty = chunks(&scratch().2);
    let mut restore = machine.restore().expect("begins");
    empty.iter().for_each(|chunk| restore.write(chunk).expect("takes"));
    restore.finish(4, &[]).expect("finishes");
    assert_eq!(known(&machine), [None, None]);
}

#[test]
fn groups_have_separate_states_and_one_is_forgotten_alone() {
    let (dir, store, mut machine) = scratch();
    let mut other = KvMachine::open(&store, [8; 16], KvOptions::default()).expect("opens");
    put(&mut machine, "a", b"1");
    put(&mut other, "a", b"2");
    machine.commit(1, &[]).expect("commits");
    other.commit(2, &[]).expect("commits");
    assert_eq!((get(&machine, "a"), get(&other, "a")), (Some("1".into()), Some("2".into())));
    drop(other);
    store.forget([8; 16]).expect("forgets");
    let (store, machine) = reopened(&dir, store, machine);
    let other = KvMachine::open(&store, [8; 16], KvOptions::default()).expect("opens");
    assert_eq!((all(&machine).len(), all(&other).len(), other.applied()), (1, 0, 0));
}

#[test]
fn a_state_that_cannot_be_read_fails_the_commit_and_answers_nobody() {
    let (_dir, store, mut machine) = scratch();
    put(&mut machine, "a", b"1");
    machine.commit(1, &[]).expect("commits");
    let database = &store.shared.database;
    database.fail_next_sync.store(true, std::sync::atomic::Ordering::SeqCst);
    store.sync().expect_err("was made to fail");
    assert_eq!(machine.apply(2, &KvCommand::put("b", "2").encode_to_vec()), Bytes::new());
    assert_eq!(machine.apply(3, &KvCommand::put("a", "2").encode_to_vec()), Bytes::new());
    for _ in 0..2 {
        let error = machine.commit(3, &[]).expect_err("the store is stopped");
        assert!(matches!(error, StorageError::Poisoned { .. }), "{error}");
    }
    assert!(matches!(machine.snapshot(), Err(StorageError::Poisoned { .. })));
    assert!(matches!(machine.restore(), Err(StorageError::Poisoned { .. })));
    assert!(database.family(LOG).is_err());
}

#[test]
fn a_machine_and_its_snapshots_can_be_handed_to_other_threads() {
    fn is_send<T: Send + 'static>() {}
    is_send::<KvMachine>();
    is_send::<KvSnapshot>();
    is_send::<Store>();
}
