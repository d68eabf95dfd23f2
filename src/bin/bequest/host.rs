//! What this program needs of its host, looked at before it begins: for want of descriptors or threads its runtime would
//! panic, and RocksDB abort, without saying what to do.

use std::sync::{Mutex, PoisonError};

use anyhow::{ensure, Context, Result};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// Fewer file descriptors let no node run: a third of them is in use before the first client comes.
const FILES_MIN: u64 = 128;
/// What a node may need beside its clients: 512 files of RocksDB, its links, and whoever has not said yet who they are.
const FILES_OWN: u64 = 640;
/// Clients' connections at most; as each may be idle, more of them than there are requests at once.
const CONNECTIONS_MAX: u64 = 4096;
/// Threads a node starts beside the runtime's, one for each core: its own, RocksDB's, and sixteen while that opens.
const THREADS_OWN: usize = 32;
const STACK_BYTES: usize = 64 * 1024;

/// Takes all the file descriptors that are to be had; returns how many connections clients may hold open, so that
/// enough are left for the node.
///
/// # Errors
/// If there are too few of them, or of threads.
pub(crate) fn take() -> Result<usize> {
    let files = take_files();
    ensure!(
        files >= FILES_MIN,
        "too few file descriptors: limit={files} needed={FILES_MIN}; raise it by `ulimit -n`, or LimitNOFILE of a service"
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores + THREADS_OWN;
    try_threads(threads).with_context(|| {
        format!("too few threads: needed={threads}; raise the user's limit by `ulimit -u`, or TasksMax of a service")
    })?;
    Ok(connections(files))
}

/// Raises the limit as far as that is permitted without privileges; returns what it is.
fn take_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // No limit at all is far above all that is compared with it.
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let granted = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    granted.unwrap_or(u64::MAX)
}

fn connections(files: u64) -> usize {
    let spare = files.saturating_sub(FILES_OWN).clamp(FILES_MIN / 4, CONNECTIONS_MAX);
    usize::try_from(spare).expect("bounded")
}

/// Starts so many threads at once, and ends them again.
fn try_threads(count: usize) -> std::io::Result<()> {
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let held = gate.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..count {
            let wait = || drop(gate.lock());
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, wait)?;
        }
        drop(held);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_a_node_can_spare_and_a_few_in_any_case() {
        let cases = [(128, 32), (640, 32), (1024, 384), (20_000, 4096), (u64::MAX, 4096)];
        for (files, expected) in cases {
            assert_eq!(connections(files), expected, "files={files}");
        }
    }
}
