//! The leader's side of the archive: publish snapshots, then delete what nobody needs any more.
//!
//! One activity at a time: list what is there, upload a snapshot, or sweep. An upload goes chunks, manifest, pointer;
//! only the pointer makes a snapshot one that may be restored, and it moves once every chunk of it was read by this
//! leadership. A crash anywhere before leaves chunks and a manifest that the next sweep collects. Everything carries the
//! fence.
//!
//! Chunks are named by their content, so a name that was collected may come back. A copy of a deletion that ZooKeeper
//! still holds after its outcome is known would then delete what a later upload needs: what a sweep collects therefore
//! also checks the version of the chunks' parent, and a sweep is over only once that version has moved on.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::entry::Position;
use crate::keeper::{Op, Outcome, Reason, Reply, Request, SessionNumber};
use crate::path::{self, GroupPaths, WalName};
use crate::reader::{Ask, Place, Tail};
use crate::record::{self, ChunkName, Manifest, Pin, Pointer, SnapshotName, Uuid, FORMAT};
use crate::sweep::{self, Inventory};
use crate::writer::Acknowledged;

/// How long a pin delays the deletion of the snapshot it names.
const PIN_HOLDS: Duration = Duration::from_secs(120);
/// Pause before what is unknown is issued again.
const AGAIN: Duration = Duration::from_millis(50);
/// Chunks a manifest may name, so that it stays one znode: 12,000 of at most 512 KiB.
pub const CHUNKS_MAX: usize = 12_000;

/// What the leader must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveEvent {
    /// So many more chunks may be sent.
    Credit(u32),
    /// The pointer moved: it now names this snapshot and the one before it.
    Published(Pointer),
    /// The upload is given up, with the reason; another may be begun later.
    Failed(String),
    /// The ballot is no longer this leadership's. Step down at once.
    Fenced,
    /// The ballot does not exist. Stop.
    BallotMissing,
}

#[derive(Clone, Debug)]
enum Kind {
    /// A check that opens a listing on its session.
    Open,
    Chunks,
    Manifests,
    Pins,
    Pin(u64),
    Manifest((u64, u64)),
    CreateChunk([u8; 32]),
    ReadChunk([u8; 32]),
    CreateManifest,
    ReplaceManifest,
    Pointer,
    ReadPointer,
    /// Reads the version of the chunks' parent.
    Epoch,
    Delete,
    /// Moves that version on.
    Close,
}

#[derive(Debug)]
struct Upload {
    base: Position,
    voters: Vec<u64>,
    names: Vec<ChunkName>,
    bytes: u64,
    pending: BTreeMap<[u8; 32], Bytes>,
    ended: bool,
    sealing: bool,
}

/// The archive as its leader knows it.
#[derive(Debug)]
pub struct Archive {
    paths: GroupPaths,
    uuid: Uuid,
    version: i32,
    inventory: Inventory,
    pointer: (Pointer, i32),
    session: Option<SessionNumber>,
    /// Chunks and manifests that are there; known exactly once listed, since only the leader changes them.
    chunks: Option<BTreeSet<[u8; 32]>>,
    /// Those of them that this leadership has read. A name says what a chunk should be, not what it is.
    sound: BTreeSet<[u8; 32]>,
    manifests: Option<BTreeSet<(u64, u64)>>,
    pins: BTreeMap<u64, (SnapshotName, Duration)>,
    listing: usize,
    /// Version of the chunks' parent as listed.
    epoch: i32,
    /// The sweep under way deletes names that may come back.
    collected: bool,
    contents: BTreeMap<(u64, u64), BTreeSet<[u8; 32]>>,
    upload: Option<Upload>,
    sweep: Option<VecDeque<Vec<Op>>>,
    sweep_due: bool,
    /// A deletion was refused: this leadership deletes nothing more.
    swept_out: bool,
    jobs: BTreeMap<u64, (Kind, Request)>,
    again: Vec<(Kind, Request)>,
    /// Nothing unknown is issued again before.
    again_at: Duration,
    tags: u64,
    out: Vec<Ask>,
    events: Vec<ArchiveEvent>,
    now: Duration,
}

