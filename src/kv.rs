//! The key-value machine of `bequest-storage` as a state machine of this library.

use bequest_recovery::record::{Genesis, Uuid};
use bequest_storage::{KvError, KvMachine, KvOptions, KvRestore, KvSnapshot, StorageError, Store};
use bytes::Bytes;

use crate::error::GroupError;
use crate::machine::{MachineError, Recovered, Restore, RowChange, Snapshot, StateMachine};

/// A replicated key-value store on the node's own RocksDB: put, get, delete, compare-and-set, prefix scan.
///
/// Commands and queries are made, and answers read, by the functions of [`bequest_storage`], re-exported as
/// [`kv_command`](bequest_storage::kv_command) and its siblings. The limit on its size is the group's, from its genesis.
pub(crate) struct KeyValue {
    machine: KvMachine,
    store: Store,
}

impl KeyValue {
    /// Opens the state of a group; a damaged one is removed together with the group's log, and `rebuilt` is set: both
    /// come back from ZooKeeper.
    pub(crate) fn open(store: &Store, uuid: Uuid, genesis: &Genesis, rebuilt: &mut bool) -> Result<Self, GroupError> {
        let state_bytes_max = genesis.limits.as_ref().map_or(u64::MAX, |limits| limits.state_bytes);
        let options = KvOptions { state_bytes_max };
        let open = || {
            let machine = KvMachine::open(store, uuid.0, options)?;
            // Reads the rows too, so that damage in them is met here.
            machine.recover().map(|_| machine)
        };
        let machine = match open() {
            Err(error @ StorageError::Damaged { .. }) => {
                tracing::error!(group = %uuid, %error, "local key-value state is damaged; rebuilding from zookeeper");
                *rebuilt = true;
                store.forget(uuid.0).and_then(|()| open())
            }
            opened => opened,
        };
        let machine = machine.map_err(|error| GroupError::Failed { message: error.to_string() })?;
        Ok(Self { machine, store: store.clone() })
    }

    /// Damage found while running: the store is given up, and moved aside when the node is opened again.
    fn lift(store: &Store, error: &StorageError) -> MachineError {
        if matches!(error, StorageError::Damaged { .. }) {
            store.condemn(&error.to_string());
        }
        MachineError::new(error.to_string())
    }
}

impl StateMachine for KeyValue {
    fn recover(&mut self) -> Result<Recovered, MachineError> {
        let recovered = self.machine.recover().map_err(|error| Self::lift(&self.store, &error))?;
        Ok(Recovered { applied: recovered.applied, rows: recovered.rows })
    }

    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes {
        self.machine.apply(index, command)
    }

    fn commit(&mut self, applied: u64, rows: &[RowChange]) -> Result<(), MachineError> {
        self.machine.commit(applied, rows).map_err(|error| Self::lift(&self.store, &error))
    }

    fn query(&self, query: &[u8]) -> Result<Bytes, MachineError> {
        self.machine.query(query).map_err(|error| match error {
            KvError::Storage(error) => MachineError::unreadable(Self::lift(&self.store, &error).to_string()),
            error => MachineError::new(error.to_string()),
        })
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        let snapshot = self.machine.snapshot().map_err(|error| Self::lift(&self.store, &error))?;
        Ok(Box::new(KeyValueSnapshot { snapshot, store: self.store.clone() }))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        let Self { machine, store } = self;
        let restore = machine.restore().map_err(|error| Self::lift(store, &error))?;
        Ok(Box::new(KeyValueRestore { restore, store }))
    }
}

struct KeyValueSnapshot {
    snapshot: KvSnapshot,
    store: Store,
}

// What ends the writing of a snapshot: our own side, or where it goes.
enum Ended {
    Storage(StorageError),
    Sink(MachineError),
}

impl From<StorageError> for Ended {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl Snapshot for KeyValueSnapshot {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        let Self { snapshot, store } = *self;
        let written = snapshot.write_to(&mut |bytes| chunk(bytes).map_err(Ended::Sink));
        written.map_err(|ended| match ended {
            Ended::Storage(error) => KeyValue::lift(&store, &error),
            Ended::Sink(error) => error,
        })
    }
}

struct KeyValueRestore<'a> {
    restore: KvRestore<'a>,
    store: &'a Store,
}

impl Restore for KeyValueRestore<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        self.restore.write(&chunk).map_err(|error| KeyValue::lift(self.store, &error))
    }

    fn finish(self: Box<Self>, applied: u64, rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        let Self { restore, store } = *self;
        restore.finish(applied, rows).map_err(|error| KeyValue::lift(store, &error))
    }
}

#[cfg(test)]
mod tests {
    use bequest_storage::{KvQuery, Options};
    use prost::Message;

    use super::*;
    use crate::apply::Applier;
    use crate::error::ReadError;

    fn applier() -> (tempfile::TempDir, Store, Applier) {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = Store::open(dir.path(), Options::default()).expect("it opens");
        let machine = KvMachine::open(&store, [7; 16], KvOptions { state_bytes_max: 1 << 20 }).expect("it opens");
        let machine = KeyValue { machine, store: store.clone() };
        let applier = Applier::recover(Box::new(machine)).expect("it is new");
        (dir, store, applier)
    }

    #[test]
    fn what_the_disk_cannot_read_is_not_told_as_the_question_s_fault() {
        let (_dir, store, applier) = applier();
        let question = KvQuery::get(Bytes::from_static(b"key")).encode_to_vec();
        assert!(applier.query(&question).is_ok());
        store.condemn("a sync failed");
        let answer = applier.query(&question);
        assert!(
            matches!(&answer, Err(ReadError::Unreadable { message }) if message.contains("a sync failed")),
            "{answer:?}"
        );
        let answer = applier.query(b"nonsense");
        assert!(matches!(&answer, Err(ReadError::Query { message }) if message.contains("malformed")), "{answer:?}");
    }
}
