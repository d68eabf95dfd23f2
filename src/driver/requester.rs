//! Asks ZooKeeper single questions outside the core: before it starts, and to create a group.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bequest_recovery::keeper::{Keeper, KeeperEvent, Outcome, Request, RequestId, Urgency};
use tokio::sync::oneshot;

// The core counts its requests from 1 and never comes here.
const OWN: u64 = 1 << 63;

/// Whoever waits for an outcome.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    callers: Mutex<HashMap<RequestId, oneshot::Sender<Outcome>>>,
}

/// Sends requests and waits for their outcomes.
pub(crate) struct Requester {
    keeper: Arc<dyn Keeper>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

impl Waiting {
    /// Takes an event that belongs to a request of a [`Requester`]; gives every other one back.
    pub(crate) fn sift(&self, event: KeeperEvent) -> Option<KeeperEvent> {
        match event {
            KeeperEvent::Outcome { id, outcome, .. } if id.0 & OWN != 0 => {
                if let Some(caller) = self.callers().remove(&id) {
                    // Whoever asked may have gone away.
                    let _ = caller.send(outcome);
                }
                None
            }
            event => Some(event),
        }
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<RequestId, oneshot::Sender<Outcome>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requester {
    pub(crate) fn new(keeper: Arc<dyn Keeper>, waiting: Arc<Waiting>) -> Self {
        Self { keeper, waiting, next: AtomicU64::new(1) }
    }

    /// Sends one request, once.
    pub(crate) async fn request(&self, request: Request) -> Outcome {
        let id = RequestId(OWN | self.next.fetch_add(1, Ordering::Relaxed));
        let (answer, outcome) = oneshot::channel();
        self.waiting.callers().insert(id, answer);
        self.keeper.submit(id, Urgency::Normal, request);
        outcome.await.unwrap_or_else(|_| Outcome::Unknown("the keeper was dropped".to_owned()))
    }
}
