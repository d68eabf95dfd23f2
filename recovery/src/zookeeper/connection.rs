//! The task that owns the client: connects, serves one session after the other, and never gives up.

use super::request::{chroot_bytes, frame_bytes};
use super::session::{Happening, Outstanding};
use super::ticket::{Desk, Submission, Ticket};
use super::Config;
use crate::address::{Address, Server};
use crate::keeper::KeeperEvent;
use crate::queue::Queue;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout, Instant};
use tracing::{info, warn};
use zookeeper_client::{Acls, Client, Error, SessionState, StateWatcher};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
// How long a server may take to hear that its client leaves.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
// Submissions taken in one go, between two looks at what else there is to do.
const BATCH: usize = 64;

/// Why a session is no longer served.
enum End {
    /// It is over, for this reason.
    Over(String),
    /// The keeper was dropped.
    Closed,
}

pub(super) struct Connection {
    config: Config,
    desk: Arc<Desk>,
    inbox: mpsc::UnboundedReceiver<Submission>,
    queue: Queue<Ticket>,
    // The last trouble reported, so that each is reported once.
    trouble: Option<String>,
}

impl Connection {
    pub(super) fn new(config: Config, desk: Arc<Desk>, inbox: mpsc::UnboundedReceiver<Submission>) -> Self {
        Self { config, desk, inbox, queue: Queue::default(), trouble: None }
    }

