//! RocksDB behind a latch: the first failure that leaves the disk in doubt ends this handle.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rocksdb::{properties, BoundColumnFamily, DBWithThreadMode, ErrorKind, MultiThreaded};
use rocksdb::{FlushOptions, WriteBatch, WriteOptions};

use crate::directory::Directory;
use crate::error::StorageError;
use crate::options::{Family, Tuning};

pub(crate) type Rocks = DBWithThreadMode<MultiThreaded>;

pub(crate) const META: &str = "meta";
pub(crate) const LOG: &str = "log";
pub(crate) const STATE: &str = "state";

const FAMILIES: [(&str, Family); 3] = [(META, Family::Meta), (LOG, Family::Log), (STATE, Family::State)];

/// Pause before a write that RocksDB holds back is tried again.
const HELD_BACK: Duration = Duration::from_millis(1);
/// A write that is held back for so long may wait for room on a full disk.
const HELD_BACK_MAX: Duration = Duration::from_secs(2);

/// The open RocksDB of one directory.
pub(crate) struct Database {
    // Dropped in this order: RocksDB closes its files before the directory's lock is released.
    rocks: Rocks,
    tuning: Tuning,
    poison: OnceLock<String>,
    directory: Directory,
    #[cfg(test)]
    pub(crate) fail_next_sync: std::sync::atomic::AtomicBool,
}

impl Database {
    /// Opens or creates RocksDB in `directory`. A failure gives the directory back, to move the damage aside.
    pub(crate) fn open(directory: Directory, tuning: Tuning) -> Result<Self, (Directory, Tuning, OpenFailure)> {
        match open_rocks(&directory.database(), directory.is_new(), &tuning) {
            Ok(rocks) => Ok(Self {
                rocks,
                tuning,
                poison: OnceLock::new(),
                directory,
                #[cfg(test)]
                fail_next_sync: std::sync::atomic::AtomicBool::new(false),
            }),
            Err(failure) => Err((directory, tuning, failure)),
        }
    }

    /// Closes RocksDB, keeping the directory locked.
    pub(crate) fn close(self) -> (Directory, Tuning) {
        (self.directory, self.tuning)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Declares the database complete: from now on, what is missing in it is damage.
    pub(crate) fn adopt(&mut self) -> Result<(), StorageError> {
        self.directory.adopt()
    }

    /// The database, unless an earlier failure stopped the store.
    pub(crate) fn rocks(&self) -> Result<&Rocks, StorageError> {
        match self.poison.get() {
            None => Ok(&self.rocks),
            Some(cause) => Err(StorageError::Poisoned { cause: cause.clone() }),
        }
    }

    pub(crate) fn family(&self, name: &str) -> Result<Arc<BoundColumnFamily<'_>>, StorageError> {
        self.rocks()?
            .cf_handle(name)
            .ok_or_else(|| StorageError::Damaged { what: "column family is missing".to_owned(), key: name.to_owned() })
    }

