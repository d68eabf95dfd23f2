//! How much memory, how many files and how much log the store may use.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel};

/// Limits of one store. The defaults suit a node with a few groups; all of them are per node, not per group.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory of one column family's write buffer before it goes to a file.
    pub write_buffer_bytes: usize,
    /// Memory of all write buffers together: the many idle groups must not each keep a full one.
    pub write_buffers_bytes_max: usize,
    /// Memory for blocks read from files, shared by all groups.
    pub block_cache_bytes: usize,
    /// File descriptors for data files.
    pub open_files_max: u32,
    /// Size of RocksDB's own write-ahead log beyond which old write buffers are flushed. It bounds the time to open,
    /// and what is applied again after a death.
    pub wal_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            write_buffer_bytes: 32 << 20,
            write_buffers_bytes_max: 128 << 20,
            block_cache_bytes: 64 << 20,
            open_files_max: 512,
            wal_bytes_max: 256 << 20,
        }
    }
}

/// Files that wait to be merged before writes wait for that; RocksDB's own choice.
const LEVEL_0_FILES_MAX: i32 = 36;

/// What a column family holds, which decides how RocksDB treats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Few, small, often overwritten records.
    Meta,
    /// Entries: written once, read rarely, deleted in ranges.
    Log,
    /// A group's key-value pairs: point reads and scans.
    State,
}

/// Turns [`Options`] into RocksDB's, with one cache for all column families.
pub(crate) struct Tuning {
    options: Options,
    cache: Cache,
}

impl Tuning {
    pub(crate) fn new(options: Options) -> Self {
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        Self { options, cache }
    }

    pub(crate) fn database(&self) -> rocksdb::Options {
        let mut tuned = rocksdb::Options::default();
        tuned.set_paranoid_checks(true);
        // A crash may leave any suffix of the log unwritten. RocksDB stops at the first record that is not whole, for
        // all column families at the same point, and reports damage if a data file is ahead of that point.
        tuned.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        tuned.set_track_and_verify_wals_in_manifest(true);
        tuned.set_db_write_buffer_size(self.options.write_buffers_bytes_max);
        tuned.set_max_total_wal_size(self.options.wal_bytes_max);
        tuned.set_max_open_files(i32::try_from(self.options.open_files_max).unwrap_or(i32::MAX));
        tuned.set_max_background_jobs(2);
        // Without it the system writes a whole file back at once, and a sync of the log waits behind it.
        tuned.set_bytes_per_sync(1 << 20);
        tuned.set_log_level(LogLevel::Warn);
        tuned.set_keep_log_file_num(3);
        tuned.set_max_log_file_size(4 << 20);
        tuned.set_stats_dump_period_sec(0);
        tuned.set_stats_persist_period_sec(0);
        tuned
    }

    pub(crate) fn family(&self, family: Family) -> rocksdb::Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_format_version(5);
        let mut tuned = rocksdb::Options::default();
        tuned.set_write_buffer_size(self.options.write_buffer_bytes);
        tuned.set_max_write_buffer_number(3);
        // Writes are stopped where merging falls too far behind, but never merely slowed: RocksDB counts the pause it asks for
        // as taken, and who is told to come back later instead (`Database::put`) would be owed ever longer ones.
        tuned.set_level_zero_slowdown_writes_trigger(LEVEL_0_FILES_MAX);
        tuned.set_level_zero_stop_writes_trigger(LEVEL_0_FILES_MAX);
        tuned.set_soft_pending_compaction_bytes_limit(0);
        match family {
            Family::Meta => tuned.set_compression_type(DBCompressionType::None),
            // An entry's payload is the caller's, mostly small, and gone again after the next snapshot or two.
            Family::Log => tuned.set_compression_type(DBCompressionType::None),
            Family::State => {
                tuned.set_compression_type(DBCompressionType::Lz4);
                // Each put reads the size of what it replaces; most new keys are answered by the filter alone.
                table.set_bloom_filter(10.0, false);
                table.set_cache_index_and_filter_blocks(true);
                table.set_pin_l0_filter_and_index_blocks_in_cache(true);
            }
        }
        tuned.set_block_based_table_factory(&table);
        tuned
    }
}
