//! The HTTP interface: keys, status, health.
//!
//! | Request | Answer |
//! |---|---|
//! | `PUT /kv/KEY` | sets the key to the body; with `?expect=VALUE` or `?expect-absent=true` only if that holds, else 412 with the current value |
//! | `GET /kv/KEY` | the value, or 404; linearizable, or with `?stale=true` from this node's own state |
//! | `DELETE /kv/KEY` | removes the key; `?expect=VALUE` as above |
//! | `GET /kv?prefix=&after=&limit=` | keys and values as JSON, in order; `?stale=true` as above |
//! | `GET /status` | what this node knows of the group, as JSON |
//! | `GET /health` | 200 if it leads or follows a leader, else 503 with the reason |
//!
//! A write is answered with 200 and `{"index":N}` when it is durable in ZooKeeper and applied. What else it may be
//! answered with is told in `refusal`.

mod keys;
mod refusal;
mod status;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use bequest::{Group, Mode, PROPOSAL_BYTES_MAX};
use tokio::sync::Semaphore;

use refusal::Refusal;

/// Requests answered at once. Each may hold a body; further ones are busy.
const REQUESTS_MAX: usize = 1024;
/// Bytes of a request's body: no larger proposal can be made of it.
pub(crate) const BODY_BYTES_MAX: usize = PROPOSAL_BYTES_MAX;

/// What handlers share.
#[derive(Debug)]
pub(crate) struct Service {
    node: u64,
    name: String,
    /// Where ZooKeeper is, until it has answered.
    awaited: Mutex<Option<String>>,
    group: OnceLock<Group>,
    requests: Semaphore,
}

impl Service {
    /// A service of a group that is not joined yet, of a node that waits for ZooKeeper at this address.
    pub(crate) fn new(node: u64, name: String, keeper: String) -> Self {
        let (awaited, group) = (Mutex::new(Some(keeper)), OnceLock::new());
        Self { node, name, awaited, group, requests: Semaphore::new(REQUESTS_MAX) }
    }

    /// ZooKeeper has answered.
    pub(crate) fn connected(&self) {
        *self.awaited.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Mode and reason while the group is not joined.
    fn waits(&self) -> (Mode, String) {
        match &*self.awaited.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(address) => (Mode::NoKeeper, format!("waiting for zookeeper at {address}")),
            None => (Mode::Recovering, "the group is not joined yet".to_owned()),
        }
    }

    /// From now on requests go to `group`.
    pub(crate) fn joined(&self, group: Group) {
        // A group is joined once; a second handle would be of the same replica.
        let _ = self.group.set(group);
    }

    fn group(&self) -> Result<&Group, Refusal> {
        self.group.get().ok_or(Refusal::Starting)
    }
}

/// All routes.
pub(crate) fn router(service: Arc<Service>) -> Router {
    let keys = Router::new()
        .route("/kv", get(keys::list))
        .route("/kv/{*key}", get(keys::read).put(keys::write).delete(keys::remove))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), bounded));
    // Whoever looks after the node is answered also when clients keep it busy.
    keys.route("/status", get(status::status)).route("/health", get(status::health)).with_state(service)
}

async fn bounded(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    match service.requests.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => Refusal::Busy { reason: "requests under way" }.into_response(),
    }
}
