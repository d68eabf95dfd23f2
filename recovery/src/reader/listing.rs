//! Which segments there are: each WAL is listed from its end downwards, as far as a pass needs to know.
//!
//! Names in later buckets are higher. So once a WAL's lowest listed name is at or below the first index that is to be
//! read, everything in the buckets before it may be skipped, unlisted. Whoever trims lists the rest.

use std::collections::{BTreeMap, BTreeSet};

use crate::path::{WalName, BUCKET_SEGMENTS};

/// The segments and the mark of one WAL, as far as they were listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalInventory {
    /// The WAL.
    pub name: WalName,
    /// First index and bucket of each, in the buckets that were listed.
    pub items: BTreeSet<(u64, u64)>,
    /// The buckets that were not, all of them before those that were.
    pub unlisted: BTreeSet<u64>,
}

impl WalInventory {
    fn new(name: WalName) -> Self {
        Self { name, items: BTreeSet::new(), unlisted: BTreeSet::new() }
    }

    /// Segments and marks that are there; buckets that were not listed count as full.
    pub(crate) fn count(&self) -> u64 {
        self.items.len() as u64 + self.unlisted.len() as u64 * BUCKET_SEGMENTS
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.unlisted.is_empty()
    }
}

#[derive(Debug)]
struct Wal {
    inventory: WalInventory,
    /// Answers that are missing.
    outstanding: usize,
    /// How many buckets are listed next: twice as many each time, so that a long way down takes few rounds.
    step: usize,
}

/// What is listed so far.
#[derive(Debug)]
pub(super) struct Listing {
    wals: BTreeMap<WalName, Wal>,
    /// Nothing at or below this index is to be read; `None`: all is to be listed.
    covered: Option<u64>,
}

impl Listing {
    /// Begins with the buckets of these WALs, which are to be asked for.
    pub(super) fn new(wals: impl IntoIterator<Item = WalName>, covered: Option<u64>) -> Self {
        let wal = |name| (name, Wal { inventory: WalInventory::new(name), outstanding: 1, step: 1 });
        Self { wals: wals.into_iter().map(wal).collect(), covered }
    }

    /// Whether everything that is needed was listed.
    pub(super) fn is_complete(&self) -> bool {
        self.wals.values().all(|wal| wal.outstanding == 0)
    }

    /// Whether it is one of those that are listed.
    pub(super) fn has(&self, name: WalName) -> bool {
        self.wals.contains_key(&name)
    }

    /// A WAL has these buckets; returns those to list next.
    pub(super) fn buckets(&mut self, name: WalName, buckets: BTreeSet<u64>) -> Vec<u64> {
        let Some(wal) = self.wals.get_mut(&name) else { return Vec::new() };
        wal.inventory.unlisted = buckets;
        wal.next(self.covered)
    }

    /// A bucket has these; returns those to list next.
    pub(super) fn names(&mut self, name: WalName, bucket: u64, firsts: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let Some(wal) = self.wals.get_mut(&name) else { return Vec::new() };
        wal.inventory.items.extend(firsts.into_iter().map(|first| (first, bucket)));
        wal.next(self.covered)
    }

    /// The lowest index in the lowest WAL that holds any: of all there are, or one that is covered.
    pub(super) fn first(&self) -> Option<u64> {
        self.wals.values().find_map(|wal| wal.inventory.items.first()).map(|(first, _)| *first)
    }

    /// Segments and marks listed of each WAL, in order.
    pub(super) fn items(&self) -> impl Iterator<Item = (WalName, &BTreeSet<(u64, u64)>)> {
        self.wals.iter().map(|(name, wal)| (*name, &wal.inventory.items))
    }

    /// The WALs that hold anything, and those that do not.
    pub(super) fn inventories(self) -> (Vec<WalInventory>, Vec<WalName>) {
        let all = self.wals.into_values().map(|wal| wal.inventory);
        let (empty, wals): (Vec<_>, Vec<_>) = all.partition(WalInventory::is_empty);
        (wals, empty.into_iter().map(|wal| wal.name).collect())
    }
}

impl Wal {
    /// Takes note of an answer.
    fn next(&mut self, covered: Option<u64>) -> Vec<u64> {
        self.outstanding -= 1;
        let WalInventory { items, unlisted, .. } = &mut self.inventory;
        let reaches = items.first().zip(covered).is_some_and(|((first, _), covered)| *first <= covered + 1);
        if self.outstanding > 0 || reaches {
            return Vec::new();
        }
        let count = if covered.is_some() { self.step } else { unlisted.len() };
        let next: Vec<_> = std::iter::from_fn(|| unlisted.pop_last()).take(count).collect();
        self.step *= 2;
        self.outstanding = next.len();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAL: WalName = WalName { term: 3, node: 1 };

    /// Buckets 0 to 9 of ten segments of one entry each.
    fn listed(covered: Option<u64>) -> (usize, Vec<WalInventory>) {
        let mut listing = Listing::new([WAL], covered);
        let mut next = listing.buckets(WAL, (0..10).collect());
        let mut rounds = 0;
        while !next.is_empty() {
            assert!(!listing.is_complete());
            rounds += 1;
            let more: Vec<_> = next
                .iter()
                .flat_map(|bucket| listing.names(WAL, *bucket, bucket * 10 + 1..=bucket * 10 + 10))
                .collect();
            next = more;
        }
        assert!(listing.is_complete());
        (rounds, listing.inventories().0)
    }

    #[test]
    fn nothing_is_listed_before_what_reaches_to_the_covered_index() {
        for covered in 1..=100 {
            let (_, wals) = listed(Some(covered));
            let lowest = wals[0].items.first().map(|(first, _)| *first);
            assert!(lowest.is_some_and(|lowest| lowest <= covered + 1), "{covered}: {lowest:?}");
            assert!(wals[0].unlisted.iter().all(|bucket| bucket * 10 + 10 <= covered), "{covered}: {wals:?}");
        }
        let (rounds, wals) = listed(Some(95));
        assert_eq!((rounds, wals[0].items.len(), wals[0].unlisted.len()), (1, 10, 9));
        assert_eq!(wals[0].count(), 10 + 9 * BUCKET_SEGMENTS);
    }

    #[test]
    fn a_long_way_down_takes_few_rounds_and_all_is_listed_at_once_where_all_is_needed() {
        let (rounds, wals) = listed(Some(1));
        assert_eq!((rounds, wals[0].items.len()), (4, 100));
        let (rounds, wals) = listed(None);
        assert_eq!((rounds, wals[0].items.len()), (1, 100));
    }

    #[test]
    fn an_emptied_bucket_at_the_end_does_not_hide_those_before_it() {
        let mut listing = Listing::new([WAL], Some(15));
        assert_eq!(listing.buckets(WAL, [0, 1].into()), [1]);
        assert_eq!(listing.names(WAL, 1, []), [0]);
        assert_eq!(listing.names(WAL, 0, [11, 12]), Vec::<u64>::new());
        assert_eq!(listing.inventories().0[0].items, [(11, 0), (12, 0)].into());
    }
}
