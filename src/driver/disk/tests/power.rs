//! The simulator's disk and the real store, given the same operations, deaths and losses of power: the same answers.
//!
//! A death leaves a copy of the files as they were. Power is lost by cutting, in that copy, RocksDB's own log anywhere
//! behind its last sync, also in the middle of a write. What is found afterwards must be what the simulator's disk may
//! show: all logs up to one of the writes that were not synced, and all machines up to one at or before it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bequest_storage::{kv_answer, KvAnswer, KvCommand, KvMachine, KvOptions, KvQuery, StorageError};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::*;
use crate::replica::event::{LocalGroup, Slot};

#[allow(dead_code, unreachable_pub, reason = "shared with the simulator, which uses all of it")]
#[path = "../../../../tests/simulation/disk.rs"]
mod disk;

mod machine {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    /// What a key-value machine holds.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub(super) struct State {
        pub(super) applied: u64,
        pub(super) pairs: BTreeMap<Bytes, Bytes>,
        pub(super) rows: BTreeMap<Bytes, Bytes>,
    }
}

use disk::Write;
use machine::State;

const GROUPS: usize = 2;
const TURNS: u32 = 600;

fn uuid(group: usize) -> [u8; 16] {
    [group as u8 + 1; 16]
}

fn open(dir: &Path) -> Store {
    // Buffers so small that some of what was not synced is in data files already.
    let small = Options { write_buffer_bytes: 96 << 10, wal_bytes_max: 1 << 20, ..Options::default() };
    let (store, opened) = Store::open(dir, small).expect("opens");
    assert!(!matches!(opened, bequest_storage::Opened::Quarantined { .. }), "a loss of power is no damage: {opened:?}");
    store
}

fn all(machine: &KvMachine) -> BTreeMap<Bytes, Bytes> {
    let answer = machine.query(&KvQuery::scan("", None, 0).encode_to_vec()).expect("answers");
    match KvAnswer::decode(answer).expect("decodes").answer {
        Some(kv_answer::Answer::Pairs(page)) if !page.more => {
            page.pairs.into_iter().map(|pair| (pair.key, pair.value)).collect()
        }
        other => panic!("not all pairs: {other:?}"),
    }
}

/// The file RocksDB logs to, and its length.
fn newest_log(dir: &Path) -> (OsString, u64) {
    let logs = files(&dir.join("rocksdb")).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    let (newest, bytes) = logs.max().expect("RocksDB has a log");
    (newest.file_name().expect("has one").to_owned(), bytes)
}

/// The real side: a store, a machine for each group, and how much of RocksDB's log a loss of power leaves at least.
struct Real {
    dir: PathBuf,
    writer: Writer,
    machines: Vec<KvMachine>,
    synced: (OsString, u64),
}

/// Copies a folder in which RocksDB may be at work: again, until nothing in it changed meanwhile.
fn copy(from: &Path, to: &Path) {
    loop {
        let before = files(from);
        let _ = std::fs::remove_dir_all(to);
        let copied = before.iter().all(|(path, _)| {
            let place = to.join(path.strip_prefix(from).expect("lies there"));
            std::fs::create_dir_all(place.parent().expect("has one")).expect("creates");
            // RocksDB may have deleted it meanwhile.
            std::fs::copy(path, place).is_ok()
        });
        if copied && files(from) == before {
            return;
        }
    }
}

/// All files below a folder, and how long they are.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => found.extend(files(&entry)),
            Ok(metadata) => drop(found.insert(entry, metadata.len())),
            Err(_) => {}
        }
    }
    found
}

impl Real {
    fn open(dir: &Path) -> Self {
        let store = open(dir);
        let open = |group| KvMachine::open(&store, uuid(group), KvOptions::default()).expect("opens");
        let machines = (0..GROUPS).map(open).collect();
        let (dirty, _) = crossbeam_channel::bounded(1);
        let (inbox, _) = inbox();
        let groups = (0..GROUPS).map(|group| (GroupNumber(group as u32), uuid(group))).collect();
        let writer = Writer { store, node: 1, sync: DiskSync::Background, dirty, inbox: Arc::new(inbox), groups };
        let mut real = Self { dir: dir.to_owned(), writer, machines, synced: Default::default() };
        // Whatever was found is durable: RocksDB has written it anew.
        real.note_synced();
        real
    }

    fn note_synced(&mut self) {
        self.synced = newest_log(&self.dir);
    }

    fn sync(&mut self) {
        self.writer.store.sync().expect("syncs");
        self.note_synced();
    }

    fn persist(&mut self, group: usize, persist: Persist) {
        let batch = self.writer.batch(GroupNumber(group as u32), persist);
        self.writer.store.write(&[batch], false).expect("writes");
    }

    /// Ends without a word. Of the log, `cut` says how much of what lies between the last sync and its end is left.
    fn crash(self, cut: impl FnOnce(u64, u64) -> u64) {
        let dir = self.dir.clone();
        let left = dir.with_extension("left");
        copy(&dir, &left);
        let (log, bytes) = newest_log(&left);
        let synced = if log == self.synced.0 { self.synced.1 } else { 0 };
        let kept = cut(synced, bytes);
        // Closing moves everything into data files; a death does not.
        drop(self);
        std::fs::remove_dir_all(&dir).expect("removes");
        std::fs::rename(&left, &dir).expect("moves");
        let file = std::fs::File::options().write(true).open(dir.join("rocksdb").join(log)).expect("opens");
        file.set_len(kept).expect("cuts");
    }

