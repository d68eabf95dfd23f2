use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tempfile::TempDir;

use super::kv_response::{Conflict, Response, StateFull};
use super::*;
use crate::database::LOG;
use crate::Options;

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

fn restored(chunks: &[Bytes]) -> (TempDir, Store, KvMachine) {
    let (dir, store, mut machine) = scratch();
    let mut restore = machine.restore().expect("begins");
    chunks.iter().for_each(|chunk| restore.write(chunk).expect("takes"));
    restore.finish(9, &[]).expect("finishes");
    (dir, store, machine)
}

/// Pairs of about `bytes` in all, of which values do not compress away.
fn fill(machine: &mut KvMachine, random: &mut StdRng, count: usize, value_bytes: usize) {
    for number in 0..count {
        let mut value = vec![0; value_bytes];
        random.fill_bytes(&mut value);
        put(machine, &format!("key-{number:08}"), &value);
        if number % 500 == 0 {
            let applied = machine.applied() + 1;
            machine.commit(applied, &[]).expect("commits");
        }
    }
    let applied = machine.applied() + 1;
    machine.commit(applied, &[]).expect("commits");
}

fn families(store: &Store) -> usize {
    store.shared.database.families("state-").len()
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
    for seed in 0..4 {
        random_run(seed);
    }
}

