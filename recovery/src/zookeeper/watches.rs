//! One-shot watches that were left and have not fired.

use crate::keeper::Request;
use std::collections::HashMap;
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};
use zookeeper_client::OneshotWatcher;

/// What a watch is about. ZooKeeper has two kinds per path; content and existence share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Watched {
    path: String,
    children: bool,
}

impl Watched {
    /// What the watch of this request, if it leaves one, is about.
    pub(super) fn by(request: &Request) -> Option<Self> {
        match request {
            Request::Get { path, watch: true } | Request::Exists { path, watch: true } => {
                Some(Self { path: path.clone(), children: false })
            }
            Request::Children { path, watch: true } => Some(Self { path: path.clone(), children: true }),
            _ => None,
        }
    }
}

/// All watches of one session.
#[derive(Debug, Default)]
pub(super) struct Watches {
    // Says whether the watch fired (or its session ended), rather than was replaced.
    waiting: JoinSet<bool>,
    watched: HashMap<Id, Watched>,
    newest: HashMap<Watched, (Id, oneshot::Sender<()>)>,
}

impl Watches {
    /// Waits for a watch. An older one of the same kind on the same path is given up, or every poll that renews it
    /// would leave one more behind.
    pub(super) fn add(&mut self, watched: Watched, watcher: OneshotWatcher) {
        let (cancel, cancelled) = oneshot::channel();
        let task = self.waiting.spawn(async move {
            tokio::select! {
                // If it fired before it was replaced, say so.
                biased;
                _ = watcher.changed() => true,
                _ = cancelled => false,
            }
        });
        self.watched.insert(task.id(), watched.clone());
        // Dropping the older one's sender cancels it.
        self.newest.insert(watched, (task.id(), cancel));
    }

    /// The path of the next watch that fires. Waits for ever while there is none.
    pub(super) async fn fired(&mut self) -> String {
        loop {
            let (id, fired) = match self.waiting.join_next_with_id().await {
                Some(Ok((id, fired))) => (id, fired),
                // The library panicked in it; looking again never harms.
                Some(Err(error)) => (error.id(), true),
                None => std::future::pending().await,
            };
            let Some(watched) = self.watched.remove(&id) else { continue };
            if self.newest.get(&watched).is_some_and(|(newest, _)| *newest == id) {
                self.newest.remove(&watched);
            }
            if fired {
                return watched.path;
            }
        }
    }

    /// Gives up all watches and says what they were on.
    pub(super) fn give_up(&mut self) -> Vec<String> {
        self.waiting.abort_all();
        self.waiting = JoinSet::new();
        self.newest.clear();
        let mut paths: Vec<String> = self.watched.drain().map(|(_, watched)| watched.path).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }
}
