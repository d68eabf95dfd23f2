//! What may be deleted, oldest first: trimming of WALs and collection of snapshots nobody needs.
//!
//! Only the leader deletes, and every deletion carries the fence. A segment goes once the *previous* verified snapshot
//! covers it, never the last one of the current WAL; a WAL's mark goes last, in one transaction with its header. Where a
//! segment ends, the next name says, also across WALs: nothing is read for it. Names that are gone must not come back: the
//! trim of the current WAL's first segment also changes the WAL header, or a late copy of that segment's own transaction,
//! whose predecessor is the header, would still pass.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::keeper::Op;
use crate::path::{GroupPaths, WalName, BUCKET_SEGMENTS};
use crate::planted;
use crate::reader::{Tail, Unlisted, WalInventory};
use crate::record::SnapshotName;
use crate::writer::Acknowledged;

/// Operations of one deleting transaction.
const OPS_MAX: usize = 200;

/// Everything in ZooKeeper that may one day be deleted, as the leader knows it.
#[derive(Debug)]
pub(crate) struct Inventory {
    own: WalName,
    /// Sealed WALs, ascending. Each ends with its mark.
    sealed: VecDeque<WalInventory>,
    empty: Vec<WalName>,
    /// Segments of the current WAL that are there for certain.
    current: VecDeque<Acknowledged>,
    /// Content the header is given again when the first segment goes.
    header: Bytes,
}

impl Inventory {
    pub(crate) fn new(own: WalName, tail: &Tail, header: Bytes) -> Self {
        Self {
            own,
            sealed: tail.wals.iter().cloned().collect(),
            empty: tail.empty.clone(),
            current: VecDeque::new(),
            header,
        }
    }

    /// Before the first append the last sealed WAL has no mark yet; with it, it got one at this place.
    pub(crate) fn marked(&mut self, wal: WalName, bucket: u64, index: u64) {
        match self.sealed.back_mut().filter(|last| last.name == wal) {
            Some(last) => {
                last.items.insert((index, bucket));
            }
            // The root WAL of genesis held nothing before.
            None => {
                self.empty.retain(|empty| *empty != wal);
                let items = [(index, bucket)].into();
                let unlisted = Unlisted::Buckets(BTreeSet::new());
                self.sealed.push_back(WalInventory { name: wal, items, unlisted });
            }
        }
    }

    pub(crate) fn acknowledged(&mut self, segments: impl IntoIterator<Item = Acknowledged>) {
        self.current.extend(segments);
    }

    /// Segments and marks that are there; what was not listed as [`WalInventory::count`] says.
    pub(crate) fn segments(&self) -> u64 {
        self.inherited() + self.current.len() as u64
    }

    /// Those of sealed WALs.
    pub(crate) fn inherited(&self) -> u64 {
        self.sealed.iter().map(WalInventory::count).sum()
    }

    /// Sealed WALs of which the takeover needed to know nothing, or only their ends; and what is not known of each.
    pub(crate) fn unlisted(&self) -> Vec<(WalName, Unlisted)> {
        let unlisted = self.sealed.iter().filter(|wal| !wal.is_listed());
        unlisted.map(|wal| (wal.name, wal.unlisted.clone())).collect()
    }

    /// Such a WAL has these buckets: only the leader changes it.
    pub(crate) fn has_buckets(&mut self, name: WalName, buckets: BTreeSet<u64>) {
        if let Some(wal) = self.sealed.iter_mut().find(|wal| wal.name == name && wal.unlisted == Unlisted::All) {
            wal.unlisted = Unlisted::Buckets(buckets);
        }
    }

    /// Such a bucket has these.
    pub(crate) fn has_names(&mut self, name: WalName, bucket: u64, firsts: impl IntoIterator<Item = u64>) {
        let Some(wal) = self.sealed.iter_mut().find(|wal| wal.name == name) else { return };
        let Unlisted::Buckets(buckets) = &mut wal.unlisted else { return };
        if buckets.remove(&bucket) {
            wal.items.extend(firsts.into_iter().map(|first| (first, bucket)));
        }
    }

    /// Takes out what the snapshot at `previous` makes superfluous; returns the transactions that delete it, in order.
    pub(crate) fn trim(&mut self, paths: &GroupPaths, previous: SnapshotName) -> Vec<Vec<Op>> {
        let mut batches = Batches::default();
        let index = if planted!(TrimByAppliedIndex) { u64::MAX } else { previous.index };
        let previous = SnapshotName { index, ..previous };
        self.empty.extend(self.sealed.iter().filter(|wal| wal.is_empty()).map(|wal| wal.name));
        self.sealed.retain(|wal| !wal.is_empty());
        loop {
            let next_wal = match self.sealed.get(1) {
                Some(wal) => wal.first(),
                None => self.current.front().map(|segment| segment.first),
            };
            let Some(wal) = self.sealed.front_mut() else { break };
            if !trim_sealed(paths, wal, next_wal, previous.index, &mut batches) {
                break;
            }
            self.sealed.pop_front();
        }
        if self.sealed.is_empty() {
            self.trim_current(paths, previous.index, &mut batches);
        }
        // A leadership that sealed and never wrote leaves an empty WAL. The newest ones may still be looked at.
        let own = self.own;
        self.empty.retain(|wal| {
            let old = wal.term < previous.term && *wal != own;
            if old {
                batches.alone(vec![delete(paths.wal(*wal))]);
            }
            !old
        });
        batches.finish()
    }

