//! Requests, paths and records in the protocol's words.
//!
//! A transaction has a short name only where every one of its operations is as the protocol says; any other is listed
//! operation by operation, so that a fence left out shows.

use std::collections::BTreeMap;

use bequest_recovery::keeper::{Op, Outcome, Reason, Refusal, Request};
use bequest_recovery::path::{number, WalName, GROUPS, NODES};
use bequest_recovery::record::{self, Answer, Ballot, Manifest, Pin, Pointer, Record, Registration, Segment};
use bytes::Bytes;

use crate::genesis;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Reads what every node looks at again and again.
    Poll,
    /// A transaction that changes nothing.
    Check,
    /// A transaction that changes something.
    Write,
}

/// Short names of chunks, in the order in which they were seen.
#[derive(Debug, Default)]
pub struct Decoder {
    chunks: BTreeMap<String, usize>,
}

/// A znode.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Ballot,
    Header(WalName),
    Bucket(WalName, u64),
    Segment(WalName, u64),
    Other(String),
}

fn wal(name: WalName) -> String {
    match name {
        WalName::ROOT => "w0".to_owned(),
        WalName { term, node } => format!("w{term}.n{node}"),
    }
}

fn ballot(ballot: &Ballot) -> String {
    let vacant = match (ballot.vacant, ballot.served) {
        (false, _) => "",
        (true, true) => " vacant, served",
        (true, false) => " vacant",
    };
    format!("b{}.n{}{vacant}", ballot.term, ballot.node)
}

/// Indexes from one to another.
pub fn span(first: u64, last: u64) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}..{last}")
    }
}

fn open<R: Record>(data: &Bytes) -> Option<R> {
    record::open(data, None).ok()
}

impl Place {
    fn of(path: &str) -> Self {
        let other = Self::Other(path.to_owned());
        let group = format!("{GROUPS}/{}", genesis::name(0));
        let Some(below) = path.strip_prefix(&group) else { return other };
        let parts: Vec<&str> = below.split('/').skip(1).collect();
        match parts[..] {
            ["ballot"] => Self::Ballot,
            ["wal", name] => WalName::parse(name).map_or(other, Self::Header),
            ["wal", name, bucket] => match (WalName::parse(name), number(bucket, 10)) {
                (Some(name), Some(bucket)) => Self::Bucket(name, bucket),
                _ => other,
            },
            ["wal", name, _, index] => match (WalName::parse(name), number(index, 20)) {
                (Some(name), Some(index)) => Self::Segment(name, index),
                _ => other,
            },
            _ => other,
        }
    }
}

impl Decoder {
    /// A znode's name.
    pub fn path(&mut self, path: &str) -> String {
        match Place::of(path) {
            Place::Ballot => "ballot".to_owned(),
            Place::Header(name) => wal(name),
            Place::Bucket(name, bucket) => format!("{}/{bucket}", wal(name)),
            Place::Segment(name, index) => format!("segment {index} of {}", wal(name)),
            Place::Other(path) => self.other(&path),
        }
    }

    fn other(&mut self, path: &str) -> String {
        if path == "/" {
            return "cluster".to_owned();
        }
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let node = |text: &str| number(text, 20).map_or_else(|| text.to_owned(), |node| format!("n{node}"));
        if path.starts_with(NODES) {
            return match parts[..] {
                [_] => "nodes".to_owned(),
                [_, one] => format!("{}'s registration", node(one)),
                [_, one, "live"] => format!("{}'s live", node(one)),
                [_, one, "challenge"] => format!("challenges to {}", node(one)),
                [_, one, "answer"] => format!("answers of {}", node(one)),
                [_, one, "challenge", other] => format!("challenge to {} by {}", node(one), node(other)),
                [_, one, "answer", other] => format!("answer of {} to {}", node(one), node(other)),
                _ => path.to_owned(),
            };
        }
        match parts[..] {
            ["groups", _] => "genesis".to_owned(),
            ["groups", _, "wal"] => "list of wals".to_owned(),
            ["groups", _, "chunks"] => "list of chunks".to_owned(),
            ["groups", _, "snapshots"] => "list of manifests".to_owned(),
            ["groups", _, "pins"] => "list of pins".to_owned(),
            ["groups", _, "snapshot"] => "pointer".to_owned(),
            ["groups", _, "pins", one] => format!("{}'s pin", node(one)),
            ["groups", _, "chunks", hash] => {
                let next = self.chunks.len() + 1;
                format!("chunk c{}", self.chunks.entry(hash.to_owned()).or_insert(next))
            }
            ["groups", _, "snapshots", name] => {
                let index = name.split('-').next().and_then(|index| number(index, 20));
                index.map_or_else(|| name.to_owned(), |index| format!("manifest {index}"))
            }
            _ => path.to_owned(),
        }
    }

