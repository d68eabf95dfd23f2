//! What is in the archive: listed on one session, behind a fenced transaction, before anything is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{hashes, Archive, Kind};
use crate::keeper::{Reply, Request, SessionNumber};
use crate::path::{self, WalName};
use crate::planted;
use crate::reader::Unlisted;
use crate::record::{self, Manifest, Pin, Pointer};

/// Listings of WALs outstanding at once.
const LISTINGS_MAX: usize = 16;
/// How long a pin delays the deletion of the snapshot it names.
const PIN_HOLDS: Duration = Duration::from_secs(120);

impl Archive {
    pub(super) fn list(&mut self) {
        self.listing = 1;
        self.fenced(Kind::Open, Vec::new());
    }

    /// Takes what a listing asked for.
    pub(super) fn list_read(&mut self, kind: Kind, session: SessionNumber, reply: Reply) {
        match (kind, reply) {
            (Kind::Open, _) => {
                self.session = Some(session);
                let children = |path| Request::Children { path, watch: false };
                self.issue(Kind::Chunks, children(self.paths.chunks()));
                self.issue(Kind::Manifests, children(self.paths.manifests()));
                self.issue(Kind::Pins, children(self.paths.pins()));
                let path = self.paths.chunks();
                self.get(Kind::Epoch, path);
                self.listing = 4;
                for (wal, unlisted) in self.inventory.unlisted() {
                    match unlisted {
                        Unlisted::All => {
                            self.listing += 1;
                            self.unlisted.push_back((Kind::Buckets(wal), self.paths.wal(wal)));
                        }
                        Unlisted::Buckets(buckets) => self.list_names(wal, buckets),
                    }
                }
                self.list_more();
            }
            (kind, _) if self.session != Some(session) && of_listing(&kind) => {
                // Another session may lag behind the fence: list anew.
                self.listing = 0;
                self.unlisted.clear();
                self.jobs.retain(|_, (kind, _)| !of_listing(kind));
                self.again.retain(|(kind, _)| !of_listing(kind));
                self.list();
            }
            // What does not look like this library's own is left alone.
            (Kind::Buckets(wal), Reply::Children(names)) => {
                let buckets: BTreeSet<_> =
                    names.unwrap_or_default().iter().filter_map(|name| path::number(name, 10)).collect();
                self.inventory.has_buckets(wal, buckets.clone());
                self.list_names(wal, buckets);
                self.list_more();
                self.listed();
            }
            (Kind::Names(wal, bucket), Reply::Children(names)) => {
                let names = names.unwrap_or_default();
                let firsts = names.iter().filter_map(|name| path::number(name, 20)).filter(|first| *first > 0);
                self.inventory.has_names(wal, bucket, firsts);
                self.list_more();
                self.listed();
            }
            (Kind::Epoch, Reply::Data(data)) => {
                self.epoch = data.map_or(0, |(_, stat)| stat.version);
                self.listed();
            }
            (Kind::Chunks, Reply::Children(names)) => {
                self.chunks =
                    Some(names.unwrap_or_default().iter().filter_map(|name| path::chunk_hash(name)).collect());
                self.listed();
            }
            (Kind::Manifests, Reply::Children(names)) => {
                self.manifests =
                    Some(names.unwrap_or_default().iter().filter_map(|name| parse_manifest(name)).collect());
                self.listed();
            }
            (Kind::Pins, Reply::Children(names)) => {
                let nodes: Vec<_> =
                    names.unwrap_or_default().iter().filter_map(|name| path::number(name, 20)).collect();
                // A restore that ended takes its pin away.
                self.pins.retain(|node, _| nodes.contains(node));
                for node in nodes {
                    self.listing += 1;
                    let path = self.paths.pin(node);
                    self.get(Kind::Pin(node), path);
                }
                self.listed();
            }
            (Kind::Pin(node), Reply::Data(data)) => {
                self.pinned(node, data.and_then(|(bytes, _)| record::open(&bytes, Some(self.uuid)).ok()));
                self.listed();
            }
            (Kind::Manifest(name), Reply::Data(data)) => {
                let manifest: Option<Manifest> = data.and_then(|(bytes, _)| record::open(&bytes, Some(self.uuid)).ok());
                match manifest {
                    Some(manifest) => {
                        self.contents.insert(name, hashes(&manifest.chunks));
                        self.listed();
                    }
                    // A named snapshot whose content is not known keeps everything.
                    None => {
                        self.listing = 0;
                        self.sweep_due = false;
                        self.jobs.retain(|_, (kind, _)| !matches!(kind, Kind::Manifest(_)));
                    }
                }
            }
            (kind, reply) => self.answered_wrongly(&kind, &reply),
        }
    }

    fn list_names(&mut self, wal: WalName, buckets: BTreeSet<u64>) {
        self.listing += buckets.len();
        for bucket in buckets {
            let path = self.paths.bucket(wal, bucket * path::BUCKET_SEGMENTS);
            self.unlisted.push_back((Kind::Names(wal, bucket), path));
        }
    }

    /// Asks for the next of what is to be listed of WALs, a few at a time: all groups share one session.
    fn list_more(&mut self) {
        let outstanding = self.jobs.values().chain(&self.again).filter(|(kind, _)| of_a_wal(kind)).count();
        for _ in outstanding..LISTINGS_MAX {
            let Some((kind, path)) = self.unlisted.pop_front() else { return };
            self.issue(kind, Request::Children { path, watch: false });
        }
    }

    /// A node's pin was read: it holds from when it first named this snapshot.
    fn pinned(&mut self, node: u64, pin: Option<Pin>) {
        match pin.and_then(|pin| pin.snapshot) {
            Some(name) if self.pins.get(&node).is_some_and(|(known, _)| *known == name) => {}
            Some(name) => {
                self.pins.insert(node, (name, self.now));
            }
            None => {
                self.pins.remove(&node);
            }
        }
    }

    fn listed(&mut self) {
        self.listing = self.listing.saturating_sub(1);
        if self.listing > 0 {
            return;
        }
        // Contents of everything that is to be kept must be known before anything is deleted.
        let missing: Vec<_> = self.kept().into_iter().filter(|name| !self.contents.contains_key(name)).collect();
        if missing.is_empty() {
            return self.begin_sweep();
        }
        self.listing = missing.len();
        for name in missing {
            let path = self.paths.manifest(name.0, name.1);
            self.get(Kind::Manifest(name), path);
        }
    }

    /// Snapshots the pointer names, and those pinned lately that still exist.
    pub(super) fn kept(&self) -> BTreeSet<(u64, u64)> {
        let Pointer { newest, previous, .. } = &self.pointer.0;
        let named = newest
            .iter()
            .filter(|_| !planted!(CollectionForgetsTheNewest))
            .chain(previous)
            .map(|name| (name.index, name.term));
        let pinned = self
            .pins
            .values()
            .filter(|(_, since)| self.now.saturating_sub(*since) < PIN_HOLDS)
            .map(|(name, _)| (name.index, name.term))
            .filter(|name| self.manifests.as_ref().is_some_and(|manifests| manifests.contains(name)));
        named.chain(pinned).collect()
    }
}

fn of_listing(kind: &Kind) -> bool {
    of_a_wal(kind) || matches!(kind, Kind::Chunks | Kind::Manifests | Kind::Pins | Kind::Pin(_) | Kind::Epoch)
}

fn of_a_wal(kind: &Kind) -> bool {
    matches!(kind, Kind::Buckets(_) | Kind::Names(..))
}

fn parse_manifest(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.split_once('-')?;
    Some((path::number(index, 20)?, path::number(term, 20)?))
}
