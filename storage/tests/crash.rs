//! Death, a disk that fails and a disk that is full, each in a child process of its own.
//!
//! The child is this same program, run again for the one test named `child`, with its task in the environment.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use bequest_storage::{
    Base, GroupMeta, HardState, KvCommand, KvMachine, KvOptions, KvQuery, LogBatch, LogEntry, Options, Remedy,
    StorageError, Store,
};
use bytes::Bytes;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const GROUP: [u8; 16] = [7; 16];
const TASK: &str = "BEQUEST_STORAGE_TASK";
const DIR: &str = "BEQUEST_STORAGE_DIR";

/// Not a test by itself: what the child processes of the tests below do.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let dir = std::env::var(DIR).expect("the parent names a directory");
    let dir = Path::new(&dir);
    match task.as_str() {
        "write" => write_until_killed(dir),
        "sync" => sync_when_told(dir),
        "fill" => fill_the_disk(dir),
        other => panic!("unknown task {other}"),
    }
}

/// How to start the child for `task`, behind `wrapper` if there is one.
fn command(wrapper: &[&str], task: &str, dir: &Path) -> Command {
    let program = std::env::current_exe().expect("this program");
    let mut command = match wrapper.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env(TASK, task).env(DIR, dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("is piped")).lines()
}

/// Prints a line of the child's own, which the test harness' output cannot be taken for.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nchild: {text}").expect("the parent listens");
    out.flush().expect("the parent listens");
}

fn heard(line: &str) -> Option<&str> {
    line.strip_prefix("child: ")
}

fn entry(index: u64) -> LogEntry {
    let data = Bytes::from(vec![index as u8; 200]);
    LogEntry { index, term: 1, kind: 0, data, context: Bytes::new(), hash: hash(index) }
}

fn hash(index: u64) -> [u8; 16] {
    u128::from(index).to_be_bytes()
}

fn open(dir: &Path) -> (Store, KvMachine) {
    let options = Options { write_buffer_bytes: 128 << 10, ..Options::default() };
    let (store, _) = Store::open(dir, options).expect("opens");
    let machine = KvMachine::open(&store, GROUP, KvOptions::default()).expect("opens");
    (store, machine)
}

/// A restored state is in force, and durable, at each multiple.
const RESTORED_EVERY: u64 = 150;

/// Appends and applies one entry after another, telling each; now and then it compacts, or restores a snapshot.
fn write_until_killed(dir: &Path) {
    let (store, mut machine) = open(dir);
    let meta = GroupMeta { uuid: GROUP, name: "g".into(), genesis_czxid: 1 };
    let first = machine.applied() + 1;
    let base = store.load(GROUP, 0).expect("loads").map_or(0, |log| log.base.index);
    for index in first.. {
        let mut batch = LogBatch { meta: Some(meta.clone()), ..LogBatch::new(GROUP) };
        // What the former life wrote, and what of it the state lacks, is written again.
        batch.truncate_from = (index == first).then_some(index);
        batch.reset =
            (index == first && first <= base).then(|| Base { index: first - 1, term: 1, hash: hash(first - 1) });
        batch.entries = vec![entry(index)];
        batch.hard_state = Some(HardState { term: 1, commit: index });
        if index % 100 == 0 {
            batch.compact_to = Some(Base { index: index - 50, term: 1, hash: hash(index - 50) });
        }
        store.write(&[batch], false).expect("writes");
        let command = KvCommand::put(format!("key-{}", index % 50), index.to_string());
        machine.apply(index, &command.encode_to_vec());
        machine.commit(index, &[("last".into(), Some(index.to_string().into()))]).expect("commits");
        if index % RESTORED_EVERY == 0 {
            restore_from_itself(&mut machine);
        }
        say(&index.to_string());
    }
}

fn restore_from_itself(machine: &mut KvMachine) {
    let (applied, rows) = (machine.applied(), machine.recover().expect("recovers").rows);
    let snapshot = machine.snapshot().expect("takes a view");
    let mut restore = machine.restore().expect("begins");
    snapshot.write_to::<StorageError>(&mut |chunk| restore.write(&chunk)).expect("restores");
    restore.finish(applied, &rows).expect("finishes");
}

