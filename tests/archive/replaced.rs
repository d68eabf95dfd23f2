//! A node that restores so slowly that newer snapshots replace the one it reads, again and again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bequest::{default_limits, Group, Limits, MachineError, ProposeError, Restore, Snapshot, StateMachine};
use bytes::Bytes;

use crate::world::{caught_up, leads, noise, until, TestResult, World, LIMIT};
use crate::znodes::Znodes;

/// More than a node asks for at once, so that chunks are still unread when their snapshot is replaced.
const ROWS: u8 = 32;
const ROW: usize = 4 << 10;

/// How far a machine's restores got, and how many of them may go on.
#[derive(Default)]
struct Restores {
    begun: AtomicU64,
    allowed: AtomicU64,
    finished: AtomicU64,
}

/// Rows in memory, each a chunk of its own: a command's first byte names the row.
struct Rows {
    rows: BTreeMap<u8, Bytes>,
    restores: Arc<Restores>,
}

struct RowsSnapshot(BTreeMap<u8, Bytes>);

struct RowsRestore<'a> {
    machine: &'a mut Rows,
    found: BTreeMap<u8, Bytes>,
    number: u64,
}

impl StateMachine for Rows {
    fn apply(&mut self, _: u64, command: &[u8]) -> Bytes {
        if let Some(row) = command.first() {
            self.rows.insert(*row, Bytes::copy_from_slice(command));
        }
        Bytes::new()
    }

    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        let mut hash = blake3::Hasher::new();
        for row in self.rows.values() {
            hash.update(row);
        }
        Ok(Bytes::copy_from_slice(hash.finalize().as_bytes()))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(RowsSnapshot(self.rows.clone())))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        let number = self.restores.begun.load(SeqCst) + 1;
        Ok(Box::new(RowsRestore { machine: self, found: BTreeMap::new(), number }))
    }
}

impl Snapshot for RowsSnapshot {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        self.0.into_values().try_for_each(chunk)
    }
}

impl Restore for RowsRestore<'_> {
    #[expect(clippy::disallowed_methods, reason = "the machine's own thread awaits a condition, with a deadline")]
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        let row = *chunk.first().ok_or_else(|| MachineError::new("a row has a name"))?;
        self.found.insert(row, chunk);
        let restores = &self.machine.restores;
        restores.begun.fetch_max(self.number, SeqCst);
        let began = Instant::now();
        while restores.allowed.load(SeqCst) < self.number {
            if began.elapsed() > LIMIT {
                return Err(MachineError::new("never allowed to go on"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _: u64, _: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        let Self { machine, found, number: _ } = *self;
        machine.rows = found;
        machine.restores.finished.fetch_add(1, SeqCst);
        Ok(())
    }
}

/// Overwrites every row until so many snapshots more were published.
async fn overwrite(group: &Group, round: &mut u64, snapshots: u32) -> TestResult {
    let began = Instant::now();
    let (mut seen, mut published) = (group.status().snapshot, 0);
    while published < snapshots {
        assert!(began.elapsed() < LIMIT, "published={published} of {snapshots}: {:#?}", group.status());
        *round += 1;
        let mut row = noise(*round, ROW);
        row[0] = u8::try_from(*round % u64::from(ROWS))?;
        match group.propose(row).await {
            Ok(_) => {}
            Err(ProposeError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => return Err(error.into()),
        }
        let snapshot = group.status().snapshot;
        if snapshot > seen {
            (seen, published) = (snapshot, published + 1);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_snapshot_is_kept_while_three_newer_ones_replace_it_and_the_node_catches_up() -> TestResult {
    let limits = Limits { wal_bytes: 256 << 10, ..default_limits() };
    let world = World::start(256, limits).await?;
    let free = Arc::new(Restores { allowed: AtomicU64::new(u64::MAX), ..Restores::default() });
    let one = world.born_with(1, Rows { rows: BTreeMap::new(), restores: free }).await?;
    leads(&one.group).await;
    let mut round = 0;
    overwrite(&one.group, &mut round, 3).await?;

    let restores = Arc::new(Restores::default());
    let held = Rows { rows: BTreeMap::new(), restores: restores.clone() };
    let replace = async {
        for number in 1..=2 {
            let tell = || format!("restore {number}: {:#?}", one.group.status());
            until("a restore begins", || restores.begun.load(SeqCst) >= number, tell).await;
            let reading = Znodes::read(&world).await?.pins;
            overwrite(&one.group, &mut round, 3).await?;
            let znodes = Znodes::read(&world).await?;
            let pointed: Vec<_> = znodes.pointer.newest.iter().chain(&znodes.pointer.previous).collect();
            for (index, term) in &reading {
                assert!(znodes.manifests.contains(&(*index, *term)), "pinned: {index}-{term}");
                assert!(pointed.iter().all(|name| name.index > *index), "replaced: {index}-{term} by {pointed:?}");
            }
            assert_eq!(reading.len(), 1, "one node restores");
            restores.allowed.store(number, SeqCst);
        }
        restores.allowed.store(u64::MAX, SeqCst);
        TestResult::Ok(())
    };
    let (two, replaced) = tokio::join!(world.born_with(2, held), replace);
    replaced?;
    let two = two?;
    caught_up(&two.group, &one.group).await;
    // Twice it held a state that was older than what the WAL still reaches back to, and began anew.
    let finished = restores.finished.load(SeqCst);
    assert!(finished >= 3, "finished={finished}: {:#?}", two.group.status());
    let (_, theirs) = two.group.read_stale("").await?;
    assert_eq!(theirs, one.group.read("").await?);
    // What was pinned goes with the next sweep.
    overwrite(&one.group, &mut round, 1).await?;
    let began = Instant::now();
    loop {
        let garbage = Znodes::read(&world).await?.garbage();
        if garbage.is_empty() {
            return Ok(());
        }
        assert!(began.elapsed() < LIMIT, "stays: {garbage:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
