//! The [`Keeper`] on a real ZooKeeper.
//!
//! Owns the client and rebuilds it for ever: the client library gives up for good after a while without a server.
//! It promises what [`Keeper`] does, above all that every request submitted gets exactly one outcome, whatever happens
//! to the session, the client, the runtime or the keeper itself; and that nothing is reported as refused but what a
//! server answered to this very attempt, and what was never sent. It leaves out what outcomes mean, trying again, and whether the chroot exists.
//!
//! Two limits are the library's: it sets no `TCP_NODELAY`, so a small request sent while another is unanswered may
//! wait for that answer; and while a session has lost its connection, its pauses between attempts double from 100 ms
//! on, so a connection may be found again as late after an outage as the outage was long.

mod connection;
mod request;
mod session;
mod ticket;
mod watches;

use crate::address::Address;
use crate::keeper::{Keeper, KeeperEvent, Request, RequestId, Urgency};
use connection::Connection;
use std::sync::Arc;
use std::time::Duration;
use ticket::{Desk, Submission};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use request::{frame_bytes, FRAME_BYTES_MAX};

/// How a [`ZooKeeper`] works. Plain values; [`Config::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where ZooKeeper is.
    pub address: Address,
    /// Session timeout to ask for; the servers clamp it to 2 to 20 of their ticks. 6 s by default.
    pub session_timeout: Duration,
    /// How many requests are outstanding at once. Servers throttle at 1,000 for all their clients; 128 by default.
    pub window: usize,
    /// How many transactions of [`Urgency::Shared`] requests are among them at most; 8 by default. What waits for one
    /// goes together, and counts as waiting until it is answered.
    pub window_shared: usize,
    /// How long after its submission a request is given up as unknown; 1.5 session timeouts by default.
    pub deadline: Duration,
    /// How long after its submission a request is given up as unknown while there is no session; 500 ms by default.
    /// Long enough that a caller who submits again does not spin.
    pub session_wait: Duration,
    /// How many requests may wait for the window; what is more is unknown at once. 4,096 by default.
    pub queue_requests_max: usize,
    /// How many bytes of requests may wait or be outstanding; what is more is unknown at once. 64 MiB by default.
    pub queue_bytes_max: usize,
}

impl Config {
    /// The defaults, for this address.
    pub fn new(address: Address) -> Self {
        let session_timeout = Duration::from_secs(6);
        Self {
            address,
            session_timeout,
            window: 128,
            window_shared: 8,
            deadline: session_timeout * 3 / 2,
            session_wait: Duration::from_millis(500),
            queue_requests_max: 4096,
            queue_bytes_max: 64 * 1024 * 1024,
        }
    }

    /// Asks for another session timeout and sets the deadline that belongs to it.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.session_timeout = timeout;
        self.deadline = timeout * 3 / 2;
        self
    }
}

/// Carries requests to a real ZooKeeper ensemble. Dropping it ends its session; what is outstanding is unknown then.
#[derive(Debug)]
pub struct ZooKeeper {
    desk: Arc<Desk>,
    submissions: mpsc::UnboundedSender<Submission>,
    task: JoinHandle<()>,
}

impl ZooKeeper {
    /// Starts to connect, and goes on until this is dropped.
    ///
    /// `sink` is told everything, one event at a time, on a thread of the runtime; it must not block. Events of one
    /// session are in order, and its outcomes in the order in which their requests were sent, unless they pass their
    /// deadline.
    pub fn start(config: Config, sink: impl Fn(KeeperEvent) + Send + Sync + 'static, runtime: &Handle) -> Self {
        let desk = Arc::new(Desk::new(&config, sink));
        let (submissions, inbox) = mpsc::unbounded_channel();
        let connection = Connection::new(config, Arc::clone(&desk), inbox);
        let task = runtime.spawn(connection.run());
        Self { desk, submissions, task }
    }

    /// Ends the session and waits until the servers were told, so that its ephemeral znodes go at once, or until that
    /// takes too long.
    pub async fn close(self) {
        let Self { submissions, task, .. } = self;
        drop(submissions);
        // It ends by itself; that it was ended otherwise is no news to whoever closes it.
        let _ = task.await;
    }
}

impl Keeper for ZooKeeper {
    fn submit(&self, id: RequestId, urgency: Urgency, request: Request) {
        let submission = self.desk.accept(id, urgency, request);
        if let Err(error) = self.submissions.send(submission) {
            // The runtime is gone. The outcome, unknown, is reported as the ticket is dropped: elsewhere, because a
            // caller must never be called back from within its own call.
            std::thread::spawn(move || drop(error));
        }
    }
}
