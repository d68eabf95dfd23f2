//! What is in ZooKeeper, followed transaction by transaction: I2, I3, and the rules of trimming and snapshots.
//!
//! Indexes of WALs never overlap and a successor adopts everything it finds, so all segments ever created form one
//! log, in the order in which they were created. That log is what everything else is held against.

use std::collections::{BTreeMap, BTreeSet};

use bequest::command::Command;
use bequest_recovery::entry::{Entry, EntryHash, Position};
use bequest_recovery::keeper::Op;
use bequest_recovery::model::{Change, Transaction, ZooModel};
use bequest_recovery::path::{chunk_hash, number, GroupPaths, WalName, GROUPS, NODES};
use bequest_recovery::record::{self, Ballot, Manifest, Pointer, Registration, Segment, SnapshotName, Uuid};
use bequest_recovery::segment::{decode, Body};
use bytes::Bytes;

use crate::counts::Counts;
use crate::genesis;
use crate::machine::key_and_value;

/// The group's part of ZooKeeper, as its history made it.
#[derive(Debug)]
pub struct Mirror {
    uuid: Uuid,
    paths: GroupPaths,
    followed: usize,
    /// The ballot and its version.
    pub ballot: (Ballot, i32),
    /// Every entry ever written, from index 1 on, with the hash up to it.
    pub log: Vec<(Entry, EntryHash)>,
    // Segments that are there: by first index, the last one, their WAL and ordinal.
    segments: BTreeMap<u64, Place>,
    // Ordinal the next segment of each WAL has.
    ordinals: BTreeMap<WalName, u64>,
    manifests: BTreeMap<(u64, u64), Manifest>,
    // By their hashes.
    chunks: BTreeSet<[u8; 32]>,
    /// The pointer.
    pub pointer: Pointer,
    // The process registered last, by node.
    registered: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Place {
    last: u64,
    wal: WalName,
    ordinal: u64,
}

impl Mirror {
    pub fn new(group: usize, zoo: &ZooModel) -> Self {
        let (uuid, paths) = (genesis::uuid(group), GroupPaths::new(&genesis::name(group)));
        let ballot = zoo.head().get(&paths.ballot()).expect("genesis made a ballot");
        Self {
            uuid,
            followed: zoo.log().len(),
            ballot: (record::open(&ballot.data, Some(uuid)).expect("genesis is well-formed"), ballot.version),
            paths,
            log: Vec::new(),
            segments: BTreeMap::new(),
            ordinals: BTreeMap::new(),
            manifests: BTreeMap::new(),
            chunks: BTreeSet::new(),
            pointer: Pointer::default(),
            registered: BTreeMap::new(),
        }
    }

    /// Where the log in ZooKeeper ends.
    pub fn end(&self) -> Position {
        self.log.last().map_or(Position::START, |(entry, hash)| Position {
            index: entry.index,
            term: entry.term,
            hash: *hash,
        })
    }

    /// The entry at an index, once it was written.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.log.get(usize::try_from(index.checked_sub(1)?).ok()?).map(|(entry, _)| entry)
    }

    /// What the entry at an index does, if there is one: the key and value of its command, if it carries one.
    pub fn does(&self, index: u64) -> Option<Option<(u64, u64)>> {
        let data = &self.entry(index)?.data;
        if data.is_empty() {
            // The first entry of a leadership.
            return Some(None);
        }
        Some(match Command::decode(data).expect("only commands are written") {
            Command::Plain(command) | Command::InSession(_, command) => key_and_value(&command),
            _ => None,
        })
    }

    /// Segments that are there now.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Whether the last entry that was there when ZooKeeper went back is there, and so all before it, since hashes are
    /// chained. A leader issues again what it has no answer of, and adopts what its own log has beyond a WAL's end.
    pub fn is_whole(&self, zoo: &ZooModel) -> bool {
        let end = self.end();
        let holds = |path: &str, data: &Bytes| {
            let Some((wal, first)) = self.segment_name(path) else { return false };
            let segment = decode(data, self.uuid, wal.term, first).expect("segments are well-formed");
            let entries = match &segment.body {
                Body::Entries(entries) => &entries[..],
                Body::Closed { .. } => &[],
            };
            segment.prev == end || entries.iter().any(|(entry, hash)| (entry.index, *hash) == (end.index, end.hash))
        };
        end == Position::START || zoo.head().below(&self.paths.wals()).any(|(path, znode)| holds(path, &znode.data))
    }