    fn trim_current(&mut self, paths: &GroupPaths, covered: u64, batches: &mut Batches) {
        let own = self.own;
        while let (Some(segment), Some(next)) = (self.current.front().copied(), self.current.get(1).copied()) {
            if segment.last > covered {
                break;
            }
            self.current.pop_front();
            let mut ops = vec![delete(paths.segment(own, segment.ordinal, segment.first))];
            if segment.ordinal == 0 && !planted!(TrimmedFirstSegmentMayReturn) {
                ops.push(Op::Set { path: paths.wal(own), data: self.header.clone(), version: 0 });
            }
            if segment.ordinal / BUCKET_SEGMENTS != next.ordinal / BUCKET_SEGMENTS {
                ops.push(delete(paths.bucket(own, segment.ordinal)));
            }
            batches.add(ops);
        }
    }
}

/// Trims a sealed WAL, behind which the next one begins with this index, if that is known; whether nothing is left of it.
fn trim_sealed(
    paths: &GroupPaths,
    wal: &mut WalInventory,
    next_wal: Option<u64>,
    covered: u64,
    batches: &mut Batches,
) -> bool {
    let name = wal.name;
    let path = |first, bucket| paths.segment(name, bucket * BUCKET_SEGMENTS, first);
    let bucket_path = |bucket| paths.bucket(name, bucket * BUCKET_SEGMENTS);
    // Oldest first: what lies before the first known item is not known.
    if !wal.is_listed() {
        return false;
    }
    // A name forged between two of ours would let the one before it go too soon: whoever can do that could delete that as
    // well, and who reads there stops at it as damage.
    while let Some(((first, bucket), (next, next_bucket))) = first_two(&wal.items) {
        if next - 1 > covered {
            return false;
        }
        wal.items.pop_first();
        let mut ops = vec![delete(path(first, bucket))];
        if next_bucket != bucket {
            ops.push(delete(bucket_path(bucket)));
        }
        batches.add(ops);
    }
    // The last one is the mark, unless somebody took that away, or ZooKeeper lost it: then it is a segment, of which the
    // snapshot may cover no more than the beginning. Its name does not tell, and whoever took over may never have looked
    // at it. But the next WAL begins where this one ends, with or without a mark, which has that very index.
    match (wal.items.first().copied(), next_wal) {
        (Some((last, bucket)), Some(next)) if next.max(last) - 1 <= covered => {
            batches.alone(vec![delete(path(last, bucket)), delete(bucket_path(bucket)), delete(paths.wal(name))]);
            true
        }
        // Nothing at all is dealt with elsewhere.
        _ => false,
    }
}

fn first_two(items: &BTreeSet<(u64, u64)>) -> Option<((u64, u64), (u64, u64))> {
    let mut items = items.iter().copied();
    items.next().zip(items.next())
}

/// Manifests and chunks that neither named nor pinned snapshots need.
pub(crate) fn collect(
    paths: &GroupPaths,
    manifests: &mut BTreeSet<(u64, u64)>,
    chunks: &mut BTreeSet<[u8; 32]>,
    needed: &BTreeMap<(u64, u64), BTreeSet<[u8; 32]>>,
) -> Vec<Vec<Op>> {
    let mut batches = Batches::default();
    manifests.retain(|name| {
        let keep = needed.contains_key(name);
        if !keep {
            batches.add(vec![delete(paths.manifest(name.0, name.1))]);
        }
        keep
    });
    chunks.retain(|hash| {
        let keep = needed.values().any(|chunks| chunks.contains(hash));
        if !keep {
            batches.add(vec![delete(paths.chunk(hash))]);
        }
        keep
    });
    batches.finish()
}

fn delete(path: String) -> Op {
    Op::Delete { path, version: None }
}

#[derive(Default)]
struct Batches {
    full: Vec<Vec<Op>>,
    open: Vec<Op>,
}

impl Batches {
    fn add(&mut self, ops: Vec<Op>) {
        if self.open.len() + ops.len() > OPS_MAX {
            self.close();
        }
        self.open.extend(ops);
    }

    /// Operations that must stand or fall together, and not with others.
    fn alone(&mut self, ops: Vec<Op>) {
        self.close();
        self.full.push(ops);
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.full.push(std::mem::take(&mut self.open));
        }
    }

    fn finish(mut self) -> Vec<Vec<Op>> {
        self.close();
        self.full
    }
}
