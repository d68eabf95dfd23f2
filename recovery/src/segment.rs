//! Segments: batches of consecutive entries, chained by a rolling hash.

use bytes::Bytes;

use crate::entry::{Entry, EntryHash, Position};
use crate::record::{self, RecordError, Segment, Uuid, FORMAT};

/// Bytes of entries a segment holds by default, unless one entry alone is larger.
pub const SEGMENT_BYTES: usize = 256 * 1024;

/// Bytes of data and context one entry may have at most, so that its segment fits any request.
pub const ENTRY_BYTES_MAX: usize = 512 * 1024;

/// ZooKeeper's default `jute.maxbuffer`: a larger request makes the server drop the connection.
pub(crate) const REQUEST_BYTES_MAX: usize = 0xf_ffff;

// Room for paths, checks, a mark and the record's own fields beside the largest segment.
const _: () = assert!(ENTRY_BYTES_MAX + 16 * 1024 < REQUEST_BYTES_MAX);

/// What a segment's bytes hold once everything about them was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Place in its WAL, counted from 0.
    pub ordinal: u64,
    /// Position before its first entry.
    pub prev: Position,
    /// Content.
    pub body: Body,
}

/// Entries, or the mark that ends a WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// At least one entry, each with its position.
    Entries(Vec<(Entry, EntryHash)>),
    /// The WAL ended before this place; the leadership of this term goes on.
    Closed {
        /// That leadership's term.
        by: u64,
    },
}

impl Decoded {
    /// Position of the last entry, or the one before a mark.
    pub fn end(&self) -> Position {
        match &self.body {
            Body::Entries(entries) => match entries.last() {
                Some((entry, hash)) => Position { index: entry.index, term: entry.term, hash: *hash },
                None => self.prev,
            },
            Body::Closed { .. } => self.prev,
        }
    }
}

/// Encodes entries that directly follow `prev`.
///
/// # Panics
/// If there are none, or they do not ascend without gaps from `prev`: the caller is wrong.
pub fn encode(uuid: Uuid, term: u64, ordinal: u64, prev: Position, entries: Vec<Entry>) -> (Bytes, Position) {
    assert!(!entries.is_empty(), "segment without entries: term={term} ordinal={ordinal}");
    let mut end = prev;
    for entry in &entries {
        assert!(entry.index == end.index + 1, "segment with a gap: prev={} index={}", end.index, entry.index);
        end = end.next(entry);
    }
    let empty = without_entries(uuid, term, ordinal, prev);
    (record::seal(&Segment { hash: end.hash.to_bytes(), entries, ..empty }), end)
}

/// Encodes the mark that ends a WAL behind `prev`.
pub fn encode_closed(uuid: Uuid, term: u64, ordinal: u64, prev: Position, by: u64) -> Bytes {
    record::seal(&Segment { closed_by: by, ..without_entries(uuid, term, ordinal, prev) })
}

fn without_entries(uuid: Uuid, term: u64, ordinal: u64, prev: Position) -> Segment {
    Segment {
        format: FORMAT,
        uuid: uuid.to_bytes(),
        term,
        ordinal,
        prev_index: prev.index,
        prev_term: prev.term,
        prev_hash: prev.hash.to_bytes(),
        hash: prev.hash.to_bytes(),
        entries: Vec::new(),
        closed_by: 0,
    }
}

