//! What lies in entries and snapshots: commands, client session rows, and the stream that restores a state.

use bequest::apply::Applier;
use bequest::command::{Command, SessionRequest};
use bequest::replica::event::Apply;
use bequest::sessions::{Admission, SessionTable};
use bequest::{MachineError, Restore, Snapshot, StateMachine};
use bequest_recovery::entry::Entry;
use bytes::{BufMut, Bytes, BytesMut};

use crate::source::{put_long, with_crc, Source};

/// An entry's data.
pub fn commands(data: &[u8]) -> bool {
    let Ok(command) = Command::decode(&Bytes::copy_from_slice(data)) else { return false };
    assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command), "a command changes when it is carried on");
    true
}

/// Rows of a durable machine, and then a life with the table they make.
pub fn rows(data: &[u8]) -> bool {
    let mut source = Source::new(data);
    let applied = source.number();
    let count = source.pick(32);
    let rows: Vec<_> = (0..count).map(|_| (source.bytes(), source.bytes())).collect();
    let Ok(mut table) = SessionTable::from_rows(&rows, applied) else { return false };
    let again = SessionTable::from_rows(&table.rows(), applied).expect("a table's own rows");
    assert_eq!(again, table);
    let mut index = applied;
    while !source.is_empty() {
        let Some(next) = index.checked_add(1) else { break };
        index = next;
        if source.pick(4) == 0 {
            table.open(index);
            continue;
        }
        let (session, sequence, lowest_open) = (source.number(), source.number(), source.number());
        // Only what decodes reaches the table.
        let request = SessionRequest { session, sequence, lowest_open };
        let Ok(Command::InSession(request, _)) = Command::decode(&Command::InSession(request, Bytes::new()).encode())
        else {
            continue;
        };
        if table.admit(index, request) == Admission::Apply {
            table.record(request, source.bytes());
            let again = table.admit(index, request);
            assert!(!matches!(again, Admission::Apply), "applied twice: {request:?}");
        }
    }
    true
}

/// A machine that keeps the chunks it was restored from.
#[derive(Default)]
struct Chunks(Vec<Bytes>);

impl StateMachine for Chunks {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Bytes {
        Bytes::copy_from_slice(command)
    }

    fn query(&self, _query: &[u8]) -> Result<Bytes, MachineError> {
        Ok(Bytes::from(self.0.concat()))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(Self(self.0.clone())))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(Restored { chunks: Vec::new(), into: self }))
    }
}

impl Snapshot for Chunks {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        self.0.into_iter().try_for_each(chunk)
    }
}

struct Restored<'a> {
    chunks: Vec<Bytes>,
    into: &'a mut Chunks,
}

impl Restore for Restored<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        self.chunks.push(chunk);
        Ok(())
    }

    fn finish(self: Box<Self>, _applied: u64, _rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        self.into.0 = self.chunks;
        Ok(())
    }
}

fn entry(index: u64, data: Bytes) -> Apply {
    Apply { entry: Entry { index, term: 1, kind: 0, data, context: Bytes::new() }, token: None }
}

/// The chunks of a snapshot's stream, and then a life with the state they make.
pub fn snapshots(data: &[u8]) -> bool {
    let mut source = Source::new(data);
    let applied = source.number();
    let mut applier = Applier::recover(Box::new(Chunks::default())).expect("an empty machine");
    let mut restoring = applier.restore().expect("begins");
    for _ in 0..source.pick(8) {
        let sealed = source.pick(8) > 0;
        let body = source.long_bytes();
        let chunk = if sealed { with_crc(&body) } else { body };
        if restoring.write(chunk).is_err() {
            break;
        }
    }
    if restoring.finish(applied).is_err() {
        assert_eq!(applier.applied(), 0, "a restore that failed moved the state");
        return false;
    }
    assert_eq!(applier.applied(), applied);
    // A view of what was restored is a snapshot again.
    let mut chunks = Vec::new();
    let view = applier.snapshot().expect("a view");
    let written = view.write_to(&mut |chunk| {
        chunks.push(chunk);
        Ok(())
    });
    if written.is_ok() {
        let mut copy = Applier::recover(Box::new(Chunks::default())).expect("an empty machine");
        let mut restoring = copy.restore().expect("begins");
        chunks.into_iter().for_each(|chunk| restoring.write(chunk).expect("own chunk"));
        restoring.finish(applied).expect("own snapshot");
    }
    let mut index = applied;
    while !source.is_empty() {
        let Some(next) = index.checked_add(1) else { break };
        index = next;
        let data = match source.pick(3) {
            0 => Command::OpenSession.encode(),
            1 => {
                let request = SessionRequest {
                    session: source.number(),
                    sequence: source.number(),
                    lowest_open: source.number(),
                };
                Command::InSession(request, source.bytes()).encode()
            }
            _ => source.bytes(),
        };
        if applier.apply(vec![entry(index, data)]).is_err() {
            break;
        }
    }
    true
}

