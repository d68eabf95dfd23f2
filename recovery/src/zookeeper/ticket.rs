//! Exactly one outcome for every request.

use super::Config;
use crate::keeper::{KeeperEvent, Op, Outcome, Request, RequestId, SessionNumber, Urgency};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Where requests are taken in and events given out.
pub(super) struct Desk {
    sink: Box<dyn Fn(KeeperEvent) + Send + Sync>,
    deadline: Duration,
    requests_max: usize,
    bytes_max: usize,
    requests: AtomicUsize,
    bytes: AtomicUsize,
    // The session there is, or the one that is being built.
    session: AtomicU64,
}

impl Desk {
    pub(super) fn new(config: &Config, sink: impl Fn(KeeperEvent) + Send + Sync + 'static) -> Self {
        Self {
            sink: Box::new(sink),
            deadline: config.deadline,
            requests_max: config.queue_requests_max.saturating_add(config.window),
            bytes_max: config.queue_bytes_max,
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            session: AtomicU64::new(1),
        }
    }

    /// Takes a request in. One too many loses its content here, so that nothing piles up before it is answered.
    pub(super) fn accept(self: &Arc<Self>, id: RequestId, urgency: Urgency, request: Request) -> Submission {
        let bytes = content_bytes(&request);
        let waiting = self.requests.fetch_add(1, Ordering::SeqCst);
        let waiting_bytes = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        let fits = waiting < self.requests_max && waiting_bytes.saturating_add(bytes) <= self.bytes_max;
        let now = Instant::now();
        let ticket = Ticket { id, submitted: now, deadline: now + self.deadline, bytes, desk: Some(Arc::clone(self)) };
        Submission { ticket, urgency, request: fits.then_some(request) }
    }

    pub(super) fn emit(&self, event: KeeperEvent) {
        (self.sink)(event);
    }

    pub(super) fn session(&self) -> SessionNumber {
        SessionNumber(self.session.load(Ordering::SeqCst))
    }

    pub(super) fn next_session(&self) {
        self.session.fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("requests", &self.requests).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A request as it was taken in; without its content if there were too many.
pub(super) struct Submission {
    pub(super) ticket: Ticket,
    pub(super) urgency: Urgency,
    pub(super) request: Option<Request>,
}

/// The duty to report one outcome. Dropped unreported it reports that nothing is known: so no path out of this
/// module, not even a panic or the end of the runtime, leaves a request without an outcome, and none has two.
pub(super) struct Ticket {
    id: RequestId,
    pub(super) submitted: Instant,
    pub(super) deadline: Instant,
    bytes: usize,
    desk: Option<Arc<Desk>>,
}

impl Ticket {
    pub(super) fn report(mut self, outcome: Outcome) {
        self.close(outcome);
    }

    pub(super) fn unknown(self, cause: impl Into<String>) {
        self.report(Outcome::Unknown(cause.into()));
    }

    fn close(&mut self, outcome: Outcome) {
        let Some(desk) = self.desk.take() else { return };
        desk.requests.fetch_sub(1, Ordering::SeqCst);
        desk.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        desk.emit(KeeperEvent::Outcome { id: self.id, session: desk.session(), outcome });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.close(Outcome::Unknown("the keeper was shut down".to_owned()));
    }
}

fn content_bytes(request: &Request) -> usize {
    match request {
        Request::Multi(ops) => ops.iter().map(Op::bytes).sum(),
        Request::Get { path, .. } | Request::Exists { path, .. } | Request::Children { path, .. } => path.len(),
    }
}
