//! Everything that is measured: servers, nodes and clients, all alive at once, of which one at a time has work.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use bequest_harness::{four_letter_word, Ensemble, ZooKeeperServer, ZooKeeperServerBuilder};

use crate::bare::Bare;
use crate::load::{Measured, Timing};
use crate::node::Order;
use crate::options::Measure;
use crate::pair::Pair;
use crate::peer::Peer;
use crate::plan::{Case, Contender, Entry, Kind};
use crate::values::Values;

/// ZooKeeper's heap: log, snapshots and everybody's znodes, without its collector being what is measured.
const HEAP_MB: u32 = 4096;
/// What servers run with in production, in place of what makes them start fast for tests.
const JVM_OPTIONS: [&str; 3] = ["-XX:-UseSerialGC", "-XX:+UseG1GC", "-XX:TieredStopAtLevel=4"];
const TICK_MS: u64 = 2000;
/// Load before a contender's first measurement, in warm-ups: servers compile what they run often.
const FIRST_WARM_UPS: f64 = 10.0;
const FIRST_IN_FLIGHT: usize = 64;
/// A server is quiet when it gets fewer requests than this in that time: live sessions send that many.
const QUIET_REQUESTS: u64 = 20;
const QUIET_TIME: Duration = Duration::from_millis(100);
const QUIET_LIMIT: u32 = 100;

/// A ZooKeeper server as in production.
pub(crate) fn keeper(home: Option<PathBuf>) -> ZooKeeperServerBuilder {
    ZooKeeperServer::builder().home(home).heap_mb(HEAP_MB).jvm_opts(JVM_OPTIONS).tick_ms(TICK_MS)
}

/// Starts so many ZooKeeper servers; returns them, and the one that all sessions are on, ours and the bare ones: the
/// leader. Which one a session draws would otherwise decide what it measures.
async fn start_keeper(servers: u32, options: &Measure, dir: &Path) -> Result<(Ensemble, usize)> {
    let builder = keeper(options.common.zookeeper.clone());
    let ensemble = Ensemble::builder(servers).server(builder).dir(dir).start().await?;
    let leader = if servers == 1 { 0 } else { ensemble.wait_for_leader().await? };
    Ok((ensemble, leader))
}

/// Which releases are measured.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Versions {
    /// ZooKeeper's.
    pub(crate) zookeeper: Option<String>,
    /// etcd's.
    pub(crate) etcd: Option<String>,
}

/// All contenders, with so many ZooKeeper servers.
#[derive(Debug)]
pub(crate) struct World {
    // Dropped in this order: servers last.
    pairs: BTreeMap<Contender, Pair>,
    bare: Option<Bare>,
    peer: Option<Peer>,
    keeper: Option<(Ensemble, SocketAddr)>,
    pub(crate) versions: Versions,
}

impl World {
    /// Starts whoever takes part.
    pub(crate) async fn start(
        kind: Kind,
        servers: u32,
        options: &Measure,
        contenders: &[Contender],
        dir: &Path,
        seed: u64,
    ) -> Result<Self> {
        let values = Values::new(seed);
        let most = |who: &[Contender]| {
            let taking_part = who.iter().filter(|one| contenders.contains(one));
            taking_part.flat_map(|one| options.connections(*one)).max()
        };
        let mut versions = Versions::default();
        let peer = match most(&[Contender::Etcd]) {
            Some(connections) => {
                let peer = Peer::start(&dir.join("etcd"), connections, values.clone()).await?;
                versions.etcd = Some(peer.version().await?);
                Some(peer)
            }
            None => None,
        };
        let mut world = Self { pairs: BTreeMap::new(), bare: None, peer, keeper: None, versions };
        if contenders.iter().any(|contender| *contender != Contender::Etcd) {
            let (keeper, leader) = start_keeper(servers, options, &dir.join("zookeeper")).await?;
            let server = &keeper.servers()[leader];
            world.versions.zookeeper = Some(server.info().await?.version);
            let address = server.address();
            if let Some(sessions) = most(&[Contender::ZooKeeper, Contender::Segments]) {
                world.bare = Some(Bare::connect(&address.to_string(), sessions, values).await?);
            }
            for contender in contenders.iter().copied() {
                let synced = match contender {
                    Contender::Bequest => false,
                    Contender::BequestSynced => true,
                    _ => continue,
                };
                let dir = dir.join(contender.name());
                std::fs::create_dir_all(&dir).context("cannot make a folder for the nodes")?;
                let pair = Pair::start(format!("zk://{address}/{}", contender.name()), synced, &dir, seed).await;
                world.pairs.insert(contender, pair.with_context(|| format!("{} does not start", contender.name()))?);
            }
            world.keeper = Some((keeper, address));
        }
        if kind == Kind::Read {
            world.fill().await?;
        }
        Ok(world)
    }

