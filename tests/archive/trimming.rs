//! Writes without end, leaderships without number: ZooKeeper holds what the limits allow.

use std::time::Instant;

use bequest::Limits;

use crate::world::{caught_up, contents, leads, until, Load, Replica, TestResult, World, LIMIT};
use crate::znodes::Znodes;

const LIMITS: Limits = Limits { wal_bytes: 512 << 10, wal_segments: 200, state_bytes: 64 << 20 };
const KEYS: u64 = 2000;
const VALUE: usize = 400;
/// Segments and marks beyond the limit: what was on its way when it was reached, internal entries, and marks.
const BEYOND_LIMIT: usize = 32;
const AT_REST: &str = "at rest";
/// Bytes of a segment beside its entries, and of an entry beside what counts.
const SEGMENT_OVERHEAD: usize = 256;

fn within_limits(znodes: &Znodes, when: &str) {
    let resting = when == AT_REST;
    let segments_max = LIMITS.wal_segments as usize * if resting { 1 } else { 2 } + BEYOND_LIMIT;
    assert!(znodes.segments <= segments_max, "{when}: segments={} most={segments_max}", znodes.segments);
    // While a sweep runs, what it has not deleted yet lies beside what has been accepted in its place.
    let bytes_max = LIMITS.wal_bytes as usize * if resting { 1 } else { 2 } + segments_max * SEGMENT_OVERHEAD;
    assert!(znodes.wal_bytes <= bytes_max, "{when}: wal_bytes={} most={bytes_max}", znodes.wal_bytes);
    // Newest and previous, one being uploaded, and one that each node may have pinned.
    assert!(znodes.manifests.len() <= 5, "{when}: manifests={:?}", znodes.manifests);
    let state = (KEYS as usize) * (VALUE + 64);
    let chunk_bytes_max = 5 * state + (512 << 10);
    assert!(znodes.chunk_bytes <= chunk_bytes_max, "{when}: chunks={} most={chunk_bytes_max}", znodes.chunk_bytes);
}

/// Waits until the leader's sweep has nothing left to do, and nobody writes.
async fn clean(world: &World, replica: &Replica) -> TestResult<Znodes> {
    let began = Instant::now();
    loop {
        let znodes = Znodes::read(world).await?;
        let garbage = znodes.garbage();
        if garbage.is_empty() {
            return Ok(znodes);
        }
        if began.elapsed() > LIMIT {
            return Err(format!("garbage stays: {garbage:#?} {:#?}", replica.group.status()).into());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// Writes until the leader has published so many more snapshots.
async fn snapshots(world: &World, replica: &Replica, wanted: u32) -> TestResult<u64> {
    let load = Load::begin(&replica.group, 64, KEYS, VALUE);
    let mut seen = replica.group.status().snapshot;
    for round in 0..wanted {
        let group = &replica.group;
        let tell = || format!("round={round} {:#?}", group.status());
        until("another snapshot", || group.status().snapshot > seen, tell).await;
        seen = group.status().snapshot;
        within_limits(&Znodes::read(world).await?, "under load");
    }
    load.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_stays_bounded_under_endless_writes_and_many_leaderships() -> TestResult {
    let world = World::start(256, LIMITS).await?;
    let mut leader = world.born(1).await?;
    leads(&leader.group).await;
    let mut other = world.born(2).await?;
    let (mut ids, mut written) = ((1, 2), 0);
    for leadership in 0..12 {
        written += snapshots(&world, &leader, 3).await?;
        caught_up(&other.group, &leader.group).await;
        match leadership % 3 {
            // Handed over, and led by the other.
            0 => {
                leader.group.hand_over().await?;
                leads(&other.group).await;
                std::mem::swap(&mut leader, &mut other);
                ids = (ids.1, ids.0);
            }
            // Killed, and reborn with an empty disk.
            1 => {
                drop(leader);
                leads(&other.group).await;
                leader = other;
                other = world.born(ids.0).await?;
                ids = (ids.1, ids.0);
            }
            // Both killed.
            _ => {
                drop((leader, other));
                leader = world.born(ids.0).await?;
                leads(&leader.group).await;
                other = world.born(ids.1).await?;
            }
        }
        assert!(leader.group.status().successions > 0);
    }
    // What earlier leaderships left needs two snapshots of this one to be covered by the previous.
    written += snapshots(&world, &leader, 3).await?;
    let znodes = clean(&world, &leader).await?;
    within_limits(&znodes, AT_REST);
    let pushed = written as usize * VALUE;
    eprintln!(
        "written={written} bytes={pushed} znodes={} bytes={} wal={} segments={} chunks={} manifests={} wals={}",
        znodes.count,
        znodes.bytes,
        znodes.wal_bytes,
        znodes.segments,
        znodes.chunk_bytes,
        znodes.manifests.len(),
        znodes.wals.len()
    );
    assert!(pushed > 10 * LIMITS.wal_bytes as usize, "too little was written to show anything: {pushed}");
    caught_up(&other.group, &leader.group).await;
    assert_eq!(contents(&other.group).await?, contents(&leader.group).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaderships_that_write_nothing_leave_no_trail() -> TestResult {
    let world = World::start(256, LIMITS).await?;
    let (mut leader, mut other) = (world.born(1).await?, world.born(2).await?);
    until("somebody leads", || [&leader, &other].iter().any(|replica| is_leader(replica)), String::new).await;
    if is_leader(&other) {
        std::mem::swap(&mut leader, &mut other);
    }
    for _ in 0..20 {
        leader.group.hand_over().await?;
        leads(&other.group).await;
        std::mem::swap(&mut leader, &mut other);
    }
    snapshots(&world, &leader, 3).await?;
    let znodes = clean(&world, &leader).await?;
    assert_eq!(znodes.wals.len(), 1, "only the current WAL is left: {:?}", znodes.wals.keys());
    Ok(())
}

fn is_leader(replica: &Replica) -> bool {
    replica.group.status().role == bequest::Role::Leader
}
