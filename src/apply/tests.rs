use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bequest_recovery::entry::Entry;

use super::*;
use crate::machine::{Recovered, RowChange};

/// What survives a crash of [`Journal`].
#[derive(Clone, Debug, Default)]
struct Durable {
    applied: u64,
    rows: BTreeMap<Bytes, Bytes>,
    commands: Vec<Vec<u8>>,
    commits: u64,
}

/// A durable machine whose state is the list of commands it was given.
#[derive(Default)]
struct Journal {
    durable: Arc<Mutex<Durable>>,
    commands: Vec<Vec<u8>>,
}

impl StateMachine for Journal {
    fn recover(&mut self) -> Result<Recovered, MachineError> {
        let durable = self.durable.lock().expect("not poisoned");
        self.commands.clone_from(&durable.commands);
        Ok(Recovered { applied: durable.applied, rows: durable.rows.clone().into_iter().collect() })
    }

    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes {
        assert_ne!(command, b"poison", "cannot digest this");
        self.commands.push(command.to_vec());
        Bytes::from(format!("{index}"))
    }

    fn commit(&mut self, applied: u64, rows: &[RowChange]) -> Result<(), MachineError> {
        let mut durable = self.durable.lock().expect("not poisoned");
        durable.applied = applied;
        durable.commands.clone_from(&self.commands);
        durable.commits += 1;
        for (key, value) in rows {
            match value {
                Some(value) => durable.rows.insert(key.clone(), value.clone()),
                None => durable.rows.remove(key),
            };
        }
        Ok(())
    }

    fn query(&self, query: &[u8]) -> Result<Bytes, MachineError> {
        match query {
            b"count" => Ok(Bytes::from(self.commands.len().to_string())),
            b"panic" => panic!("asked to"),
            _ => Err(MachineError::new("what?")),
        }
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(JournalSnapshot(self.commands.clone())))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(JournalRestore { journal: self, commands: Vec::new() }))
    }
}

struct JournalSnapshot(Vec<Vec<u8>>);

impl Snapshot for JournalSnapshot {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        self.0.into_iter().try_for_each(|command| chunk(command.into()))
    }
}

struct JournalRestore<'a> {
    journal: &'a mut Journal,
    commands: Vec<Vec<u8>>,
}

impl Restore for JournalRestore<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        self.commands.push(chunk.to_vec());
        Ok(())
    }

    fn finish(self: Box<Self>, applied: u64, rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        self.journal.commands = self.commands;
        let mut durable = self.journal.durable.lock().expect("not poisoned");
        durable.commands.clone_from(&self.journal.commands);
        durable.applied = applied;
        durable.rows = rows.iter().cloned().collect();
        Ok(())
    }
}

fn fresh() -> (Applier, Arc<Mutex<Durable>>) {
    let durable = Arc::<Mutex<Durable>>::default();
    (recover(&durable), durable)
}

fn recover(durable: &Arc<Mutex<Durable>>) -> Applier {
    let journal = Journal { durable: durable.clone(), commands: Vec::new() };
    Applier::recover(Box::new(journal)).expect("own state")
}

fn entry(index: u64, data: Bytes) -> Apply {
    let entry = Entry { index, term: 1, kind: 0, data, context: Bytes::new() };
    Apply { entry, token: Some(Token(index)) }
}

fn plain(index: u64, data: &'static [u8]) -> Apply {
    entry(index, Command::Plain(Bytes::from_static(data)).encode())
}

fn in_session(index: u64, session: u64, sequence: u64, data: &'static [u8]) -> Apply {
    let request = SessionRequest { session, sequence, lowest_open: 1 };
    entry(index, Command::InSession(request, Bytes::from_static(data)).encode())
}

#[test]
fn a_batch_is_committed_once_and_answered_in_order() {
    let (mut applier, durable) = fresh();
    let raft_own = entry(1, Bytes::new());
    let internal = entry(3, Command::Internal.encode());
    let membership = Apply {
        entry: Entry { index: 4, term: 1, kind: 2, data: Bytes::from_static(b"\xff"), context: Bytes::new() },
        token: None,
    };
    let answers = applier.apply(vec![raft_own, plain(2, b"a"), internal, membership, plain(5, b"b")]);
    let expected = vec![
        (Token(1), Answer::Nothing),
        (Token(2), Answer::Machine(Bytes::from_static(b"2"))),
        (Token(3), Answer::Nothing),
        (Token(5), Answer::Machine(Bytes::from_static(b"5"))),
    ];
    assert_eq!(answers, Ok(expected));
    let durable = durable.lock().expect("not poisoned");
    assert_eq!((durable.applied, durable.commits), (5, 1));
}

#[test]
fn a_retry_is_answered_from_the_durable_table_also_after_a_restart() {
    let (mut applier, durable) = fresh();
    let opened = applier.apply(vec![entry(1, Command::OpenSession.encode())]).expect("opens");
    assert_eq!(opened, [(Token(1), Answer::Opened { session: 1 })]);
    applier.apply(vec![in_session(2, 1, 1, b"once")]).expect("applies");
    drop(applier);
    let mut applier = recover(&durable);
    assert_eq!(applier.applied(), 2);
    let answers = applier.apply(vec![in_session(3, 1, 1, b"once"), in_session(4, 9, 1, b"never")]).expect("applies");
    let first = Answer::Machine(Bytes::from_static(b"2"));
    assert_eq!(answers, [(Token(3), first), (Token(4), Answer::SessionGone { session: 9 })]);
    assert_eq!(applier.query(b"count"), Ok(Bytes::from_static(b"1")));
}

