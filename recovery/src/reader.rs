//! One read pass over what leaders left in ZooKeeper: listing, choosing, reading.
//!
//! A pass is bound to one session and opened by a transaction that checks the ballot: only then is what the session
//! shows at least as new as that transaction. A pass that meets another session, or an unknown outcome, ends with
//! [`End::Again`]. Nothing that looks missing, short or damaged is believed before another such transaction on the same
//! session succeeded, for once somebody else sealed, archive and WALs change under the reader.
//!
//! The reader decides and never acts: it hands out requests and is told their outcomes. A session's requests are served in
//! the order in which they were sent, so what a pass begins with can be asked for right behind the transaction that opens
//! it, and the one that ends it right behind the last read.

mod listing;
mod pass;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::chain::{self, Chain, Item};
use crate::entry::{EntryHash, Position};
use crate::keeper::{Op, Outcome, Reason, Reply, Request, SessionNumber};
use crate::path::{self, WalName};
use crate::planted;
use crate::record::{self, Manifest, Pointer, SnapshotName};
use crate::segment;
use listing::Listing;
pub use listing::{Unlisted, WalInventory};
pub use pass::{Ask, End, Pass, Place, Tail};

/// Requests of one pass outstanding at once; well below the session's window, which all groups share.
const IN_FLIGHT_MAX: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Query {
    Open,
    Close,
    Pointer,
    Wals,
    Buckets(WalName),
    Names(WalName, u64),
    Manifest,
    Segment(usize),
}

/// A read pass under way.
#[derive(Debug)]
pub struct Reader {
    pass: Pass,
    session: Option<SessionNumber>,
    tags: u64,
    waiting: BTreeMap<u64, Query>,
    queue: VecDeque<Query>,
    pointer: Option<(Pointer, i32)>,
    listing: Option<Listing>,
    /// The WAL whose buckets were asked for before it was known which there are.
    ahead: Option<WalName>,
    base: Position,
    snapshot: Option<Manifest>,
    plan: Vec<Item>,
    unread: usize,
    bytes: u64,
    /// What the closing check will turn into the end.
    verdict: Option<End>,
}

impl Reader {
    /// Begins a pass. `opened` names the session on which a transaction that checks or sets this very ballot version
    /// has just succeeded, if there was one: it opens the pass.
    pub fn new(pass: Pass, opened: Option<SessionNumber>) -> (Self, Vec<Ask>) {
        let first = match opened {
            None if !planted!(PassWithoutOpening) => vec![Query::Open],
            _ => vec![Query::Pointer, Query::Wals],
        };
        Self::begin(pass, opened, None, first)
    }

    /// Begins a pass whose opening transaction was just sent, with urgency, on the same client; `newest` is the WAL that
    /// is likely the last one. No outcome may be given to it before [`Reader::open`].
    pub fn ahead(pass: Pass, newest: WalName) -> (Self, Vec<Ask>) {
        Self::begin(pass, None, Some(newest), vec![Query::Pointer, Query::Wals, Query::Buckets(newest)])
    }

    fn begin(
        pass: Pass,
        session: Option<SessionNumber>,
        ahead: Option<WalName>,
        first: Vec<Query>,
    ) -> (Self, Vec<Ask>) {
        let mut reader = Self {
            base: pass.committed,
            pass,
            session,
            tags: 0,
            waiting: BTreeMap::new(),
            queue: first.into(),
            pointer: None,
            listing: None,
            ahead,
            snapshot: None,
            plan: Vec::new(),
            unread: 0,
            bytes: 0,
            verdict: None,
        };
        let asks = reader.ask();
        (reader, asks)
    }

    /// The opening transaction succeeded, on this session. What `pass` says may have moved on since it was sent.
    pub fn open(&mut self, pass: Pass, session: SessionNumber) {
        self.base = pass.committed;
        self.pass = pass;
        self.session = Some(session);
    }

    /// Takes the outcome of a request of this pass.
    pub fn take(&mut self, tag: u64, session: SessionNumber, outcome: Outcome) -> (Vec<Ask>, Option<End>) {
        let Some(query) = self.waiting.remove(&tag) else {
            return (Vec::new(), None);
        };
        match self.advance(query, session, outcome) {
            Some(end) => (Vec::new(), Some(end)),
            None => (self.ask(), None),
        }
    }

    /// A number that moves while the pass does.
    pub fn progress(&self) -> u64 {
        self.tags
    }