    /// Writes all of `batch`, or nothing. Survives the death of the process; `sync`: also that of the machine.
    pub(crate) fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.put(&batch, options)
    }

    /// Writes past RocksDB's log: nothing is durable before a flush of the column family. RocksDB flushes when a buffer is
    /// full, when its log grows too long, and when it is closed, and first syncs what was logged before: nothing that
    /// is not logged overtakes that.
    pub(crate) fn write_unlogged(&self, batch: WriteBatch) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.put(&batch, options)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "RocksDB has no way to wait until it lets writes go on, but for ever"
    )]
    fn put(&self, batch: &WriteBatch, mut options: WriteOptions) -> Result<(), StorageError> {
        // A write that RocksDB holds back waits in it for as long as it takes to free memory or to merge files. If that fails
        // because the disk is full, RocksDB tries again until there is room, and the write would wait as long: hours, and
        // without a word.
        options.set_no_slowdown(true);
        options.set_memtable_insert_hint_per_batch(true);
        let began = Instant::now();
        loop {
            match self.rocks()?.write_opt(WriteBatch::from_data(batch.data()), &options) {
                Err(error) if error.kind() == ErrorKind::Incomplete => {
                    if began.elapsed() > HELD_BACK_MAX {
                        self.refuse_after_failure()?;
                    }
                    std::thread::sleep(HELD_BACK);
                }
                written => return written.map_err(|error| self.latch(error)),
            }
        }
    }

    /// Ends this handle if a flush or a merge of files ever failed: RocksDB may be waiting for room on the disk.
    fn refuse_after_failure(&self) -> Result<(), StorageError> {
        if !self.has_failed()? {
            return Ok(());
        }
        let cause =
            "writes are held back, and a flush or a compaction has failed; RocksDB's file LOG says why".to_owned();
        Err(self.stop(StorageError::Database { dir: self.path().to_owned(), cause }))
    }

    /// Whether a flush or a merge of files ever failed, healed or not.
    fn has_failed(&self) -> Result<bool, StorageError> {
        // It counts those of all column families, never down, in the default one.
        let failed = self.rocks()?.property_int_value(properties::BACKGROUND_ERRORS);
        Ok(failed.map_err(|error| self.latch(error))?.unwrap_or(0) > 0)
    }

    pub(crate) fn flush(&self, family: &Arc<BoundColumnFamily<'_>>) -> Result<(), StorageError> {
        // It waits as a write does, and cannot be told not to.
        self.refuse_after_failure()?;
        self.rocks()?.flush_cf(family).map_err(|error| self.latch(error))
    }

    /// Has RocksDB flush what is written so far to the column family, and does not wait for it. Does nothing where that
    /// would wait all the same: behind another flush, or after one that failed.
    pub(crate) fn begin_flush(&self, family: &Arc<BoundColumnFamily<'_>>) -> Result<(), StorageError> {
        let flushing = self.rocks()?.property_int_value_cf(family, properties::NUM_IMMUTABLE_MEM_TABLE);
        if flushing.map_err(|error| self.latch(error))?.unwrap_or(0) > 0 || self.has_failed()? {
            return Ok(());
        }
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.rocks()?.flush_cf_opt(family, &options).map_err(|error| self.latch(error))
    }

    /// Makes everything that was logged so far survive the death of the machine.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        let rocks = self.rocks()?;
        #[cfg(test)]
        if self.fail_next_sync.swap(false, std::sync::atomic::Ordering::SeqCst) {
            return Err(self
                .stop(StorageError::Database { dir: self.path().to_owned(), cause: "IO error: injected".to_owned() }));
        }
        rocks.flush_wal(true).map_err(|error| self.latch(error))?;
        // Files that were unlinked still take writes and syncs; only the name tells that they are lost.
        self.directory.check_in_place().map_err(|error| self.stop(error))
    }

    pub(crate) fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let handle = self.family(family)?;
        self.rocks()?.get_cf(&handle, key).map_err(|error| self.latch(error))
    }

    /// Ends this handle because of what RocksDB reported, and tells what that was.
    ///
    /// Nothing is tried again: after a failed sync the system may have dropped the very pages that were not written,
    /// and report success the next time.
    pub(crate) fn latch(&self, error: rocksdb::Error) -> StorageError {
        let error = match classify(&error) {
            OpenFailure::Damaged(what) => {
                // RocksDB finds a damaged block only when it reads it. The next open would succeed and meet it again.
                self.directory.condemn(&what);
                StorageError::Damaged { what, key: self.path().display().to_string() }
            }
            OpenFailure::DiskFull(cause) => StorageError::DiskFull { dir: self.path().to_owned(), cause },
            OpenFailure::InUse => StorageError::InUse { dir: self.path().to_owned() },
            OpenFailure::Other(cause) => StorageError::Database { dir: self.path().to_owned(), cause },
        };
        self.stop(error)
    }

    /// Marks the directory as damaged: the next open moves the database aside. Ends this handle.
    pub(crate) fn condemn(&self, reason: &str) {
        self.directory.condemn(reason);
        let _ = self.poison.set(reason.to_owned());
    }

    fn stop(&self, error: StorageError) -> StorageError {
        if self.poison.set(error.to_string()).is_ok() {
            tracing::error!(%error, "store stopped");
        }
        error
    }
}

/// Why RocksDB could not do what was asked.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    Damaged(String),
    DiskFull(String),
    InUse,
    Other(String),
}

impl OpenFailure {
    pub(crate) fn into_error(self, dir: PathBuf) -> StorageError {
        match self {
            Self::Damaged(what) => StorageError::Damaged { what, key: dir.display().to_string() },
            Self::DiskFull(cause) => StorageError::DiskFull { dir, cause },
            Self::InUse => StorageError::InUse { dir },
            Self::Other(cause) => StorageError::Database { dir, cause },
        }
    }
}

fn classify(error: &rocksdb::Error) -> OpenFailure {
    let text: &str = error.as_ref();
    // RocksDB's C interface reports the system's reason only as text.
    let no_space = ["No space left on device", "Disk quota exceeded", "Space limit reached"];
    match error.kind() {
        _ if no_space.iter().any(|words| text.contains(words)) => OpenFailure::DiskFull(text.to_owned()),
        ErrorKind::Corruption => OpenFailure::Damaged(text.to_owned()),
        ErrorKind::IOError if text.contains("lock file") || text.contains("lock hold") => OpenFailure::InUse,
        _ => OpenFailure::Other(text.to_owned()),
    }
}

fn open_rocks(path: &Path, create: bool, tuning: &Tuning) -> Result<Rocks, OpenFailure> {
    let mut options = tuning.database();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    let families = FAMILIES.map(|(name, family)| rocksdb::ColumnFamilyDescriptor::new(name, tuning.family(family)));
    Rocks::open_cf_descriptors(&options, path, families).map_err(|error| classify_open(&error))
}

/// As [`classify`], for an existing database: files that are missing are damage there.
fn classify_open(error: &rocksdb::Error) -> OpenFailure {
    match classify(error) {
        OpenFailure::Other(text)
            if text.contains("No such file")
                || matches!(
                    error.kind(),
                    ErrorKind::InvalidArgument | ErrorKind::NotFound | ErrorKind::NotSupported
                ) =>
        {
            OpenFailure::Damaged(text)
        }
        other => other,
    }
}