fn random_run(seed: u64) {
    let limit = KvOptions { state_bytes_max: 3000 };
    let mut random = StdRng::seed_from_u64(seed);
    let (dir, mut store, machine) = scratch();
    drop(machine);
    let mut machine = KvMachine::open(&store, GROUP, limit).expect("opens");
    let mut committed: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut current = committed.clone();
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
                machine = KvMachine::open(&store, GROUP, limit).expect("opens");
                let recovered = machine.recover().expect("recovers");
                assert_eq!(recovered.applied, applied, "seed {seed}, turn {turn}");
                let row = (applied > 0).then(|| ("row".into(), applied.to_string().into()));
                assert_eq!(recovered.rows, row.into_iter().collect::<Vec<_>>());
                current = committed.clone();
            }
            22 => {
                let (applied, parts) = (machine.applied(), chunks(&machine));
                let rows = machine.recover().expect("recovers").rows;
                let mut restore = machine.restore().expect("begins");
                parts.iter().for_each(|chunk| restore.write(chunk).expect("takes"));
                restore.finish(applied, &rows).expect("finishes");
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
fn a_snapshot_of_nothing_and_of_one_key_is_restored() {
    let (_dir, _store, mut machine) = scratch();
    let empty = chunks(&machine);
    assert_eq!(empty.len(), 1, "the end alone");
    let (_dir2, _store2, copy) = restored(&empty);
    assert_eq!((all(&copy), copy.state_bytes(), copy.applied()), (BTreeMap::new(), 0, 9));
    put(&mut machine, "a", b"1");
    machine.commit(1, &[]).expect("commits");
    let one = chunks(&machine);
    assert_eq!(one.len(), 2);
    let (dir, store, copy) = restored(&one);
    let (_store, copy) = reopened(&dir, store, copy);
    assert_eq!((all(&copy), copy.state_bytes(), copy.applied()), (all(&machine), 2, 9));
}

#[test]
fn a_snapshot_of_64_mib_is_restored_and_its_copy_gives_the_same_chunks() {
    let (_dir, _store, mut machine) = scratch();
    fill(&mut machine, &mut StdRng::seed_from_u64(5), 16_384, 4096);
    let parts = chunks(&machine);
    let bytes: usize = parts.iter().map(Bytes::len).sum();
    assert!((64 << 20..65 << 20).contains(&bytes), "{bytes}");
    let mean = bytes / parts.len();
    assert!((200 << 10..330 << 10).contains(&mean), "chunks have {mean} bytes on average");
    let (_dir2, _store2, copy) = restored(&parts);
    assert_eq!(all(&copy), all(&machine));
    assert_eq!(copy.state_bytes(), machine.state_bytes());
    assert_eq!(chunks(&copy), parts);
}

#[test]
fn values_of_every_size_are_cut_within_the_bound_and_restored() {
    let (_dir, _store, mut machine) = scratch();
    let long = "k".repeat(KEY_BYTES_MAX);
    for (number, length) in [0, 1, 131_072, 262_144, 524_270, 524_280, VALUE_BYTES_MAX].into_iter().enumerate() {
        put(&mut machine, &format!("s{number}"), &vec![number as u8; length]);
        let key = format!("{}{number}", &long[1..]);
        put(&mut machine, &key, &vec![number as u8; length]);
        machine.commit(machine.applied() + 1, &[]).expect("commits");
    }
    let parts = chunks(&machine);
    let (_dir2, _store2, copy) = restored(&parts);
    assert_eq!(all(&copy), all(&machine));
    assert_eq!(chunks(&copy), parts);
}

#[test]
fn a_changed_key_changes_one_chunk_or_two() {
    let (_dir, _store, mut machine) = scratch();
    fill(&mut machine, &mut StdRng::seed_from_u64(6), 20_000, 500);
    let before: HashSet<Bytes> = chunks(&machine).into_iter().collect();
    assert!(before.len() > 30, "{}", before.len());
    for (key, value) in [("key-00000000", "changed"), ("key-00010000", ""), ("key-00010000-new", "new")] {
        put(&mut machine, key, value.as_bytes());
        machine.commit(machine.applied() + 1, &[]).expect("commits");
        let after: HashSet<Bytes> = chunks(&machine).into_iter().collect();
        let new = after.difference(&before).count();
        // Up to three places changed so far, each at most two chunks, and the end.
        assert!((1..=7).contains(&new), "{key}: {new} of {} chunks are new", after.len());
    }
    // Nothing changed, but the log went on: nothing is new.
    let before = chunks(&machine);
    machine.commit(machine.applied() + 100, &[]).expect("commits");
    assert_eq!(chunks(&machine), before);
}

#[test]
fn equal_states_give_equal_chunks_whatever_their_history() {
    let (_dir, store, mut machine) = scratch();
    fill(&mut machine, &mut StdRng::seed_from_u64(7), 5000, 300);
    let pairs = all(&machine);
    let (_dir2, _store2, mut other) = scratch();
    // Backwards, with detours, in other batches, and never compacted.
    for (number, (key, value)) in pairs.iter().rev().enumerate() {
        let key = String::from_utf8(key.to_vec()).expect("text");
        put(&mut other, &key, b"detour");
        put(&mut other, &format!("{key}-gone"), b"detour");
        other.commit(other.applied() + 1, &[]).expect("commits");
        put(&mut other, &key, value);
        apply(&mut other, 1, &KvCommand::delete(format!("{key}-gone")));
        if number % 7 == 0 {
            other.commit(other.applied() + 1, &[]).expect("commits");
        }
    }
    other.commit(other.applied() + 1, &[("row".into(), Some("other rows".into()))]).expect("commits");
    let database = &store.shared.database;
    let family = database.family(&machine.family).expect("is open");
    database.flush(&family).expect("flushes");
    database.rocks().expect("is well").compact_range_cf(&family, None::<&[u8]>, None::<&[u8]>);
    assert_eq!(chunks(&other), chunks(&machine));
}

#[test]
fn a_snapshot_shows_the_moment_it_was_taken_while_the_state_goes_on() {
    let (_dir, store, mut machine) = scratch();
    fill(&mut machine, &mut StdRng::seed_from_u64(8), 3000, 500);
    let (then, expected) = (all(&machine), chunks(&machine));
    let snapshot = machine.snapshot().expect("takes a view");
    assert_eq!(snapshot.applied(), machine.applied());
    let later = machine.snapshot().expect("takes another");
    // The state is changed before a single chunk was asked for, on disk as well.
    for number in (0..3000).step_by(2) {
        put(&mut machine, &format!("key-{number:08}"), b"later");
        apply(&mut machine, 1, &KvCommand::delete(format!("key-{:08}", number + 1)));
    }
    machine.commit(machine.applied() + 1, &[]).expect("commits");
    let database = &store.shared.database;
    let family = database.family(&machine.family).expect("is open");
    database.flush(&family).expect("flushes");
    database.rocks().expect("is well").compact_range_cf(&family, None::<&[u8]>, None::<&[u8]>);
    drop(family);
    let writer = std::thread::spawn(move || written(snapshot));
    // Even when the state is replaced meanwhile, and its column family dropped.
    let restore = machine.restore().expect("begins");
    drop(restore);
    let empty = scratch();
    let mut restore = machine.restore().expect("begins");
    chunks(&empty.2).iter().for_each(|chunk| restore.write(chunk).expect("takes"));
    restore.finish(10_000, &[]).expect("finishes");
    assert_eq!(all(&machine), BTreeMap::new());
    let parts = writer.join().expect("ends");
    assert_eq!(parts, expected);
    assert_eq!(written(later), expected);
    assert_eq!(all(&restored(&parts).2), then);
}

#[test]
fn a_snapshot_that_is_dropped_or_whose_reader_fails_lets_go_of_the_store() {
    let (dir, store, mut machine) = scratch();
    fill(&mut machine, &mut StdRng::seed_from_u64(9), 2000, 1000);
    drop(machine.snapshot().expect("takes a view"));
    let mut seen = 0;
    let result = machine.snapshot().expect("takes a view").write_to(&mut |_| {
        seen += 1;
        Err(StorageError::UnknownGroup { group: GROUP })
    });
    assert!(matches!(result, Err(StorageError::UnknownGroup { .. })), "{result:?}");
    assert_eq!(seen, 1, "the sink's error ends it at once");
    reopened(&dir, store, machine);
}

#[test]
fn a_damaged_snapshot_is_refused_and_the_old_state_stays() {
    let (dir, store, mut machine) = scratch();
    fill(&mut machine, &mut StdRng::seed_from_u64(10), 1500, 700);
    put(&mut machine, "long", &vec![1; VALUE_BYTES_MAX]);
    machine.commit(machine.applied() + 1, &[("row".into(), Some("1".into()))]).expect("commits");
    let parts = chunks(&machine);
    assert!(parts.len() > 4, "{}", parts.len());
    let (then, recovered) = (all(&machine), machine.recover().expect("recovers"));
    let end = parts.len() - 1;
    let without = |place: usize| [&parts[..place], &parts[place + 1..]].concat();
    let altered = |place: usize, byte: usize| {
        let mut bytes = parts[place].to_vec();
        bytes[byte] ^= 1;
        [&parts[..place], &[bytes.into()], &parts[place + 1..]].concat()
    };
    let mut exchanged = parts.clone();
    exchanged.swap(0, 1);
    let cut = [&parts[..1], &[parts[1].slice(..parts[1].len() - 1)], &parts[2..]].concat();
    let mut cases = vec![
        (without(0), "not those that were written"),
        (without(end), "the last chunk is missing"),
        (Vec::new(), "the last chunk is missing"),
        (exchanged, "keys do not ascend"),
        ([&parts[..1], &parts[..]].concat(), "keys do not ascend"),
        ([&parts[..], &parts[end..]].concat(), "behind the last chunk"),
        (cut, "checksum differs"),
        (vec![Bytes::new()], "too short"),
    ];
    let part = parts.iter().position(|chunk| chunk[1] == 2).expect("the long value is cut");
    cases.push((without(part), "part does not follow"));
    cases.push((without(part + 1), "a part of the pair before is missing"));
    for byte in [0, 1, 2, 1000, parts[0].len() - 1] {
        cases.push((altered(0, byte), "checksum differs"));
    }
    for (chunks, expected) in cases {
        let mut restore = machine.restore().expect("begins");
        let result = chunks.iter().try_for_each(|chunk| restore.write(chunk));
        match result.and_then(|()| restore.finish(7, &[])) {
            Err(StorageError::ChunkDamaged { reason, .. }) if reason.contains(expected) => {}
            other => panic!("not {expected}: {other:?}"),
        }
        assert_eq!(machine.recover().expect("recovers"), recovered, "{expected}");
        assert_eq!(families(&store), 1, "{expected}: an abandoned restore leaves nothing");
    }
    assert_eq!(all(&machine), then);
    let (_store, machine) = reopened(&dir, store, machine);
    assert_eq!(all(&machine), then);
}

#[test]
fn chunks_of_random_bytes_with_a_right_checksum_are_refused_without_a_panic() {
    let mut random = StdRng::seed_from_u64(11);
    for _ in 0..50_000 {
        let mut chunk = vec![0; random.random_range(2..60)];
        random.fill_bytes(&mut chunk);
        chunk[0] = 1;
        chunk[1] = random.random_range(1..5);
        // Small lengths, so that some of them fit.
        chunk[2..].iter_mut().for_each(|byte| *byte >>= random.random_range(0..7));
        let crc = crc32c::crc32c(&chunk);
        chunk.extend_from_slice(&crc.to_le_bytes());
        let mut reader = chunk::Reader::default();
        let _ = reader.read(&chunk, &mut |key, _| assert!(!key.is_empty()));
        let error = reader.finish().expect_err("no end matches");
        assert!(matches!(error, StorageError::ChunkDamaged { .. }), "{error}");
    }
}

#[test]
fn a_restore_cut_short_by_death_leaves_the_old_state_and_is_removed_at_the_next_open() {
    let (dir, store, mut machine) = scratch();
    put(&mut machine, "old", b"state");
    machine.commit(3, &[]).expect("commits");
    let (_dir2, _store2, mut other) = scratch();
    fill(&mut other, &mut StdRng::seed_from_u64(12), 3000, 500);
    let parts = chunks(&other);
    let mut restore = machine.restore().expect("begins");
    parts[..parts.len() - 1].iter().for_each(|chunk| restore.write(chunk).expect("takes"));
    // Death runs no destructors.
    std::mem::forget(restore);
    assert_eq!(families(&store), 2);
    let (store, mut machine) = reopened(&dir, store, machine);
    assert_eq!(families(&store), 1);
    assert_eq!((all(&machine).len(), machine.applied()), (1, 3));
    let mut restore = machine.restore().expect("begins");
    parts.iter().for_each(|chunk| restore.write(chunk).expect("takes"));
    restore.finish(50, &[("row".into(), "1".into())]).expect("finishes");
    assert_eq!(families(&store), 1);
    let (_store, machine) = reopened(&dir, store, machine);
    assert_eq!(all(&machine), all(&other));
    let rows = vec![("row".into(), "1".into())];
    assert_eq!(machine.recover().expect("recovers"), Recovered { applied: 50, rows }, "old rows are gone");
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