impl Archive {
    /// The archive of the leadership that read `tail`, whose WAL is `wal` with this header.
    pub fn new(paths: GroupPaths, uuid: Uuid, version: i32, wal: WalName, header: Bytes, tail: &Tail) -> Self {
        Self {
            inventory: Inventory::new(wal, tail, header),
            pointer: tail.pointer.clone(),
            paths,
            uuid,
            version,
            session: None,
            chunks: None,
            sound: BTreeSet::new(),
            manifests: None,
            pins: BTreeMap::new(),
            listing: 0,
            epoch: 0,
            collected: false,
            contents: BTreeMap::new(),
            upload: None,
            sweep: None,
            sweep_due: true,
            swept_out: false,
            jobs: BTreeMap::new(),
            again: Vec::new(),
            again_at: Duration::ZERO,
            tags: 0,
            out: Vec::new(),
            events: Vec::new(),
            now: Duration::ZERO,
        }
    }

    /// The pointer as last written or read.
    pub fn pointer(&self) -> &Pointer {
        &self.pointer.0
    }

    /// Segments and marks in all WALs.
    pub fn segments(&self) -> u64 {
        self.inventory.segments()
    }

    /// The first append was acknowledged, and with it the mark at this place.
    pub fn marked(&mut self, place: Place) {
        self.inventory.marked(place.wal, place.ordinal / path::BUCKET_SEGMENTS, place.index);
    }

    /// Segments of this leadership's WAL that are acknowledged.
    pub fn acknowledged(&mut self, segments: impl IntoIterator<Item = Acknowledged>) {
        self.inventory.acknowledged(segments);
    }

    /// Whether neither an upload nor a sweep is under way.
    pub fn idle(&self) -> bool {
        self.upload.is_none() && self.sweep.is_none() && self.listing == 0 && !self.sweep_due
    }

