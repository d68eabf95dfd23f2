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

mod deletion;
mod listing;
mod upload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use self::upload::Upload;
pub use self::upload::CHUNKS_MAX;
use crate::keeper::{Op, Outcome, Reason, Reply, Request, SessionNumber};
use crate::path::{self, GroupPaths, WalName};
use crate::planted;
use crate::reader::{Ask, Place, Tail};
use crate::record::{ChunkName, Pointer, SnapshotName, Uuid};
use crate::sweep::Inventory;
use crate::writer::Acknowledged;

/// Pause before what is unknown is issued again.
const AGAIN: Duration = Duration::from_millis(50);

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
    /// The buckets of a sealed WAL.
    Buckets(WalName),
    /// What one of them holds.
    Names(WalName, u64),
    CreateChunk([u8; 32]),
    ReadChunk([u8; 32]),
    CreateManifest,
    ReplaceManifest,
    Pointer,
    ReadPointer,
    /// Looks for an attempt of an upload that was given up.
    FindPointer,
    /// Reads the version of the chunks' parent.
    Epoch,
    Delete,
    /// Moves that version on.
    Close,
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
    /// Answers that the listing under way still lacks.
    listing: usize,
    /// Listings of WALs that wait for their turn, and of which znode; counted in `listing`.
    unlisted: VecDeque<(Kind, String)>,
    /// Version of the chunks' parent as listed.
    epoch: i32,
    /// The sweep under way deletes names that may come back.
    collected: bool,
    contents: BTreeMap<(u64, u64), BTreeSet<[u8; 32]>>,
    upload: Option<Upload>,
    /// What this leadership asked the pointer to be moved to since it last moved. An upload that is given up does not know
    /// what becomes of its attempt.
    attempts: Vec<Pointer>,
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
            unlisted: VecDeque::new(),
            epoch: 0,
            collected: false,
            contents: BTreeMap::new(),
            upload: None,
            attempts: Vec::new(),
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

    /// Whether this leadership still deletes what is superfluous; if not, the next one does.
    pub fn deletes(&self) -> bool {
        !self.swept_out
    }

    /// Segments and marks in all WALs. Until the first activity has listed what the takeover did not, its buckets count
    /// as full, and WALs that were not looked at as nothing.
    pub fn segments(&self) -> u64 {
        self.inventory.segments()
    }

    /// Those of WALs before this leadership's own.
    pub fn inherited(&self) -> u64 {
        self.inventory.inherited()
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
        let unfenced = planted!(SweepWithoutFence) && matches!(kind, Kind::Delete | Kind::Close);
        // ZooKeeper takes -1 for any version.
        let version = if unfenced { -1 } else { self.version };
        let mut all = vec![Op::Check { path: self.paths.ballot(), version }];
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
            (Kind::CreateManifest | Kind::ReplaceManifest, Reason::BadVersion) if op == 1 => {
                let path = self.paths.pointer();
                self.get(Kind::FindPointer, path);
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
            // That speaks of the moment, not of what is there: the same again, until it is allowed. With less the WAL
            // would grow to its limit, and this leadership would take no write any more.
            (Kind::Delete, Reason::QuotaExceeded | Reason::NoAuth) => {
                self.events.push(ArchiveEvent::Failed(format!("deletion refused: reason={reason:?}")));
                self.again_at = self.now + AGAIN;
                self.again.push((kind, request));
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
        self.unlisted.clear();
        // What was half uploaded is not known any more; the next activity lists again.
        self.chunks = None;
        self.manifests = None;
        self.events.push(ArchiveEvent::Failed(why));
    }

    fn done(&mut self, kind: Kind, session: SessionNumber, reply: Reply) {
        match (kind, reply) {
            (
                kind @ (Kind::Open
                | Kind::Chunks
                | Kind::Manifests
                | Kind::Pins
                | Kind::Pin(_)
                | Kind::Manifest(_)
                | Kind::Buckets(_)
                | Kind::Names(..)
                | Kind::Epoch),
                reply,
            ) => self.list_read(kind, session, reply),
            (Kind::CreateChunk(hash), Reply::Done) => {
                let path = self.paths.chunk(&hash);
                self.get(Kind::ReadChunk(hash), path);
            }
            (Kind::ReadChunk(hash), Reply::Data(data)) => self.verified(hash, data.map(|(bytes, _)| bytes)),
            (Kind::CreateManifest | Kind::ReplaceManifest, Reply::Done) => self.move_pointer(),
            (Kind::Pointer, Reply::Done) => self.published(),
            (Kind::ReadPointer, Reply::Data(data)) => {
                let found = self.opened(data);
                self.pointer_read(found);
            }
            (Kind::FindPointer, Reply::Data(data)) => {
                let found = self.opened(data);
                self.pointer_found(found);
            }
            (Kind::Delete, Reply::Done) => self.delete_next(),
            (Kind::Close, Reply::Done) => self.sweep = None,
            (kind, reply) => self.answered_wrongly(&kind, &reply),
        }
    }

    fn answered_wrongly(&mut self, kind: &Kind, reply: &Reply) {
        self.give_up(format!("answer of the wrong kind: {kind:?} {reply:?}"));
    }
}

fn hashes(chunks: &[ChunkName]) -> BTreeSet<[u8; 32]> {
    chunks.iter().filter_map(|chunk| chunk.hash[..].try_into().ok()).collect()
}