/// Each command once, and what is none.
pub fn command_seeds() -> Vec<Vec<u8>> {
    let request = SessionRequest { session: 3, sequence: 2, lowest_open: 1 };
    let commands = [
        Command::Plain(Bytes::from_static(b"put x=1")),
        Command::OpenSession,
        Command::InSession(request, Bytes::from_static(b"put y=2")),
        Command::InSession(SessionRequest { lowest_open: 9, ..request }, Bytes::new()),
        Command::Internal,
    ];
    let newer = vec![0x4a, 3, 1, 2, 3];
    commands.iter().map(|command| command.encode().to_vec()).chain([newer]).collect()
}

fn table() -> SessionTable {
    let mut table = SessionTable::default();
    table.open(1);
    table.open(2);
    for (index, sequence) in [(3, 1), (4, 2)] {
        let request = SessionRequest { session: 1, sequence, lowest_open: 1 };
        assert_eq!(table.admit(index, request), Admission::Apply);
        table.record(request, Bytes::from_static(b"answer"));
    }
    table
}

/// A table's own rows with more to do, and rows that cannot be.
pub fn row_seeds() -> Vec<Vec<u8>> {
    let seed = |applied: u8, rows: &[(Bytes, Bytes)], then: &[u8]| {
        let mut seed = vec![applied, rows.len() as u8];
        for (key, value) in rows {
            for bytes in [key, value] {
                seed.push(bytes.len() as u8);
                seed.extend_from_slice(bytes);
            }
        }
        seed.extend_from_slice(then);
        seed
    };
    let rows = table().rows();
    // A session of an entry that was never applied, and an answer of the last number there is.
    let session = |id: u64, used: u64| {
        let key = [b"s", &id.to_be_bytes()[..]].concat();
        (Bytes::from(key), Bytes::from([1u64.to_be_bytes(), used.to_be_bytes()].concat()))
    };
    let answer = (Bytes::from([b"a", &[0, 0, 0, 0, 0, 0, 0, 1][..], &[0xff; 8]].concat()), Bytes::new());
    vec![
        seed(4, &rows, &[0, 1, 1, 3, 1, 3, b'a', b'b', b'c', 1, 1, 1, 1]),
        seed(0, &[], &[0, 0, 1, 1, 1, 1, 0]),
        seed(4, &[session(5, 4)], &[0]),
        seed(4, &[session(1, 5)], &[0, 0]),
        seed(4, &[session(1, 4), answer], &[1, 1, 9, 1, 200]),
    ]
}

/// A real stream, and streams that end early.
pub fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut rows = BytesMut::new();
    for (key, value) in table().rows() {
        rows.put_u32_le(key.len() as u32);
        rows.put_u32_le(value.len() as u32);
        rows.put_slice(&key);
        rows.put_slice(&value);
    }
    let header =
        |applied: u64, length: u64| [b"bequest\x01", &applied.to_le_bytes()[..], &length.to_le_bytes()[..]].concat();
    let seed = |applied: u8, chunks: &[&[u8]], then: &[u8]| {
        let mut seed = vec![applied, chunks.len() as u8];
        for chunk in chunks {
            seed.push(1);
            put_long(&mut seed, chunk);
        }
        seed.extend_from_slice(then);
        seed
    };
    let whole = header(4, rows.len() as u64);
    vec![
        seed(4, &[&whole, &rows, b"state"], &[0, 1, 1, 3, 1, 2, b'a', b'b', 2, 1, 9]),
        seed(4, &[&whole, &rows[..20], &rows[20..]], &[]),
        seed(4, &[&whole, &rows[..20]], &[]),
        seed(9, &[&header(9, 0)], &[0, 0]),
        seed(1, &[&header(1, rows.len() as u64), &rows], &[0, 0]),
    ]
}