    /// What is written there.
    pub fn content(&mut self, path: &str, data: &Bytes) -> String {
        let place = self.path(path);
        let said = match Place::of(path) {
            Place::Ballot => open::<Ballot>(data).map(|record| format!("ballot {}", ballot(&record))),
            Place::Segment(name, index) => open::<Segment>(data).map(|segment| match segment.closed_by {
                0 => {
                    let last = segment.prev_index + segment.entries.len() as u64;
                    format!("segment {} of {}", span(index, last), wal(name))
                }
                term => format!("mark of {} at {index}, closed by term {term}", wal(name)),
            }),
            Place::Header(_) | Place::Bucket(..) => None,
            Place::Other(path) => match path.rsplit('/').nth(1) {
                _ if path.ends_with("/snapshot") => open::<Pointer>(data).map(|pointer| {
                    let newest = pointer.newest.map_or("none".to_owned(), |name| name.index.to_string());
                    let before = pointer.previous.map_or(String::new(), |name| format!(", before it {}", name.index));
                    format!("pointer {newest}{before}")
                }),
                Some("pins") => open::<Pin>(data)
                    .map(|pin| format!("{place} on snapshot {}", pin.snapshot.map_or(0, |name| name.index))),
                Some("nodes") => {
                    open::<Registration>(data).map(|record| format!("{place} as incarnation {}", record.incarnation))
                }
                Some("snapshots") => {
                    open::<Manifest>(data).map(|manifest| format!("{place}, {} chunks", manifest.chunks.len()))
                }
                Some("answer") => open::<Answer>(data).map(|answer| {
                    let stands =
                        answer.testimonies.iter().map(|one| ["no", "leading", "succeeding"][one.stand as usize]);
                    format!("{place}: {}", stands.collect::<Vec<_>>().join(", "))
                }),
                _ => None,
            },
        };
        said.unwrap_or(place)
    }

    fn op(&mut self, op: &Op) -> String {
        match op {
            Op::Check { path, .. } => format!("check {}", self.path(path)),
            Op::Create { path, data, .. } => format!("create {}", self.content(path, data)),
            Op::Set { path, data, .. } => format!("set {}", self.content(path, data)),
            Op::Delete { path, .. } => format!("delete {}", self.path(path)),
        }
    }

