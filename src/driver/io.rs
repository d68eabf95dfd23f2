//! The runtime for sockets and ZooKeeper: the node's own, so that what its user's tasks do cannot hold up a beat.

use tokio::runtime::{Builder, Handle, Runtime};

// Links and the ZooKeeper client are little work; two threads keep one slow name lookup or burst from the other.
const THREADS: usize = 2;

/// A runtime that may be dropped anywhere, also within another one. What runs on it ends then.
pub(crate) struct IoRuntime {
    // Always there until dropped.
    runtime: Option<Runtime>,
}

impl IoRuntime {
    pub(crate) fn start() -> std::io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(THREADS).thread_name("bequest-io").enable_all().build();
        Ok(Self { runtime: Some(runtime?) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("there until dropped").handle()
    }
}

impl Drop for IoRuntime {
    fn drop(&mut self) {
        // Dropping a runtime waits for it, which another runtime does not allow.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
