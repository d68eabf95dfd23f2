//! Which segments there are: listed from the end downwards, as far as a pass needs to know.
//!
//! Later WALs begin where earlier ones end, and names in later buckets of a WAL are higher. So once the lowest name listed
//! is at or below the first index that is to be read, everything before it may be skipped, unlisted: the hash of what is
//! read next vouches for all of it. Whoever trims lists the rest.

use std::collections::{BTreeMap, BTreeSet};

use super::Query;
use crate::path::{WalName, BUCKET_SEGMENTS};

/// The segments and the mark of one WAL, as far as they were listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalInventory {
    /// The WAL.
    pub name: WalName,
    /// First index and bucket of each, in the buckets that were listed.
    pub items: BTreeSet<(u64, u64)>,
    /// What was not, all of it before that.
    pub unlisted: Unlisted,
}

/// What is not known of a WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unlisted {
    /// Anything.
    All,
    /// What is in these buckets.
    Buckets(BTreeSet<u64>),
}

impl WalInventory {
    /// One of which nothing is known but that it is there.
    pub(crate) fn unknown(name: WalName) -> Self {
        Self { name, items: BTreeSet::new(), unlisted: Unlisted::All }
    }

    /// Segments and marks listed; buckets that were not count as full, and a WAL of which nothing is known as nothing.
    pub(crate) fn count(&self) -> u64 {
        let unlisted = match &self.unlisted {
            Unlisted::All => 0,
            Unlisted::Buckets(buckets) => buckets.len() as u64,
        };
        self.items.len() as u64 + unlisted * BUCKET_SEGMENTS
    }

    /// The lowest index in it, where that is known.
    pub(crate) fn first(&self) -> Option<u64> {
        self.items.first().filter(|_| self.is_listed()).map(|(first, _)| *first)
    }

    /// Whether everything in it is known.
    pub(crate) fn is_listed(&self) -> bool {
        matches!(&self.unlisted, Unlisted::Buckets(buckets) if buckets.is_empty())
    }

    /// Whether nothing is in it, for certain.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.is_listed()
    }
}

/// What is listed so far.
#[derive(Debug)]
pub(super) struct Listing {
    /// The newest, some of which may still be on their way.
    wals: BTreeMap<WalName, Wal>,
    /// Those before them, ascending.
    older: Vec<WalName>,
    /// Nothing at or below this index is to be read; `None`: all is to be listed.
    covered: Option<u64>,
    /// How many WALs are looked at next: twice as many each time, so that a long way down takes few rounds.
    step: usize,
}

#[derive(Debug)]
struct Wal {
    inventory: WalInventory,
    /// Answers that are missing.
    outstanding: usize,
    /// How many of its buckets are listed next, in the same way.
    step: usize,
}

impl Listing {
    /// Of the WALs with these names, ascending, the buckets of one were asked for before. Returns what to ask next.
    pub(super) fn new(names: Vec<WalName>, covered: Option<u64>, asked: Option<WalName>) -> (Self, Vec<Query>) {
        let first = match (covered, asked) {
            (None, _) => names.len(),
            (Some(_), asked) => asked.map_or(0, |asked| names.iter().filter(|name| **name >= asked).count()),
        };
        let mut listing = Self { wals: BTreeMap::new(), older: names, covered, step: 1 };
        let mut queries = listing.look(first);
        queries.retain(|query| !matches!(query, Query::Buckets(name) if Some(*name) == asked));
        queries.extend(listing.next());
        (listing, queries)
    }

    /// Whether everything that is needed was listed.
    pub(super) fn is_complete(&self) -> bool {
        self.wals.values().all(|wal| wal.outstanding == 0)
    }

    /// Whether it is one of those that are looked at.
    pub(super) fn has(&self, name: WalName) -> bool {
        self.wals.contains_key(&name)
    }

    /// A WAL has these buckets. Returns what to ask next.
    pub(super) fn buckets(&mut self, name: WalName, buckets: BTreeSet<u64>) -> Vec<Query> {
        let Some(wal) = self.wals.get_mut(&name) else { return Vec::new() };
        wal.inventory.unlisted = Unlisted::Buckets(buckets);
        wal.outstanding -= 1;
        self.next_of(name)
    }

    /// A bucket has these. Returns what to ask next.
    pub(super) fn names(&mut self, name: WalName, bucket: u64, firsts: impl IntoIterator<Item = u64>) -> Vec<Query> {
        let Some(wal) = self.wals.get_mut(&name) else { return Vec::new() };
        wal.inventory.items.extend(firsts.into_iter().map(|first| (first, bucket)));
        wal.outstanding -= 1;
        self.next_of(name)
    }

    fn next_of(&mut self, name: WalName) -> Vec<Query> {
        let queries = self.wals.get_mut(&name).map_or_else(Vec::new, |wal| wal.next(self.covered));
        if queries.is_empty() {
            self.next()
        } else {
            queries
        }
    }

    /// Looks at older WALs where those listed do not reach far enough down.
    fn next(&mut self) -> Vec<Query> {
        if !self.is_complete() || self.wals.values().any(|wal| wal.reaches(self.covered)) {
            return Vec::new();
        }
        let queries = self.look(self.step);
        self.step *= 2;
        queries
    }

    fn look(&mut self, count: usize) -> Vec<Query> {
        let newest = self.older.split_off(self.older.len().saturating_sub(count));
        let wal = |name| (name, Wal { inventory: WalInventory::unknown(name), outstanding: 1, step: 1 });
        self.wals.extend(newest.iter().copied().map(wal));
        newest.into_iter().rev().map(Query::Buckets).collect()
    }

    /// The lowest index listed: of all there are, or one that is covered.
    pub(super) fn first(&self) -> Option<u64> {
        self.wals.values().find_map(|wal| wal.inventory.items.first()).map(|(first, _)| *first)
    }