    fn ops(&mut self, ops: &[Op]) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let deletes = rest.iter().take_while(|op| matches!(op, Op::Delete { .. })).count();
            if deletes > 3 {
                let (from, to) = (self.path(first.path()), self.path(rest[deletes - 1].path()));
                words.push(format!("delete {from} to {to}, {deletes} in all"));
                rest = &rest[deletes..];
            } else {
                words.push(self.op(first));
                rest = &rest[1..];
            }
        }
        words.join("; ")
    }

    fn append(&self, ops: &[Op]) -> Option<String> {
        let [Op::Check { path: fence, .. }, Op::Check { path: before, version: 0 }, creates @ ..] = ops else {
            return None;
        };
        if Place::of(fence) != Place::Ballot {
            return None;
        }
        let creates: Option<Vec<(Place, &Bytes)>> = creates
            .iter()
            .map(|op| match op {
                Op::Create { path, data, ephemeral: false } => Some((Place::of(path), data)),
                _ => None,
            })
            .collect();
        let creates = creates?;
        // A bucket comes before the first znode in it.
        let fits = |bucket: &Place, inside: &Place| match (bucket, inside) {
            (Place::Bucket(wal, _), Place::Segment(same, _)) => wal == same,
            (Place::Segment(..), _) => true,
            _ => false,
        };
        if creates.windows(2).any(|pair| !fits(&pair[0].0, &pair[1].0)) {
            return None;
        }
        let segments: Vec<&(Place, &Bytes)> =
            creates.iter().filter(|(place, _)| matches!(place, Place::Segment(..))).collect();
        let (Place::Segment(name, first), data) = segments.first()? else { return None };
        let segment: Segment = open(data).filter(|segment: &Segment| segment.closed_by == 0)?;
        let place = match (Place::of(before), &segments[1..]) {
            (Place::Header(header), [(Place::Segment(closed, at), mark)])
                if header == *name
                    && segment.ordinal == 0
                    && open::<Segment>(mark).is_some_and(|mark| mark.closed_by == name.term) =>
            {
                format!("begins {}, closes {} at {at}", wal(*name), wal(*closed))
            }
            (Place::Segment(same, previous), []) if same == *name && segment.ordinal > 0 => format!("after {previous}"),
            _ => return None,
        };
        Some(format!("append {} ({place})", span(*first, segment.prev_index + segment.entries.len() as u64)))
    }

    /// A request, and what it does.
    pub fn request(&mut self, request: &Request) -> (String, Kind) {
        match request {
            Request::Multi(ops) => self.multi(ops),
            Request::Get { path, watch } | Request::Exists { path, watch } | Request::Children { path, watch } => {
                (self.path(path), if *watch { Kind::Poll } else { Kind::Read })
            }
        }
    }

    fn multi(&mut self, ops: &[Op]) -> (String, Kind) {
        if ops.iter().all(|op| matches!(op, Op::Check { .. })) {
            return match ops {
                [Op::Check { path, .. }] if Place::of(path) == Place::Ballot => ("check fence".to_owned(), Kind::Check),
                _ => (self.ops(ops), Kind::Check),
            };
        }
        let words = match ops {
            [Op::Check { path: registration, .. }, Op::Set { path, data, .. }, Op::Create { path: header, .. }]
                if registration.starts_with(NODES) && Place::of(path) == Place::Ballot =>
            {
                match (open::<Ballot>(data), Place::of(header)) {
                    (Some(new), Place::Header(name))
                        if !new.vacant && (new.term, new.node) == (name.term, name.node) =>
                    {
                        Some(format!("seal {}", ballot(&new)))
                    }
                    _ => None,
                }
            }
            [Op::Set { path, data, .. }] if Place::of(path) == Place::Ballot => {
                open::<Ballot>(data).filter(|new| new.vacant).map(|new| format!("vacate ({})", ballot(&new)))
            }
            [Op::Create { path, data, .. }, Op::Create { path: challenges, .. }, Op::Create { path: answers, .. }]
                if [challenges, answers].iter().all(|part| part.starts_with(&format!("{path}/"))) =>
            {
                open::<Registration>(data).map(|record| format!("register as incarnation {}", record.incarnation))
            }
            [Op::Set { path, data, .. }] if path.starts_with(NODES) => {
                open::<Registration>(data).map(|record| format!("register as incarnation {}", record.incarnation))
            }
            [Op::Check { .. }, ..] => self.append(ops),
            [op] => Some(self.op(op)),
            _ => None,
        };
        let words = words.unwrap_or_else(|| match ops {
            [Op::Check { path, .. }, rest @ ..] if Place::of(path) == Place::Ballot => {
                format!("fenced [{}]", self.ops(rest))
            }
            _ => format!("[{}]", self.ops(ops)),
        });
        (words, Kind::Write)
    }

    /// What became of a transaction.
    pub fn outcome(&mut self, request: &Request, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Ok(_) => "done".to_owned(),
            Outcome::Unknown(why) => format!("unknown ({why})"),
            Outcome::Refused(Refusal { op, reason }) => match request {
                Request::Multi(ops) => match ops.get(*op) {
                    Some(Op::Check { path, .. })
                        if *reason == Reason::BadVersion && Place::of(path) == Place::Ballot =>
                    {
                        "refused: fenced".to_owned()
                    }
                    Some(op) => format!("refused: {} at {}", reason_words(*reason), self.path(op.path())),
                    None => format!("refused: {}", reason_words(*reason)),
                },
                _ => format!("refused: {}", reason_words(*reason)),
            },
        }
    }

    /// Paths in a text, replaced by their names.
    pub fn text(&mut self, text: &str) -> String {
        let word = |word: &str| match word.split_once("path=") {
            Some(("", path)) => self.path(path.trim_end_matches(';')),
            _ => word.to_owned(),
        };
        text.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }
}

fn reason_words(reason: Reason) -> &'static str {
    match reason {
        Reason::NoNode => "missing",
        Reason::NodeExists => "exists",
        Reason::BadVersion => "other version",
        Reason::NotEmpty => "not empty",
        Reason::NoAuth => "denied",
        Reason::InvalidAcl => "invalid acl",
        Reason::NoChildrenForEphemerals => "ephemeral parent",
        Reason::QuotaExceeded => "quota exceeded",
        Reason::NotReadOnly => "read-only server",
        Reason::BadArguments => "malformed",
    }
}