#[test]
fn a_panic_in_apply_stops_at_its_index_and_makes_nothing_of_the_batch_durable() {
    let (mut applier, durable) = fresh();
    applier.apply(vec![plain(1, b"fine")]).expect("applies");
    let error = applier.apply(vec![plain(2, b"lost with it"), plain(3, b"poison")]).expect_err("panics");
    assert!(
        matches!(&error, GroupError::Failed { message } if message.contains("index=3") && message.contains("digest")),
        "{error}"
    );
    assert_eq!(applier.apply(vec![plain(4, b"never")]), Err(error.clone()));
    assert_eq!(applier.query(b"count"), Err(ReadError::Stopped(error)));
    assert!(!applier.ready_to_lead());
    assert_eq!(durable.lock().expect("not poisoned").applied, 1);
}

#[test]
fn an_entry_of_a_newer_release_stops_at_its_index() {
    let (mut applier, _) = fresh();
    let newer = entry(1, Bytes::from_static(&[0x4a, 1, 1]));
    let error = applier.apply(vec![newer]).expect_err("not understood");
    assert!(matches!(error, GroupError::UnknownEntry { index: 1, .. }), "{error}");
}

#[test]
fn a_query_that_panics_is_refused_and_harms_nothing() {
    let (mut applier, _) = fresh();
    assert!(matches!(applier.query(b"panic"), Err(ReadError::Query { message }) if message.contains("asked to")));
    assert!(matches!(applier.query(b"nonsense"), Err(ReadError::Query { message }) if message.contains("what?")));
    applier.apply(vec![plain(1, b"fine")]).expect("applies");
}

fn chunks_of(stream: SnapshotStream) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    stream
        .write_to(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })
        .expect("writes");
    chunks
}

fn with_sessions() -> (Applier, u64) {
    let (mut applier, _) = fresh();
    let opens = (1..=40).map(|index| entry(index, Command::OpenSession.encode())).collect();
    applier.apply(opens).expect("opens");
    let mut index = 40;
    for sequence in 1..=400 {
        for session in 1..=40 {
            index += 1;
            applier.apply(vec![in_session(index, session, sequence, b"x")]).expect("applies");
        }
    }
    (applier, index)
}

#[test]
fn a_restored_snapshot_carries_the_sessions_and_their_answers() {
    let (mut applier, last) = with_sessions();
    let stream = applier.snapshot().expect("snapshot");
    assert_eq!(stream.applied(), last);
    let chunks = chunks_of(stream);
    let rows = applier.sessions.rows();
    assert!(encode_rows(&rows).len() > PIECE_BYTES_MAX, "more than one piece of rows");

    let (mut heir, durable) = fresh();
    let mut restoring = heir.restore().expect("begins");
    chunks.into_iter().try_for_each(|chunk| restoring.write(chunk)).expect("fits");
    restoring.finish(last).expect("complete");
    assert_eq!(heir.applied(), last);
    assert_eq!(heir.sessions.rows(), rows);
    assert_eq!(durable.lock().expect("not poisoned").rows.len(), rows.len());
    let first = applier.apply(vec![in_session(last + 1, 7, 3, b"x")]);
    assert_eq!(heir.apply(vec![in_session(last + 1, 7, 3, b"x")]), first, "a retry gets the first answer on the heir");
}

#[test]
fn a_damaged_cut_or_mislabelled_snapshot_leaves_the_old_state_in_force() {
    let (mut applier, last) = with_sessions();
    let chunks = chunks_of(applier.snapshot().expect("snapshot"));
    let (mut heir, _) = fresh();
    heir.apply(vec![plain(1, b"old")]).expect("applies");

    for place in 0..2 {
        let mut damaged = chunks.clone();
        let mut bytes = damaged[place].to_vec();
        bytes[3] ^= 1;
        damaged[place] = bytes.into();
        let mut restoring = heir.restore().expect("begins");
        let error = damaged.into_iter().try_for_each(|chunk| restoring.write(chunk)).expect_err("damaged");
        assert!(error.to_string().contains("crc"), "{error}");
    }
    let mut restoring = heir.restore().expect("begins");
    restoring.write(chunks[0].clone()).expect("fits");
    restoring.write(chunks[1].clone()).expect("fits");
    let error = restoring.finish(last).expect_err("incomplete");
    assert!(error.to_string().contains("ends before its rows"), "{error}");

    let mut restoring = heir.restore().expect("begins");
    chunks.into_iter().try_for_each(|chunk| restoring.write(chunk)).expect("fits");
    let error = restoring.finish(last + 1).expect_err("another index");
    assert!(error.to_string().contains("another index"), "{error}");
    assert_eq!((heir.applied(), heir.query(b"count")), (1, Ok(Bytes::from_static(b"1"))));
}

#[test]
fn an_oversized_or_empty_chunk_of_the_machine_is_refused() {
    struct Bad(usize);
    impl Snapshot for Bad {
        fn write_to(
            self: Box<Self>,
            chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>,
        ) -> Result<(), MachineError> {
            chunk(vec![0; self.0].into())
        }
    }
    for size in [0, CHUNK_BYTES_MAX + 1] {
        let stream = SnapshotStream { applied: 1, rows: Bytes::new(), machine: Box::new(Bad(size)) };
        let error = stream.write_to(&mut |_| Ok(())).expect_err("impossible size");
        assert!(error.to_string().contains(&format!("bytes={size}")), "{error}");
    }
}
