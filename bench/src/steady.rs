//! Small writes at full speed, minutes long, with snapshots and trimming going on: how often is a proposal `Busy`?
//!
//! ZooKeeper and the follower are processes of their own; the leader lives in this one, with its proposers. Every
//! proposer puts one value after the other under keys drawn uniformly, and waits for each answer. What is told as
//! uploaded is read from the manifests in ZooKeeper: chunks that the manifest before did not name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest::{bootstrap, default_limits, Group, Mode, ProposeError, Role};
use bequest_harness::{four_letter_word, Process, ZooKeeperServer};
use bequest_recovery::path::GroupPaths;
use bequest_recovery::record::{self, Manifest, Pointer};
use bequest_storage::KvCommand;
use prost::Message;
use rand::{Rng, RngCore, SeedableRng};
use serde::Serialize;

use crate::machine::resident_mib;
use crate::node::{self, arguments, GROUP};
use crate::options::Place;
use crate::stats::percentile;
use crate::world::keeper;

const CHROOT: &str = "/steady";
const KEY_BYTES: u64 = 16;
/// Bytes of a value, and proposers at once.
const VALUE_BYTES: u64 = 100;
const PROPOSERS: u64 = 1024;
/// Slots of time that count as busy if any proposal was refused in them.
const SLOT: Duration = Duration::from_millis(10);
const SAMPLE: Duration = Duration::from_secs(1);
const START_LIMIT: Duration = Duration::from_secs(60);

// ---- proposers ----------------------------------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Counts {
    acknowledged: AtomicU64,
    busy: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
    // Slots since the beginning in which somebody was told `Busy`.
    busy_slots: Mutex<BTreeSet<u128>>,
    reasons: Mutex<BTreeMap<String, u64>>,
    // Microseconds of a sample of the writes.
    latencies: Mutex<Vec<u32>>,
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Counts {
    fn note(&self, began: Instant, error: &ProposeError) {
        if matches!(error, ProposeError::Busy { .. }) {
            self.busy.fetch_add(1, Relaxed);
            held(&self.busy_slots).insert(began.elapsed().as_millis() / SLOT.as_millis());
        } else {
            self.failed.fetch_add(1, Relaxed);
        }
        *held(&self.reasons).entry(error.to_string()).or_default() += 1;
    }
}

fn command(key: u64, value: &mut [u8], random: &mut impl RngCore) -> Vec<u8> {
    random.fill_bytes(value);
    KvCommand::put(format!("{key:0width$}", width = KEY_BYTES as usize), value.to_vec()).encode_to_vec()
}

/// Puts every key once, so that the state has its size before anything is measured.
async fn fill(group: &Group, keys: u64) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let fillers: Vec<_> = (0..PROPOSERS)
        .map(|seed| {
            let (group, next, mut value) = (group.clone(), next.clone(), vec![0; VALUE_BYTES as usize]);
            tokio::spawn(async move {
                let mut random = rand::rngs::StdRng::seed_from_u64(seed);
                loop {
                    let key = next.fetch_add(1, Relaxed);
                    if key >= keys {
                        return Ok::<_, ProposeError>(());
                    }
                    let command = command(key, &mut value, &mut random);
                    loop {
                        match group.propose(command.clone()).await {
                            Ok(_) => break,
                            Err(ProposeError::Busy { .. }) => tokio::time::sleep(SLOT).await,
                            Err(error) => return Err(error),
                        }
                    }
                }
            })
        })
        .collect();
    for filler in fillers {
        filler.await??;
    }
    Ok(())
}