    /// Takes in what was committed since the last time.
    pub fn follow(&mut self, zoo: &ZooModel, counts: &mut Counts) {
        if zoo.generation() != 0 {
            // The ensemble went backwards: there is no one history any more.
            return;
        }
        for transaction in &zoo.log()[self.followed..] {
            self.take(transaction, counts);
        }
        self.followed = zoo.log().len();
    }

    fn take(&mut self, transaction: &Transaction, counts: &mut Counts) {
        let Change::Multi(ops) = &transaction.change else { return };
        // Requests that share a transaction begin with a check of their group's ballot each.
        for request in ops.chunk_by(|_, next| !checks_a_ballot(next)) {
            self.take_request(request, transaction, counts);
        }
    }

    fn take_request(&mut self, ops: &[Op], transaction: &Transaction, counts: &mut Counts) {
        let inside = format!("{}/", self.paths.genesis());
        let pins = format!("{}/", self.paths.pins());
        let ballot = self.paths.ballot();
        let fenced = matches!(ops, [Op::Check { path, version }, ..] if *path == ballot && *version == self.ballot.1);
        let seals = ops.iter().any(|op| matches!(op, Op::Set { path, .. } if *path == ballot));
        let first = ops.iter().find_map(|op| match op {
            Op::Create { path, data, .. } => {
                self.segment_of(path, data).filter(|(_, _, segment)| segment.closed_by == 0)
            }
            _ => None,
        });
        let first = first.map(|(_, index, _)| index);
        for op in ops {
            let path = op.path();
            if !matches!(op, Op::Check { .. } | Op::Delete { .. }) && path.starts_with(NODES) {
                if let Op::Create { data, .. } | Op::Set { data, .. } = op {
                    self.registers(path, data);
                }
                if path.contains("/challenge/") {
                    counts.one("challenge written");
                } else if path.contains("/answer/") {
                    counts.one("challenge answered");
                }
            }
            if matches!(op, Op::Check { .. }) || !path.starts_with(&inside) || path.starts_with(&pins) {
                continue;
            }
            assert!(fenced || seals, "A1: not fenced: {transaction:?}");
            match op {
                Op::Set { data, .. } if path == ballot => self.ballot_set(data, counts),
                Op::Set { data, .. } if path == self.paths.pointer() => self.pointer_set(data, counts),
                Op::Create { data, .. } => self.created(path, data, first, counts),
                Op::Delete { .. } => self.deleted(path, ops, counts),
                Op::Set { .. } | Op::Check { .. } => {}
            }
        }
    }

    /// A process registers, where this is a registration.
    fn registers(&mut self, path: &str, data: &Bytes) {
        let node = path.strip_prefix(NODES).and_then(|rest| number(rest.strip_prefix('/')?, 20));
        if let Some(node) = node {
            let registration: Registration = record::open(data, None).expect("registrations are well-formed");
            self.registered.insert(node, registration.incarnation);
        }
    }

    fn ballot_set(&mut self, data: &Bytes, counts: &mut Counts) {
        let ballot: Ballot = record::open(data, Some(self.uuid)).expect("ballots are well-formed");
        let (before, version) = &self.ballot;
        if ballot.vacant {
            assert_eq!(
                (ballot.term, ballot.node, ballot.nonce),
                (before.term, before.node, before.nonce),
                "a ballot is vacated under its own term"
            );
            assert!(!before.vacant, "vacated twice");
            counts.one(if ballot.served { "vacated after serving" } else { "vacated" });
        } else {
            assert!(ballot.term > before.term, "terms ascend: {before:?} -> {ballot:?}");
            assert!(ballot.node != 0, "nobody's ballot: {ballot:?}");
            let registered = self.registered.get(&ballot.node);
            assert_eq!(registered, Some(&ballot.incarnation), "a superseded process sealed: {ballot:?}");
            counts.one("seal won");
        }
        self.ballot = (ballot, version + 1);
    }

