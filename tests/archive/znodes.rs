//! What lies below a group in ZooKeeper, as anybody may read it.

use std::collections::{BTreeMap, BTreeSet};

use bequest_recovery::path::{GroupPaths, WalName};
use bequest_recovery::record::{self, Manifest, Pin, Pointer};
use zookeeper_client::{Client, Error};

use crate::world::{TestResult, World, CHROOT, GROUP};

/// Every znode below the group at about one moment.
#[derive(Debug, Default)]
pub(crate) struct Znodes {
    pub(crate) count: usize,
    pub(crate) bytes: usize,
    /// Bytes and number of segments and marks.
    pub(crate) wal_bytes: usize,
    pub(crate) segments: usize,
    /// First index of every segment and mark, by WAL.
    pub(crate) wals: BTreeMap<WalName, BTreeSet<u64>>,
    pub(crate) manifests: BTreeSet<(u64, u64)>,
    pub(crate) chunks: BTreeSet<String>,
    pub(crate) chunk_bytes: usize,
    /// Chunks that the manifests name.
    pub(crate) named: BTreeSet<String>,
    /// Snapshots that restoring nodes wish to be kept.
    pub(crate) pins: BTreeSet<(u64, u64)>,
    pub(crate) pointer: Pointer,
}

impl Znodes {
    pub(crate) async fn read(world: &World) -> TestResult<Self> {
        let client = Client::connect(&format!("{}{CHROOT}", world.server.address())).await?;
        let paths = GroupPaths::new(GROUP);
        let mut found = Self::default();
        let mut open = vec![paths.genesis().to_owned()];
        while let Some(path) = open.pop() {
            // What vanishes between listing and reading was trimmed.
            let (children, data) = match (client.list_children(&path).await, client.get_data(&path).await) {
                (Ok(children), Ok((data, _))) => (children, data),
                (Err(Error::NoNode), _) | (_, Err(Error::NoNode)) => continue,
                (Err(error), _) | (_, Err(error)) => return Err(error.into()),
            };
            found.take(&paths, &path, data)?;
            open.extend(children.into_iter().map(|child| format!("{path}/{child}")));
        }
        Ok(found)
    }

    fn take(&mut self, paths: &GroupPaths, path: &str, data: Vec<u8>) -> TestResult {
        self.count += 1;
        self.bytes += data.len() + path.len();
        let below = |parent: &str| path.strip_prefix(parent)?.strip_prefix('/');
        if let Some(name) = below(&paths.chunks()) {
            self.chunks.insert(name.to_owned());
            self.chunk_bytes += data.len();
        } else if below(&paths.manifests()).is_some() {
            let manifest: Manifest = record::open(&data.into(), None)?;
            self.manifests.insert((manifest.index, manifest.term));
            for chunk in manifest.chunks {
                let hash: [u8; 32] = chunk.hash[..].try_into()?;
                self.named.insert(blake3::Hash::from(hash).to_hex().to_string());
            }
        } else if below(&paths.pins()).is_some() {
            let pin: Pin = record::open(&data.into(), None)?;
            self.pins.extend(pin.snapshot.map(|name| (name.index, name.term)));
        } else if path == paths.pointer() {
            self.pointer = record::open(&data.into(), None)?;
        } else if let Some(name) = below(&paths.wals()) {
            let parts: Vec<_> = name.split('/').collect();
            let wal = WalName::parse(parts[0]).ok_or("a WAL's name")?;
            let items = self.wals.entry(wal).or_default();
            if let [_, _, first] = parts[..] {
                items.insert(first.parse()?);
                self.segments += 1;
                self.wal_bytes += data.len();
            }
        }
        Ok(())
    }

    /// The first index that the WALs still hold.
    pub(crate) fn first(&self) -> Option<u64> {
        self.wals.values().flatten().min().copied()
    }

    /// What is there and should not be, once a sweep has ended and nothing was written since.
    pub(crate) fn garbage(&self) -> Vec<String> {
        let mut garbage = Vec::new();
        let named = self.pointer.newest.iter().chain(&self.pointer.previous);
        let pointed: BTreeSet<_> = named.map(|name| (name.index, name.term)).collect();
        let kept: BTreeSet<_> = pointed.union(&self.pins).copied().collect();
        garbage.extend(self.manifests.difference(&kept).map(|name| format!("manifest {name:?}")));
        garbage.extend(self.chunks.difference(&self.named).map(|name| format!("chunk {name}")));
        garbage.extend(pointed.difference(&self.manifests).map(|name| format!("missing: manifest {name:?}")));
        garbage.extend(self.named.difference(&self.chunks).map(|name| format!("missing: chunk {name}")));
        let previous = self.pointer.previous.unwrap_or_default();
        let own = self.wals.keys().last().copied();
        for (wal, items) in &self.wals {
            let covered = items.range(..=previous.index).count();
            // An item is superfluous if the next one begins at or below what the snapshot covers.
            let superfluous = covered.saturating_sub(1);
            if superfluous > 0 {
                garbage.push(format!("{superfluous} trimmable segments in {wal:?}"));
            }
            if items.is_empty() && wal.term < previous.term && Some(*wal) != own {
                garbage.push(format!("empty {wal:?}"));
            }
        }
        garbage
    }
}