#[test]
fn kill_9_at_any_moment_leaves_the_whole_log_and_the_state_as_of_an_earlier_commit() {
    let scratch = tempfile::tempdir().expect("scratch directory");
    let dir = scratch.path().join("data");
    let mut random = StdRng::seed_from_u64(1);
    let mut acknowledged = 0;
    let mut behind = 0;
    for round in 0..12 {
        let mut child = command(&[], "write", &dir).spawn().expect("starts");
        let target = acknowledged + random.random_range(1..400);
        for line in lines(&mut child) {
            if let Some(index) = heard(&line.expect("the child speaks")) {
                acknowledged = index.parse().expect("an index");
                if acknowledged >= target {
                    break;
                }
            }
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
        behind += u32::from(check_after_death(&dir, acknowledged, round) < acknowledged);
    }
    assert!(behind > 0, "the state is written past RocksDB's log");
}

/// Returns how far the state reaches.
fn check_after_death(dir: &Path, acknowledged: u64, round: u32) -> u64 {
    let (store, machine) = open(dir);
    let log = store.load(GROUP, 0).expect("loads").expect("is there");
    let last = log.entries.last().map_or(log.base.index, |slot| slot.index);
    let applied = machine.applied();
    // The child may have done more than it could tell before it died.
    assert!(last >= applied && last >= acknowledged, "round {round}: {last} {applied} {acknowledged}");
    let restored = acknowledged - acknowledged % RESTORED_EVERY;
    assert!(applied >= restored, "round {round}: {applied} {acknowledged}");
    assert!(log.hard_state.commit == last, "round {round}: written in one batch");
    let rows = machine.recover().expect("recovers").rows;
    let row = (applied > 0).then(|| ("last".into(), applied.to_string().into()));
    assert_eq!(rows, Vec::from_iter(row), "round {round}: rows are as of the applied index");
    for index in (1..=applied).rev().take(50) {
        let query = KvQuery::get(format!("key-{}", index % 50)).encode_to_vec();
        let answer = machine.query(&query).expect("answers");
        let value = match bequest_storage::KvAnswer::decode(answer).expect("decodes").answer {
            Some(bequest_storage::kv_answer::Answer::Value(value)) => value.value,
            other => panic!("not a value: {other:?}"),
        };
        assert_eq!(value, Some(index.to_string().into()), "round {round}");
    }
    applied
}

fn sync_when_told(dir: &Path) {
    let (store, _machine) = open(dir);
    let meta = GroupMeta { uuid: GROUP, name: "g".into(), genesis_czxid: 1 };
    let batch = LogBatch { meta: Some(meta), entries: vec![entry(1)], ..LogBatch::new(GROUP) };
    store.write(&[batch], false).expect("writes");
    say(&format!("pid {}", std::process::id()));
    std::io::stdin().read_line(&mut String::new()).expect("is told");
    let error = store.sync().expect_err("the system was made to fail");
    assert!(matches!(&error, StorageError::Database { cause, .. } if cause.contains("Input/output error")), "{error}");
    assert_eq!(error.remedy(), Remedy::Reopen);
    // From here on the system would report success, for pages that it has dropped.
    let error = store.sync().expect_err("is stopped");
    assert!(matches!(&error, StorageError::Poisoned { cause } if cause.contains("Input/output error")), "{error}");
    let error = store.write(&[], true).expect_err("is stopped");
    assert!(matches!(error, StorageError::Poisoned { .. }), "{error}");
    say("refused");
}

#[test]
fn a_sync_that_failed_once_is_never_tried_again() {
    let tool = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !tool.is_ok_and(|status| status.success()) {
        eprintln!("not checked: strace is not installed; install it to see a failing fdatasync");
        return;
    }
    let scratch = tempfile::tempdir().expect("scratch directory");
    let mut child = command(&[], "sync", &scratch.path().join("data")).spawn().expect("starts");
    let mut said = lines(&mut child).map(|line| line.expect("the child speaks"));
    let pid = said.find_map(|line| heard(&line)?.strip_prefix("pid ").map(ToOwned::to_owned)).expect("tells its pid");
    let mut tracer = Command::new("strace")
        .args(["-f", "-p", &pid, "-o", "/dev/null", "-e", "trace=fdatasync,fsync"])
        .args(["-e", "inject=fdatasync,fsync:error=EIO:when=1"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut traced = BufReader::new(tracer.stderr.take().expect("is piped")).lines().map_while(Result::ok);
    let Some(first) = traced.next() else { panic!("strace says nothing") };
    if !first.contains("attached") {
        child.kill().expect("kills");
        child.wait().expect("ends");
        tracer.wait().expect("ends without a tracee");
        eprintln!("not checked: strace may not attach: {first}");
        return;
    }
    // Dropping the pipe is the word: the child's read ends.
    drop(child.stdin.take());
    let rest: Vec<String> = said.collect();
    let refused = rest.iter().any(|line| heard(line) == Some("refused"));
    let status = child.wait().expect("ends");
    tracer.wait().expect("ends with its tracee");
    assert!(refused && status.success(), "the child failed: {status}");
}

fn fill_the_disk(dir: &Path) {
    let (store, mut machine) = open(dir);
    let meta = GroupMeta { uuid: GROUP, name: "g".into(), genesis_czxid: 1 };
    // Something to free once the disk is full, as an operator would.
    let ballast = dir.join("../ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).expect("fits");
    let mut random = StdRng::seed_from_u64(2);
    let mut index = 0;
    let error = loop {
        index += 1;
        let mut value = vec![0; 100 << 10];
        random.fill(&mut value[..]);
        let data = Bytes::from(value);
        let written = LogEntry { data: data.clone(), ..entry(index) };
        let batch = LogBatch { meta: Some(meta.clone()), entries: vec![written], ..LogBatch::new(GROUP) };
        if let Err(error) = store.write(&[batch], false) {
            break error;
        }
        machine.apply(index, &KvCommand::put(index.to_string(), data).encode_to_vec());
        if let Err(error) = machine.commit(index, &[]) {
            break error;
        }
    };
    assert!(matches!(error, StorageError::DiskFull { .. }), "{error:?}");
    assert_eq!(error.remedy(), Remedy::FreeSpace);
    let again = store.sync().expect_err("is stopped");
    assert!(matches!(again, StorageError::Poisoned { .. }), "{again}");
    drop((store, machine));
    std::fs::remove_file(ballast).expect("removes");
    let (store, machine) = open(dir);
    let log = store.load(GROUP, 0).expect("loads").expect("is there");
    let last = log.entries.last().expect("not empty").index;
    assert!((index - 1..=index).contains(&last), "{last} of {index}");
    // There was no space to flush the state when the store was closed; what it lacks is in the log.
    assert!(machine.applied() <= last, "{} of {last}", machine.applied());
    let batch = LogBatch { entries: vec![entry(last + 1)], ..LogBatch::new(GROUP) };
    store.write(&[batch], true).expect("there is space again");
    say("recovered");
}

#[test]
fn a_full_disk_is_told_loses_nothing_and_works_again_once_there_is_space() {
    let scratch = tempfile::tempdir().expect("scratch directory");
    let mount = scratch.path().to_str().expect("a path of text");
    // A mount namespace of its own: the file system vanishes with the child.
    let script = format!("mount -t tmpfs -o size=40m none {mount} && exec \"$@\"");
    let probe = Command::new("unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("not checked: needs the right to mount a small file system (unshare -m; mount -t tmpfs)");
        return;
    }
    let dir = scratch.path().join("data");
    let mut child = command(&["unshare", "-m", "sh", "-c", &script, "sh"], "fill", &dir).spawn().expect("starts");
    // To the last line: a pipe closed early would fail the child.
    let said: Vec<String> = lines(&mut child).map_while(Result::ok).collect();
    let recovered = said.iter().any(|line| heard(line) == Some("recovered"));
    let status = child.wait().expect("ends");
    assert!(recovered && status.success(), "the child failed: {status}");
}
