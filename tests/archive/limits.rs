//! At the limits: refused by name, and never stuck.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bequest::{default_limits, Limits, MachineError, Mode, ProposeError, Restore, Role, Snapshot, StateMachine};
use bequest_storage::{kv_response, KvCommand};
use bytes::Bytes;

use crate::world::{apply, caught_up, get, leads, noise, put, until, TestResult, World, LIMIT};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_refuses_growth_and_lets_deletes_pass_also_after_a_restore() -> TestResult {
    let limits = Limits { state_bytes: 64 << 10, wal_bytes: 256 << 10, ..default_limits() };
    let world = World::start(256, limits).await?;
    let mut replica = world.born(1).await?;
    leads(&replica.group).await;
    for key in 0..7 {
        put(&replica.group, &format!("k{key}"), noise(key, 8 << 10)).await?;
    }
    for round in 0..2 {
        // Overwriting does not grow it.
        for _ in 0..30 {
            put(&replica.group, "k1", noise(1, 8 << 10)).await?;
        }
        let refused = apply(&replica.group, KvCommand::put("k8", noise(8, 9 << 10))).await?;
        assert!(matches!(refused, kv_response::Response::StateFull(_)), "{refused:?}");
        assert_eq!(get(&replica.group, "k8").await?, None);
        let deleted = apply(&replica.group, KvCommand::delete("k0")).await?;
        assert!(matches!(deleted, kv_response::Response::Done(_)), "{deleted:?}");
        put(&replica.group, "k8", noise(8, 8 << 10)).await?;
        apply(&replica.group, KvCommand::delete("k8")).await?;
        put(&replica.group, "k0", noise(0, 8 << 10)).await?;
        if round == 0 {
            assert!(replica.group.status().snapshot > 0, "{:#?}", replica.group.status());
            drop(replica);
            replica = world.born(1).await?;
            leads(&replica.group).await;
        }
    }
    Ok(())
}

/// Adds up, in memory; makes no snapshot while it is told not to.
struct Sum {
    sum: u64,
    refuse: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

struct SumSnapshot(u64);

struct SumRestore<'a> {
    sum: &'a mut u64,
    found: Option<u64>,
}

impl StateMachine for Sum {
    fn apply(&mut self, _: u64, command: &[u8]) -> Bytes {
        self.sum += command.len() as u64;
        Bytes::copy_from_slice(&self.sum.to_be_bytes())
    }

    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(Bytes::copy_from_slice(&self.sum.to_be_bytes()))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        self.asked.fetch_add(1, SeqCst);
        if self.refuse.load(SeqCst) {
            return Err(MachineError::new("told not to"));
        }
        Ok(Box::new(SumSnapshot(self.sum)))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(SumRestore { sum: &mut self.sum, found: None }))
    }
}

impl Snapshot for SumSnapshot {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        chunk(Bytes::copy_from_slice(&self.0.to_be_bytes()))
    }
}

impl Restore for SumRestore<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        let sum = chunk[..].try_into().map_err(|_| MachineError::new("a sum has eight bytes"))?;
        self.found = Some(u64::from_be_bytes(sum));
        Ok(())
    }

    fn finish(self: Box<Self>, _: u64, _: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        *self.sum = self.found.ok_or_else(|| MachineError::new("no sum"))?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_snapshots_the_wal_s_limit_is_busy_and_with_them_it_serves_again_by_itself() -> TestResult {
    let limits = Limits { wal_bytes: 128 << 10, wal_segments: 1000, ..default_limits() };
    let world = World::start(256, limits).await?;
    let (refuse, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let machine = || Sum { sum: 0, refuse: refuse.clone(), asked: asked.clone() };
    let one = world.born_with(1, machine()).await?;
    leads(&one.group).await;
    let mut sum: u64 = 0;
    let busy = loop {
        match one.group.propose(vec![1; 1000]).await {
            Ok(answer) => {
                sum += 1000;
                assert_eq!(answer, sum.to_be_bytes()[..]);
            }
            Err(error) => break error,
        }
        assert!(sum < 256 << 10, "the limit is not kept");
    };
    assert_eq!(busy, ProposeError::Busy { reason: "wal bytes" });
    until("a snapshot is tried", || asked.load(SeqCst) > 0, String::new).await;
    let told = || one.group.status().reason.contains("told not to");
    until("the status says why", told, || format!("{:#?}", one.group.status())).await;
    // Reads and another leadership need no room: internal entries pass.
    assert_eq!(one.group.read("").await?, sum.to_be_bytes()[..]);
    let two = world.born_with(2, machine()).await?;
    one.group.hand_over().await?;
    leads(&two.group).await;
    let still = two.group.propose(vec![1; 1000]).await.expect_err("as full as before");
    assert_eq!(still, ProposeError::Busy { reason: "wal bytes" });
    assert_eq!(two.group.read("").await?, sum.to_be_bytes()[..]);

    refuse.store(false, SeqCst);
    // Nobody writes: the leader itself must find the way out.
    let room = || two.group.status().wal_bytes < (128 << 10) / 2;
    until("trimmed", room, || format!("{:#?}", two.group.status())).await;
    let answer = two.group.propose(vec![1; 1000]).await?;
    assert_eq!(answer, (sum + 1000).to_be_bytes()[..]);
    Ok(())
}

/// Counts, and does not go on before it may.
struct Held {
    applied: u64,
    free: Arc<AtomicBool>,
}

impl StateMachine for Held {
    #[expect(clippy::disallowed_methods, reason = "the machine's own thread awaits a condition, with a deadline")]
    fn apply(&mut self, _: u64, _: &[u8]) -> Bytes {
        let began = Instant::now();
        while !self.free.load(SeqCst) && began.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.applied += 1;
        Bytes::copy_from_slice(&self.applied.to_be_bytes())
    }

    fn query(&self, _: &[u8]) -> Result<Bytes, MachineError> {
        Ok(Bytes::copy_from_slice(&self.applied.to_be_bytes()))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Err(MachineError::new("keeps none"))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Err(MachineError::new("keeps none"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_does_not_apply_stops_taking_entries_and_catches_up_once_it_does() -> TestResult {
    const SIZE: usize = 400 << 10;
    // Cache and backlog are 32 MiB each: so much is left out at last.
    const PROPOSALS: u64 = 240;
    let world = World::start(1024, default_limits()).await?;
    let always = Arc::new(AtomicBool::new(true));
    let one = world.born_with(1, Held { applied: 0, free: always }).await?;
    leads(&one.group).await;
    let free = Arc::new(AtomicBool::new(false));
    let two = world.born_with(2, Held { applied: 0, free: free.clone() }).await?;
    until("linked", || one.group.status().mode == Mode::Full, || format!("{:#?}", one.group.status())).await;
    for _ in 0..PROPOSALS {
        one.group.propose(vec![1; SIZE]).await?;
    }
    let (ahead, behind) = (one.group.status().last, two.group.status().last);
    let missing = (ahead - behind) * SIZE as u64;
    assert!(missing >= 16 << 20, "the follower holds everything in memory: leader={ahead} follower={behind}");
    assert_eq!(two.group.status().role, Role::Follower, "{:#?}", two.group.status());
    free.store(true, SeqCst);
    caught_up(&two.group, &one.group).await;
    assert_eq!(two.group.read_stale("").await?.1, PROPOSALS.to_be_bytes()[..]);
    Ok(())
}