    fn ask(&mut self) -> Vec<Ask> {
        let mut asks = Vec::new();
        while self.waiting.len() < IN_FLIGHT_MAX {
            let Some(query) = self.queue.pop_front() else { break };
            self.tags += 1;
            asks.push(Ask { tag: self.tags, request: self.request(&query) });
            self.waiting.insert(self.tags, query);
        }
        asks
    }

    fn request(&self, query: &Query) -> Request {
        let paths = &self.pass.paths;
        let get = |path| Request::Get { path, watch: false };
        let children = |path| Request::Children { path, watch: false };
        match query {
            Query::Open | Query::Close => {
                Request::Multi(vec![Op::Check { path: paths.ballot(), version: self.pass.version }])
            }
            Query::Pointer => get(paths.pointer()),
            Query::Wals => children(paths.wals()),
            Query::Buckets(wal) => children(paths.wal(*wal)),
            Query::Names(wal, bucket) => children(paths.bucket(*wal, bucket * path::BUCKET_SEGMENTS)),
            Query::Manifest => get(self.snapshot_name().map_or_else(String::new, |s| paths.manifest(s.index, s.term))),
            Query::Segment(at) => get(self.item_path(&self.plan[*at])),
        }
    }

    fn item_path(&self, item: &Item) -> String {
        self.pass.paths.segment(item.wal, item.bucket * path::BUCKET_SEGMENTS, item.first)
    }

    fn snapshot_name(&self) -> Option<SnapshotName> {
        let (pointer, _) = self.pointer.as_ref()?;
        if self.pass.previous {
            pointer.previous
        } else {
            pointer.newest
        }
    }

    fn advance(&mut self, query: Query, session: SessionNumber, outcome: Outcome) -> Option<End> {
        let reply = match outcome {
            Outcome::Ok(reply) => reply,
            Outcome::Unknown(cause) => return Some(End::Again(cause)),
            Outcome::Refused(refusal) => return Some(self.refused(&query, refusal.reason)),
        };
        match self.session {
            None => self.session = Some(session),
            Some(own) if own != session && !planted!(PassOverTwoSessions) => {
                return Some(End::Again("session changed during the pass".into()))
            }
            Some(_) => {}
        }
        // After a verdict only its confirmation matters.
        if self.verdict.is_some() && !matches!(query, Query::Close) {
            return None;
        }
        match (query, reply) {
            (Query::Open, Reply::Done) => self.queue.extend([Query::Pointer, Query::Wals]),
            (Query::Close, Reply::Done) => return self.verdict.take(),
            (Query::Pointer, Reply::Data(data)) => self.took_pointer(data.map(|(bytes, stat)| (bytes, stat.version))),
            (Query::Wals, Reply::Children(names)) => self.took_wals(names),
            (Query::Buckets(_), _) if self.listing.is_none() => {
                return Some(End::Again("answers in another order than the requests".into()))
            }
            (Query::Buckets(wal), Reply::Children(names)) => self.took_buckets(wal, names),
            (Query::Names(wal, bucket), Reply::Children(names)) => self.took_names(wal, bucket, names),
            (Query::Manifest, Reply::Data(data)) => self.took_manifest(data.map(|(bytes, _)| bytes)),
            (Query::Segment(at), Reply::Data(data)) => self.took_segment(at, data.map(|(bytes, _)| bytes)),
            (query, reply) => return Some(End::Again(format!("answer of the wrong kind: {query:?} {reply:?}"))),
        }
        None
    }

    fn refused(&self, query: &Query, reason: Reason) -> End {
        let request = self.request(query);
        let path = match &request {
            Request::Multi(ops) => ops.first().map_or("", Op::path),
            Request::Get { path, .. } | Request::Exists { path, .. } | Request::Children { path, .. } => path,
        };
        match (query, reason) {
            (Query::Close, Reason::BadVersion) if planted!(ClosingCheckIgnored) => {
                self.verdict.clone().unwrap_or(End::Lost)
            }
            (Query::Open | Query::Close, Reason::BadVersion | Reason::NoNode) => End::Lost,
            (_, Reason::NoAuth) => End::Denied { path: path.to_owned() },
            _ => End::Again(format!("refused: path={path} reason={reason:?}")),
        }
    }

