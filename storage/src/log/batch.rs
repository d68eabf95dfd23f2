//! Writing the log: many groups' changes checked against what is there, then written as one.

use std::collections::HashMap;

use rocksdb::WriteBatch;

use crate::database::{Database, LOG, META, STATE};
use crate::error::StorageError;
use crate::log::{entry_key, entry_value, get_entry, put_position, Base, Cursor};
use crate::log::{HardStateRecord, Known, KnownRecord, LogBatch};
use crate::record;
use crate::store::{put_meta, GroupKey, GroupUuid, Store};

/// Bound on one entry's data and context, each. Far above what fits in ZooKeeper; it only keeps lengths in 32 bits.
const ENTRY_BYTES_MAX: usize = 1 << 30;

/// Bound on a base's index, so that the indexes behind it can be counted.
const INDEX_MAX: u64 = u64::MAX / 2;

/// Fewer entries than this are deleted one by one: each deleted range costs every later read a look.
const DELETED_SINGLY_MAX: u64 = 256;

impl Store {
    /// Writes all of `batches`, in order, or nothing. On return it survives the death of the process; with `sync`, or after
    /// [`Store::sync`], also that of the machine.
    ///
    /// # Errors
    /// [`StorageError::Gap`], [`StorageError::InvalidBatch`], [`StorageError::UnknownGroup`]: nothing was written and
    /// the store is well. Any other error stops the store.
    pub fn write(&self, batches: &[LogBatch], sync: bool) -> Result<(), StorageError> {
        let mut cursors = self.shared.cursors();
        let database = &self.shared.database;
        let mut changed: HashMap<GroupUuid, Cursor> = HashMap::new();
        let mut rows = WriteBatch::default();
        for (place, batch) in batches.iter().enumerate() {
            let before = changed.get(&batch.group).or_else(|| cursors.get(&batch.group)).copied();
            let after = add(database, &mut rows, before, batch, &batches[..place])?;
            changed.insert(batch.group, after);
        }
        if rows.is_empty() && !sync {
            return database.rocks().map(|_| ());
        }
        database.write(rows, sync)?;
        let shorter = changed
            .iter()
            .any(|(group, after)| cursors.get(group).is_some_and(|before| before.base.index < after.base.index));
        cursors.extend(changed);
        drop(cursors);
        if shorter {
            // States are written past RocksDB's log, and the next compaction may delete the entries of what is applied by
            // now. Not all is flushed in time for certain: a state that is found behind its log is restored.
            database.begin_flush(&database.family(STATE)?)?;
        }
        Ok(())
    }
}

/// Adds the changes of `batch`, which comes behind `earlier` in the same write, to `rows`; returns where the log then
/// begins and ends.
fn add(
    database: &Database,
    rows: &mut WriteBatch,
    before: Option<Cursor>,
    batch: &LogBatch,
    earlier: &[LogBatch],
) -> Result<Cursor, StorageError> {
    let group = &batch.group;
    if let Some(meta) = &batch.meta {
        if meta.uuid != *group {
            return Err(invalid(batch, 0, "its meta is another group's"));
        }
        put_meta(database, rows, meta)?;
    }
    let new = batch.meta.is_some().then(|| Cursor { base: Base::default(), last: 0 });
    let mut cursor = before.or(new).ok_or(StorageError::UnknownGroup { group: *group })?;
    if let Some(base) = batch.reset {
        if base.index > INDEX_MAX {
            return Err(invalid(batch, base.index, "base is out of range"));
        }
        delete_all(database, rows, group)?;
        put_position(database, rows, GroupKey::Base.of(group), (base.index, base.term, base.hash))?;
        cursor = Cursor { base, last: base.index };
    }
    truncate(database, rows, &mut cursor, batch)?;
    append(database, rows, &mut cursor, batch)?;
    let meta = database.family(META)?;
    if let Some(hard_state) = batch.hard_state {
        let key = GroupKey::HardState.of(group);
        let record = HardStateRecord { term: hard_state.term, commit: hard_state.commit };
        let value = record::seal(&key, &record);
        rows.put_cf(&meta, key, value);
    }
    compact(database, rows, &mut cursor, batch, earlier)?;
    if let Some(known) = batch.known {
        let key = GroupKey::Known.of(group);
        let Known { term, index, entry_term, hash } = known;
        let value = record::seal(&key, &KnownRecord { term, index, hash: hash.to_vec(), entry_term });
        rows.put_cf(&meta, key, value);
    }
    Ok(cursor)
}

