//! Where key-value states lie: all in one column family, each under its group and generation.
//!
//! A column family for each would need no prefix. But RocksDB writes the options of all families anew whenever one is made or
//! dropped, so that a thousand groups would take a million such pieces to start, and each keeps buffers of its own.

use rocksdb::WriteBatch;

use crate::database::{Database, STATE};
use crate::error::StorageError;
use crate::record;
use crate::store::GroupUuid;

const BYTES: usize = 24;

/// The keys of one generation of a group's state: the group's uuid, the generation, and then what the state machine
/// puts there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Space {
    pub(crate) group: GroupUuid,
    /// From 1, and not the greatest number.
    pub(crate) generation: u64,
}

impl Space {
    /// `None` if there can be no such generation.
    pub(crate) fn new(group: GroupUuid, generation: u64) -> Option<Self> {
        (1..u64::MAX).contains(&generation).then_some(Self { group, generation })
    }

    /// The generation behind this one.
    pub(crate) fn next(self) -> Self {
        Self { generation: self.generation + 1, ..self }
    }

    fn prefix(self) -> [u8; BYTES] {
        let mut prefix = [0; BYTES];
        prefix[..16].copy_from_slice(&self.group);
        prefix[16..].copy_from_slice(&self.generation.to_be_bytes());
        prefix
    }

    /// The key of this kind and name.
    pub(crate) fn key(self, kind: u8, name: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(BYTES + 1 + name.len());
        self.set_key(&mut key, kind, name);
        key
    }

    /// As [`Space::key`], in place of what `key` held.
    pub(crate) fn set_key(self, key: &mut Vec<u8>, kind: u8, name: &[u8]) {
        key.clear();
        key.extend_from_slice(&self.prefix());
        key.push(kind);
        key.extend_from_slice(name);
    }

    /// The name in a key that [`Space::key`] made.
    pub(crate) fn name(key: &[u8]) -> &[u8] {
        &key[BYTES + 1..]
    }

    /// The spaces in which anything lies, in the order of their keys.
    pub(crate) fn all(database: &Database) -> Result<Vec<Self>, StorageError> {
        let family = database.family(STATE)?;
        let mut iterator = database.rocks()?.raw_iterator_cf(&family);
        let mut found = Vec::new();
        iterator.seek_to_first();
        while let Some(key) = iterator.key() {
            let split = key.split_first_chunk().and_then(|(group, rest)| Some((*group, *rest.split_first_chunk()?.0)));
            let space = split.and_then(|(group, generation)| Self::new(group, u64::from_be_bytes(generation)));
            let Some(space) = space else {
                return Err(record::damaged("state", "unknown key", key));
            };
            found.push(space);
            iterator.seek(space.next().prefix());
        }
        iterator.status().map_err(|error| database.latch(error))?;
        Ok(found)
    }

    /// Deletes everything here, and gives back at once what files hold nothing else; an iterator that is open keeps them.
    /// No live generation may be here.
    ///
    /// A crash before the end leaves some of it, which is of no live generation: the next open deletes it.
    pub(crate) fn remove(self, database: &Database) -> Result<(), StorageError> {
        let family = database.family(STATE)?;
        let (low, high) = (self.prefix(), self.next().prefix());
        let freed = database.rocks()?.delete_file_in_range_cf(&family, low, high);
        freed.map_err(|error| database.latch(error))?;
        // Last: in a file that went may have been the deletion of what is in another that stayed.
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(&family, low, high);
        database.write(batch, false)
    }
}
