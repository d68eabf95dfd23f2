//! What a batch of entries costs the store below: the local log, and the state machine behind the applier, in memory
//! and on RocksDB.
//!
//! `cargo bench --bench stores`; the disk is the one that temporary files are on.

use std::collections::BTreeMap;

use bequest::apply::Applier;
use bequest::command::Command;
use bequest::replica::event::Apply;
use bequest::{MachineError, Restore, RowChange, Snapshot, StateMachine};
use bequest_recovery::entry::Entry;
use bequest_storage::{GroupMeta, GroupUuid, KvCommand, KvMachine, KvOptions, LogBatch, LogEntry, Options, Store};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use prost::Message;
use tempfile::TempDir;

const GROUP: GroupUuid = [7; 16];
const BATCHES: [u64; 2] = [1, 256];
const KEYS: u64 = 4096;
const BYTES: usize = 100;
/// Entries that a log keeps behind.
const KEPT: u64 = 4096;

/// A state in memory, which takes commands for what they are to it: values of a few keys.
#[derive(Debug, Default)]
struct Memory {
    values: BTreeMap<u64, Bytes>,
}

impl StateMachine for Memory {
    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes {
        self.values.insert(index % KEYS, Bytes::copy_from_slice(command));
        Bytes::new()
    }

    fn query(&self, _query: &[u8]) -> Result<Bytes, MachineError> {
        not_asked_for()
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        not_asked_for()
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        not_asked_for()
    }
}

/// RocksDB's machine, as the node has it.
struct OnDisk(KvMachine);

impl StateMachine for OnDisk {
    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes {
        self.0.apply(index, command)
    }

    fn commit(&mut self, applied: u64, rows: &[RowChange]) -> Result<(), MachineError> {
        self.0.commit(applied, rows).map_err(|error| MachineError::new(error.to_string()))
    }

    fn query(&self, _query: &[u8]) -> Result<Bytes, MachineError> {
        not_asked_for()
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        not_asked_for()
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        not_asked_for()
    }
}

fn not_asked_for<T>() -> Result<T, MachineError> {
    Err(MachineError::new("nobody asks for that here"))
}

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let (store, _) = Store::open(dir.path(), Options::default()).expect("an empty folder");
    let meta = GroupMeta { uuid: GROUP, name: "measured".to_owned(), genesis_czxid: 1 };
    store.write(&[LogBatch { meta: Some(meta), ..LogBatch::new(GROUP) }], true).expect("a group begins");
    (dir, store)
}

fn batch(from: u64, count: u64) -> Vec<Apply> {
    let entry = |index: u64| {
        let command = KvCommand::put(format!("{:09}", index % KEYS), vec![0x5a; BYTES]).encode_to_vec();
        let data = Command::Plain(command.into()).encode();
        Apply { entry: Entry { index, term: 1, kind: 0, data, context: Bytes::new() }, token: None }
    };
    (from..from + count).map(entry).collect()
}

fn machines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for count in BATCHES {
        group.throughput(Throughput::Elements(count));
        let (_dir, store) = store();
        let rocks = KvMachine::open(&store, GROUP, KvOptions::default()).expect("a new state");
        let machines: [(&str, Box<dyn StateMachine>); 2] =
            [("memory", Box::<Memory>::default()), ("rocksdb", Box::new(OnDisk(rocks)))];
        for (name, machine) in machines {
            let mut applier = Applier::recover(machine).expect("a new machine");
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| applier.apply(batch(applier.applied() + 1, count)).expect("applied"));
            });
        }
    }
    group.finish();
}

fn logs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    for (name, sync) in [("written", false), ("synced", true)] {
        for count in BATCHES {
            group.throughput(Throughput::Elements(count));
            let (_dir, store) = store();
            let mut last = 0;
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    let entry = |index| LogEntry {
                        index,
                        term: 1,
                        kind: 0,
                        data: Bytes::from_static(&[0x5a; BYTES]),
                        context: Bytes::new(),
                        hash: [0; 16],
                    };
                    let entries = (last + 1..=last + count).map(entry).collect();
                    last += count;
                    // As a node does when a snapshot covers what was before.
                    let compact_to = last.is_multiple_of(KEPT).then(|| bequest_storage::Base {
                        index: last - KEPT / 2,
                        term: 1,
                        hash: [0; 16],
                    });
                    store.write(&[LogBatch { entries, compact_to, ..LogBatch::new(GROUP) }], sync).expect("written");
                });
            });
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    machines(&mut criterion);
    logs(&mut criterion);
    criterion.final_summary();
}