fn truncate(
    database: &Database,
    rows: &mut WriteBatch,
    cursor: &mut Cursor,
    batch: &LogBatch,
) -> Result<(), StorageError> {
    let Some(from) = batch.truncate_from else { return Ok(()) };
    if from <= cursor.base.index {
        return Err(invalid(batch, from, "truncation at or below the base"));
    }
    if from <= cursor.last {
        delete(database, rows, &batch.group, from, cursor.last)?;
        cursor.last = from - 1;
    }
    Ok(())
}

fn append(
    database: &Database,
    rows: &mut WriteBatch,
    cursor: &mut Cursor,
    batch: &LogBatch,
) -> Result<(), StorageError> {
    let family = database.family(LOG)?;
    for entry in &batch.entries {
        let expected = cursor.last + 1;
        if entry.index != expected {
            return Err(StorageError::Gap { group: batch.group, expected, found: entry.index });
        }
        if entry.data.len().max(entry.context.len()) > ENTRY_BYTES_MAX {
            return Err(invalid(batch, entry.index, "entry is larger than 1 GiB"));
        }
        let key = entry_key(&batch.group, entry.index);
        rows.put_cf(&family, key, entry_value(&key, entry));
        cursor.last = entry.index;
    }
    Ok(())
}

fn compact(
    database: &Database,
    rows: &mut WriteBatch,
    cursor: &mut Cursor,
    batch: &LogBatch,
    earlier: &[LogBatch],
) -> Result<(), StorageError> {
    let Some(to) = batch.compact_to else { return Ok(()) };
    if to.index <= cursor.base.index {
        return Ok(());
    }
    if to.index > cursor.last {
        return Err(invalid(batch, to.index, "compaction behind the last entry"));
    }
    // What this write brings is not in the database yet, and replaces what is; the latest counts.
    let same_group = earlier.iter().filter(|other| other.group == batch.group).chain([batch]);
    let written = same_group.rev().flat_map(|batch| &batch.entries).find(|entry| entry.index == to.index);
    let found = match written {
        Some(entry) => Some((entry.term, entry.hash)),
        None => get_entry(database, &batch.group, to.index)?,
    };
    // Past a wrong position the log would go on from a state it was not made for.
    if found != Some((to.term, to.hash)) {
        return Err(invalid(batch, to.index, "compaction to another entry than the one in the log"));
    }
    delete(database, rows, &batch.group, cursor.base.index + 1, to.index)?;
    put_position(database, rows, GroupKey::Base.of(&batch.group), (to.index, to.term, to.hash))?;
    cursor.base = to;
    Ok(())
}

/// Deletes the entries `first..=last`.
fn delete(
    database: &Database,
    rows: &mut WriteBatch,
    group: &GroupUuid,
    first: u64,
    last: u64,
) -> Result<(), StorageError> {
    let family = database.family(LOG)?;
    if last - first < DELETED_SINGLY_MAX {
        for index in first..=last {
            rows.delete_cf(&family, entry_key(group, index));
        }
    } else {
        rows.delete_range_cf(&family, entry_key(group, first), entry_key(group, last + 1));
    }
    Ok(())
}

/// Deletes all entries of the group.
pub(crate) fn delete_all(database: &Database, rows: &mut WriteBatch, group: &GroupUuid) -> Result<(), StorageError> {
    let family = database.family(LOG)?;
    rows.delete_range_cf(&family, entry_key(group, 0), entry_key(group, u64::MAX));
    Ok(())
}

fn invalid(batch: &LogBatch, index: u64, reason: &'static str) -> StorageError {
    StorageError::InvalidBatch { group: batch.group, index, reason }
}
