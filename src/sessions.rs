//! The replicated table of client sessions: what makes a retried request take effect once.
//!
//! The table is part of the replicated state. It changes only by committed entries, in their order, so all replicas
//! hold the same table at the same index, and every decision here, eviction included, depends on nothing but the log.
//!
//! It forgets in three ways, all of them safe: a forgotten request is refused, never applied a second time.
//! - Answers below the lowest open number a client declared are dropped; such a request is *superseded*.
//! - A session that keeps too much open loses its lowest answers, as if it had declared them settled.
//! - The least recently used session is evicted when there are too many; its requests find it *gone*.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::SessionRequest;
use crate::machine::RowChange;

/// Sessions kept; opening one more evicts the least recently used.
pub const SESSIONS_MAX: usize = 1024;
/// Answers a session may have open; one more settles the lowest.
pub const OPEN_ANSWERS_MAX: usize = 1024;
/// Bytes of answers a session may have open, unless one alone is larger.
pub const SESSION_BYTES_MAX: usize = 256 * 1024;
/// Bytes of answers kept of all sessions, unless one session's alone are more.
pub const TABLE_BYTES_MAX: usize = 32 * 1024 * 1024;
// What an answer counts for beside its own bytes, so that empty ones are bounded too.
const ANSWER_OVERHEAD_BYTES: usize = 64;

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is new: apply it, then tell [`SessionTable::record`] its answer.
    Apply,
    /// It was applied before, with this answer. It must not be applied again.
    Done(Bytes),
    /// It is below what the session has settled. It must not be applied.
    Superseded,
    /// There is no such session. It must not be applied.
    Gone,
}

/// Rows that are no session table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client session row damaged: key={key} {what}")]
pub struct RowError {
    key: String,
    what: &'static str,
}

/// The client sessions of one group, as of one index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionTable {
    sessions: BTreeMap<u64, ClientSession>,
    // Session by the index that used it last: the first one is evicted first. An index uses at most one session.
    by_use: BTreeMap<u64, u64>,
    bytes: usize,
    changed: BTreeSet<RowKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ClientSession {
    // The largest lowest open number ever declared.
    lowest_open: u64,
    used: u64,
    bytes: usize,
    answers: BTreeMap<u64, Bytes>,
}

// A session's own row, or that of one of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RowKey {
    session: u64,
    sequence: Option<u64>,
}

impl SessionTable {
    /// Opens the session whose id is `index`, the index of the entry that asks for it.
    pub fn open(&mut self, index: u64) {
        let session = ClientSession { lowest_open: 1, used: index, bytes: 0, answers: BTreeMap::new() };
        let replaced = self.sessions.insert(index, session);
        assert!(replaced.is_none(), "an index opens one session: index={index}");
        self.by_use.insert(index, index);
        self.changed.insert(RowKey { session: index, sequence: None });
        if self.sessions.len() > SESSIONS_MAX {
            self.evict_least_used();
        }
    }

