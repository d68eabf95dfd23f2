//! State that comes back from the archive alone.

use bequest::{default_limits, Limits, ProposeError};
use bequest_storage::KvCommand;
use prost::Message;

use crate::world::{apply, caught_up, contents, get, leads, noise, put, until, Load, TestResult, World};
use crate::znodes::Znodes;

fn small() -> Limits {
    Limits { wal_bytes: 256 << 10, wal_segments: 300, ..default_limits() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_comes_back_after_both_disks_are_lost() -> TestResult {
    let world = World::start(256, small()).await?;
    let one = world.born(1).await?;
    leads(&one.group).await;
    let mut rounds = 0;
    // Until the WAL's beginning is gone: without the snapshot the key's state could not be told.
    while one.group.status().snapshot == 0 || Znodes::read(&world).await?.first() <= Some(2) {
        rounds += 1;
        put(&one.group, "k", noise(rounds, 4096)).await?;
        assert!(rounds < 10_000, "never trimmed: {:#?}", one.group.status());
    }
    let before = contents(&one.group).await?;
    assert_eq!(before.0, 1);
    drop(one);
    let two = world.born(2).await?;
    leads(&two.group).await;
    assert_eq!(get(&two.group, "k").await?, Some(noise(rounds, 4096)));
    assert_eq!(contents(&two.group).await?, before);
    let one = world.born(1).await?;
    caught_up(&one.group, &two.group).await;
    assert_eq!(contents(&one.group).await?, before, "also on the node that follows");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_32_mib_larger_than_the_wal_comes_back_after_both_disks_are_lost() -> TestResult {
    comes_back(32).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 2 GiB for ZooKeeper and a minute or more"]
async fn a_state_of_256_mib_larger_than_the_wal_comes_back_after_both_disks_are_lost() -> TestResult {
    comes_back(256).await
}

async fn comes_back(mib: u64) -> TestResult {
    const VALUE: usize = 64 << 10;
    let limits = Limits { wal_bytes: (mib << 20) / 4, ..default_limits() };
    let world = World::start(if mib > 64 { 2048 } else { 512 }, limits).await?;
    let one = world.born(1).await?;
    leads(&one.group).await;
    let two = world.born(2).await?;
    let keys = (mib << 20) / VALUE as u64;
    let began = std::time::Instant::now();
    for key in 0..keys {
        put(&one.group, &format!("{key:08}"), noise(key, VALUE)).await?;
    }
    eprintln!("wrote mib={mib} in {:?}: {:?}", began.elapsed(), one.group.status());
    caught_up(&two.group, &one.group).await;
    let before = contents(&one.group).await?;
    assert_eq!(before.0, keys);
    assert_eq!(contents(&two.group).await?, before);
    drop((one, two));

    let began = std::time::Instant::now();
    let two = world.born(2).await?;
    leads(&two.group).await;
    eprintln!("restored mib={mib} in {:?}: {:?}", began.elapsed(), two.group.status().succession);
    assert!(two.group.status().succession.bytes > 0, "{:#?}", two.group.status());
    assert!(contents(&two.group).await? == before, "the successor's state differs");
    let one = world.born(1).await?;
    caught_up(&one.group, &two.group).await;
    assert!(contents(&one.group).await? == before, "the follower's state differs");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_is_restored_while_snapshots_follow_each_other_quickly() -> TestResult {
    const KEYS: u64 = 1024;
    const VALUE: usize = 32 << 10;
    let limits = Limits { wal_bytes: 1 << 20, ..default_limits() };
    let world = World::start(768, limits).await?;
    let one = world.born(1).await?;
    leads(&one.group).await;
    for key in 0..KEYS {
        put(&one.group, &format!("{key:08}"), noise(key, VALUE)).await?;
    }
    // A few keys: snapshots come and go quickly, for they share nearly all chunks, while a restore reads all of them.
    let load = Load::begin(&one.group, 16, 50, 1000);
    for life in 1..=3 {
        let snapshot = one.group.status().snapshot;
        let began = std::time::Instant::now();
        let two = world.born(2).await?;
        eprintln!("life={life} joined after {:?}: {} -> {:?}", began.elapsed(), snapshot, one.group.status());
        caught_up(&two.group, &one.group).await;
        eprintln!("life={life} caught up after {:?}", began.elapsed());
        let behind = || one.group.status().snapshot > snapshot;
        until("snapshots go on", behind, || format!("{:#?}", one.group.status())).await;
        drop(two);
    }
    let two = world.born(2).await?;
    assert!(load.end().await? > 0);
    caught_up(&two.group, &one.group).await;
    assert_eq!(contents(&two.group).await?, contents(&one.group).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_s_first_answer_survives_the_loss_of_both_disks() -> TestResult {
    let world = World::start(256, small()).await?;
    let one = world.born(1).await?;
    leads(&one.group).await;
    let session = one.group.open_session().await?;
    let only_once = KvCommand::compare_and_set("counter", None, Some("first".into())).encode_to_vec();
    let request = session.request(only_once)?;
    let answer = request.send().await?;
    // Until the request's own entry is gone from the WAL: only the snapshot can know it.
    let asked = one.group.status().applied;
    let mut rounds = 0;
    while Znodes::read(&world).await?.first() <= Some(asked) {
        rounds += 1;
        put(&one.group, "other", noise(rounds, 4096)).await?;
        assert!(rounds < 10_000, "never trimmed: {:#?}", one.group.status());
    }
    apply(&one.group, KvCommand::delete("counter")).await?;
    drop(one);

    let two = world.born(2).await?;
    leads(&two.group).await;
    assert_eq!(request.send_to(&two.group).await?, answer, "the first answer again");
    assert_eq!(get(&two.group, "counter").await?, None, "and no second effect, though it would succeed now");
    let never = two.group.resume_session(session.id() + 1, 1).propose("").await.expect_err("never opened");
    assert_eq!(never, ProposeError::SessionGone { session: session.id() + 1 });
    Ok(())
}
