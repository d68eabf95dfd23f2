//! A consistent view of the committed state, cut into chunks on a thread of its own.
//!
//! RocksDB's view borrows the database, and so cannot be kept in a value that is handed around. It lives on the stack
//! of a thread instead, which takes it before [`KvSnapshot::take`] returns and waits until its chunks are wanted.

use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::database::STATE;
use crate::error::StorageError;
use crate::kv::chunk::Cutter;
use crate::kv::{kind, read_mark, PAIR, READAHEAD_BYTES};
use crate::space::Space;
use crate::store::Store;

/// A consistent view of a [`KvMachine`](crate::KvMachine)'s committed state. While it lives, the store stays open and
/// RocksDB keeps what the view needs. Dropping it ends its thread.
pub struct KvSnapshot {
    applied: u64,
    reader: Option<(Receiver<Read>, JoinHandle<()>)>,
}

/// What the reading thread says.
enum Read {
    /// The view is taken.
    Ready,
    Chunk(Bytes),
    End,
    Failed(StorageError),
}

impl KvSnapshot {
    pub(super) fn take(store: Store, space: Space, applied: u64) -> Result<Self, StorageError> {
        // One chunk is read ahead while the one before is uploaded.
        let (sender, receiver) = sync_channel(1);
        let path = store.path().to_owned();
        let thread = std::thread::Builder::new().name("kv-snapshot".to_owned());
        let spawned = thread.spawn(move || {
            if let Err(Stop::Failed(error)) = read(&store, space, applied, &sender) {
                // Nobody may be listening any more; then nobody needs to know.
                let _ = sender.send(Read::Failed(error));
            }
        });
        let what = "start the thread of a snapshot";
        let worker = spawned.map_err(|source| StorageError::Io { what, path, source })?;
        let snapshot = Self { applied, reader: Some((receiver, worker)) };
        match snapshot.next() {
            Read::Ready => Ok(snapshot),
            Read::Failed(error) => Err(error),
            Read::Chunk(_) | Read::End => unreachable!("the thread first says that it is ready"),
        }
    }

    /// Index of the last entry whose effect is in it.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Hands the state to `sink`, as chunks of at most [`CHUNK_BYTES_MAX`](crate::CHUNK_BYTES_MAX) bytes. They must be
    /// given back in the same order. The same state gives the same chunks on every node.
    ///
    /// # Errors
    /// Those of `sink`, at once, and failures to read the state.
    pub fn write_to<E: From<StorageError>>(self, sink: &mut dyn FnMut(Bytes) -> Result<(), E>) -> Result<(), E> {
        loop {
            match self.next() {
                Read::Chunk(chunk) => sink(chunk)?,
                Read::End => return Ok(()),
                Read::Failed(error) => return Err(error.into()),
                Read::Ready => unreachable!("the thread is ready only once"),
            }
        }
    }

    fn next(&self) -> Read {
        let received = self.reader.as_ref().and_then(|(receiver, _)| receiver.recv().ok());
        received.unwrap_or_else(|| {
            Read::Failed(StorageError::Poisoned { cause: "the thread of a snapshot ended early".to_owned() })
        })
    }
}

impl Drop for KvSnapshot {
    fn drop(&mut self) {
        if let Some((receiver, worker)) = self.reader.take() {
            // Nobody listens any more: the thread ends at its next chunk. Waiting for it lets go of the store.
            drop(receiver);
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for KvSnapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KvSnapshot").field("applied", &self.applied).finish_non_exhaustive()
    }
}

/// Why reading ended early.
enum Stop {
    Failed(StorageError),
    Dropped,
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

fn read(store: &Store, space: Space, applied: u64, sender: &SyncSender<Read>) -> Result<(), Stop> {
    let send = |read| sender.send(read).map_err(|_| Stop::Dropped);
    let database = &store.shared.database;
    let family = database.family(STATE)?;
    let view = database.rocks()?.snapshot();
    // The machine waits for the next line before it commits anything else.
    let mark = read_mark(database, space)?;
    assert_eq!(mark.applied, applied, "a snapshot is taken between two commits");
    let mut options = kind(space, PAIR);
    options.set_snapshot(&view);
    options.set_readahead_size(READAHEAD_BYTES);
    // One pass over everything must not push out what clients read.
    options.fill_cache(false);
    // It keeps the files it reads, also when the state is replaced and they are given back.
    let mut iterator = database.rocks()?.raw_iterator_cf_opt(&family, options);
    send(Read::Ready)?;
    let mut sink = |chunk| send(Read::Chunk(chunk));
    let mut cutter = Cutter::new(&mut sink);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        cutter.add(Space::name(key), value)?;
        iterator.next();
    }
    iterator.status().map_err(|error| database.latch(error))?;
    cutter.finish()?;
    send(Read::End)
}
