//! The state machine under test: lists of values by key, so that twice, lost and out of order all show, and accounts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bequest::{MachineError, Recovered, Restore, RowChange, Snapshot, StateMachine};
use bytes::Bytes;

use crate::ledger::{between, Accounts, ACCOUNTS};

/// Keys of lists there are.
pub const KEYS: u64 = 7;

// Where a key is expected: all lists and accounts at once.
const EVERYTHING: u64 = u64::MAX;

/// The state as of an index, with the library's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub applied: u64,
    pub lists: BTreeMap<u64, Vec<u64>>,
    pub accounts: Accounts,
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

/// A command: append `value` to the list of `key`, or move it if the key is a transfer's; padded to some size.
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

/// The query that is answered with everything.
pub fn scan() -> [u8; 8] {
    EVERYTHING.to_le_bytes()
}

/// Reads the answer to it: the accounts, and each list by its key.
pub fn scanned(answer: &[u8]) -> (Accounts, Vec<Vec<u64>>) {
    let mut numbers = listed(answer).into_iter();
    let accounts = std::array::from_fn(|_| numbers.next().expect("every account is told") as i64);
    let mut lists = Vec::new();
    while let Some(length) = numbers.next() {
        lists.push(numbers.by_ref().take(length as usize).collect());
    }
    (Accounts(accounts), lists)
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
        match between(key) {
            Some(between) => {
                self.state.accounts.transfer(between, value);
            }
            None => self.state.lists.entry(key).or_default().push(value),
        }
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
        let list = |key: u64| self.state.lists.get(&key).map(Vec::as_slice).unwrap_or_default();
        let mut numbers = Vec::new();
        if key == EVERYTHING {
            numbers.extend(self.state.accounts.0.map(|change| change as u64));
            for key in 0..KEYS {
                numbers.push(list(key).len() as u64);
                numbers.extend(list(key));
            }
        } else {
            numbers.extend(list(key));
        }
        Ok(bytes_of(&numbers))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(View(self.state.lists.clone(), self.state.accounts)))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(Incoming { machine: self, lists: BTreeMap::new(), accounts: Accounts::default() }))
    }

    fn ready_to_lead(&self) -> bool {
        self.window().ready
    }
}

fn bytes_of(numbers: &[u64]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().into()
}

struct View(BTreeMap<u64, Vec<u64>>, Accounts);

// Values of one list in one chunk: small enough for many chunks, and an unchanged part of a list is an unchanged chunk.
const CHUNK_VALUES: usize = 16;

impl Snapshot for View {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        for (key, list) in self.0 {
            for (part, values) in list.chunks(CHUNK_VALUES).enumerate() {
                let head = [key, (part * CHUNK_VALUES) as u64];
                chunk(bytes_of(&[&head, values].concat()))?;
            }
        }
        if self.1.untouched() {
            return Ok(());
        }
        chunk(bytes_of(&[&[EVERYTHING, 0], &self.1 .0.map(|change| change as u64)[..]].concat()))
    }
}

struct Incoming<'a> {
    machine: &'a mut Lists,
    lists: BTreeMap<u64, Vec<u64>>,
    accounts: Accounts,
}

impl Restore for Incoming<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        let (Some(key), Some(from)) = (number(&chunk, 0), number(&chunk, 8)) else {
            return Err(MachineError::new("chunk cut short"));
        };
        if key == EVERYTHING {
            let changes: Result<[u64; ACCOUNTS], _> = listed(&chunk[16..]).try_into();
            let changes = changes.map_err(|_| MachineError::new("not all accounts"))?;
            self.accounts = Accounts(changes.map(|change| change as i64));
            return Ok(());
        }
        let list = self.lists.entry(key).or_default();
        if list.len() as u64 != from {
            return Err(MachineError::new(format!("chunk out of order: from={from} length={}", list.len())));
        }
        list.extend(listed(&chunk[16..]));
        Ok(())
    }

    fn finish(self: Box<Self>, applied: u64, rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        let machine = self.machine;
        let rows = rows.iter().cloned().collect();
        machine.state = State { applied, lists: self.lists, accounts: self.accounts, rows };
        if machine.durable {
            let state = machine.state.clone();
            machine.window().committed = Some(state);
        }
        Ok(())
    }
}
