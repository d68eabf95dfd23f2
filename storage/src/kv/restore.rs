//! Replacing the state by that of a snapshot: a new generation is filled beside the live one, then takes its place in
//! one write.

use bytes::Bytes;
use rocksdb::WriteBatch;

use crate::database::STATE;
use crate::error::StorageError;
use crate::kv::chunk::Reader;
use crate::kv::{put_mark, KvMachine, Mark, PAIR, ROW};
use crate::space::Space;
use crate::store::put_generation;

/// A state on its way in. Dropping it leaves the old one in force; if the process dies, the next open of the store
/// removes what was written.
pub struct KvRestore<'a> {
    machine: &'a mut KvMachine,
    space: Space,
    reader: Reader,
    finished: bool,
}

impl<'a> KvRestore<'a> {
    pub(super) fn begin(machine: &'a mut KvMachine) -> Result<Self, StorageError> {
        machine.database().rocks()?;
        // Not the generation of a restore that was given up: what was written for that is deleted, and is gone only when
        // RocksDB gets to it.
        machine.newest += 1;
        let space = Space { generation: machine.newest, ..machine.space };
        Ok(Self { machine, space, reader: Reader::default(), finished: false })
    }

    /// Takes the next chunk, exactly as [`KvSnapshot::write_to`](crate::KvSnapshot::write_to) gave it.
    ///
    /// # Errors
    /// [`StorageError::ChunkDamaged`]: give this restore up. Any other: the disk failed.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        let database = self.machine.database();
        let family = database.family(STATE)?;
        let (mut batch, space) = (WriteBatch::default(), self.space);
        self.reader.read(chunk, &mut |key, value| batch.put_cf(&family, space.key(PAIR, key), value))?;
        // Nothing refers to this generation before it was flushed whole: RocksDB's log would only double the work.
        database.write_unlogged(batch)
    }

    /// Puts the new state in force, durably, at index `applied` and with exactly these rows.
    ///
    /// # Errors
    /// [`StorageError::ChunkDamaged`] if chunks are missing: the old state stays in force. If the disk failed, one of
    /// the two is in force, whole, when the store is opened again.
    pub fn finish(mut self, applied: u64, rows: &[(Bytes, Bytes)]) -> Result<(), StorageError> {
        let mark = Mark { applied, state_bytes: self.reader.finish()? };
        self.fill(mark, rows)?;
        let database = self.machine.database();
        let mut batch = WriteBatch::default();
        put_generation(database, &mut batch, self.space)?;
        // From here on it is not known which one is in force, should the write fail: neither may be removed.
        self.finished = true;
        let switched = self.machine.database().write(batch, true);
        if let Err(error) = switched {
            self.machine.failed = Some(StorageError::Poisoned { cause: error.to_string() });
            return Err(error);
        }
        let machine = &mut *self.machine;
        let old = std::mem::replace(&mut machine.space, self.space);
        (machine.mark, machine.state_bytes) = (mark, mark.state_bytes);
        machine.lengths.clear();
        machine.failed = None;
        if let Err(error) = old.remove(machine.database()) {
            // The new state is in force all the same; the next open of the store removes the old one.
            tracing::warn!(%error, generation = old.generation, "cannot remove a replaced state");
        }
        Ok(())
    }

    fn fill(&self, mark: Mark, rows: &[(Bytes, Bytes)]) -> Result<(), StorageError> {
        let database = self.machine.database();
        let family = database.family(STATE)?;
        let mut batch = WriteBatch::default();
        for (key, value) in rows {
            batch.put_cf(&family, self.space.key(ROW, key), value);
        }
        put_mark(database, &mut batch, self.space, mark)?;
        database.write_unlogged(batch)?;
        database.flush(&family)
    }
}

impl Drop for KvRestore<'_> {
    fn drop(&mut self) {
        if !self.finished {
            if let Err(error) = self.space.remove(self.machine.database()) {
                tracing::debug!(%error, "cannot remove an abandoned restore");
            }
        }
    }
}

impl std::fmt::Debug for KvRestore<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KvRestore").field("generation", &self.space.generation).finish_non_exhaustive()
    }
}
