//! The disk thread: writes the local logs of all groups, many effects in one write, and reads them.
//!
//! A write or sync that fails is never tried again: what is on the disk is not known any more, and a second sync may
//! wrongly succeed. The node ends instead; what its disk may have lost is in ZooKeeper.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bequest_recovery::entry::Entry;
use bequest_recovery::record::Uuid;
use bequest_storage::{Base, GroupMeta, HardState, Identity, Known, LogBatch, LogEntry, StorageError, Store};
use crossbeam_channel::{Receiver, Sender};

use super::inbox::{Inbox, Input};
use crate::config::DiskSync;
use crate::error::NodeError;
use crate::replica::event::{Event, GroupNumber, Persist};

// Effects and bytes written at once at most, so that the first of them is not answered late.
const BATCH_EFFECTS_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
// Bytes of entries read back at once; the core asks again for the rest.
const FETCH_BYTES_MAX: u64 = 1024 * 1024;
const SYNC_PAUSE: Duration = Duration::from_millis(100);

/// What the disk thread is asked for. Carried out in order.
pub(crate) enum DiskJob {
    /// This group is in the store already, under this uuid.
    Attach(GroupNumber, Uuid),
    /// The directory belongs to this cluster.
    Identity(Uuid),
    Persist(GroupNumber, Box<Persist>),
    Fetch {
        group: GroupNumber,
        low: u64,
        high: u64,
    },
    Stop,
}

/// The disk thread. What it is sent is bounded by what the core has in flight: it waits for [`Event::Persisted`]
/// before it acknowledges, and its windows fill.
pub(crate) struct Disk {
    pub(crate) jobs: Sender<DiskJob>,
    threads: Vec<JoinHandle<()>>,
}

impl Disk {
    pub(crate) fn start(store: Store, node: u64, sync: DiskSync, inbox: Inbox) -> std::io::Result<Self> {
        let (jobs, receiver) = crossbeam_channel::unbounded();
        // One place: a sync covers all writes before it, so at most one more is wanted while one is under way.
        let (dirty, dirt) = crossbeam_channel::bounded(1);
        let syncer = Syncer { store: store.clone(), dirt, inbox: inbox.clone() };
        let writer = Writer { store, node, sync, dirty, inbox: Arc::new(inbox), groups: HashMap::new() };
        let threads = vec![
            std::thread::Builder::new().name("bequest-disk".into()).spawn(move || writer.run(&receiver))?,
            std::thread::Builder::new().name("bequest-sync".into()).spawn(move || syncer.run())?,
        ];
        Ok(Self { jobs, threads })
    }
}

/// Returns when everything asked for before is written and synced, and the store let go of.
impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.jobs.send(DiskJob::Stop);
        for thread in self.threads.drain(..) {
            // A panic there has been printed; this thread is ending too.
            let _ = thread.join();
        }
    }
}

