//! Small writes at full speed, minutes long, with snapshots and trimming going on: how often is a proposal `Busy`?
//!
//! `cargo bench --bench steady -- --minutes 10 --state 64MiB --value 100`
//!
//! ZooKeeper and the follower are processes of their own; the leader lives in this one, with its proposers. Every
//! proposer puts one value after the other under keys drawn uniformly, and waits for each answer. What is printed as
//! uploaded is read from the manifests in ZooKeeper: chunks that the manifest before did not name.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bequest::{bootstrap, default_limits, Group, Limits, Mode, Node, ProposeError, Role};
use bequest_harness::{four_letter_word, free_port, Process, ZooKeeperServer};
use bequest_recovery::path::GroupPaths;
use bequest_recovery::record::{self, Manifest, Pointer};
use bequest_storage::KvCommand;
use clap::Parser;
use prost::Message;
use rand::{Rng, RngCore, SeedableRng};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const GROUP: &str = "steady";
const CHROOT: &str = "/steady";
const KEY_BYTES: u64 = 16;
/// Slots of time that count as busy if any proposal was refused in them.
const SLOT: Duration = Duration::from_millis(10);
const SAMPLE: Duration = Duration::from_secs(1);
const START_LIMIT: Duration = Duration::from_secs(60);
/// Tells the process that it is the follower, and where everything is.
const FOLLOWER: &str = "BEQUEST_STEADY_FOLLOWER";

/// Small writes at full speed: how often is a proposal Busy?
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Minutes to measure.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Size of the state: keys and values, for instance 64MiB.
    #[arg(long, default_value = "1MiB", value_parser = size)]
    state: u64,
    /// Bytes of a value.
    #[arg(long, default_value = "100", value_parser = size)]
    value: u64,
    /// Proposers at once.
    #[arg(long, default_value_t = 1024)]
    proposers: usize,
    /// The group's limit on its WAL.
    #[arg(long, default_value = "256MiB", value_parser = size)]
    wal: u64,
    /// The group's limit on segments in its WAL.
    #[arg(long, default_value_t = default_limits().wal_segments)]
    segments: u64,
    /// ZooKeeper's heap.
    #[arg(long, default_value = "2GiB", value_parser = size)]
    heap: u64,
    /// Print a line every so many seconds; 0 for none.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        other => return Err(format!("unit={other}; use B, KiB, MiB or GiB")),
    };
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or_else(|| "too large".to_owned())
}

fn main() -> Outcome<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "bequest=warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match std::env::var(FOLLOWER) {
        Ok(place) => runtime.block_on(follow(&place)),
        Err(_) => {
            let summary = runtime.block_on(measure(Options::parse()))?;
            // The last words, behind everything that other threads may still say.
            println!("{summary}");
            Ok(())
        }
    }
}

// ---- nodes --------------------------------------------------------------------------------------------------------

async fn open(id: u64, keeper: &str, dir: &Path) -> Outcome<(Node, Group)> {
    let port = free_port([127, 0, 0, 1].into())?;
    let node = Node::builder(id)
        .keeper(keeper)
        .listen(format!("127.0.0.1:{port}"))
        .data_dir(dir.join(id.to_string()))
        .open()
        .await?;
    let group = node.join_key_value(GROUP).await?;
    Ok((node, group))
}

/// The follower's process: gives back any leadership it gets while the other node is there to take it. It is killed
/// by the one that started it, and ends by itself when that one is gone.
async fn follow(place: &str) -> Outcome<()> {
    let (keeper, dir) = place.split_once(' ').ok_or("the follower's place is KEEPER DIR")?;
    let (node, group) = open(2, keeper, Path::new(dir)).await?;
    let parent = rustix::process::getppid();
    while rustix::process::getppid() == parent {
        tokio::time::sleep(SAMPLE).await;
        let status = group.status();
        if status.role == Role::Leader && status.mode == Mode::Full {
            // Refused means that it goes on leading until the next try.
            let _ = group.hand_over().await;
        }
    }
    node.shutdown().await?;
    Ok(())
}

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
async fn fill(group: &Group, options: &Options, keys: u64) -> Outcome<()> {
    let next = Arc::new(AtomicU64::new(0));
    let fillers: Vec<_> = (0..options.proposers as u64)
        .map(|seed| {
            let (group, next, mut value) = (group.clone(), next.clone(), vec![0; options.value as usize]);
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
            Outcome::Ok(())
        };
        if let Err(error) = looked.await {
            eprintln!("cannot look at the archive: {error}");
        }
    }

    async fn look_with(&mut self, client: &zookeeper_client::Client) -> Outcome<()> {
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
    busy: u64,
    wal_bytes: u64,
    wal_segments: u64,
    znodes: u64,
    keeper_bytes: u64,
    received: u64,
    // Resident memory, in MiB: leader with the proposers, follower, ZooKeeper.
    resident: [u64; 3],
}

fn resident_mib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
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
        busy: counts.busy.load(Relaxed),
        wal_bytes: status.wal_bytes,
        wal_segments: status.wal_segments,
        znodes: number("zk_znode_count", before.znodes),
        keeper_bytes: number("zk_approximate_data_size", before.keeper_bytes),
        received: number("zk_bytes_received_count", before.received),
        resident: [std::process::id(), follower.pid(), server.pid().unwrap_or(0)].map(resident_mib),
    }
}