    async fn fill(&mut self) -> Result<()> {
        for pair in self.pairs.values_mut() {
            pair.order(Order::Fill).await?;
        }
        match &self.peer {
            Some(peer) => peer.fill().await,
            None => Ok(()),
        }
    }

    /// A first load on a contender, of which nothing is kept.
    pub(crate) async fn warm_up(&mut self, entry: &Entry, timing: Timing) -> Result<()> {
        let in_flight = entry.case.in_flight.max(FIRST_IN_FLIGHT);
        let case = Case { in_flight, ..entry.case };
        let timing = Timing { warm_up: 0.0, seconds: timing.warm_up * FIRST_WARM_UPS };
        self.measure(&Entry { case, ..*entry }, timing).await.map(drop)
    }

    /// Measures one contender while all others are idle.
    pub(crate) async fn measure(&mut self, entry: &Entry, timing: Timing) -> Result<Measured> {
        self.settle().await?;
        let Entry { case, contender, connections, .. } = *entry;
        let absent = "this contender was not started";
        match contender {
            Contender::Bequest | Contender::BequestSynced => {
                let pair = self.pairs.get_mut(&contender).context(absent)?;
                pair.order(Order::Measure(case, timing)).await
            }
            Contender::ZooKeeper | Contender::Segments => {
                self.bare.as_mut().context(absent)?.measure(case, connections, timing).await
            }
            Contender::Etcd => self.peer.as_ref().context(absent)?.measure(case, connections, timing).await,
        }
    }

    /// Waits until what the one before left to be done, like the upload of a snapshot, is done; then frees the disk.
    async fn settle(&self) -> Result<()> {
        let Some((keeper, address)) = &self.keeper else { return Ok(()) };
        let mut before = received(*address).await?;
        for _ in 0..QUIET_LIMIT {
            tokio::time::sleep(QUIET_TIME).await;
            let now = received(*address).await?;
            if now.saturating_sub(before) < QUIET_REQUESTS {
                break;
            }
            before = now;
        }
        keeper.servers().iter().flat_map(ZooKeeperServer::data_dirs).for_each(forget);
        Ok(())
    }
}

/// Requests a server has got.
async fn received(server: SocketAddr) -> Result<u64> {
    let answer = four_letter_word(server, "srvr").await?;
    let line = answer.lines().find_map(|line| line.strip_prefix("Received: "));
    line.and_then(|number| number.trim().parse().ok()).with_context(|| format!("not understood: {answer}"))
}

/// Deletes what ZooKeeper would need only to start again, and purges once an hour: logs and snapshots but the newest.
pub(crate) fn forget(dir: &Path) {
    let files = std::fs::read_dir(dir.join("version-2")).into_iter().flatten().flatten();
    let mut by_kind: BTreeMap<String, Vec<(u64, PathBuf)>> = BTreeMap::new();
    for file in files {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some((kind, zxid)) = name.split_once('.') else { continue };
        if let Ok(zxid) = u64::from_str_radix(zxid, 16) {
            by_kind.entry(kind.to_owned()).or_default().push((zxid, file.path()));
        }
    }
    for mut files in by_kind.into_values() {
        files.sort_unstable();
        files.pop();
        // Left behind it takes room and nothing else.
        files.iter().for_each(|(_, path)| drop(std::fs::remove_file(path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_log_and_snapshot_stay_whatever_is_forgotten() {
        let dir = tempfile::tempdir().expect("temporary folders can be made");
        let files = dir.path().join("version-2");
        std::fs::create_dir(&files).expect("made");
        for name in ["log.1", "log.9", "log.1a", "snapshot.0", "snapshot.ff", "acceptedEpoch", "currentEpoch"] {
            std::fs::write(files.join(name), "").expect("written");
        }
        forget(dir.path());
        let left = std::fs::read_dir(&files).expect("there").flatten();
        let mut left: Vec<String> = left.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        left.sort_unstable();
        assert_eq!(left, ["acceptedEpoch", "currentEpoch", "log.1a", "snapshot.ff"]);
    }
}
