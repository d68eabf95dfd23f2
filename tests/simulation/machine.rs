//! The state machine under test: lists of values by key, so that twice, lost and out of order all show.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bequest::{MachineError, Recovered, Restore, RowChange, Snapshot, StateMachine};
use bytes::Bytes;

/// Keys there are.
pub const KEYS: u64 = 7;

/// The state as of an index, with the library's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub applied: u64,
    pub lists: BTreeMap<u64, Vec<u64>>,
    pub rows: BTreeMap<Bytes, Bytes>,
}

/// What an applied command did: which value went to which list, at which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    pub index: u64,
    pub key: u64,
    pub value: u64,
}

/// What the machine's owner sees of it from outside.
#[derive(Debug, Default)]
pub struct Window {
    /// Effects since they were taken last.
    pub took: Vec<Took>,
    /// The durable state to be written, if a batch ended since it was taken last.
    pub committed: Option<State>,
    /// Whether the machine says that it is ready to lead.
    pub ready: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Lists {
    state: State,
    durable: bool,
    window: Arc<Mutex<Window>>,
}

/// A command: append `value` to the list of `key`, padded to some size.
pub fn command(key: u64, value: u64, padding: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(16 + padding);
    bytes.extend_from_slice(&key.to_le_bytes());
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.resize(16 + padding, value as u8);
    bytes.into()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// Reads a command.
pub fn key_and_value(command: &[u8]) -> Option<(u64, u64)> {
    Some((number(command, 0)?, number(command, 8)?))
}

/// Reads an answer of apply: the index at which the command took effect.
pub fn answered_index(answer: &[u8]) -> Option<u64> {
    number(answer, 0)
}

/// Reads an answer to a query: the values of one list.
pub fn listed(answer: &[u8]) -> Vec<u64> {
    answer.chunks_exact(8).filter_map(|chunk| number(chunk, 0)).collect()
}

impl Lists {
    /// A machine on what the disk holds; a volatile one begins with nothing.
    pub fn new(durable: bool, disk: &State) -> (Self, Arc<Mutex<Window>>) {
        let window = Arc::new(Mutex::new(Window { ready: true, ..Window::default() }));
        let state = if durable { disk.clone() } else { State::default() };
        (Self { state, durable, window: Arc::clone(&window) }, window)
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl StateMachine for Lists {
    fn recover(&mut self) -> Result<Recovered, MachineError> {
        let rows = self.state.rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Recovered { applied: self.state.applied, rows })
    }

    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes {
        let (key, value) = key_and_value(command).expect("clients send well-formed commands");
        self.state.lists.entry(key).or_default().push(value);
        self.window().took.push(Took { index, key, value });
        Bytes::copy_from_slice(&index.to_le_bytes())
    }

    fn commit(&mut self, applied: u64, rows: &[RowChange]) -> Result<(), MachineError> {
        self.state.applied = applied;
        for (key, value) in rows {
            match value {
                Some(value) => self.state.rows.insert(key.clone(), value.clone()),
                None => self.state.rows.remove(key),
            };
        }
        if self.durable {
            let state = self.state.clone();
            self.window().committed = Some(state);
        }
        Ok(())
    }

    fn query(&self, query: &[u8]) -> Result<Bytes, MachineError> {
        let key = number(query, 0).ok_or_else(|| MachineError::new("no key"))?;
        let list = self.state.lists.get(&key).map(Vec::as_slice).unwrap_or_default();
        Ok(list.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into())
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(View(self.state.lists.clone())))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(Incoming { machine: self, lists: BTreeMap::new() }))
    }

    fn ready_to_lead(&self) -> bool {
        self.window().ready
    }
}

struct View(BTreeMap<u64, Vec<u64>>);

// Values of one list in one chunk: small enough for many chunks, and an unchanged part of a list is an unchanged chunk.
const CHUNK_VALUES: usize = 16;

impl Snapshot for View {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        for (key, list) in self.0 {
            for (part, values) in list.chunks(CHUNK_VALUES).enumerate() {
                let head = [key, (part * CHUNK_VALUES) as u64];
                let bytes: Vec<u8> = head.iter().chain(values).flat_map(|number| number.to_le_bytes()).collect();
                chunk(bytes.into())?;
            }
        }
        Ok(())
    }
}

struct Incoming<'a> {
    machine: &'a mut Lists,
    lists: BTreeMap<u64, Vec<u64>>,
}

impl Restore for Incoming<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        let (Some(key), Some(from)) = (number(&chunk, 0), number(&chunk, 8)) else {
            return Err(MachineError::new("chunk cut short"));
        };
        let list = self.lists.entry(key).or_default();
        if list.len() as u64 != from {
            return Err(MachineError::new(format!("chunk out of order: from={from} length={}", list.len())));
        }
        list.extend(listed(&chunk[16..]));
        Ok(())
    }

    fn finish(self: Box<Self>, applied: u64, rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        let machine = self.machine;
        machine.state = State { applied, lists: self.lists, rows: rows.iter().cloned().collect() };
        if machine.durable {
            let state = machine.state.clone();
            machine.window().committed = Some(state);
        }
        Ok(())
    }
}