    fn state(&self, group: usize) -> State {
        let machine = &self.machines[group];
        let recovered = machine.recover().expect("recovers");
        State { applied: recovered.applied, pairs: all(machine), rows: recovered.rows.into_iter().collect() }
    }

    /// As the node reads it at its start.
    fn local(&self, group: usize) -> Option<LocalGroup> {
        let log = self.writer.store.load(uuid(group), u64::MAX).expect("loads")?;
        let position = |index, term, hash| Position { index, term, hash: EntryHash(hash) };
        let (base, end) = (log.base, log.base.index + log.entries.len() as u64);
        let entries = self.writer.store.entries(uuid(group), base.index + 1, end + 1, u64::MAX).expect("reads");
        let slots = entries.into_iter().map(|entry| {
            let LogEntry { index, term, kind, data, context, hash } = entry;
            let bytes = (data.len() + context.len()) as u64;
            let entry = Entry { index, term, kind: u32::from(kind), data, context };
            Slot { position: position(index, term, hash), bytes, entry: Some(entry) }
        });
        Some(LocalGroup {
            uuid: Uuid(uuid(group)),
            genesis_czxid: log.meta.genesis_czxid,
            term: log.hard_state.term,
            commit: log.hard_state.commit,
            base: position(base.index, base.term, base.hash),
            slots: slots.collect(),
            known: log.known.map_or_else(Default::default, |known| crate::replica::event::Known {
                term: known.term,
                position: position(known.index, known.entry_term, known.hash),
            }),
        })
    }
}

fn same(real: &Real, disk: &disk::Disk) -> Result<(), String> {
    same_logs(real, disk)?;
    same_machines(real, disk)
}

fn same_machines(real: &Real, disk: &disk::Disk) -> Result<(), String> {
    for group in 0..GROUPS {
        let (expected, state) = (disk.group(group).machine, real.state(group));
        if state != expected {
            return Err(format!("group {group}: machine real={} model={}", state.applied, expected.applied));
        }
    }
    Ok(())
}

fn same_logs(real: &Real, disk: &disk::Disk) -> Result<(), String> {
    for group in 0..GROUPS {
        let expected = disk.group(group);
        let log = real.local(group);
        if log.as_ref() != expected.log.as_ref() {
            let tell = |log: Option<&LocalGroup>| {
                log.map(|log| (log.term, log.commit, log.base, log.slots.last().map(|slot| slot.position), log.known))
            };
            return Err(format!(
                "group {group}: real={:?} model={:?}",
                tell(log.as_ref()),
                tell(expected.log.as_ref())
            ));
        }
    }
    Ok(())
}

/// A change that the core might ask for, fitting what is on the disk.
fn change(random: &mut StdRng, group: usize, log: Option<&LocalGroup>) -> Persist {
    let mut persist = Persist::default();
    let (mut base, mut slots, term, commit) = match log {
        Some(log) => (log.base, log.slots.clone(), log.term, log.commit),
        None => {
            persist.birth = Some(Birth { name: format!("g{group}"), uuid: Uuid(uuid(group)), genesis_czxid: 7 });
            (Position::START, Vec::new(), 0, 0)
        }
    };
    if random.random_bool(0.03) {
        let index = base.index + random.random_range(0..500);
        base = Position { index, term: term.max(1), hash: EntryHash([index as u8; 16]) };
        slots.clear();
        persist.reset = Some(base);
    }
    if random.random_bool(0.15) && !slots.is_empty() {
        let from = random.random_range(0..slots.len());
        persist.truncate_from = Some(slots[from].position.index);
        slots.truncate(from);
    }
    let mut end = slots.last().map_or(base, |slot| slot.position);
    for _ in 0..random.random_range(0..6) {
        let mut data = vec![0; random.random_range(0..3000)];
        random.fill_bytes(&mut data);
        let term = end.term.max(term).max(1) + u64::from(random.random_bool(0.02));
        let entry = Entry { index: end.index + 1, term, kind: 0, data: data.into(), context: Bytes::new() };
        end = end.next(&entry);
        slots.push(Slot { position: end, bytes: 0, entry: None });
        persist.entries.push((entry, end.hash));
    }
    if random.random_bool(0.5) {
        persist.hard_state = Some((end.term.max(term), end.index.min(commit + random.random_range(0..9))));
    }
    if random.random_bool(0.1) && !slots.is_empty() {
        persist.compact = Some(slots[random.random_range(0..slots.len())].position);
    }
    if random.random_bool(0.3) {
        persist.known = Some(crate::replica::event::Known { term, position: end });
    }
    persist
}