    fn segment_of(&self, path: &str, data: &Bytes) -> Option<(WalName, u64, Segment)> {
        let (wal, first) = self.segment_name(path)?;
        Some((wal, first, record::open(data, Some(self.uuid)).expect("segments are well-formed")))
    }

    fn segment_name(&self, path: &str) -> Option<(WalName, u64)> {
        let mut parts = path.strip_prefix(&self.paths.wals())?.strip_prefix('/')?.split('/');
        let wal = WalName::parse(parts.next()?)?;
        let _bucket = parts.next()?;
        Some((wal, number(parts.next()?, 20)?))
    }

    fn chunk_of(&self, path: &str) -> Option<[u8; 32]> {
        let name = path.strip_prefix(&self.paths.chunks())?.strip_prefix('/')?;
        Some(chunk_hash(name).expect("chunks are named by their hash"))
    }

    fn created(&mut self, path: &str, data: &Bytes, first: Option<u64>, counts: &mut Counts) {
        if let Some((wal, index, segment)) = self.segment_of(path, data) {
            if segment.closed_by == 0 {
                self.appended(wal, index, &segment, counts);
            } else {
                self.closed(wal, index, &segment, first);
            }
        } else if let Some(hash) = self.chunk_of(path) {
            self.chunks.insert(hash);
            counts.one("chunk uploaded");
        } else if let Some(name) = path.strip_prefix(&self.paths.manifests()).and_then(|rest| rest.strip_prefix('/')) {
            let manifest: Manifest = record::open(data, Some(self.uuid)).expect("manifests are well-formed");
            let named = name.split_once('-').map(|(index, term)| (number(index, 20), number(term, 20)));
            assert_eq!(named, Some((Some(manifest.index), Some(manifest.term))), "a manifest lies under its name");
            self.manifests.insert((manifest.index, manifest.term), manifest);
        }
    }

    fn appended(&mut self, wal: WalName, index: u64, segment: &Segment, counts: &mut Counts) {
        let ballot = &self.ballot.0;
        assert!(
            (ballot.term, ballot.node) == (wal.term, wal.node) && segment.term == wal.term,
            "I2: a segment of {wal} was appended under the ballot of term {} node {}",
            ballot.term,
            ballot.node
        );
        let end = self.end();
        let ordinal = self.ordinals.entry(wal).or_default();
        assert_eq!(segment.ordinal, *ordinal, "I3: ordinal of {wal} at index {index}");
        *ordinal += 1;
        assert_eq!(
            (index, segment.prev_index, segment.prev_term, &segment.prev_hash[..]),
            (end.index + 1, end.index, end.term, &end.hash.0[..]),
            "I3: the segment of {wal} does not continue the log"
        );
        let mut at = end;
        for entry in &segment.entries {
            assert_eq!(entry.index, at.index + 1, "I3: gap within a segment of {wal}");
            assert!(
                entry.term >= at.term && entry.term <= wal.term,
                "I3: terms in {wal}: {} after {}",
                entry.term,
                at.term
            );
            if entry.term < wal.term {
                counts.one("suffix adopted");
            }
            at = at.next(entry);
            self.log.push((entry.clone(), at.hash));
        }
        assert!(!segment.entries.is_empty(), "I3: an empty segment");
        assert_eq!(&at.hash.0[..], &segment.hash[..], "I3: hash of the segment of {wal} at {index}");
        self.segments.insert(index, Place { last: at.index, wal, ordinal: segment.ordinal });
        counts.one("segment appended");
    }

    fn closed(&mut self, wal: WalName, index: u64, segment: &Segment, first: Option<u64>) {
        assert_eq!(segment.closed_by, self.ballot.0.term, "A8: {wal} was closed by another term than the ballot's");
        // Operations of one transaction come in the order of the multi: the segment is in the log already.
        assert_eq!(Some(index), first, "A8: the mark of {wal} is not where the next WAL begins");
        let before = index.checked_sub(2).and_then(|place| self.log.get(usize::try_from(place).ok()?));
        let end = before.map_or(EntryHash::EMPTY, |(_, hash)| *hash);
        assert_eq!(&segment.prev_hash[..], &end.0[..], "A8: the mark of {wal} has another hash");
    }

