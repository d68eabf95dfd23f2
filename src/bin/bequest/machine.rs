//! The key-value machine of `bequest-storage`, as the state machine of a group.

use bequest::{MachineError, Recovered, Restore, RowChange, Snapshot, StateMachine};
use bequest_storage::{GroupUuid, KvMachine, KvOptions, KvRestore, KvSnapshot, StorageError, Store};
use bytes::Bytes;

/// Keys and values of one group, in the node's store.
#[derive(Debug)]
pub(crate) struct Keys {
    machine: KvMachine,
}

impl Keys {
    /// Opens the state of the group called `name`, empty if there is none yet.
    ///
    /// # Errors
    /// If it is damaged, or the disk fails.
    pub(crate) fn open(store: &Store, name: &str) -> Result<Self, StorageError> {
        // A node's directory belongs to one cluster, and a name in a cluster to one group for ever: the name is enough
        // to tell states apart, and known before ZooKeeper is asked for the group's own uuid.
        let mut id: GroupUuid = Default::default();
        let hash = blake3::derive_key("bequest 2026 key-value state of the group called", name.as_bytes());
        let length = id.len();
        id.copy_from_slice(&hash[..length]);
        Ok(Self { machine: KvMachine::open(store, id, KvOptions::default())? })
    }
}

impl StateMachine for Keys {
    fn recover(&mut self) -> Result<Recovered, MachineError> {
        let bequest_storage::Recovered { applied, rows } = self.machine.recover().map_err(failed)?;
        Ok(Recovered { applied, rows })
    }

    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes {
        self.machine.apply(index, command)
    }

    fn commit(&mut self, applied: u64, rows: &[RowChange]) -> Result<(), MachineError> {
        self.machine.commit(applied, rows).map_err(failed)
    }

    fn query(&self, query: &[u8]) -> Result<Bytes, MachineError> {
        self.machine.query(query).map_err(|error| MachineError::new(error.to_string()))
    }

    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError> {
        Ok(Box::new(View(self.machine.snapshot().map_err(failed)?)))
    }

    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError> {
        Ok(Box::new(Replacement(self.machine.restore().map_err(failed)?)))
    }
}

struct View(KvSnapshot);

impl Snapshot for View {
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        let mut sink = |bytes| chunk(bytes).map_err(Failure);
        self.0.write_to(&mut sink).map_err(|Failure(error)| error)
    }
}

struct Replacement<'a>(KvRestore<'a>);

impl Restore for Replacement<'_> {
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        self.0.write(&chunk).map_err(failed)
    }

    fn finish(self: Box<Self>, applied: u64, rows: &[(Bytes, Bytes)]) -> Result<(), MachineError> {
        self.0.finish(applied, rows).map_err(failed)
    }
}

/// A failure of either side, while a snapshot is written.
struct Failure(MachineError);

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self(failed(error))
    }
}

fn failed(error: StorageError) -> MachineError {
    MachineError::new(error.to_string())
}
