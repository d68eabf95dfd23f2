//! Whether segments fit together into one log: no gap, no overlap, every hash, every mark.

use crate::entry::{Entry, EntryHash, Position};
use crate::path::WalName;
use crate::reader::Place;
use crate::segment::{Body, Decoded};

/// A segment or mark of the plan, in order of WAL and first index.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) wal: WalName,
    pub(crate) first: u64,
    pub(crate) bucket: u64,
    /// Whether it is the last one of its WAL.
    pub(crate) last: bool,
    pub(crate) decoded: Option<Decoded>,
}

/// A verified log behind its base.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) entries: Vec<(Entry, EntryHash)>,
    pub(crate) end: Position,
    pub(crate) last: Place,
}

/// Why segments do not fit together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Break {
    Behind { found: Position },
    Diverged { index: u64 },
    At { wal: WalName, bucket: u64, first: u64, index: u64, what: String },
}

/// Verifies the items read, which hold everything behind `base` and the last item of each WAL they are of.
pub(crate) fn verify(plan: Vec<Item>, base: Position) -> Result<Chain, Break> {
    let mut entries = Vec::new();
    let mut end: Option<Position> = None;
    let mut last = Place { wal: WalName::ROOT, ordinal: 0, index: 1 };
    // The WAL that the mark just read says goes on.
    let mut successor: Option<u64> = None;
    let mut anchored = base == Position::START;
    let mut previous: Option<(WalName, bool)> = None;

    for item in plan {
        let at = |index, what: &str| Break::At {
            wal: item.wal,
            bucket: item.bucket,
            first: item.first,
            index,
            what: what.to_owned(),
        };
        let Some(decoded) = item.decoded else {
            return Err(at(item.first, "not read"));
        };
        let prev = decoded.prev;
        match previous {
            Some((wal, closed)) if wal != item.wal => {
                if !closed {
                    return Err(at(item.first, "the WAL before it has no mark"));
                }
                if successor != Some(item.wal.term) {
                    return Err(at(item.first, "the WAL before it was closed by another leadership"));
                }
            }
            Some((_, true)) => return Err(at(item.first, "segment behind a mark")),
            _ => {}
        }
        if let Some(end) = end {
            if prev.index < end.index {
                return Err(at(item.first, "overlaps what comes before it"));
            }
            if prev.index == end.index && (prev.hash, prev.term) != (end.hash, end.term) {
                return Err(at(item.first, "hash does not continue what comes before it"));
            }
            // What was skipped lies at or below the base; anything else is a hole.
            if prev.index > end.index && prev.index > base.index {
                return Err(at(end.index + 1, "gap"));
            }
        } else if prev.index > base.index {
            return Err(at(base.index + 1, "gap"));
        }
        if prev.index == base.index {
            if prev.hash != base.hash {
                return Err(Break::Diverged { index: base.index });
            }
            anchored = true;
        }
        let item_end = decoded.end();
        successor = None;
        match decoded.body {
            Body::Entries(body) => {
                for (entry, hash) in body {
                    if entry.index == base.index {
                        if hash != base.hash {
                            return Err(Break::Diverged { index: base.index });
                        }
                        anchored = true;
                    }
                    if entry.index > base.index {
                        entries.push((entry, hash));
                    }
                }
            }
            Body::Closed { by } => {
                if !item.last {
                    return Err(at(item.first, "mark before the end of its WAL"));
                }
                successor = Some(by);
            }
        }
        previous = Some((item.wal, successor.is_some()));
        last = Place { wal: item.wal, ordinal: decoded.ordinal + 1, index: item_end.index + 1 };
        end = Some(item_end);
    }
    if let (Some(by), Some((wal, _))) = (successor, previous) {
        // The mark and the first segment of the leadership that goes on were created together.
        let what = format!("closed by term {by}, whose WAL is missing");
        return Err(Break::At { wal, bucket: 0, first: last.index, index: last.index, what });
    }
    let end = end.unwrap_or(Position::START);
    if !anchored {
        // Everything lies before the base: whoever knew the base saw more than there is now. A snapshot's index is
        // covered by the WAL it was taken from, whose last segment is never trimmed, so it cannot lie beyond either.
        return Err(Break::Behind { found: end });
    }
    Ok(Chain { entries, end, last })
}