    /// Lets time pass: begins what is due, issues again what is unknown. `now` is monotonic.
    pub fn advance(&mut self, now: Duration) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        self.now = now;
        if now >= self.again_at {
            for (kind, request) in std::mem::take(&mut self.again) {
                self.issue(kind, request);
            }
        }
        if self.sweep_due && self.upload.is_none() && self.sweep.is_none() && self.listing == 0 {
            self.list();
        }
        self.flush()
    }

    fn flush(&mut self) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        (std::mem::take(&mut self.out), std::mem::take(&mut self.events))
    }

    fn issue(&mut self, kind: Kind, request: Request) {
        self.tags += 1;
        self.out.push(Ask { tag: self.tags, request: request.clone() });
        self.jobs.insert(self.tags, (kind, request));
    }

    fn fenced(&mut self, kind: Kind, ops: Vec<Op>) {
        let mut all = vec![Op::Check { path: self.paths.ballot(), version: self.version }];
        all.extend(ops);
        self.issue(kind, Request::Multi(all));
    }

    fn get(&mut self, kind: Kind, path: String) {
        self.issue(kind, Request::Get { path, watch: false });
    }

    /// Takes the outcome of a request of the archive.
    pub fn take(&mut self, tag: u64, session: SessionNumber, outcome: Outcome) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        let Some((kind, request)) = self.jobs.remove(&tag) else { return self.flush() };
        let fenced = matches!(&request, Request::Multi(_));
        match outcome {
            Outcome::Unknown(_) => {
                self.again_at = self.now + AGAIN;
                self.again.push((kind, request));
            }
            Outcome::Refused(refusal) if fenced && refusal.op == 0 && refusal.reason == Reason::BadVersion => {
                self.events.push(ArchiveEvent::Fenced);
            }
            Outcome::Refused(refusal) if fenced && refusal.op == 0 && refusal.reason == Reason::NoNode => {
                self.events.push(ArchiveEvent::BallotMissing);
            }
            Outcome::Refused(refusal) => self.refused(kind, request, refusal.op, refusal.reason),
            Outcome::Ok(reply) => self.done(kind, session, reply),
        }
        self.flush()
    }

    /// Table of refusals (A4), past the fence. An earlier attempt may have been applied.
    fn refused(&mut self, kind: Kind, request: Request, op: usize, reason: Reason) {
        match (&kind, reason) {
            // Content-addressed: whoever made it, reading it back tells whether it is good.
            (Kind::CreateChunk(hash), Reason::NodeExists) => {
                let (hash, path) = (*hash, self.paths.chunk(hash));
                self.get(Kind::ReadChunk(hash), path);
            }
            // Left by an upload that was given up at the same index, or by an earlier attempt of this one.
            (Kind::CreateManifest, Reason::NodeExists) => {
                let Request::Multi(ops) = request else { return };
                let Some(create) = ops.into_iter().nth(2) else { return };
                let delete = Op::Delete { path: create.path().to_owned(), version: None };
                self.manifest(Kind::ReplaceManifest, vec![delete, create]);
            }
            (Kind::Pointer, Reason::BadVersion) => {
                let path = self.paths.pointer();
                self.get(Kind::ReadPointer, path);
            }
            // An earlier attempt moved it on.
            (Kind::Close, Reason::BadVersion) => self.sweep = None,
            // Gone already, by an earlier attempt or another hand; or still in use: leave it, do the rest.
            (Kind::Delete, Reason::NoNode | Reason::NotEmpty | Reason::BadVersion) if op > 1 => {
                let Request::Multi(mut ops) = request else { return };
                if op < ops.len() {
                    ops.remove(op);
                }
                if ops.len() > 2 {
                    self.issue(Kind::Delete, Request::Multi(ops));
                } else {
                    self.delete_next();
                }
            }
            (Kind::Delete, reason) => {
                // What was planned is forgotten: going on with later names would leave a hole. The next leadership
                // lists anew.
                self.sweep = Some(VecDeque::new());
                self.swept_out = true;
                self.events.push(ArchiveEvent::Failed(format!("deletion refused: reason={reason:?}")));
                self.delete_next();
            }
            // What was collected may not come back before this is done.
            (Kind::Close, _) => {
                self.again_at = self.now + AGAIN;
                self.again.push((kind, request));
            }
            (_, reason) => {
                self.listing = 0;
                self.give_up(format!("refused by zookeeper: {kind:?} reason={reason:?}"));
            }
        }
    }

    fn give_up(&mut self, why: String) {
        self.upload = None;
        if self.sweep.is_some() {
            // A sweep is over only once it was closed.
            self.events.push(ArchiveEvent::Failed(why));
            return;
        }
        self.sweep_due = false;
        self.jobs.clear();
        self.again.clear();
        self.listing = 0;
        // What was half uploaded is not known any more; the next activity lists again.
        self.chunks = None;
        self.manifests = None;
        self.events.push(ArchiveEvent::Failed(why));
    }

    fn done(&mut self, kind: Kind, session: SessionNumber, reply: Reply) {
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
            }
            (Kind::Chunks | Kind::Manifests | Kind::Pins | Kind::Epoch, _) if self.session != Some(session) => {
                // Another session may lag behind the fence: list anew.
                self.listing = 0;
                let of_listing = |kind: &Kind| {
                    matches!(kind, Kind::Chunks | Kind::Manifests | Kind::Pins | Kind::Pin(_) | Kind::Epoch)
                };
                self.jobs.retain(|_, (kind, _)| !of_listing(kind));
                self.again.retain(|(kind, _)| !of_listing(kind));
                self.list();
            }
            (Kind::Epoch, Reply::Data(data)) => {
                self.epoch = data.map_or(0, |(_, stat)| stat.version);
                self.listed();
            }
            (Kind::Chunks, Reply::Children(names)) => {
                self.chunks = Some(names.unwrap_or_default().iter().filter_map(|name| parse_hash(name)).collect());
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
                let pin: Option<Pin> = data.and_then(|(bytes, _)| record::open(&bytes, Some(self.uuid)).ok());
                match pin.and_then(|pin| pin.snapshot) {
                    Some(name) if self.pins.get(&node).is_some_and(|(known, _)| *known == name) => {}
                    Some(name) => {
                        self.pins.insert(node, (name, self.now));
                    }
                    None => {
                        self.pins.remove(&node);
                    }
                }
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
            (Kind::CreateChunk(hash), Reply::Done) => {
                let path = self.paths.chunk(&hash);
                self.get(Kind::ReadChunk(hash), path);
            }
            (Kind::ReadChunk(hash), Reply::Data(data)) => self.verified(hash, data.map(|(bytes, _)| bytes)),
            (Kind::CreateManifest | Kind::ReplaceManifest, Reply::Done) => self.move_pointer(),
            (Kind::Pointer, Reply::Done) => self.published(),
            (Kind::ReadPointer, Reply::Data(data)) => {
                self.pointer_read(data.map(|(bytes, stat)| (bytes, stat.version)));
            }
            (Kind::Delete, Reply::Done) => self.delete_next(),
            (Kind::Close, Reply::Done) => self.sweep = None,
            (kind, reply) => self.give_up(format!("answer of the wrong kind: {kind:?} {reply:?}")),
        }
    }

    // ---- listing --------------------------------------------------------------------------------------------------

    fn list(&mut self) {
        self.listing = 1;
        self.fenced(Kind::Open, Vec::new());
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
    fn kept(&self) -> BTreeSet<(u64, u64)> {
        let Pointer { newest, previous, .. } = &self.pointer.0;
        let named = newest.iter().chain(previous).map(|name| (name.index, name.term));
        let pinned = self
            .pins
            .values()
            .filter(|(_, since)| self.now.saturating_sub(*since) < PIN_HOLDS)
            .map(|(name, _)| (name.index, name.term))
            .filter(|name| self.manifests.as_ref().is_some_and(|manifests| manifests.contains(name)));
        named.chain(pinned).collect()
    }

    // ---- upload ---------------------------------------------------------------------------------------------------

    /// Begins to upload a snapshot of the state at `base`.
    ///
    /// # Panics
    /// Unless the archive is idle.
    pub fn begin(&mut self, base: Position, voters: Vec<u64>) {
        assert!(self.idle(), "upload begun while something else is under way");
        self.upload = Some(Upload {
            base,
            voters,
            names: Vec::new(),
            bytes: 0,
            pending: BTreeMap::new(),
            ended: false,
            sealing: false,
        });
    }

    /// Takes the next chunk.
    pub fn chunk(&mut self, chunk: Bytes) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        let Some(upload) = &mut self.upload else { return self.flush() };
        let hash = *blake3::hash(&chunk).as_bytes();
        upload.names.push(ChunkName { hash: Bytes::copy_from_slice(&hash), length: chunk.len() as u32 });
        upload.bytes += chunk.len() as u64;
        if upload.names.len() > CHUNKS_MAX {
            self.give_up(format!("snapshot too large: chunks > {CHUNKS_MAX}; make the state smaller"));
            return self.flush();
        }
        let there = self.chunks.as_ref().is_some_and(|chunks| chunks.contains(&hash));
        match upload.pending.entry(hash) {
            Entry::Occupied(_) => self.events.push(ArchiveEvent::Credit(1)),
            Entry::Vacant(_) if there && self.sound.contains(&hash) => self.events.push(ArchiveEvent::Credit(1)),
            Entry::Vacant(place) if there => {
                // Made by another leadership: a snapshot must not rest on it unseen.
                place.insert(chunk);
                let path = self.paths.chunk(&hash);
                self.get(Kind::ReadChunk(hash), path);
            }
            Entry::Vacant(place) => {
                place.insert(chunk.clone());
                let create = Op::Create { path: self.paths.chunk(&hash), data: chunk, ephemeral: false };
                self.fenced(Kind::CreateChunk(hash), vec![create]);
            }
        }
        self.flush()
    }

    /// All chunks were given.
    pub fn end(&mut self) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        if let Some(upload) = &mut self.upload {
            upload.ended = true;
        }
        self.seal_manifest();
        self.flush()
    }

    /// The state machine could not go on.
    pub fn abandon(&mut self, why: String) -> (Vec<Ask>, Vec<ArchiveEvent>) {
        self.give_up(why);
        self.flush()
    }

    /// A chunk was read back, or for the first time.
    fn verified(&mut self, hash: [u8; 32], found: Option<Bytes>) {
        let Some(upload) = &mut self.upload else { return };
        let Some(bytes) = upload.pending.get(&hash).cloned() else { return };
        match found {
            Some(found) if found == bytes => {
                upload.pending.remove(&hash);
                if let Some(chunks) = &mut self.chunks {
                    chunks.insert(hash);
                }
                self.sound.insert(hash);
                self.events.push(ArchiveEvent::Credit(1));
                self.seal_manifest();
            }
            // Damaged by another hand, under a name that says what it should be: put the right bytes there.
            Some(_) => {
                let path = self.paths.chunk(&hash);
                let delete = Op::Delete { path: path.clone(), version: None };
                let create = Op::Create { path, data: bytes, ephemeral: false };
                self.fenced(Kind::CreateChunk(hash), vec![delete, create]);
            }
            // Deleted by another hand, or read on another session, which lags: creating it tells, and is looked at again.
            None => {
                let create = Op::Create { path: self.paths.chunk(&hash), data: bytes, ephemeral: false };
                self.fenced(Kind::CreateChunk(hash), vec![create]);
            }
        }
    }

    fn seal_manifest(&mut self) {
        let Some(upload) = &mut self.upload else { return };
        if !upload.ended || !upload.pending.is_empty() || upload.sealing {
            return;
        }
        upload.sealing = true;
        let manifest = Manifest {
            format: FORMAT,
            uuid: self.uuid.to_bytes(),
            index: upload.base.index,
            term: upload.base.term,
            hash: upload.base.hash.to_bytes(),
            voters: upload.voters.clone(),
            chunks: upload.names.clone(),
            bytes: upload.bytes,
        };
        let path = self.paths.manifest(upload.base.index, upload.base.term);
        let create = Op::Create { path, data: record::seal(&manifest), ephemeral: false };
        self.manifest(Kind::CreateManifest, vec![create]);
    }

    /// Once the pointer has moved, no late copy of what made its manifest may touch it.
    fn manifest(&mut self, kind: Kind, ops: Vec<Op>) {
        let mut all = vec![Op::Check { path: self.paths.pointer(), version: self.pointer.1 }];
        all.extend(ops);
        self.fenced(kind, all);
    }

    fn moved(&self) -> Option<Pointer> {
        let base = self.upload.as_ref()?.base;
        Some(Pointer {
            format: FORMAT,
            uuid: self.uuid.to_bytes(),
            newest: Some(SnapshotName { index: base.index, term: base.term }),
            previous: self.pointer.0.newest,
        })
    }

    fn move_pointer(&mut self) {
        let Some(pointer) = self.moved() else { return };
        let set = Op::Set { path: self.paths.pointer(), data: record::seal(&pointer), version: self.pointer.1 };
        self.fenced(Kind::Pointer, vec![set]);
    }

    fn published(&mut self) {
        let (Some(pointer), Some(upload)) = (self.moved(), self.upload.take()) else { return };
        self.pointer = (pointer.clone(), self.pointer.1 + 1);
        let name = (upload.base.index, upload.base.term);
        self.contents.insert(name, hashes(&upload.names));
        if let Some(manifests) = &mut self.manifests {
            manifests.insert(name);
        }
        self.sweep_due = true;
        self.events.push(ArchiveEvent::Published(pointer));
    }

    /// The pointer had another version: an earlier attempt moved it, or another hand did.
    fn pointer_read(&mut self, data: Option<(Bytes, i32)>) {
        let found = data.and_then(|(bytes, version)| {
            record::open::<Pointer>(&bytes, Some(self.uuid)).ok().map(|pointer| (pointer, version))
        });
        match (found, self.moved()) {
            (Some((found, version)), Some(wanted)) if found == wanted => {
                self.pointer.1 = version - 1;
                self.published();
            }
            (Some((_, version)), Some(_)) if version <= self.pointer.1 => {
                // A session that lags: try again.
                self.move_pointer();
            }
            (found, _) => self.give_up(format!("pointer changed by another hand: {found:?}")),
        }
    }

    // ---- sweep ----------------------------------------------------------------------------------------------------

    fn begin_sweep(&mut self) {
        self.sweep_due = false;
        let mut batches = match self.pointer.0.previous {
            _ if self.swept_out => Vec::new(),
            Some(previous) => self.inventory.trim(&self.paths, previous),
            None => Vec::new(),
        };
        let kept = self.kept();
        self.contents.retain(|name, _| kept.contains(name));
        if let (Some(manifests), Some(chunks), false) = (&mut self.manifests, &mut self.chunks, self.swept_out) {
            let superfluous = sweep::collect(&self.paths, manifests, chunks, &self.contents);
            self.collected = !superfluous.is_empty();
            batches.extend(superfluous);
            self.sound.retain(|hash| chunks.contains(hash));
        }
        self.sweep = Some(batches.into());
        self.delete_next();
    }

    fn delete_next(&mut self) {
        match self.sweep.as_mut().and_then(VecDeque::pop_front) {
            Some(ops) => {
                let mut all = vec![Op::Check { path: self.paths.chunks(), version: self.epoch }];
                all.extend(ops);
                self.fenced(Kind::Delete, all);
            }
            // Nothing was collected that could come back.
            None if !self.collected => self.sweep = None,
            None => {
                self.collected = false;
                let close = Op::Set { path: self.paths.chunks(), data: Bytes::new(), version: self.epoch };
                self.fenced(Kind::Close, vec![close]);
            }
        }
    }
}

fn hashes(chunks: &[ChunkName]) -> BTreeSet<[u8; 32]> {
    chunks.iter().filter_map(|chunk| chunk.hash[..].try_into().ok()).collect()
}

fn parse_hash(name: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

fn parse_manifest(name: &str) -> Option<(u64, u64)> {
    let (index, term) = name.split_once('-')?;
    Some((path::number(index, 20)?, path::number(term, 20)?))
}