async fn write(group: Group, counts: Arc<Counts>, began: Instant, keys: u64, value: usize, seed: u64) {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut value = vec![0; value];
    while !counts.stop.load(Relaxed) {
        let command = command(random.random_range(0..keys), &mut value, &mut random);
        let asked = Instant::now();
        match group.propose(command).await {
            Ok(_) => {
                if counts.acknowledged.fetch_add(1, Relaxed).is_multiple_of(16) {
                    held(&counts.latencies).push(u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
            }
            Err(error) => {
                counts.note(began, &error);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

// ---- what is seen from outside ------------------------------------------------------------------------------------

/// Follows the archive in ZooKeeper: snapshots, and bytes of chunks that were new.
#[derive(Debug, Default)]
struct Uploads {
    place: String,
    client: Option<zookeeper_client::Client>,
    snapshots: u64,
    chunk_bytes: u64,
    known: BTreeSet<bytes::Bytes>,
    newest: u64,
}

impl Uploads {
    /// Looks for a newer snapshot. On a busy machine the session may be lost: the next look opens another.
    async fn look(&mut self) {
        let looked = async {
            let client = match self.client.take() {
                Some(client) => client,
                None => zookeeper_client::Client::connect(&self.place).await?,
            };
            self.look_with(&client).await?;
            self.client = Some(client);
            anyhow::Ok(())
        };
        if let Err(error) = looked.await {
            eprintln!("cannot look at the archive: {error}");
        }
    }

    async fn look_with(&mut self, client: &zookeeper_client::Client) -> Result<()> {
        let paths = GroupPaths::new(GROUP);
        let (pointer, _) = client.get_data(&paths.pointer()).await?;
        let pointer: Pointer = record::open(&pointer.into(), None)?;
        let Some(newest) = pointer.newest.filter(|newest| newest.index != self.newest) else { return Ok(()) };
        let (manifest, _) = client.get_data(&paths.manifest(newest.index, newest.term)).await?;
        let manifest: Manifest = record::open(&manifest.into(), None)?;
        self.newest = newest.index;
        self.snapshots += 1;
        let fresh = manifest.chunks.iter().filter(|chunk| !self.known.contains(&chunk.hash));
        self.chunk_bytes += fresh.map(|chunk| u64::from(chunk.length)).sum::<u64>();
        self.known = manifest.chunks.into_iter().map(|chunk| chunk.hash).collect();
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    acknowledged: u64,
    wal_bytes: u64,
    wal_segments: u64,
    znodes: u64,
    keeper_bytes: u64,
    received: u64,
    // Resident memory, in MiB: leader with the proposers, follower, ZooKeeper.
    resident: [u64; 3],
}

async fn sample(
    group: &Group,
    counts: &Counts,
    server: &ZooKeeperServer,
    follower: &Process,
    before: Sample,
) -> Sample {
    let status = group.status();
    // On a busy machine ZooKeeper may be silent for too long: the numbers before stay.
    let text = four_letter_word(server.address(), "mntr").await.unwrap_or_default();
    let number = |name: &str, before: u64| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t'));
        line.and_then(|value| value.trim().parse::<f64>().ok()).map_or(before, |value| value as u64)
    };
    Sample {
        acknowledged: counts.acknowledged.load(Relaxed),
        wal_bytes: status.wal_bytes,
        wal_segments: status.wal_segments,
        znodes: number("zk_znode_count", before.znodes),
        keeper_bytes: number("zk_approximate_data_size", before.keeper_bytes),
        received: number("zk_bytes_received_count", before.received),
        resident: [std::process::id(), follower.pid(), server.pid().unwrap_or(0)].map(resident_mib),
    }
}

// ---- the run ------------------------------------------------------------------------------------------------------

/// What writing at full speed for a while came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Steady {
    /// Bytes of keys and values, and how many of them.
    pub(crate) state: u64,
    keys: u64,
    /// How long it was measured.
    seconds: f64,
    written: u64,
    /// Refused as busy; attempts, and the share of time in which there was such a refusal, both in percent.
    busy: u64,
    pub(crate) busy_attempts: f64,
    busy_time: f64,
    /// Refused for other reasons.
    failed: u64,
    reasons: BTreeMap<String, u64>,
    successions: u64,
    snapshots: u64,
    /// Bytes of new chunks, and all bytes that ZooKeeper got, for each byte that was written.
    uploaded: f64,
    received: f64,
    /// Writes of each second, ascending.
    rates: Vec<u64>,
    /// Milliseconds: of half the writes, of 99 in a hundred, and of all at most.
    latency: [f64; 3],
    wal_bytes_max: u64,
    wal_segments_max: u64,
    znodes_max: u64,
    keeper_bytes_max: u64,
    /// Resident MiB of leader with proposers, follower and ZooKeeper: at the start, in the middle and in the end.
    resident: [[u64; 3]; 3],
}

impl Steady {
    /// In words, a line each.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let Self { seconds, written, rates, latency, .. } = self;
        let rate = |share: f64| rates.get((rates.len() as f64 * share) as usize).copied().unwrap_or(0);
        let [p50, p99, worst] = latency;
        let resident = |at: usize| self.resident.map(|mib| mib[at].to_string()).join(" ");
        vec![
            ("state", format!("{} MiB, {} keys", self.state >> 20, self.keys)),
            ("measured", format!("{seconds:.0} s")),
            ("acknowledged", format!("{written}, {:.0} per second", *written as f64 / seconds)),
            ("per second: worst, 5 %, median", format!("{} {} {}", rate(0.0), rate(0.05), rate(0.5))),
            ("latency ms: median, 99 %, worst", format!("{p50:.1} {p99:.1} {worst:.1}")),
            ("busy: share of attempts", format!("{:.4} % ({} refusals)", self.busy_attempts, self.busy)),
            ("busy: share of time", format!("{:.3} %", self.busy_time)),
            ("other refusals", self.failed.to_string()),
            ("successions", self.successions.to_string()),
            ("snapshots", self.snapshots.to_string()),
            ("chunk bytes uploaded per byte written", format!("{:.2}", self.uploaded)),
            ("all bytes to ZooKeeper per byte written", format!("{:.2}", self.received)),
            ("wal: most bytes, segments", format!("{} MiB, {}", self.wal_bytes_max >> 20, self.wal_segments_max)),
            ("ZooKeeper: most znodes, bytes", format!("{}, {} MiB", self.znodes_max, self.keeper_bytes_max >> 20)),
            ("rss MiB leader+proposers: start middle end", resident(0)),
            ("rss MiB follower: start middle end", resident(1)),
            ("rss MiB ZooKeeper: start middle end", resident(2)),
        ]
    }

    /// What was refused, and how often.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = String> + '_ {
        self.reasons.iter().map(|(reason, times)| format!("state {} MiB: {times} times: {reason}", self.state >> 20))
    }
}

/// Fills a state of so many bytes, then writes for so long.
pub(crate) async fn measure(state: u64, length: Duration, home: Option<PathBuf>, dir: &Path) -> Result<Steady> {
    let server = keeper(home).dir(dir.join("zookeeper")).start().await?;
    let zk = format!("zk://{}{CHROOT}", server.address());
    bootstrap(&zk, GROUP, &[1, 2], default_limits()).await?;
    let place = |disk: &str| Place {
        keeper: zk.clone(),
        disk: dir.join(disk),
        synced: false,
        // Nobody tells these nodes what to do.
        control: server.address(),
        seed: 0,
    };
    let (node, group) = node::open(1, &place("leader")).await?;
    let leads = async { drop(group.watch_status().wait_for(|status| status.role == Role::Leader).await) };
    tokio::time::timeout(START_LIMIT, leads).await.context("it does not lead")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let follower = Process::builder(program).name("follow").args(arguments("follow", &place("follower")));
    let follower = follower.log(dir.join("follow.log")).spawn()?;
    let full = async { drop(group.watch_status().wait_for(|status| status.mode == Mode::Full).await) };
    tokio::time::timeout(START_LIMIT, full).await.context("the nodes are not linked")?;

    let keys = (state / (KEY_BYTES + VALUE_BYTES)).max(1);
    fill(&group, keys).await?;
    let (samples, uploads, counts) = load(length, &group, &server, &follower, keys).await?;
    let status = group.status();
    let steady = sum(state, keys, length.as_secs_f64(), &samples, &uploads, &counts, status.successions);
    if status.role == Role::Leader {
        node.shutdown().await?;
    }
    follower.kill().await?;
    Ok(steady)
}

async fn load(
    length: Duration,
    group: &Group,
    server: &ZooKeeperServer,
    follower: &Process,
    keys: u64,
) -> Result<(Vec<Sample>, Uploads, Arc<Counts>)> {
    let counts = Arc::new(Counts::default());
    let mut uploads = Uploads { place: format!("{}{CHROOT}", server.address()), ..Uploads::default() };
    // What the filling made does not count, only which chunks are known.
    uploads.look().await;
    (uploads.snapshots, uploads.chunk_bytes) = (0, 0);
    let mut last = sample(group, &counts, server, follower, Sample::default()).await;
    let mut samples = vec![last];
    let began = Instant::now();
    let writers: Vec<_> = (0..PROPOSERS)
        .map(|seed| tokio::spawn(write(group.clone(), counts.clone(), began, keys, VALUE_BYTES as usize, seed)))
        .collect();
    let mut looks = tokio::time::interval(SAMPLE / 5);
    let mut round = 0;
    while began.elapsed() < length {
        looks.tick().await;
        uploads.look().await;
        round += 1;
        if round % 5 == 0 {
            last = sample(group, &counts, server, follower, last).await;
            samples.push(last);
        }
    }
    counts.stop.store(true, Relaxed);
    for writer in writers {
        writer.await?;
    }
    samples.push(sample(group, &counts, server, follower, last).await);
    Ok((samples, uploads, counts))
}

fn sum(
    state: u64,
    keys: u64,
    seconds: f64,
    samples: &[Sample],
    uploads: &Uploads,
    counts: &Counts,
    successions: u64,
) -> Steady {
    let (written, busy) = (counts.acknowledged.load(Relaxed), counts.busy.load(Relaxed));
    let payload = (written * (KEY_BYTES + VALUE_BYTES)).max(1) as f64;
    let (first, middle, last) = (samples[0], samples[samples.len() / 2], samples[samples.len() - 1]);
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    // The last sample follows the end of the writers: not a whole second.
    let mut rates: Vec<u64> =
        samples[..samples.len() - 1].windows(2).map(|pair| pair[1].acknowledged - pair[0].acknowledged).collect();
    rates.sort_unstable();
    let mut latencies = std::mem::take(&mut *held(&counts.latencies));
    latencies.sort_unstable();
    let millis = |share: f64| percentile(&latencies, share).map_or(0.0, |micros| f64::from(micros) / 1000.0);
    Steady {
        state,
        keys,
        seconds,
        written,
        busy,
        busy_attempts: busy as f64 / (written + busy).max(1) as f64 * 100.0,
        busy_time: held(&counts.busy_slots).len() as f64 * SLOT.as_secs_f64() / seconds * 100.0,
        failed: counts.failed.load(Relaxed),
        reasons: held(&counts.reasons).clone(),
        successions,
        snapshots: uploads.snapshots,
        uploaded: uploads.chunk_bytes as f64 / payload,
        received: last.received.saturating_sub(first.received) as f64 / payload,
        rates,
        latency: [millis(0.5), millis(0.99), millis(1.0)],
        wal_bytes_max: most(|sample| sample.wal_bytes),
        wal_segments_max: most(|sample| sample.wal_segments),
        znodes_max: most(|sample| sample.znodes),
        keeper_bytes_max: most(|sample| sample.keeper_bytes),
        resident: [first.resident, middle.resident, last.resident],
    }
}