    /// Decides about the request in the entry at `index`.
    pub fn admit(&mut self, index: u64, request: SessionRequest) -> Admission {
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return Admission::Gone;
        };
        self.by_use.remove(&session.used);
        self.by_use.insert(index, request.session);
        session.used = index;
        self.changed.insert(RowKey { session: request.session, sequence: None });
        if request.lowest_open > session.lowest_open {
            session.lowest_open = request.lowest_open;
            self.bytes -= session.settle(request.session, &mut self.changed);
        }
        if request.sequence < session.lowest_open {
            return Admission::Superseded;
        }
        match session.answers.get(&request.sequence) {
            Some(answer) => Admission::Done(answer.clone()),
            None => Admission::Apply,
        }
    }

    /// Keeps the answer of a request that was to be applied.
    pub fn record(&mut self, request: SessionRequest, answer: Bytes) {
        let Some(session) = self.sessions.get_mut(&request.session) else {
            panic!("an answer is recorded for a request just admitted: session={}", request.session);
        };
        session.bytes += cost(&answer);
        self.bytes += cost(&answer);
        let replaced = session.answers.insert(request.sequence, answer);
        assert!(replaced.is_none(), "a request is applied once: {request:?}");
        self.changed.insert(RowKey { session: request.session, sequence: Some(request.sequence) });
        while session.overflows() {
            let (lowest, _) = session.answers.iter().next().expect("more than one answer is there");
            session.lowest_open = lowest + 1;
            self.bytes -= session.settle(request.session, &mut self.changed);
        }
        while self.bytes > TABLE_BYTES_MAX && self.sessions.len() > 1 {
            self.evict_least_used();
        }
    }

    /// The rows that changed since this was asked last: each with its value, or without where it is to be deleted.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|key| (key.encode(), self.value(key))).collect()
    }

    /// All rows, ascending by key.
    pub fn rows(&self) -> Vec<(Bytes, Bytes)> {
        let mut rows = Vec::new();
        for (id, session) in &self.sessions {
            rows.push((RowKey { session: *id, sequence: None }.encode(), session.encode()));
            for (sequence, answer) in &session.answers {
                rows.push((RowKey { session: *id, sequence: Some(*sequence) }.encode(), answer.clone()));
            }
        }
        rows
    }

    /// Reads the table as of index `applied` from its rows, in any order.
    ///
    /// # Errors
    /// If the rows were not made by [`rows`](Self::rows) or [`take_changes`](Self::take_changes) at that index.
    pub fn from_rows(rows: &[(Bytes, Bytes)], applied: u64) -> Result<Self, RowError> {
        let mut table = Self::default();
        let mut answers = Vec::new();
        for (row, value) in rows {
            let error = |what| RowError { key: format!("{row:?}"), what };
            let key = RowKey::decode(row).ok_or_else(|| error("unknown key"))?;
            match key.sequence {
                // No request has these numbers, and the lowest open one is counted on from an answer's.
                Some(0 | u64::MAX) => return Err(error("no sequence number")),
                Some(sequence) => answers.push((key.session, sequence, value, row)),
                None => {
                    let session = ClientSession::decode(value).ok_or_else(|| error("unknown value"))?;
                    // A later entry would open it a second time, or use it at an index that is taken.
                    if !(1..=session.used).contains(&key.session) || session.used > applied {
                        return Err(error("of an entry that was not applied"));
                    }
                    if session.lowest_open == 0 || session.lowest_open == u64::MAX {
                        return Err(error("no lowest open number"));
                    }
                    if table.by_use.insert(session.used, key.session).is_some() {
                        return Err(error("two sessions used by one index"));
                    }
                    if table.sessions.insert(key.session, session).is_some() {
                        return Err(error("twice"));
                    }
                }
            }
        }
        for (id, sequence, answer, row) in answers {
            let error = |what| RowError { key: format!("{row:?}"), what };
            let session = table.sessions.get_mut(&id).ok_or_else(|| error("answer without a session"))?;
            if sequence < session.lowest_open || session.answers.insert(sequence, answer.clone()).is_some() {
                return Err(error("answer settled or twice"));
            }
            session.bytes += cost(answer);
            table.bytes += cost(answer);
        }
        Ok(table)
    }

    fn value(&self, key: RowKey) -> Option<Bytes> {
        let session = self.sessions.get(&key.session)?;
        match key.sequence {
            None => Some(session.encode()),
            Some(sequence) => session.answers.get(&sequence).cloned(),
        }
    }

    fn evict_least_used(&mut self) {
        let Some((_, id)) = self.by_use.pop_first() else { return };
        let session = self.sessions.remove(&id).expect("every use belongs to a session");
        self.bytes -= session.bytes;
        self.changed.insert(RowKey { session: id, sequence: None });
        self.changed.extend(session.answers.keys().map(|sequence| RowKey { session: id, sequence: Some(*sequence) }));
    }
}

fn cost(answer: &Bytes) -> usize {
    ANSWER_OVERHEAD_BYTES + answer.len()
}

impl ClientSession {
    /// Drops the answers below the lowest open number; returns their bytes.
    fn settle(&mut self, id: u64, changed: &mut BTreeSet<RowKey>) -> usize {
        let open = self.answers.split_off(&self.lowest_open);
        let settled = std::mem::replace(&mut self.answers, open);
        changed.extend(settled.keys().map(|sequence| RowKey { session: id, sequence: Some(*sequence) }));
        let bytes = settled.values().map(cost).sum();
        self.bytes -= bytes;
        bytes
    }

    fn overflows(&self) -> bool {
        self.answers.len() > OPEN_ANSWERS_MAX || (self.bytes > SESSION_BYTES_MAX && self.answers.len() > 1)
    }

