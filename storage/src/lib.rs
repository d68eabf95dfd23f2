//! What is durable on one node: the Raft log, hard state, identity, and a key-value machine, in one RocksDB.
//!
//! A [`Store`] is one directory, held by one process at a time. All groups of the node share its RocksDB, so that
//! one atomic write and one sync serve all of them. A local disk is only a cache of what ZooKeeper holds: whatever is
//! damaged here is moved aside and said, never repaired by guessing and never deleted, and the caller replays.
//!
//! ```
//! use bequest_storage::{Base, GroupMeta, HardState, LogBatch, LogEntry, Opened, Options, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path().join("data");
//! let (store, opened) = Store::open(&dir, Options::default())?;
//! assert_eq!(opened, Opened::Created);
//!
//! let group = [7; 16];
//! let mut batch = LogBatch::new(group);
//! batch.meta = Some(GroupMeta { uuid: group, name: "orders".into(), genesis_czxid: 12 });
//! batch.entries = vec![LogEntry { index: 1, term: 1, kind: 0, data: "a".into(), context: "".into(), hash: [1; 16] }];
//! batch.hard_state = Some(HardState { term: 1, commit: 0 });
//! store.write(&[batch], false)?;
//! store.sync()?;
//!
//! let log = store.load(group, 1 << 20)?.ok_or("the group was just written")?;
//! assert_eq!((log.base, log.entries.len()), (Base::default(), 1));
//! # Ok(())
//! # }
//! ```
//!
//! It knows nothing of Raft, ZooKeeper or the network: it takes and returns data.

#![forbid(unsafe_code)]

mod database;
mod directory;
mod error;
mod kv;
mod log;
mod options;
mod record;
mod space;
mod store;

pub use error::{Remedy, StorageError};
pub use kv::{kv_answer, kv_command, kv_query, kv_response};
pub use kv::{KvAnswer, KvCommand, KvError, KvMachine, KvOptions, KvPair, KvQuery, KvResponse, KvRestore, KvSnapshot};
pub use kv::{Recovered, CHUNK_BYTES_MAX, KEY_BYTES_MAX, SCAN_BYTES_MAX, SCAN_PAIRS_MAX, VALUE_BYTES_MAX};
pub use log::{Base, HardState, Known, LocalLog, LogBatch, LogEntry, LogSlot};
pub use options::Options;
pub use store::{GroupMeta, GroupUuid, Identity, Opened, Store};