    fn took_pointer(&mut self, data: Option<(Bytes, i32)>) {
        let path = self.pass.paths.pointer();
        match data {
            None => self.damaged(path, 0, "pointer missing", true),
            Some((bytes, version)) => match record::open(&bytes, Some(self.pass.uuid)) {
                Ok(pointer) => {
                    self.pointer = Some((pointer, version));
                    self.listed();
                }
                Err(error) => self.damaged(path, 0, error, false),
            },
        }
    }

    fn took_wals(&mut self, names: Option<Vec<String>>) {
        let path = self.pass.paths.wals();
        let Some(names) = names else { return self.damaged(path, 0, "missing", false) };
        let mut wals = Vec::new();
        for name in names {
            let Some(wal) = WalName::parse(&name) else {
                return self.damaged(format!("{path}/{name}"), 0, "name not understood", false);
            };
            // A WAL of the sealed term or above is this reader's own, or of somebody who fenced it.
            if self.pass.sealed.is_none_or(|term| wal.term < term) {
                wals.push(wal);
            }
        }
        wals.sort_unstable();
        // Where a snapshot must be restored, or may have to be, its index is not known yet.
        let all = self.pass.restore || self.pass.committed.index == 0;
        let covered = (!all).then_some(self.pass.committed.index);
        let asked = self.ahead.filter(|ahead| wals.contains(ahead));
        let (listing, next) = Listing::new(wals, covered, asked);
        self.listing = Some(listing);
        self.queue.extend(next);
        self.listed();
    }

    fn took_buckets(&mut self, wal: WalName, names: Option<Vec<String>>) {
        let path = self.pass.paths.wal(wal);
        let Some(listing) = &mut self.listing else { return };
        if !listing.has(wal) {
            return;
        }
        let Some(names) = names else { return self.damaged(path, 0, "missing", false) };
        let mut buckets = BTreeSet::new();
        for name in names {
            match path::number(&name, 10) {
                Some(bucket) => buckets.insert(bucket),
                None => return self.damaged(format!("{path}/{name}"), 0, "name not understood", false),
            };
        }
        let next = listing.buckets(wal, buckets);
        self.queue.extend(next);
        self.listed();
    }

    fn took_names(&mut self, wal: WalName, bucket: u64, names: Option<Vec<String>>) {
        let path = self.pass.paths.bucket(wal, bucket * path::BUCKET_SEGMENTS);
        let (Some(names), Some(listing)) = (names, &mut self.listing) else {
            return self.damaged(path, 0, "missing", false);
        };
        let mut firsts = Vec::new();
        for name in names {
            match path::number(&name, 20).filter(|first| *first > 0) {
                Some(first) => firsts.push(first),
                None => return self.damaged(format!("{path}/{name}"), 0, "name not understood", false),
            }
        }
        let next = listing.names(wal, bucket, firsts);
        self.queue.extend(next);
        self.listed();
    }

    /// Once everything is listed that is needed: decide where to begin.
    fn listed(&mut self) {
        let Some(listing) = self.listing.as_ref().filter(|listing| listing.is_complete()) else { return };
        if self.pointer.is_none() || !self.plan.is_empty() {
            return;
        }
        let first = listing.first().unwrap_or(1);
        let newest = self.snapshot_name();
        let needed = self.pass.restore
            || self.pass.committed.index + 1 < first
            || (self.pass.committed.index == 0 && newest.is_some());
        match (needed, newest) {
            (false, _) => self.choose(),
            (true, Some(_)) => self.queue.push_back(Query::Manifest),
            (true, None) => {
                let what = format!("no snapshot, but the WALs begin at index {first}");
                self.damaged(self.pass.paths.pointer(), self.pass.committed.index + 1, what, true);
            }
        }
    }

    fn took_manifest(&mut self, data: Option<Bytes>) {
        let name = self.snapshot_name().unwrap_or_default();
        let path = self.pass.paths.manifest(name.index, name.term);
        let Some(bytes) = data else { return self.damaged(path, name.index, "manifest missing", true) };
        let manifest: Manifest = match record::open(&bytes, Some(self.pass.uuid)) {
            Ok(manifest) => manifest,
            Err(error) => return self.damaged(path, name.index, error, true),
        };
        match EntryHash::from_slice(&manifest.hash) {
            // The log goes on behind a snapshot, and behind the last number there is none.
            _ if manifest.index == u64::MAX => self.damaged(path, name.index, "no log reaches this index", true),
            Some(hash) if (manifest.index, manifest.term) == (name.index, name.term) => {
                self.base = Position { index: name.index, term: name.term, hash };
                self.snapshot = Some(manifest);
                self.choose();
            }
            _ => self.damaged(path, name.index, "manifest does not fit its name", true),
        }
    }