    fn named(name: Option<&SnapshotName>) -> Option<(u64, u64)> {
        name.map(|name| (name.index, name.term))
    }

    fn pointer_set(&mut self, data: &Bytes, counts: &mut Counts) {
        let pointer: Pointer = record::open(data, Some(self.uuid)).expect("pointers are well-formed");
        let (newest, previous) = (Self::named(pointer.newest.as_ref()), Self::named(pointer.previous.as_ref()));
        let before = Self::named(self.pointer.newest.as_ref());
        assert!(newest > before, "the pointer moves forward only: {before:?} -> {newest:?}");
        assert_eq!(previous, before, "the pointer's previous snapshot is the one that was newest");
        let (index, term) = newest.expect("just compared");
        let manifest = self.manifests.get(&(index, term)).expect("the pointer names a manifest that is there");
        let entry = self.entry(index).expect("a snapshot is of entries in the log");
        let (_, hash) = &self.log[index as usize - 1];
        assert_eq!((entry.term, &hash.0[..]), (term, &manifest.hash[..]), "I3: the manifest at {index} fits the log");
        for chunk in &manifest.chunks {
            assert!(
                self.chunks.contains(&chunk.hash[..]),
                "the pointer moved to snapshot {index} though chunk {} is missing",
                last_part(&self.paths.chunk(&chunk.hash))
            );
        }
        self.pointer = pointer;
        counts.one("snapshot pointer moved");
    }

    fn deleted(&mut self, path: &str, ops: &[Op], counts: &mut Counts) {
        if let Some((wal, index)) = self.segment_name(path) {
            // A mark is not a segment of ours, and may lie at the same index as the next WAL's first.
            if self.segments.get(&index).is_some_and(|place| place.wal == wal) {
                self.trimmed(wal, index, ops, counts);
            }
        } else if let Some(hash) = self.chunk_of(path) {
            self.chunks.remove(&hash);
            for name in [&self.pointer.newest, &self.pointer.previous].into_iter().flatten() {
                let manifest = &self.manifests[&(name.index, name.term)];
                let needed = manifest.chunks.iter().any(|chunk| chunk.hash[..] == hash[..]);
                assert!(!needed, "chunk {} was collected though snapshot {} needs it", last_part(path), name.index);
            }
            counts.one("chunk collected");
        } else if let Some(name) = path.strip_prefix(&self.paths.manifests()).and_then(|rest| rest.strip_prefix('/')) {
            let parts = name.split_once('-').and_then(|(index, term)| Some((number(index, 20)?, number(term, 20)?)));
            let named =
                [&self.pointer.newest, &self.pointer.previous].into_iter().map(|name| Self::named(name.as_ref()));
            assert!(
                named.flatten().all(|named| Some(named) != parts),
                "manifest {name} was collected though it is named"
            );
            counts.one("manifest collected");
        }
    }

    fn trimmed(&mut self, wal: WalName, index: u64, ops: &[Op], counts: &mut Counts) {
        let Some(place) = self.segments.remove(&index) else { return };
        let previous = self.pointer.previous.as_ref().map_or(0, |name| name.index);
        assert!(
            place.last <= previous,
            "segment {index}..={} was trimmed above the previous snapshot {previous}",
            place.last
        );
        assert!(
            self.segments.keys().next().is_none_or(|lowest| *lowest > index),
            "I3: segment {index} was trimmed before an older one"
        );
        let ballot = &self.ballot.0;
        if (ballot.term, ballot.node) == (wal.term, wal.node) {
            assert!(
                self.segments.values().any(|other| other.wal == wal),
                "the last segment of the current WAL was trimmed: {index}"
            );
            let header = self.paths.wal(wal);
            let moved = ops.iter().any(|op| matches!(op, Op::Set { path, .. } if *path == header));
            assert!(place.ordinal > 0 || moved, "the header's version did not change as segment {index} was trimmed");
        }
        counts.one("trimmed segment");
    }
}

/// Whether this is a fence, or a part of one.
pub fn checks_a_ballot(op: &Op) -> bool {
    matches!(op, Op::Check { path, .. } if path.starts_with(GROUPS) && path.ends_with("/ballot"))
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}