    /// Segments and marks listed of each WAL, in order.
    pub(super) fn items(&self) -> impl Iterator<Item = (WalName, &BTreeSet<(u64, u64)>)> {
        self.wals.iter().map(|(name, wal)| (*name, &wal.inventory.items))
    }

    /// The WALs that hold anything or may, in order, and those that do not.
    pub(super) fn inventories(self) -> (Vec<WalInventory>, Vec<WalName>) {
        let older = self.older.into_iter().map(WalInventory::unknown);
        let all = older.chain(self.wals.into_values().map(|wal| wal.inventory));
        let (empty, wals): (Vec<_>, Vec<_>) = all.partition(WalInventory::is_empty);
        (wals, empty.into_iter().map(|wal| wal.name).collect())
    }
}

impl Wal {
    /// Whether what was listed begins at or below the first index that is to be read.
    fn reaches(&self, covered: Option<u64>) -> bool {
        self.inventory.items.first().zip(covered).is_some_and(|((first, _), covered)| *first <= covered + 1)
    }

    /// Which of its buckets to list next.
    fn next(&mut self, covered: Option<u64>) -> Vec<Query> {
        if self.outstanding > 0 || self.reaches(covered) {
            return Vec::new();
        }
        let name = self.inventory.name;
        let Unlisted::Buckets(unlisted) = &mut self.inventory.unlisted else { return Vec::new() };
        let count = if covered.is_some() { self.step } else { unlisted.len() };
        let next: Vec<_> = std::iter::from_fn(|| unlisted.pop_last()).take(count).collect();
        self.step *= 2;
        self.outstanding = next.len();
        next.into_iter().map(|bucket| Query::Names(name, bucket)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKETS: u64 = 10;
    /// Indexes in a bucket, each a segment's.
    const EACH: u64 = 10;

    fn wal(term: u64) -> WalName {
        WalName { term, node: 1 }
    }

    /// Lists this many WALs of ten buckets of ten segments of one entry each; in how many rounds, and what was asked.
    fn list(wals: u64, covered: Option<u64>, asked: Option<WalName>) -> (Listing, usize, Vec<Query>) {
        let (mut listing, mut next) = Listing::new((0..wals).map(wal).collect(), covered, asked);
        next.extend(asked.map(Query::Buckets));
        let (mut rounds, mut all) = (0, Vec::new());
        while !next.is_empty() {
            assert!(!listing.is_complete());
            rounds += 1;
            all.extend(next.clone());
            for query in std::mem::take(&mut next) {
                next.extend(match query {
                    Query::Buckets(name) => listing.buckets(name, (0..BUCKETS).collect()),
                    Query::Names(name, bucket) => {
                        let first = (name.term * BUCKETS + bucket) * EACH;
                        listing.names(name, bucket, first + 1..=first + EACH)
                    }
                    other => panic!("not a listing: {other:?}"),
                });
            }
        }
        assert!(listing.is_complete());
        (listing, rounds, all)
    }

    #[test]
    fn everything_above_the_covered_index_is_listed_and_what_is_not_lies_below() {
        let last = 3 * BUCKETS * EACH;
        for covered in 1..=last {
            let (listing, ..) = list(3, Some(covered), None);
            assert!(listing.first().is_some_and(|first| first <= covered + 1), "{covered}: {:?}", listing.first());
            let listed: BTreeSet<u64> =
                listing.items().flat_map(|(_, items)| items.iter().map(|item| item.0)).collect();
            assert!((covered + 1..=last).all(|index| listed.contains(&index)), "{covered}");
            assert!(last - listed.len() as u64 <= covered, "{covered}");
        }
    }

    #[test]
    fn who_knows_nearly_everything_asks_for_one_bucket() {
        let newest = wal(19);
        let (listing, rounds, all) = list(20, Some(1995), Some(newest));
        assert_eq!((rounds, &all[..]), (2, &[Query::Buckets(newest), Query::Names(newest, 9)][..]));
        let (wals, empty) = listing.inventories();
        assert_eq!((wals.len(), empty.len()), (20, 0));
        assert_eq!(wals[19].count(), EACH + 9 * BUCKET_SEGMENTS);
        assert!(wals[..19].iter().all(|wal| wal.unlisted == Unlisted::All));
    }

    #[test]
    fn a_long_way_down_takes_few_rounds_and_all_is_listed_at_once_where_all_is_needed() {
        let (_, rounds, _) = list(20, Some(1), Some(wal(19)));
        // Of WALs 1, 1, 2, 4, 8 and 4; of the buckets of each all, then 1, 2, 4 and 3.
        assert_eq!(rounds, 6 * 5);
        let (listing, rounds, _) = list(20, None, Some(wal(19)));
        assert_eq!(rounds, 2);
        assert!(listing.inventories().0.iter().all(WalInventory::is_listed));
    }

    #[test]
    fn neither_an_emptied_bucket_nor_an_empty_wal_at_the_end_hides_what_is_before_it() {
        let (mut listing, next) = Listing::new(vec![wal(1), wal(2)], Some(15), None);
        assert_eq!(next, [Query::Buckets(wal(2))]);
        assert_eq!(listing.buckets(wal(2), BTreeSet::new()), [Query::Buckets(wal(1))]);
        assert_eq!(listing.buckets(wal(1), [0, 1].into()), [Query::Names(wal(1), 1)]);
        assert_eq!(listing.names(wal(1), 1, []), [Query::Names(wal(1), 0)]);
        assert_eq!(listing.names(wal(1), 0, [11, 12]), []);
        let (wals, empty) = listing.inventories();
        assert_eq!((&wals[0].items, empty), (&[(11, 0), (12, 0)].into(), vec![wal(2)]));
    }
}
