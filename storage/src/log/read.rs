//! Reading the log. Every entry that is passed is checked, whether its payload is wanted or not.

use bytes::Bytes;
use rocksdb::ReadOptions;

use crate::database::{Database, Rocks, LOG, META};
use crate::error::StorageError;
use crate::log::{entry_key, read_known, Cursor, EntryView, HardState, HardStateRecord, LocalLog};
use crate::log::{LogEntry, LogSlot};
use crate::record;
use crate::store::{read_meta, GroupKey, GroupUuid, Store};

impl Store {
    /// All that is stored of `group`'s log; `None` if the group was never written.
    ///
    /// The newest entries come with their payloads, up to `payload_bytes_max` bytes of them.
    ///
    /// # Errors
    /// [`StorageError::Damaged`]: a gap, or bytes that are not what was written. [`Store::condemn`] the store and open
    /// it again, or [`Store::forget`] the group; either way it is replayed from ZooKeeper.
    pub fn load(&self, group: GroupUuid, payload_bytes_max: u64) -> Result<Option<LocalLog>, StorageError> {
        // Held so that no write comes between the reads.
        let cursors = self.shared.cursors();
        let database = &self.shared.database;
        let Some(meta) = read_meta(database, &group)? else { return Ok(None) };
        let cursor = cursors.get(&group).copied().ok_or(StorageError::UnknownGroup { group })?;
        Ok(Some(LocalLog {
            meta,
            base: cursor.base,
            hard_state: read_hard_state(database, &group)?,
            known: read_known(database, &group)?,
            entries: read_slots(database, &group, cursor, payload_bytes_max)?,
        }))
    }

    /// The entries `low..high`, or as many of the first of them as fit in `bytes_max`; at least one.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] if not all of them are in the log. [`StorageError::Damaged`] as for
    /// [`Store::load`].
    pub fn entries(
        &self,
        group: GroupUuid,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let database = &self.shared.database;
        let cursors = self.shared.cursors();
        let cursor = cursors.get(&group).copied().ok_or(StorageError::UnknownGroup { group })?;
        if low <= cursor.base.index || high > cursor.last + 1 || low > high {
            let (first, last) = (cursor.base.index + 1, cursor.last);
            return Err(StorageError::Unavailable { group, low, high, first, last });
        }
        let family = database.family(LOG)?;
        let mut iterator = database.rocks()?.raw_iterator_cf_opt(&family, bounds(&group, low, high));
        iterator.seek_to_first();
        // The iterator sees the log as it is now, whatever is written from here on.
        drop(cursors);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let item = current(database, &iterator, &group, index)?;
            bytes += item.size();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let (data, context) = item.payload();
            entries.push(LogEntry { index, term: item.term, kind: item.kind, data, context, hash: item.hash });
            iterator.next();
        }
        Ok(entries)
    }
}

/// The index of the group's last entry behind `base`; `base` if there is none.
pub(super) fn last_index(database: &Database, group: &GroupUuid, base: u64) -> Result<u64, StorageError> {
    let family = database.family(LOG)?;
    let mut iterator = database.rocks()?.raw_iterator_cf_opt(&family, bounds(group, base + 1, u64::MAX));
    iterator.seek_to_last();
    iterator.status().map_err(|error| database.latch(error))?;
    match iterator.key() {
        None => Ok(base),
        Some(key) => match key.last_chunk() {
            Some(index) if key.len() == 24 => Ok(u64::from_be_bytes(*index)),
            _ => Err(record::damaged("log entry", "key has not 24 bytes", key)),
        },
    }
}

fn read_slots(
    database: &Database,
    group: &GroupUuid,
    cursor: Cursor,
    payload_bytes_max: u64,
) -> Result<Vec<LogSlot>, StorageError> {
    let family = database.family(LOG)?;
    let range = bounds(group, cursor.base.index + 1, cursor.last + 1);
    let mut iterator = database.rocks()?.raw_iterator_cf_opt(&family, range);
    let mut slots: Vec<LogSlot> = Vec::new();
    let mut budget = Some(payload_bytes_max);
    // From the newest on, so that the budget is spent without holding more than it.
    iterator.seek_to_last();
    for index in (cursor.base.index + 1..=cursor.last).rev() {
        let item = current(database, &iterator, group, index)?;
        if slots.last().is_some_and(|newer| newer.term < item.term) {
            return Err(record::damaged("log entry", "term above its successor's", &entry_key(group, index)));
        }
        // Once one payload was left out, all older ones are: what has payloads is a suffix.
        budget = budget.and_then(|left| left.checked_sub(item.size()));
        let payload: Option<(Bytes, Bytes)> = budget.map(|_| item.payload());
        let (term, kind, hash, size) = (item.term, item.kind, item.hash, item.size());
        slots.push(LogSlot { index, term, kind, hash, size, payload });
        iterator.prev();
    }
    slots.reverse();
    Ok(slots)
}

/// The entry the iterator stands on, which must be that at `index`.
fn current<'a>(
    database: &Database,
    iterator: &'a rocksdb::DBRawIteratorWithThreadMode<'_, Rocks>,
    group: &GroupUuid,
    index: u64,
) -> Result<EntryView<'a>, StorageError> {
    let key = entry_key(group, index);
    match iterator.item() {
        Some((found, value)) if found == key => EntryView::parse(&key, value),
        Some(_) => Err(record::damaged("log entry", "missing", &key)),
        None => {
            iterator.status().map_err(|error| database.latch(error))?;
            Err(record::damaged("log entry", "missing", &key))
        }
    }
}

/// Limits an iterator to the entries `low..high`: it must not walk over what was deleted around them.
fn bounds(group: &GroupUuid, low: u64, high: u64) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(entry_key(group, low));
    options.set_iterate_upper_bound(entry_key(group, high));
    options
}

fn read_hard_state(database: &Database, group: &GroupUuid) -> Result<HardState, StorageError> {
    let key = GroupKey::HardState.of(group);
    let Some(bytes) = database.get(META, &key)? else { return Ok(HardState::default()) };
    let record: HardStateRecord = record::open("hard state", &key, &bytes)?;
    Ok(HardState { term: record.term, commit: record.commit })
}