/// Decodes the segment of the WAL of `term` whose name says that its first index is `first`.
///
/// # Errors
/// Every way in which it is not what a leader of that term writes there, with the field named.
pub fn decode(bytes: &Bytes, uuid: Uuid, term: u64, first: u64) -> Result<Decoded, RecordError> {
    let field = |field| RecordError::Field { kind: "segment", field };
    let record: Segment = record::open(bytes, Some(uuid))?;
    if record.term != term {
        return Err(field("term"));
    }
    if record.prev_index.checked_add(1) != Some(first) {
        return Err(field("prev_index"));
    }
    let hash = EntryHash::from_slice(&record.prev_hash).ok_or(field("prev_hash"))?;
    let prev = Position { index: record.prev_index, term: record.prev_term, hash };
    let end_hash = EntryHash::from_slice(&record.hash).ok_or(field("hash"))?;
    if record.entries.is_empty() {
        if record.closed_by <= term || end_hash != hash {
            return Err(field("closed_by"));
        }
        return Ok(Decoded { ordinal: record.ordinal, prev, body: Body::Closed { by: record.closed_by } });
    }
    if record.closed_by != 0 {
        return Err(field("closed_by"));
    }
    let mut end = prev;
    let mut entries = Vec::with_capacity(record.entries.len());
    for entry in record.entries {
        // The last number there is has none behind it, where the next segment would begin.
        if end.index.checked_add(1) != Some(entry.index) || entry.index == u64::MAX {
            return Err(field("entries.index"));
        }
        // Terms of a log never fall, and nothing in a WAL is newer than its leadership.
        if entry.term < end.term || entry.term > term || entry.term == 0 {
            return Err(field("entries.term"));
        }
        end = end.next(&entry);
        entries.push((entry, end.hash));
    }
    if end.hash != end_hash {
        return Err(field("hash"));
    }
    Ok(Decoded { ordinal: record.ordinal, prev, body: Body::Entries(entries) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid([7; 16]);

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, kind: 0, data: Bytes::from(format!("e{index}")), context: Bytes::new() }
    }

    #[test]
    fn a_segment_decodes_to_the_entries_and_positions_it_was_encoded_from() {
        let (bytes, end) = encode(UUID, 3, 5, Position::START, vec![entry(1, 2), entry(2, 3)]);
        let decoded = decode(&bytes, UUID, 3, 1).expect("own encoding");
        assert_eq!(decoded.end(), end);
        assert_eq!(decoded.ordinal, 5);
        assert_eq!(end.hash, EntryHash::EMPTY.next(&entry(1, 2)).next(&entry(2, 3)));
    }

    #[test]
    fn every_flipped_bit_of_a_segment_is_found() {
        let (bytes, _) = encode(UUID, 3, 0, Position::START, vec![entry(1, 3)]);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged.into(), UUID, 3, 1).is_err(), "bit {bit} flipped unnoticed");
        }
    }

    #[test]
    fn a_segment_of_another_group_term_or_place_is_refused_by_name() {
        let (bytes, _) = encode(UUID, 3, 0, Position::START, vec![entry(1, 3)]);
        assert!(matches!(decode(&bytes, Uuid([8; 16]), 3, 1), Err(RecordError::Foreign { .. })));
        assert_eq!(decode(&bytes, UUID, 4, 1), Err(RecordError::Field { kind: "segment", field: "term" }));
        assert_eq!(decode(&bytes, UUID, 3, 2), Err(RecordError::Field { kind: "segment", field: "prev_index" }));
    }

    #[test]
    fn a_segment_that_reaches_the_end_of_all_numbers_is_refused() {
        let prev = Position { index: u64::MAX - 1, ..Position::START };
        let (bytes, end) = encode(UUID, 3, 0, prev, vec![entry(u64::MAX, 3)]);
        let refused = Err(RecordError::Field { kind: "segment", field: "entries.index" });
        assert_eq!(decode(&bytes, UUID, 3, u64::MAX), refused);
        // And one entry more than there are numbers.
        let entries = vec![entry(u64::MAX, 3), entry(0, 3)];
        let beyond = Segment { hash: end.hash.to_bytes(), entries, ..without_entries(UUID, 3, 0, prev) };
        assert_eq!(decode(&record::seal(&beyond), UUID, 3, u64::MAX), refused);
    }

    #[test]
    fn a_mark_names_the_leadership_that_goes_on() {
        let bytes = encode_closed(UUID, 3, 9, Position::START, 5);
        let decoded = decode(&bytes, UUID, 3, 1).expect("own encoding");
        assert_eq!(decoded.body, Body::Closed { by: 5 });
        let backwards = encode_closed(UUID, 3, 9, Position::START, 3);
        assert!(decode(&backwards, UUID, 3, 1).is_err(), "a mark by the same term passed");
    }
}
