//! A log of at most six entries, packed into one word, so that a state stays small.

use std::fmt;

/// Highest index there is.
pub const INDEX_MAX: u8 = 6;
const BITS: u32 = 5;
const MASK: u32 = (1 << BITS) - 1;

/// An entry: the term it was made in, and the proposal it holds, or none for the first entry of a leadership.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    pub term: u8,
    /// Counted from 1; 0 is the no-op of a new leader.
    pub proposal: u8,
}

/// Entries by index, counted from 1. A WAL may have holes; the log of a node never has.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Log(pub u32);

impl Log {
    pub fn get(self, index: u8) -> Option<Entry> {
        if index == 0 || index > INDEX_MAX {
            return None;
        }
        let bits = (self.0 >> ((u32::from(index) - 1) * BITS)) & MASK;
        (bits != 0).then_some(Entry { term: (bits & 3) as u8, proposal: (bits >> 2) as u8 })
    }

    pub fn set(&mut self, index: u8, entry: Option<Entry>) {
        assert!((1..=INDEX_MAX).contains(&index), "index={index}");
        let shift = (u32::from(index) - 1) * BITS;
        let bits = entry.map_or(0, |entry| {
            assert!((1..=3).contains(&entry.term) && entry.proposal < 8, "{entry:?}");
            u32::from(entry.term) | (u32::from(entry.proposal) << 2)
        });
        self.0 = (self.0 & !(MASK << shift)) | (bits << shift);
    }

    /// The highest index with an entry, 0 if there is none.
    pub fn last(self) -> u8 {
        ((u32::BITS - self.0.leading_zeros()).div_ceil(BITS)) as u8
    }

    /// The entries up to an index.
    pub fn prefix(self, last: u8) -> Self {
        Self(self.0 & ((1_u64 << (u32::from(last) * BITS)) - 1) as u32)
    }

    /// The entries above an index, up to another one.
    pub fn part(self, first: u8, last: u8) -> Self {
        Self(self.prefix(last).0 & !self.prefix(first - 1).0)
    }

    pub fn push(&mut self, entry: Entry) {
        self.set(self.last() + 1, Some(entry));
    }

    pub fn entries(self) -> impl Iterator<Item = (u8, Entry)> {
        (1..=INDEX_MAX).filter_map(move |index| Some((index, self.get(index)?)))
    }

    /// Whether every entry here is there too.
    pub fn is_within(self, other: Self) -> bool {
        self.entries().all(|(index, entry)| other.get(index) == Some(entry))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.proposal {
            0 => write!(f, "t{}", self.term),
            proposal => write!(f, "t{}p{proposal}", self.term),
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.entries()).finish()
    }
}
