//! Bare ZooKeeper, by the client library that bequest uses: what its log costs at least.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions};

use crate::load::{self, Measured, Target, Timing};
use crate::plan::Case;
use crate::values::Values;

const SESSION_TIMEOUT: Duration = Duration::from_secs(20);
/// What a leader's transactions check.
const BALLOT: &str = "/bare-ballot";
const OPTIONS: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
/// Deletions in one transaction, and such transactions in flight.
const DELETES: usize = 500;
const DELETERS: usize = 4;

/// Sessions of bare clients.
#[derive(Debug)]
pub(crate) struct Bare {
    sessions: Vec<Client>,
    values: Values,
    numbers: Arc<AtomicU64>,
    folders: u64,
}

impl Bare {
    /// Opens so many sessions with a server.
    pub(crate) async fn connect(server: &str, sessions: usize, values: Values) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..sessions {
            let connector = Client::connector().with_session_timeout(SESSION_TIMEOUT);
            all.push(connector.connect(server).await.context("no session with ZooKeeper")?);
        }
        all.first().context("at least one session")?.create(BALLOT, b"", &OPTIONS).await?;
        Ok(Self { sessions: all, values, numbers: Arc::default(), folders: 0 })
    }

    /// Measures over so many sessions, then looks whether everything acknowledged is there, and deletes it.
    pub(crate) async fn measure(&mut self, case: Case, connections: usize, timing: Timing) -> Result<Measured> {
        self.folders += 1;
        let folder = format!("/bare-{}", self.folders);
        self.sessions[0].create(&folder, b"", &OPTIONS).await?;
        let sessions = self.sessions[..connections.min(self.sessions.len())].to_vec();
        let target = Arc::new(Transactions { sessions, folder, values: self.values.clone(), writes: Mutex::default() });
        let measured = load::measure(&target, &self.numbers, case, timing).await?;
        target.clear().await?;
        Ok(measured)
    }
}

/// A folder that transactions create znodes in.
#[derive(Debug)]
struct Transactions {
    sessions: Vec<Client>,
    folder: String,
    values: Values,
    writes: Mutex<Writes>,
}

/// Numbers of writes.
#[derive(Debug, Default)]
struct Writes {
    acknowledged: Vec<u64>,
    /// They may be there or not.
    failed: Vec<u64>,
}

impl Transactions {
    fn path(&self, number: u64) -> String {
        format!("{}/{number:020}", self.folder)
    }

    fn writes(&self) -> std::sync::MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether all that was acknowledged is there, and deletes it, with the folder.
    async fn clear(self: &Arc<Self>) -> Result<()> {
        let Writes { acknowledged: numbers, failed } = std::mem::take(&mut *self.writes());
        let stat = self.sessions[0].check_stat(&self.folder).await?.context("the folder is gone")?;
        let there = usize::try_from(stat.num_children)?;
        let most = numbers.len() + failed.len();
        anyhow::ensure!((numbers.len()..=most).contains(&there), "acknowledged={}, there={there}", numbers.len());
        for number in failed {
            // It may never have been created.
            let _ = self.sessions[0].delete(&self.path(number), None).await;
        }
        let share = numbers.len().div_ceil(DELETERS).max(1);
        let deleters: Vec<_> =
            numbers.chunks(share).map(|share| tokio::spawn(self.clone().delete(share.to_vec()))).collect();
        for deleter in deleters {
            deleter.await??;
        }
        self.sessions[0].delete(&self.folder, None).await.context("not everything was deleted")?;
        Ok(())
    }

    async fn delete(self: Arc<Self>, numbers: Vec<u64>) -> Result<()> {
        for some in numbers.chunks(DELETES) {
            let mut writer = self.sessions[0].new_multi_writer();
            for number in some {
                writer.add_delete(&self.path(*number), None)?;
            }
            writer.commit().await?;
        }
        Ok(())
    }
}

impl Target for Transactions {
    async fn write(&self, worker: usize, number: u64, bytes: usize) -> Result<(), String> {
        let value = self.values.value(number, bytes);
        let wrote = async {
            let mut writer = self.sessions[worker % self.sessions.len()].new_multi_writer();
            writer.add_check_version(BALLOT, 0).map_err(|error| error.to_string())?;
            writer.add_create(&self.path(number), &value, &OPTIONS).map_err(|error| error.to_string())?;
            writer.commit().await.map_err(|error| error.to_string())
        };
        let outcome = wrote.await.map(drop);
        let mut writes = self.writes();
        if outcome.is_ok() { &mut writes.acknowledged } else { &mut writes.failed }.push(number);
        outcome
    }

    async fn read(&self, worker: usize, _number: u64) -> Result<(), String> {
        let mut writer = self.sessions[worker % self.sessions.len()].new_multi_writer();
        writer.add_check_version(BALLOT, 0).map_err(|error| error.to_string())?;
        writer.commit().await.map(drop).map_err(|error| error.to_string())
    }
}