struct Writer {
    store: Store,
    node: u64,
    sync: DiskSync,
    dirty: Sender<()>,
    inbox: Arc<Inbox>,
    groups: HashMap<GroupNumber, [u8; 16]>,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<DiskJob>) {
        if let Err(error) = self.serve(jobs) {
            tracing::error!(%error, "local disk failed");
            self.inbox.put(Input::Fatal(NodeError::Disk { message: error.to_string() }));
        }
    }

    fn serve(&mut self, jobs: &Receiver<DiskJob>) -> Result<(), StorageError> {
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => job,
                None => match jobs.recv() {
                    Ok(job) => job,
                    Err(_) => return Ok(()),
                },
            };
            match job {
                DiskJob::Attach(group, uuid) => {
                    self.groups.insert(group, uuid.0);
                }
                DiskJob::Identity(cluster) => {
                    self.store.set_identity(Identity { cluster: cluster.0, node: self.node })?;
                }
                DiskJob::Persist(group, persist) => next = self.write(group, persist, jobs)?,
                DiskJob::Fetch { group, low, high } => self.fetch(group, low, high)?,
                DiskJob::Stop => return self.store.sync(),
            }
        }
    }

    /// Writes this effect and those queued directly behind it; returns the first job that is none.
    fn write(
        &mut self,
        group: GroupNumber,
        persist: Box<Persist>,
        jobs: &Receiver<DiskJob>,
    ) -> Result<Option<DiskJob>, StorageError> {
        let mut done = BTreeMap::new();
        let mut batches = Vec::new();
        let mut bytes = 0;
        let mut next = Some(DiskJob::Persist(group, persist));
        while let Some(DiskJob::Persist(group, persist)) = next {
            bytes += persist.entries.iter().map(|(entry, _)| entry.data.len()).sum::<usize>();
            done.insert(group, persist.number);
            batches.push(self.batch(group, *persist));
            let full = batches.len() >= BATCH_EFFECTS_MAX || bytes >= BATCH_BYTES_MAX;
            next = if full { None } else { jobs.try_recv().ok() };
        }
        self.store.write(&batches, self.sync == DiskSync::BeforeAcknowledging)?;
        if self.sync == DiskSync::Background {
            // Full means that a sync is wanted already.
            let _ = self.dirty.try_send(());
        }
        for (group, number) in done {
            self.inbox.event(Event::Persisted { group, number });
        }
        Ok(next)
    }

    fn batch(&mut self, group: GroupNumber, persist: Persist) -> LogBatch {
        let Persist { number: _, birth, reset, truncate_from, entries, hard_state, compact, known } = persist;
        if let Some(birth) = &birth {
            self.groups.insert(group, birth.uuid.0);
        }
        let uuid = self.uuid(group);
        let base = |position: bequest_recovery::entry::Position| Base {
            index: position.index,
            term: position.term,
            hash: position.hash.0,
        };
        LogBatch {
            group: uuid,
            meta: birth.map(|birth| GroupMeta { uuid, name: birth.name, genesis_czxid: birth.genesis_czxid }),
            reset: reset.map(base),
            truncate_from,
            entries: entries.into_iter().map(|(entry, hash)| log_entry(entry, hash.0)).collect(),
            hard_state: hard_state.map(|(term, commit)| HardState { term, commit }),
            compact_to: compact.map(base),
            known: known.map(|known| Known {
                term: known.term,
                index: known.position.index,
                entry_term: known.position.term,
                hash: known.position.hash.0,
            }),
        }
    }

    fn fetch(&self, group: GroupNumber, low: u64, high: u64) -> Result<(), StorageError> {
        let entries = self.store.entries(self.uuid(group), low, high, FETCH_BYTES_MAX)?;
        let entries = entries.into_iter().map(|entry| Entry {
            index: entry.index,
            term: entry.term,
            kind: u32::from(entry.kind),
            data: entry.data,
            context: entry.context,
        });
        self.inbox.event(Event::LogFetched { group, entries: entries.collect() });
        Ok(())
    }

    fn uuid(&self, group: GroupNumber) -> [u8; 16] {
        *self.groups.get(&group).expect("the first write of a group names it")
    }
}

fn log_entry(entry: Entry, hash: [u8; 16]) -> LogEntry {
    let Entry { index, term, kind, data, context } = entry;
    let kind = u8::try_from(kind).expect("raft has three kinds of entries");
    LogEntry { index, term, kind, data, context, hash }
}

/// Syncs in the background what was written without.
struct Syncer {
    store: Store,
    dirt: Receiver<()>,
    inbox: Inbox,
}

impl Syncer {
    fn run(self) {
        // The writer syncs itself when it stops, so there is nothing left to do when it is gone.
        while self.dirt.recv().is_ok() {
            if let Err(error) = self.store.sync() {
                tracing::error!(%error, "cannot sync the local disk");
                self.inbox.put(Input::Fatal(NodeError::Disk { message: error.to_string() }));
                return;
            }
            // What is written meanwhile is synced together.
            let _ = crossbeam_channel::after(SYNC_PAUSE).recv();
        }
    }
}

#[cfg(test)]
mod tests;