    /// Chooses what to read: everything that reaches beyond the base, and the last of each WAL that was looked at.
    fn choose(&mut self) {
        let wals: Vec<_> = self.listing.iter().flat_map(Listing::items).collect();
        let skipped = if planted!(OlderWalSkipped) { wals.len().saturating_sub(2) } else { 0 };
        for (wal, items) in wals.into_iter().skip(skipped) {
            let mut items = items.iter().peekable();
            while let Some((first, bucket)) = items.next() {
                let next = items.peek().map(|(first, _)| *first);
                // By its name alone the last one's end, or whether it is a mark, cannot be told.
                if next.is_none_or(|next| next > self.base.index + 1) {
                    let item = Item { wal, first: *first, bucket: *bucket, last: next.is_none(), decoded: None };
                    self.queue.push_back(Query::Segment(self.plan.len()));
                    self.plan.push(item);
                }
            }
        }
        self.unread = self.plan.len();
        match self.unread {
            0 => self.finish(),
            // It is served after them, whatever they turn out to be.
            _ => self.queue.push_back(Query::Close),
        }
    }

    fn took_segment(&mut self, at: usize, data: Option<Bytes>) {
        let path = self.item_path(&self.plan[at]);
        let item = &mut self.plan[at];
        let index = item.first;
        let Some(bytes) = data else {
            if planted!(MissingSegmentIsTheEnd) {
                let (wal, first) = (item.wal, item.first);
                self.plan.retain(|item| item.wal < wal || (item.wal == wal && item.first < first));
                return self.finish();
            }
            return self.damaged(path, index, "segment missing", false);
        };
        match segment::decode(&bytes, self.pass.uuid, item.wal.term, item.first) {
            Ok(decoded) if decoded.ordinal / path::BUCKET_SEGMENTS == item.bucket => {
                self.bytes += bytes.len() as u64;
                item.decoded = Some(decoded);
                self.unread -= 1;
                if self.unread == 0 {
                    self.finish();
                }
            }
            Ok(decoded) => {
                self.damaged(path, index, format!("in the wrong bucket: ordinal={}", decoded.ordinal), false);
            }
            Err(error) => self.damaged(path, index, error, false),
        }
    }

    /// Everything chosen is read: does it fit together?
    fn finish(&mut self) {
        let plan = std::mem::take(&mut self.plan);
        let verdict = match chain::verify(plan, self.base) {
            Ok(chain) => End::Done(Box::new(self.tail(chain))),
            Err(chain::Break::Behind { found }) => End::Behind { found },
            Err(chain::Break::Diverged { index }) if self.snapshot.is_none() => End::Diverged { index },
            Err(chain::Break::Diverged { index }) => End::Damaged {
                path: self.pass.paths.manifest(self.base.index, self.base.term),
                index,
                what: "snapshot and WAL differ".into(),
                snapshot: true,
            },
            Err(chain::Break::At { wal, bucket, first, index, what }) => End::Damaged {
                path: self.pass.paths.segment(wal, bucket * path::BUCKET_SEGMENTS, first),
                index,
                what,
                snapshot: false,
            },
        };
        self.close(verdict);
    }

    fn tail(&mut self, chain: Chain) -> Tail {
        let (wals, empty) = self.listing.take().map(Listing::inventories).unwrap_or_default();
        Tail {
            base: self.base,
            snapshot: self.snapshot.take(),
            entries: chain.entries,
            end: chain.end,
            wals,
            empty,
            last: chain.last,
            pointer: self.pointer.take().unwrap_or_default(),
            bytes: self.bytes,
        }
    }

    fn damaged(&mut self, path: String, index: u64, what: impl ToString, snapshot: bool) {
        self.close(End::Damaged { path, index, what: what.to_string(), snapshot });
    }

    /// Nothing is believed, good or bad, before the ballot was checked once more: whoever sealed meanwhile may trim, and a
    /// WAL that is gone altogether is not even missed.
    fn close(&mut self, verdict: End) {
        if self.verdict.is_none() {
            self.verdict = Some(verdict);
            self.queue.clear();
            // One that was sent was sent behind everything that has been answered.
            if !self.waiting.values().any(|query| matches!(query, Query::Close)) {
                self.queue.push_back(Query::Close);
            }
        }
    }
}
