//! A read pass over an archive and WALs that anybody may have written, and then the archive's own listing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bequest_recovery::archive::Archive;
use bequest_recovery::ballot::wal_header;
use bequest_recovery::entry::{Entry, EntryHash, Position};
use bequest_recovery::keeper::{Outcome, Reason, Refusal, Reply, Request, SessionNumber, Stat};
use bequest_recovery::path::{GroupPaths, WalName};
use bequest_recovery::reader::{Ask, End, Pass, Reader, Tail};
use bequest_recovery::record::{self, Ballot, ChunkName, Manifest, Pin, Pointer, Segment, SnapshotName, Uuid, FORMAT};
use bytes::Bytes;

use crate::source::Source;

const UUID: Uuid = Uuid([7; 16]);
const SESSION: SessionNumber = SessionNumber(1);
// A pass over the largest tree an input makes asks less often.
const ASKS_MAX: usize = 4096;

/// What a server shows: contents and names, of which only what leads there is made up.
#[derive(Default)]
struct Shown {
    contents: BTreeMap<String, Bytes>,
    children: BTreeMap<String, Vec<String>>,
}

impl Shown {
    fn put(&mut self, path: String, content: Bytes) {
        let mut below = path.as_str();
        while let Some((parent, name)) = below.rsplit_once('/').filter(|(parent, _)| !parent.is_empty()) {
            let names = self.children.entry(parent.to_owned()).or_default();
            if names.iter().any(|known| known == name) {
                break;
            }
            names.push(name.to_owned());
            below = parent;
        }
        self.contents.insert(path, content);
    }

    fn answer(&self, request: &Request) -> Outcome {
        Outcome::Ok(match request {
            Request::Multi(_) => Reply::Done,
            Request::Get { path, .. } => {
                Reply::Data(self.contents.get(path).map(|content| (content.clone(), Stat::default())))
            }
            Request::Exists { path, .. } => Reply::Stat(self.contents.get(path).map(|_| Stat::default())),
            Request::Children { path, .. } => {
                Reply::Children(Some(self.children.get(path).cloned().unwrap_or_default()))
            }
        })
    }
}

/// Everything a leader reads before it stands. A tail that is handed over must be what the WALs say.
pub fn passes(data: &[u8]) -> bool {
    let mut source = Source::new(data);
    let paths = GroupPaths::new("g");
    let shown = shown(&mut source, &paths);
    let committed = match source.pick(3) {
        // Of the node's own log, which holds no entry of the last index.
        0 => Position { index: source.number() >> 1, term: source.number(), hash: EntryHash([source.byte(); 16]) },
        _ => Position::START,
    };
    let pass = Pass {
        paths: paths.clone(),
        uuid: UUID,
        version: 4,
        sealed: (source.pick(2) == 0).then_some(9),
        committed,
        restore: source.pick(4) == 0,
        previous: source.pick(4) == 0,
    };
    let (mut reader, asks) = Reader::new(pass, None);
    let mut asks = VecDeque::from(asks);
    let mut asked = 0;
    while let Some(Ask { tag, request }) = asks.pop_front() {
        asked += 1;
        assert!(asked < ASKS_MAX, "a pass that never ends");
        let outcome = match source.byte() {
            255 => Outcome::Unknown("lost".to_owned()),
            254 => Outcome::Refused(Refusal { op: 0, reason: Reason::NoNode }),
            _ => shown.answer(&request),
        };
        let (more, end) = reader.take(tag, SESSION, outcome);
        asks.extend(more);
        match end {
            Some(End::Done(tail)) => {
                check(&tail);
                list(&mut source, &shown, paths, &tail);
                return true;
            }
            Some(_) => return false,
            None => {}
        }
    }
    panic!("a pass that ends without a word");
}

fn check(tail: &Tail) {
    let mut end = tail.base;
    for (entry, hash) in &tail.entries {
        assert_eq!(end.index.checked_add(1), Some(entry.index), "a gap was handed over");
        end = end.next(entry);
        assert_eq!(end.hash, *hash, "a hash was handed over that is none");
    }
    if !tail.entries.is_empty() {
        assert_eq!(tail.end, end, "the tail ends elsewhere");
    }
}

/// The leader's look at what there is in the archive, with which it begins.
fn list(source: &mut Source<'_>, shown: &Shown, paths: GroupPaths, tail: &Tail) {
    let ballot = Ballot { format: FORMAT, uuid: UUID.to_bytes(), term: 9, node: 1, ..Ballot::default() };
    let wal = WalName { term: 9, node: 1 };
    let mut archive = Archive::new(paths, UUID, 4, wal, wal_header(&ballot), tail);
    let mut asks = VecDeque::new();
    for second in 0..4 {
        let (more, _) = archive.advance(Duration::from_secs(second));
        asks.extend(more);
        for _ in 0..256 {
            let Some(Ask { tag, request }) = asks.pop_front() else { break };
            let outcome = match source.byte() {
                255 => Outcome::Unknown("lost".to_owned()),
                254 => Outcome::Refused(Refusal { op: usize::from(source.pick(4)), reason: Reason::NoNode }),
                _ => shown.answer(&request),
            };
            let (more, _) = archive.take(tag, SESSION, outcome);
            asks.extend(more);
        }
    }
}