// ---- the run ------------------------------------------------------------------------------------------------------

async fn measure(options: Options) -> Outcome<String> {
    let heap = u32::try_from(options.heap >> 20)?;
    let server = ZooKeeperServer::builder().heap_mb(heap).start().await?;
    let scratch = tempfile::tempdir()?;
    let keeper = format!("zk://{}{CHROOT}", server.address());
    let limits = Limits { wal_bytes: options.wal, wal_segments: options.segments, ..default_limits() };
    bootstrap(&keeper, GROUP, &[1, 2], limits).await?;
    let (node, group) = open(1, &keeper, scratch.path()).await?;
    let leads = async { drop(group.watch_status().wait_for(|status| status.role == Role::Leader).await) };
    tokio::time::timeout(START_LIMIT, leads).await?;
    let follower = Process::builder(std::env::current_exe()?)
        .name("follower")
        .env(FOLLOWER, format!("{keeper} {}", scratch.path().display()))
        .log(scratch.path().join("follower.log"))
        .spawn()?;
    let full = async { drop(group.watch_status().wait_for(|status| status.mode == Mode::Full).await) };
    tokio::time::timeout(START_LIMIT, full).await?;

    let keys = (options.state / (KEY_BYTES + options.value)).max(1);
    let began = Instant::now();
    fill(&group, &options, keys).await?;
    eprintln!("filled keys={keys} in {:.1?}", began.elapsed());
    let (samples, uploads, counts) = load(&options, &group, &server, &follower, keys).await?;
    let status = group.status();
    let text = report(&options, &samples, &uploads, &counts, keys, status.successions);
    if status.role == Role::Leader {
        node.shutdown().await?;
    }
    follower.kill().await?;
    Ok(text)
}

async fn load(
    options: &Options,
    group: &Group,
    server: &ZooKeeperServer,
    follower: &Process,
    keys: u64,
) -> Outcome<(Vec<Sample>, Uploads, Arc<Counts>)> {
    let counts = Arc::new(Counts::default());
    let mut uploads = Uploads { place: format!("{}{CHROOT}", server.address()), ..Uploads::default() };
    // What the filling made does not count, only which chunks are known.
    uploads.look().await;
    (uploads.snapshots, uploads.chunk_bytes) = (0, 0);
    let mut samples = vec![sample(group, &counts, server, follower, Sample::default()).await];
    let began = Instant::now();
    let writers: Vec<_> = (0..options.proposers as u64)
        .map(|seed| tokio::spawn(write(group.clone(), counts.clone(), began, keys, options.value as usize, seed)))
        .collect();
    let end = began + Duration::from_secs_f64(options.minutes * 60.0);
    let mut looks = tokio::time::interval(SAMPLE / 5);
    let mut round = 0;
    while Instant::now() < end {
        looks.tick().await;
        uploads.look().await;
        round += 1;
        if round % 5 != 0 {
            continue;
        }
        let before = *samples.last().ok_or("there is a first sample")?;
        let now = sample(group, &counts, server, follower, before).await;
        samples.push(now);
        if options.every > 0 && (round / 5) % options.every == 0 {
            eprintln!(
                "{:>5.0?} writes={} (+{}) busy={} snapshots={} wal_mib={} segments={} znodes={} keeper_mib={} rss_mib={:?}",
                began.elapsed(),
                now.acknowledged,
                now.acknowledged - before.acknowledged,
                now.busy,
                uploads.snapshots,
                now.wal_bytes >> 20,
                now.wal_segments,
                now.znodes,
                now.keeper_bytes >> 20,
                now.resident,
            );
        }
    }
    counts.stop.store(true, Relaxed);
    for writer in writers {
        writer.await?;
    }
    let before = *samples.last().ok_or("there is a first sample")?;
    samples.push(sample(group, &counts, server, follower, before).await);
    Ok((samples, uploads, counts))
}