fn command(random: &mut StdRng, pairs: &mut BTreeMap<Bytes, Bytes>) -> Vec<u8> {
    let key = Bytes::from(format!("k{}", random.random_range(0..40)));
    let mut value = vec![0; random.random_range(0..2000)];
    random.fill_bytes(&mut value);
    let value = Bytes::from(value);
    if random.random_bool(0.7) {
        pairs.insert(key.clone(), value.clone());
        KvCommand::put(key, value).encode_to_vec()
    } else {
        pairs.remove(&key);
        KvCommand::delete(key).encode_to_vec()
    }
}

/// How often what this is about happened.
#[derive(Debug, Default)]
struct Seen {
    lost: u32,
    kept: u32,
    behind: u32,
    deaths: u32,
    restores: u32,
}

/// What the model may show that is what was found: at least `least` of the writes that were not synced are in the logs.
fn found(real: &Real, disk: &disk::Disk, least: usize, seen: &mut Seen) -> Result<disk::Disk, String> {
    let (unsynced, all, flushed) = (disk.unsynced(), disk.logged(), disk.logged() - disk.unflushed());
    let after = |logs, machines| {
        let mut disk = disk.clone();
        disk.keep(logs, machines);
        disk
    };
    let logs = (all - unsynced + least..=all).rev().find(|logs| same_logs(real, &after(*logs, flushed)).is_ok());
    let Some(logs) = logs else { return same_logs(real, &after(all, flushed)).map(|()| disk.clone()) };
    let machines = (flushed..=logs).rev().find(|machines| same_machines(real, &after(logs, *machines)).is_ok());
    let Some(machines) = machines else { return same_machines(real, &after(logs, flushed)).map(|()| disk.clone()) };
    seen.lost += u32::from(logs < all);
    seen.kept += u32::from(logs > all - unsynced);
    seen.behind += u32::from(same_machines(real, disk).is_err());
    Ok(after(logs, machines))
}

fn run(seed: u64, seen: &mut Seen) {
    let mut random = StdRng::seed_from_u64(seed);
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().join("data");
    let mut disk = disk::Disk::default();
    let mut real = Real::open(&dir);
    for turn in 0..TURNS {
        let group = random.random_range(0..GROUPS);
        match random.random_range(0..100) {
            0..50 => {
                let persist = change(&mut random, group, disk.group(group).log.as_ref());
                disk.write(Write::Log(group, Box::new(persist.clone())));
                real.persist(group, persist);
            }
            50..85 => {
                let State { applied, mut pairs, mut rows } = disk.group(group).machine;
                let applied = applied + 1;
                let command = command(&mut random, &mut pairs);
                let row = (Bytes::from_static(b"row"), Bytes::from(applied.to_string()));
                rows.insert(row.0.clone(), row.1.clone());
                real.machines[group].apply(applied, &command);
                real.machines[group].commit(applied, &[(row.0, Some(row.1))]).expect("commits");
                disk.write(Write::Machine(group, State { applied, pairs, rows }));
            }
            85..88 => {
                // One group's state takes the place of the other's, as a snapshot does: at once durable.
                let mut chunks = Vec::new();
                let view = real.machines[1 - group].snapshot().expect("a view");
                let written: Result<(), StorageError> = view.write_to(&mut |chunk| {
                    chunks.push(chunk);
                    Ok(())
                });
                written.expect("written");
                let State { pairs, .. } = disk.group(1 - group).machine;
                let applied = disk.group(group).machine.applied + 10;
                let mut restore = real.machines[group].restore().expect("begins");
                chunks.iter().for_each(|chunk| restore.write(chunk).expect("takes"));
                restore.finish(applied, &[]).expect("finishes");
                real.note_synced();
                disk.write(Write::Machine(group, State { applied, pairs, rows: BTreeMap::new() }));
                disk.flush_machines();
                seen.restores += 1;
            }
            88..93 => {
                real.sync();
                disk.sync();
            }
            93..95 => {
                // The process dies; what it wrote is the system's.
                real.crash(|_, end| end);
                real = Real::open(&dir);
                disk = found(&real, &disk, disk.unsynced(), seen)
                    .unwrap_or_else(|what| panic!("seed {seed} turn {turn}: after a death: {what}"));
                seen.deaths += 1;
            }
            95..98 => {
                let share = random.random_range(0..=100);
                real.crash(|synced, end| synced + (end - synced) * share / 100);
                real = Real::open(&dir);
                // What is left is all writes up to some point: which one, RocksDB decides.
                disk = found(&real, &disk, 0, seen)
                    .unwrap_or_else(|what| panic!("seed {seed} turn {turn}: no prefix of the writes is left: {what}"));
            }
            _ => same(&real, &disk).unwrap_or_else(|what| panic!("seed {seed} turn {turn}: {what}")),
        }
    }
}

#[test]
fn the_simulated_disk_and_the_real_store_give_the_same_answers_after_deaths_and_losses_of_power() {
    let mut seen = Seen::default();
    for seed in 0..4 {
        run(seed, &mut seen);
    }
    eprintln!("{seen:?}");
    assert!(seen.lost > 10 && seen.kept > 10 && seen.deaths > 10 && seen.restores > 10, "{seen:?}");
    assert!(seen.behind > 10, "machines are behind their logs after a death: {seen:?}");
}