fn shown(source: &mut Source<'_>, paths: &GroupPaths) -> Shown {
    let mut shown = Shown::default();
    let (format, uuid) = (FORMAT, UUID.to_bytes());
    let mut end = Position::START;
    let (mut term, mut ordinal) = (1, 0);
    let name = |source: &mut Source<'_>| Some(SnapshotName { index: source.number(), term: source.number() });
    let pointer = match source.pick(3) {
        0 => Pointer { format, uuid: uuid.clone(), newest: None, previous: None },
        1 => Pointer { format, uuid: uuid.clone(), newest: name(source), previous: None },
        _ => Pointer { format, uuid: uuid.clone(), newest: name(source), previous: name(source) },
    };
    shown.put(paths.pointer(), record::seal(&pointer));
    for _ in 0..source.pick(24) {
        match source.pick(8) {
            // A mark, and the WAL behind it.
            0 => {
                let by = source.near(term + 1);
                let segment = segment(end, term, ordinal, Vec::new(), by);
                shown.put(paths.segment(WalName { term, node: 1 }, ordinal, end.index.wrapping_add(1)), segment);
                term = (term + 1).min(8);
                ordinal = 0;
            }
            1 => {
                let mut names = [pointer.newest, pointer.previous, name(source)].into_iter().flatten();
                let Some(SnapshotName { index, term }) = names.nth(usize::from(source.pick(3))) else { continue };
                let hash = if source.pick(2) == 0 { end.hash.to_bytes() } else { source.bytes() };
                let chunks = vec![ChunkName { hash: source.bytes(), length: u32::from(source.byte()) }];
                let (bytes, voters) = (source.number(), vec![source.number()]);
                let manifest = Manifest {
                    format,
                    uuid: uuid.clone(),
                    index: source.near(index),
                    term: source.near(term),
                    hash,
                    voters,
                    chunks,
                    bytes,
                };
                shown.put(paths.manifest(index, term), record::seal(&manifest));
            }
            2 => {
                let pin = Pin { format, uuid: uuid.clone(), snapshot: name(source), incarnation: source.number() };
                shown.put(paths.pin(source.number()), record::seal(&pin));
            }
            // Names and contents that are nobody's.
            3 => {
                let parents = [paths.wals(), paths.chunks(), paths.manifests(), paths.pins(), paths.wal(WalName::ROOT)];
                let parent = &parents[usize::from(source.pick(5))];
                let text = String::from_utf8_lossy(&source.bytes()).replace('/', "");
                shown.put(format!("{parent}/{text}"), source.bytes());
            }
            4 => {
                end = Position { index: source.number(), term: source.number(), hash: end.hash };
                term = end.term.clamp(1, 8);
            }
            _ => {
                let mut at = end;
                let entries: Vec<_> = (0..1 + source.pick(3))
                    .map(|_| {
                        let (index, term) = (source.near(at.index.wrapping_add(1)), source.near(term));
                        let entry = Entry { index, term, kind: 0, data: source.bytes(), context: Bytes::new() };
                        at = at.next(&entry);
                        entry
                    })
                    .collect();
                let by = if source.byte() == 0 { source.number() } else { 0 };
                let segment = segment(end, term, ordinal, entries, by);
                let first = source.near(end.index.wrapping_add(1));
                shown.put(paths.segment(WalName { term, node: 1 }, ordinal, first), segment);
                ordinal = source.near(ordinal + 1).min(1 << 40);
                end = at;
            }
        }
    }
    shown
}

fn segment(prev: Position, term: u64, ordinal: u64, entries: Vec<Entry>, closed_by: u64) -> Bytes {
    let end = entries.iter().fold(prev, |end, entry| end.next(entry));
    record::seal(&Segment {
        format: FORMAT,
        uuid: UUID.to_bytes(),
        term,
        ordinal,
        prev_index: prev.index,
        prev_term: prev.term,
        prev_hash: prev.hash.to_bytes(),
        hash: end.hash.to_bytes(),
        entries,
        closed_by,
    })
}

/// A log of two leaderships, the same with a hole, and one that ends where numbers do.
pub fn pass_seeds() -> Vec<Vec<u8>> {
    let entries = [5, 1, 9, 9, 1, b'a', 9, 9, 1, b'b', 9, 9, 9];
    let mark = [0, 9];
    let whole = [&[0, 4][..], &entries, &entries, &mark, &entries, &[1, 1, 1, 1]].concat();
    let hole = [&[0, 3][..], &entries, &[4, 9, 1], &entries, &[1, 1, 1, 1]].concat();
    let last = [&[0, 2][..], &[4, 254, 1], &[5, 0, 9, 9, 0, 9, 9, 9], &[0, 253, 1, 0, 1, 1, 1]].concat();
    let beyond = [&[0, 2][..], &[4, 254, 1], &[5, 1, 9, 9, 0, 9, 9, 0, 9, 9, 9], &[1, 1, 1, 1]].concat();
    let manifest = [1, 0, 0, 0, 0, 1, 7, 1, 1, 1, 9, 9];
    let snapshot = [&[1, 5, 1, 3][..], &[4, 5, 1], &manifest, &entries, &[1, 1, 1, 1]].concat();
    // A snapshot of the last index there is.
    let final_index = [&[1, 255, 1, 3][..], &[4, 255, 1], &manifest, &entries, &[1, 1, 1, 1]].concat();
    vec![whole, hole, last, beyond, snapshot, final_index, vec![0, 0, 1, 1]]
}