    fn encode(&self) -> Bytes {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.lowest_open.to_be_bytes());
        value[8..].copy_from_slice(&self.used.to_be_bytes());
        Bytes::copy_from_slice(&value)
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let value: &[u8; 16] = value.try_into().ok()?;
        let (lowest_open, used) = value.split_at(8);
        let lowest_open = u64::from_be_bytes(lowest_open.try_into().ok()?);
        let used = u64::from_be_bytes(used.try_into().ok()?);
        Some(Self { lowest_open, used, bytes: 0, answers: BTreeMap::new() })
    }
}

impl RowKey {
    fn encode(self) -> Bytes {
        let mut key = Vec::with_capacity(17);
        key.push(if self.sequence.is_some() { b'a' } else { b's' });
        key.extend_from_slice(&self.session.to_be_bytes());
        if let Some(sequence) = self.sequence {
            key.extend_from_slice(&sequence.to_be_bytes());
        }
        key.into()
    }

    fn decode(key: &[u8]) -> Option<Self> {
        let (kind, numbers) = key.split_first()?;
        let (session, rest) = numbers.split_first_chunk::<8>()?;
        let session = u64::from_be_bytes(*session);
        match (kind, rest.len()) {
            (b's', 0) => Some(Self { session, sequence: None }),
            (b'a', 8) => Some(Self { session, sequence: Some(u64::from_be_bytes(rest.try_into().ok()?)) }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn request(session: u64, sequence: u64, lowest_open: u64) -> SessionRequest {
        SessionRequest { session, sequence, lowest_open }
    }

    fn apply(table: &mut SessionTable, index: u64, request: SessionRequest, answer: &[u8]) -> Admission {
        let admission = table.admit(index, request);
        if admission == Admission::Apply {
            table.record(request, Bytes::copy_from_slice(answer));
        }
        admission
    }

    #[test]
    fn a_known_request_gets_its_first_answer_again() {
        let mut table = SessionTable::default();
        table.open(1);
        assert_eq!(apply(&mut table, 2, request(1, 1, 1), b"first"), Admission::Apply);
        assert_eq!(apply(&mut table, 3, request(1, 1, 1), b"second"), Admission::Done(Bytes::from_static(b"first")));
    }

    #[test]
    fn a_request_below_any_lowest_open_ever_declared_is_superseded() {
        let mut table = SessionTable::default();
        table.open(1);
        assert_eq!(apply(&mut table, 2, request(1, 5, 4), b""), Admission::Apply);
        // A late copy of an earlier request declares less; what was declared before still holds.
        assert_eq!(apply(&mut table, 3, request(1, 3, 1), b""), Admission::Superseded);
        assert_eq!(apply(&mut table, 4, request(1, 4, 1), b""), Admission::Apply);
    }

    #[test]
    fn requests_of_unknown_or_evicted_sessions_are_gone() {
        let mut table = SessionTable::default();
        assert_eq!(table.admit(1, request(7, 1, 1)), Admission::Gone);
        for index in 1..=SESSIONS_MAX as u64 {
            table.open(index);
        }
        // Session 1 is used once more, so session 2 is the least recently used.
        assert_eq!(apply(&mut table, 5000, request(1, 1, 1), b""), Admission::Apply);
        table.open(5001);
        assert_eq!(apply(&mut table, 5002, request(2, 1, 1), b""), Admission::Gone);
        assert_eq!(apply(&mut table, 5003, request(1, 1, 1), b""), Admission::Done(Bytes::new()));
        assert_eq!(table.sessions.len(), SESSIONS_MAX);
    }

    #[test]
    fn a_session_with_too_much_open_loses_its_lowest_answers_and_never_applies_them_again() {
        let mut table = SessionTable::default();
        table.open(1);
        let answer = vec![1; SESSION_BYTES_MAX / 4];
        for sequence in 1..=6 {
            assert_eq!(apply(&mut table, 1 + sequence, request(1, sequence, 1), &answer), Admission::Apply);
        }
        assert_eq!(apply(&mut table, 20, request(1, 3, 1), b""), Admission::Superseded);
        assert_eq!(apply(&mut table, 21, request(1, 4, 1), b""), Admission::Done(answer.into()));
        assert!(table.bytes <= SESSION_BYTES_MAX);
    }

    #[test]
    fn the_whole_table_is_bounded_by_evicting_the_least_recently_used() {
        let mut table = SessionTable::default();
        let answer = vec![1; SESSION_BYTES_MAX];
        let mut index = 0;
        for _ in 0..200 {
            index += 1;
            table.open(index);
            let id = index;
            index += 1;
            assert_eq!(apply(&mut table, index, request(id, 1, 1), &answer), Admission::Apply);
        }
        assert!(table.bytes <= TABLE_BYTES_MAX, "{}", table.bytes);
        assert_eq!(table.admit(index + 1, request(1, 1, 1)), Admission::Gone);
        assert_eq!(table.bytes, table.sessions.values().map(|session| session.bytes).sum::<usize>());
    }

    #[test]
    fn damaged_rows_are_refused() {
        let row = |key: &[u8], value: &[u8]| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        let value = |lowest: u64, used: u64| [lowest.to_be_bytes(), used.to_be_bytes()].concat();
        for (rows, what) in [
            (vec![row(b"x", b"")], "unknown key"),
            (vec![row(b"s\0\0\0\0\0\0\0\x01", b"short")], "unknown value"),
            (vec![row(b"a\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01", b"")], "answer without a session"),
            (vec![row(b"a\0\0\0\0\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff", b"")], "no sequence number"),
            (vec![row(b"s\0\0\0\0\0\0\0\x0a", &value(1, 10))], "of an entry that was not applied"),
            (vec![row(b"s\0\0\0\0\0\0\0\x01", &value(1, 10))], "of an entry that was not applied"),
            (vec![row(b"s\0\0\0\0\0\0\0\x02", &value(1, 1))], "of an entry that was not applied"),
            (vec![row(b"s\0\0\0\0\0\0\0\x01", &value(0, 1))], "no lowest open number"),
        ] {
            let error = SessionTable::from_rows(&rows, 9).expect_err("damaged rows");
            assert_eq!(error.what, what);
        }
    }

    #[test]
    fn each_sequence_takes_effect_once_however_requests_are_pipelined_repeated_and_reordered() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut table = SessionTable::default();
            // What the changed rows add up to: the durable copy, reloaded at random like after a crash.
            let mut durable = BTreeMap::new();
            let mut applied: BTreeMap<(u64, u64), u64> = BTreeMap::new();
            let mut first_answers: BTreeMap<(u64, u64), Bytes> = BTreeMap::new();
            let mut in_flight: Vec<SessionRequest> = Vec::new();
            let mut clients: Vec<(u64, u64, BTreeSet<u64>)> = Vec::new();
            for index in 1..1500 {
                match random.random_range(0..10) {
                    0 if clients.len() < 4 => {
                        table.open(index);
                        clients.push((index, 1, BTreeSet::new()));
                    }
                    0..=4 if !clients.is_empty() => {
                        let client = random.random_range(0..clients.len());
                        let (session, next, open) = &mut clients[client];
                        open.insert(*next);
                        // A client settles some of its open requests at will, answered or given up.
                        while open.len() > random.random_range(1..12) {
                            open.pop_first();
                        }
                        let lowest_open = *open.first().expect("just inserted");
                        let copies = random.random_range(1..4);
                        in_flight.extend((0..copies).map(|_| request(*session, *next, lowest_open)));
                        *next += 1;
                    }
                    _ if !in_flight.is_empty() => {
                        let any = random.random_range(0..in_flight.len());
                        let request = in_flight.swap_remove(any);
                        let key = (request.session, request.sequence);
                        match table.admit(index, request) {
                            Admission::Apply => {
                                *applied.entry(key).or_default() += 1;
                                let answer = Bytes::from(index.to_string());
                                first_answers.insert(key, answer.clone());
                                table.record(request, answer);
                            }
                            Admission::Done(answer) => assert_eq!(answer, first_answers[&key], "seed {seed}"),
                            Admission::Superseded => {}
                            Admission::Gone => panic!("four sessions are never evicted, seed {seed}"),
                        }
                    }
                    _ => {}
                }
                for (key, value) in table.take_changes() {
                    match value {
                        Some(value) => durable.insert(key, value),
                        None => durable.remove(&key),
                    };
                }
                if random.random_range(0..50) == 0 {
                    let rows: Vec<_> = durable.clone().into_iter().collect();
                    let reloaded = SessionTable::from_rows(&rows, index).expect("own rows");
                    assert_eq!(reloaded, table, "seed {seed}");
                    table = reloaded;
                }
            }
            assert!(applied.values().all(|times| *times == 1), "seed {seed}: {applied:?}");
            assert!(!applied.is_empty());
        }
    }
}
