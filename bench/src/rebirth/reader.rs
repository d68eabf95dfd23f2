//! A bare reader: the client library that bequest uses, fetching what an heir without a disk has to fetch.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bequest_recovery::path::{number, GroupPaths, WalName};
use bequest_recovery::record::{self, Manifest, Pointer};
use zookeeper_client::Client;

use crate::served::GROUP;

/// Reads on their way at once: as many as an heir has.
const IN_FLIGHT: usize = 32;

/// What was fetched.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fetched {
    /// From the wish for a session until the last byte was there.
    pub(crate) took: Duration,
    /// Bytes of znodes: log, manifest and chunks.
    pub(crate) bytes: u64,
    /// How many znodes these were.
    pub(crate) znodes: usize,
}

/// Fetches the newest snapshot of the group at `place`, and what lies beyond it in its log.
pub(crate) async fn fetch(place: &str) -> Result<Fetched> {
    let began = Instant::now();
    let client = Client::connect(place).await.context("no session with ZooKeeper")?;
    let paths = GroupPaths::new(GROUP);
    let mut fetched = Fetched::default();
    let (pointer, _) = client.get_data(&paths.pointer()).await?;
    let pointer: Pointer = record::open(&pointer.into(), None)?;
    let mut wanted = Vec::new();
    let mut covered = 0;
    if let Some(newest) = pointer.newest {
        let (bytes, _) = client.get_data(&paths.manifest(newest.index, newest.term)).await?;
        fetched.bytes += bytes.len() as u64;
        fetched.znodes += 1;
        let manifest: Manifest = record::open(&bytes.into(), None)?;
        covered = newest.index;
        wanted.extend(manifest.chunks.iter().map(|chunk| paths.chunk(&chunk.hash)));
    }
    wanted.extend(beyond(&client, &paths, covered).await?);
    fetched.znodes += wanted.len();
    fetched.bytes += all(&client, wanted).await?;
    fetched.took = began.elapsed();
    Ok(fetched)
}

/// Every segment that holds anything above `covered`.
async fn beyond(client: &Client, paths: &GroupPaths, covered: u64) -> Result<Vec<String>> {
    let mut wals: Vec<WalName> =
        client.list_children(&paths.wals()).await?.iter().filter_map(|name| WalName::parse(name)).collect();
    wals.sort_unstable();
    let mut segments = Vec::new();
    for wal in wals {
        let root = paths.wal(wal);
        let mut buckets = client.list_children(&root).await?;
        buckets.sort_unstable();
        for bucket in buckets {
            let mut names = client.list_children(&format!("{root}/{bucket}")).await?;
            names.sort_unstable();
            segments
                .extend(names.iter().filter_map(|name| Some((number(name, 20)?, format!("{root}/{bucket}/{name}")))));
        }
    }
    // One that is followed by another ends before it.
    let ends = segments.iter().skip(1).map(|(first, _)| *first).chain([u64::MAX]);
    let beyond = ends.map(|next| next > covered + 1).collect::<Vec<bool>>();
    Ok(segments.into_iter().zip(beyond).filter(|(_, beyond)| *beyond).map(|((_, path), _)| path).collect())
}

/// Reads all of these; how many bytes they have.
async fn all(client: &Client, paths: Vec<String>) -> Result<u64> {
    let (paths, next) = (Arc::new(paths), Arc::<AtomicUsize>::default());
    let readers: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (client, paths, next) = (client.clone(), paths.clone(), next.clone());
            tokio::spawn(async move {
                let mut bytes = 0;
                while let Some(path) = paths.get(next.fetch_add(1, Relaxed)) {
                    bytes += client.get_data(path).await?.0.len() as u64;
                }
                anyhow::Ok(bytes)
            })
        })
        .collect();
    let mut bytes = 0;
    for reader in readers {
        bytes += reader.await??;
    }
    Ok(bytes)
}