fn report(
    options: &Options,
    samples: &[Sample],
    uploads: &Uploads,
    counts: &Counts,
    keys: u64,
    successions: u64,
) -> String {
    let seconds = options.minutes * 60.0;
    let written = counts.acknowledged.load(Relaxed);
    let busy = counts.busy.load(Relaxed);
    let failed = counts.failed.load(Relaxed);
    let busy_time = held(&counts.busy_slots).len() as f64 * SLOT.as_secs_f64() / seconds * 100.0;
    let busy_attempts = busy as f64 / (written + busy).max(1) as f64 * 100.0;
    let payload = written * (KEY_BYTES + options.value);
    let ratio = |bytes: u64| bytes as f64 / payload.max(1) as f64;
    let (first, middle, last) = (samples[0], samples[samples.len() / 2], samples[samples.len() - 1]);
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    // The last sample follows the end of the writers: not a whole second.
    let mut rates: Vec<_> =
        samples[..samples.len() - 1].windows(2).map(|pair| pair[1].acknowledged - pair[0].acknowledged).collect();
    rates.sort_unstable();
    let mut latencies = std::mem::take(&mut *held(&counts.latencies));
    latencies.sort_unstable();
    let at = |share: f64| latencies.get(((latencies.len() as f64 * share) as usize).min(latencies.len().max(1) - 1));
    let millis = |share: f64| at(share).map_or(0.0, |micros| f64::from(*micros) / 1000.0);
    let resident = |at: usize| format!("{} {} {}", first.resident[at], middle.resident[at], last.resident[at]);
    let rows: Vec<(&str, String)> = vec![
        ("state", format!("{} MiB, {keys} keys", options.state >> 20)),
        ("value, proposers", format!("{} bytes, {}", options.value, options.proposers)),
        ("wal limits", format!("{} MiB, {} segments", options.wal >> 20, options.segments)),
        ("measured", format!("{seconds:.0} s")),
        ("acknowledged", format!("{written}, {:.0} per second", written as f64 / seconds)),
        (
            "per second: worst, 5 %, median",
            format!("{} {} {}", rates.first().unwrap_or(&0), rates.get(rates.len() / 20).unwrap_or(&0), {
                rates.get(rates.len() / 2).unwrap_or(&0)
            }),
        ),
        ("latency ms: median, 99 %, worst", format!("{:.1} {:.1} {:.1}", millis(0.5), millis(0.99), millis(1.0))),
        ("busy: attempts, time", format!("{busy_attempts:.4} %, {busy_time:.3} % ({busy} refusals)")),
        ("other refusals", failed.to_string()),
        ("successions", successions.to_string()),
        ("snapshots", uploads.snapshots.to_string()),
        ("chunk bytes uploaded per byte written", format!("{:.2}", ratio(uploads.chunk_bytes))),
        ("all bytes to zookeeper per byte written", format!("{:.2}", ratio(last.received - first.received))),
        ("wal: most bytes, segments", format!("{} MiB, {}", most(|s| s.wal_bytes) >> 20, most(|s| s.wal_segments))),
        ("zookeeper: most znodes, bytes", format!("{}, {} MiB", most(|s| s.znodes), most(|s| s.keeper_bytes) >> 20)),
        ("rss MiB leader+proposers: start middle end", resident(0)),
        ("rss MiB follower: start middle end", resident(1)),
        ("rss MiB zookeeper: start middle end", resident(2)),
    ];
    let mut text = String::new();
    for (name, value) in &rows {
        text.push_str(&format!("{name:<44} {value}\n"));
    }
    for (reason, times) in &*held(&counts.reasons) {
        text.push_str(&format!("{:<44} {times} times: {reason}\n", "refused"));
    }
    let rss = |sample: Sample| sample.resident.map(|mib| mib.to_string()).join("+");
    text.push_str(&format!(
        "steady: state_mib={} minutes={} writes={written} writes_per_s={:.0} busy_attempts_pct={busy_attempts:.4} \
         busy_time_pct={busy_time:.3} failed={failed} snapshots={} uploaded_per_written={:.2} rss_mib={}/{}/{} \
         znodes_max={} zookeeper_mib_max={}",
        options.state >> 20,
        options.minutes,
        written as f64 / seconds,
        uploads.snapshots,
        ratio(uploads.chunk_bytes),
        rss(first),
        rss(middle),
        rss(last),
        most(|s| s.znodes),
        most(|s| s.keeper_bytes) >> 20,
    ));
    text
}