    pub(super) async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let Some(client) = self.connect(&mut pause).await else { return };
            let began = Instant::now();
            let state = client.state_watcher();
            let end = self.serve(Arc::new(client)).await;
            match end {
                End::Closed => return say_goodbye(state).await,
                End::Over(cause) => info!(session = self.desk.session().0, cause, "session over"),
            }
            self.desk.next_session();
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            } else if self.pause(&mut pause).await.is_none() {
                // A session that ends as soon as it begins must not be rebuilt in a tight loop.
                return;
            }
        }
    }

    /// Connects, however long it takes; `None` when the keeper was dropped.
    async fn connect(&mut self, pause: &mut Duration) -> Option<Client> {
        loop {
            let attempt = connect_once(self.config.clone());
            match self.meanwhile(attempt).await? {
                Ok(client) => {
                    self.trouble = None;
                    return Some(client);
                }
                Err(error) => {
                    let unresolved = match error {
                        Error::NoHosts => self.meanwhile(unresolved(self.config.address.clone())).await?,
                        _ => None,
                    };
                    self.report_trouble(&error, unresolved);
                }
            }
            self.pause(pause).await?;
        }
    }

    async fn pause(&mut self, pause: &mut Duration) -> Option<()> {
        self.meanwhile(sleep(*pause)).await?;
        *pause = (*pause * 2).min(PAUSE_MAX);
        Some(())
    }

    /// Waits for `future` while there is no session; `None` when the keeper was dropped.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let mut batch = Vec::new();
        let mut alarm = self.give_up_without_session();
        loop {
            tokio::select! {
                done = &mut future => return Some(done),
                count = self.inbox.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return None;
                    }
                    batch.drain(..).for_each(|submission| self.enqueue(submission));
                    alarm = self.give_up_without_session();
                }
                () = wait_until(alarm) => alarm = self.give_up_without_session(),
            }
        }
    }

    fn give_up_without_session(&mut self) -> Option<Instant> {
        let wait = self.config.session_wait;
        self.give_up(|ticket| ticket.deadline.min(ticket.submitted + wait), "there is no session")
    }

    /// Reports as unknown every request not sent whose `limit` is reached; returns the next limit. Limits ascend in the
    /// order of submission.
    fn give_up(&mut self, limit: impl Fn(&Ticket) -> Instant, cause: &str) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let reached = self
            .queue
            .take_due(|ticket| limit(ticket) <= now, |ticket| next = next.into_iter().chain([limit(ticket)]).min());
        reached.into_iter().for_each(|ticket| ticket.unknown(cause));
        next
    }

    /// Takes a request in; one that was too many is answered at once.
    fn enqueue(&mut self, Submission { ticket, urgency, request }: Submission) {
        match request {
            Some(request) => self.queue.push(ticket, urgency, request),
            None => ticket.unknown("too many requests are waiting"),
        }
    }

    async fn serve(&mut self, client: Arc<Client>) -> End {
        let acls = if self.config.address.credentials.is_some() { Acls::creator_all() } else { Acls::anyone_all() };
        let mut outstanding = Outstanding::new(Arc::clone(&client), acls);
        let end = self.carry_requests(&client, &mut outstanding).await;
        drop(client);
        let cause = match &end {
            End::Over(cause) => cause.as_str(),
            End::Closed => "the keeper was shut down",
        };
        let session = self.desk.session();
        let watched = outstanding.end(cause).await;
        self.queue.drain().into_iter().for_each(|ticket| ticket.unknown(cause));
        if let End::Over(_) = end {
            watched.into_iter().for_each(|path| self.desk.emit(KeeperEvent::Changed { path }));
            self.desk.emit(KeeperEvent::Expired { session });
        }
        end
    }

    /// Carries requests until the session ends or the keeper is dropped.
    async fn carry_requests(&mut self, client: &Client, outstanding: &mut Outstanding) -> End {
        let mut states = client.state_watcher();
        // It may have lost its connection, or even its session, since it was built.
        let mut news = Some(states.state());
        let mut up = false;
        let mut alarm = self.expire(outstanding);
        let mut batch = Vec::new();
        loop {
            if let Some(state) = news.take() {
                if let Some(end) = self.note_state(state, &mut up, client) {
                    return end;
                }
            }
            while outstanding.len() < self.config.window.max(1) {
                let room = outstanding.shared() < self.config.window_shared.max(1);
                let chroot = chroot_bytes(client.path());
                let Some(parcel) = self.queue.pop(room, |ops| frame_bytes(chroot, ops)) else { break };
                outstanding.launch(parcel).await;
            }
            tokio::select! {
                biased;
                happening = outstanding.next() => match happening {
                    Happening::Answered(again) => {
                        again.into_iter().for_each(|(ticket, ops)| self.queue.push_again(ticket, ops));
                    }
                    Happening::Broken => return End::Over("the client library failed".to_owned()),
                    Happening::Fired(path) => self.desk.emit(KeeperEvent::Changed { path }),
                },
                state = states.changed() => news = Some(state),
                count = self.inbox.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return End::Closed;
                    }
                    for submission in batch.drain(..) {
                        // Deadlines ascend, so the first of them is the next.
                        alarm = alarm.or(Some(submission.ticket.deadline));
                        self.enqueue(submission);
                    }
                }
                () = wait_until(alarm) => alarm = self.expire(outstanding),
            }
        }
    }

    fn note_state(&mut self, state: SessionState, up: &mut bool, client: &Client) -> Option<End> {
        let session = self.desk.session();
        // The library keeps the latest state alone: connected while connected means that it was not, in between.
        if std::mem::replace(up, false) {
            self.desk.emit(KeeperEvent::Disconnected { session });
        }
        match state {
            SessionState::SyncConnected => {
                *up = true;
                self.connected(client);
                None
            }
            SessionState::Disconnected => None,
            SessionState::AuthFailed => {
                self.report_trouble(&Error::AuthFailed, None);
                Some(End::Over("the credentials were refused".to_owned()))
            }
            over => Some(End::Over(format!("the session ended: {over}"))),
        }
    }

    /// Reports as unknown what has passed its deadline, sent or not; returns the next deadline.
    fn expire(&mut self, outstanding: &mut Outstanding) -> Option<Instant> {
        let queued = self.give_up(|ticket| ticket.deadline, "not sent until the deadline");
        queued.into_iter().chain(outstanding.expire(Instant::now())).min()
    }

    fn connected(&self, client: &Client) {
        let session = self.desk.session();
        let granted = client.session_timeout();
        info!(session = session.0, id = %client.session_id(), ?granted, "connected to ZooKeeper");
        let timeout_ms = u64::try_from(granted.as_millis()).unwrap_or(u64::MAX);
        self.desk.emit(KeeperEvent::Connected { session, timeout_ms });
    }

    fn report_trouble(&mut self, error: &Error, unresolved: Option<String>) {
        let address = &self.config.address;
        let text = match error {
            Error::NoHosts if unresolved.is_some() => {
                let why = unresolved.unwrap_or_default();
                format!("no ZooKeeper server answers, and not every name can be resolved: address={address}, {why}")
            }
            Error::AuthFailed => format!("ZooKeeper refuses who we are, or demands to know: address={address}"),
            Error::NoHosts | Error::Timeout | Error::ConnectionLoss => {
                format!("no ZooKeeper server answers: address={address}")
            }
            error => format!("cannot use ZooKeeper: address={address}, {error}"),
        };
        if self.trouble.as_ref() != Some(&text) {
            warn!("{text}");
            self.desk.emit(KeeperEvent::Trouble(text.clone()));
            self.trouble = Some(text);
        }
    }
}

/// Tries every server once.
async fn connect_once(config: Config) -> Result<Client, Error> {
    // Failing eagerly leaves the pause between attempts to us; the library's own grows without bound.
    let mut connector = Client::connector().with_session_timeout(config.session_timeout).with_fail_eagerly();
    if let Some(credentials) = &config.address.credentials {
        let secret = format!("{}:{}", credentials.user, credentials.password);
        connector = connector.with_auth("digest", secret.as_bytes());
    }
    let client = connector.connect(&config.address.servers()).await?;
    client.chroot(config.address.chroot.as_str()).map_err(|_| Error::BadArguments(&"chroot"))
}

/// The first server whose name nobody knows, with the system's answer. The library takes it for one that is down.
async fn unresolved(address: Address) -> Option<String> {
    for Server { host, port } in address.servers {
        if let Err(error) = tokio::net::lookup_host((host.as_str(), port)).await {
            return Some(format!("host={host} cause={error}"));
        }
    }
    None
}

/// Waits until the client, of which nobody holds a handle any more, has closed its session.
async fn say_goodbye(mut state: StateWatcher) {
    let closed = async { while matches!(state.changed().await, SessionState::SyncConnected) {} };
    // Without a server nobody can be told.
    let _ = timeout(GOODBYE_MAX, closed).await;
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
