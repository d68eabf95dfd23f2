//! The links to the other nodes: who dials, who listens, and what is told when one ends.
//!
//! There is one link for each pair of nodes: the higher id dials, the lower listens. When an established link ends,
//! both sides find out at once whether the peer's address still accepts connections; if not, its process is dead, and
//! the core is told ([`LinkEvent::Refused`]), once until the next completed handshake.
//!
//! For each peer, events are delivered in order: up, messages, down. All of them are sent under the lock of the table,
//! so no message of an ended link can follow its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::counters::Counters;
use super::handshake::greet;
use super::inbox::{Inbox, Input};
use super::link::{self, SendQueue};
use super::listener;
use crate::replica::event::{Event, Incarnation, LinkEvent, NodeId};
use crate::wire::frame::{FrameError, FRAME_BYTES_MAX};
use crate::wire::handshake::{HandshakeError, Hello, Identity};

// A killed process closes its sockets one by one within milliseconds, so the first attempts may still be accepted. Whether
// it is gone is to be known at once after that: every millisecond of it is one without a leader.
const BACK_OFF_MIN: Duration = Duration::from_millis(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
// A link that held this long was a good one: when it ends the next attempt is made at once.
const GOOD_LINK_MIN: Duration = Duration::from_secs(1);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const PROBE_LIMIT: Duration = Duration::from_secs(1);
// How long after a link's end a refusal is still waited for.
const SUSPICION_LIMIT: Duration = Duration::from_secs(2);
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
// Peers a node can have: far more than a cluster of groups of seven needs, and a bound for what is kept per peer.
const PEERS_MAX: usize = 256;

/// All links of this node. Clones share them.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) me: NodeId,
    pub(crate) nonce: u64,
    pub(crate) counters: Arc<Counters>,
    inbox: Inbox,
    runtime: Handle,
    identity: watch::Sender<Option<Identity>>,
    table: Mutex<HashMap<NodeId, Peer>>,
}

struct Peer {
    order: watch::Sender<Option<Order>>,
    link: Option<Link>,
    // Number of the newest link, counted from 1.
    links: u64,
    dialer: bool,
    suspicion: Option<AbortHandle>,
}

// Whom to link to, as the core said last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    incarnation: Incarnation,
    address: String,
}

struct Link {
    number: u64,
    incarnation: Incarnation,
    queue: SendQueue,
    task: AbortHandle,
}

impl Peers {
    /// Begins to listen. Until [`identify`](Self::identify) only probes are answered.
    pub(crate) fn start(
        me: NodeId,
        nonce: u64,
        listener: TcpListener,
        inbox: Inbox,
        runtime: Handle,
        counters: Arc<Counters>,
    ) -> Self {
        let identity = watch::Sender::new(None);
        let shared = Shared { me, nonce, counters, inbox, runtime, identity, table: Mutex::default() };
        let peers = Self { shared: Arc::new(shared) };
        peers.shared.runtime.spawn(listener::listen(peers.clone(), listener));
        peers
    }

    /// Tells who this node is from now on.
    pub(crate) fn identify(&self, identity: Identity) {
        self.shared.identity.send_replace(Some(identity));
    }

    pub(crate) fn identity(&self) -> Option<Identity> {
        *self.shared.identity.borrow()
    }

    /// Keeps a link to this incarnation of the peer, or a later one, at this address.
    pub(crate) fn dial(&self, peer: NodeId, incarnation: Incarnation, address: String) {
        let mut table = self.table();
        let Some(entry) = entry(&mut table, peer) else {
            tracing::warn!(peer = peer.0, limit = PEERS_MAX, "too many peers, not linking");
            return;
        };
        entry.order.send_replace(Some(Order { incarnation, address }));
        if entry.link.as_ref().is_some_and(|link| link.incarnation < incarnation) {
            self.close(peer, entry);
        }
        if self.shared.me > peer && !entry.dialer {
            entry.dialer = true;
            let orders = entry.order.subscribe();
            self.shared.runtime.spawn(self.clone().dial_for_ever(peer, orders));
        }
    }

    /// Queues a message on the peer's link; drops it where there is none or the queue is full.
    pub(crate) fn send(&self, peer: NodeId, message: Bytes) {
        if message.len() > FRAME_BYTES_MAX || message.is_empty() {
            // The core's own bounds keep messages far below. Dropping one is what a network may do.
            tracing::error!(bytes = message.len(), limit = FRAME_BYTES_MAX, "message of impossible size not sent");
            return;
        }
        let table = self.table();
        let sent = table.get(&peer).and_then(|peer| peer.link.as_ref()).is_some_and(|link| link.queue.push(message));
        if !sent {
            self.shared.counters.count_message_dropped();
        }
    }

    /// Finds out which process answers at the address, and reports it as [`Event::Probed`].
    pub(crate) fn probe(&self, address: String) {
        let peers = self.clone();
        self.shared.runtime.spawn(async move {
            let nonce = timeout(PROBE_LIMIT, peers.ask(&address)).await.ok().and_then(Result::ok);
            peers.shared.inbox.event(Event::Probed { nonce });
        });
    }

    /// Asks the process at the address for its nonce.
    async fn ask(&self, address: &str) -> Result<u64, HandshakeError> {
        let mut stream = TcpStream::connect(address).await.map_err(FrameError::Ended)?;
        let welcome = greet(&mut stream, &Hello::probe(self.shared.me, self.shared.nonce)).await?;
        Ok(welcome.nonce())
    }

    async fn dial_for_ever(self, peer: NodeId, mut orders: watch::Receiver<Option<Order>>) {
        let mut identities = self.shared.identity.subscribe();
        let mut back_off = BACK_OFF_MIN;
        // Whether a refusal means the end of a process that was there: only after a completed handshake.
        let mut armed = false;
        // The last reason told, so that each is told once.
        let mut told = None;
        loop {
            let identity = match identities.wait_for(Option::is_some).await {
                Ok(identity) => *identity,
                Err(_) => return,
            };
            let order = orders.borrow_and_update().clone();
            let (Some(identity), Some(order)) = (identity, order) else { return };
            let began = Instant::now();
            match self.link_to(peer, identity, &order).await {
                Ok(link) => {
                    armed = true;
                    told = None;
                    let began = Instant::now();
                    // Aborted by a newer link or order, or ended by itself: either way this one is over.
                    let _ = link.await;
                    if began.elapsed() >= GOOD_LINK_MIN {
                        back_off = BACK_OFF_MIN;
                        continue;
                    }
                }
                Err(error) => {
                    if armed && is_refused(&error) {
                        armed = false;
                        self.report_refused(peer);
                    }
                    tracing::debug!(peer = peer.0, address = order.address, %error, after = ?began.elapsed(), "no link");
                    let why = Some(error.to_string());
                    if told != why {
                        tracing::info!(peer = peer.0, address = order.address, %error, "cannot link, trying again");
                        told = why;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(back_off) => back_off = (back_off * 2).min(BACK_OFF_MAX),
                changed = orders.changed() => match changed {
                    Ok(()) => back_off = BACK_OFF_MIN,
                    Err(_) => return,
                },
            }
        }
    }

    async fn link_to(&self, peer: NodeId, identity: Identity, order: &Order) -> Result<JoinHandle<()>, HandshakeError> {
        let connect = timeout(CONNECT_LIMIT, TcpStream::connect(order.address.as_str()));
        let mut stream = connect.await.map_err(|_| HandshakeError::Deadline)?.map_err(FrameError::Ended)?;
        stream.set_nodelay(true).map_err(FrameError::Ended)?;
        let hello = Hello::link(self.shared.me, self.shared.nonce, identity, peer);
        let welcome = timeout(HANDSHAKE_LIMIT, greet(&mut stream, &hello));
        let welcome = welcome.await.map_err(|_| HandshakeError::Deadline)??;
        let incarnation = welcome.accept(peer, identity)?;
        self.establish(peer, incarnation, stream).ok_or(HandshakeError::Stranger("an incarnation that has ended"))
    }

    /// Whether a link to this incarnation would be taken. The answer may change until [`establish`](Self::establish).
    pub(crate) fn would_establish(&self, peer: NodeId, incarnation: Incarnation) -> bool {
        entry(&mut self.table(), peer).is_some_and(|entry| entry.takes(incarnation))
    }

    /// Takes a connection whose handshake is complete as the peer's link, in place of any other.
    pub(crate) fn establish(
        &self,
        peer: NodeId,
        incarnation: Incarnation,
        stream: TcpStream,
    ) -> Option<JoinHandle<()>> {
        let mut table = self.table();
        let entry = entry(&mut table, peer).filter(|entry| entry.takes(incarnation))?;
        self.close(peer, entry);
        if let Some(suspicion) = entry.suspicion.take() {
            suspicion.abort();
        }
        entry.links += 1;
        let number = entry.links;
        let (queue, queued) = link::queue();
        let peers = self.clone();
        // The task cannot deliver anything before this function is left: it needs the lock for it.
        let task = self.shared.runtime.spawn(async move {
            let deliver = |message, permit| peers.deliver(peer, number, message, permit);
            let error = link::run(stream, queued, deliver).await;
            peers.ended(peer, number, &error);
        });
        entry.link = Some(Link { number, incarnation, queue, task: task.abort_handle() });
        self.tell(peer, LinkEvent::Up { incarnation });
        tracing::debug!(peer = peer.0, incarnation = incarnation.0, "link up");
        Some(task)
    }

    fn deliver(&self, peer: NodeId, number: u64, message: Bytes, permit: tokio::sync::OwnedSemaphorePermit) -> bool {
        let table = self.table();
        let current = table.get(&peer).and_then(|peer| peer.link.as_ref()).is_some_and(|link| link.number == number);
        current && self.shared.inbox.put(Input::Message { peer, message, permit })
    }

    fn ended(&self, peer: NodeId, number: u64, error: &FrameError) {
        if error.is_bad_frame() {
            self.shared.counters.count_bad_frame();
        }
        let mut table = self.table();
        let Some(entry) = table.get_mut(&peer) else { return };
        if entry.link.take_if(|link| link.number == number).is_none() {
            return;
        }
        tracing::debug!(peer = peer.0, %error, "link ended");
        self.tell(peer, LinkEvent::Down);
        let order = entry.order.borrow().clone();
        // Who dials finds out by dialing again.
        if let Some(order) = order.filter(|_| self.shared.me < peer) {
            let suspicion = self.shared.runtime.spawn(self.clone().suspect(peer, number, order));
            entry.suspicion = Some(suspicion.abort_handle());
        }
    }

    /// Finds out whether the peer that dialed this node is still there.
    async fn suspect(self, peer: NodeId, number: u64, order: Order) {
        let began = Instant::now();
        let mut pause = BACK_OFF_MIN;
        while began.elapsed() < SUSPICION_LIMIT {
            match timeout(PROBE_LIMIT, self.ask(&order.address)).await {
                Ok(Err(error)) if is_refused(&error) => {
                    let unchanged = self.table().get(&peer).is_some_and(|entry| {
                        entry.link.is_none()
                            && entry.links == number
                            && entry.order.borrow().as_ref().is_some_and(|now| now.incarnation == order.incarnation)
                    });
                    if unchanged {
                        self.report_refused(peer);
                    }
                    return;
                }
                Ok(Ok(_)) => return,
                Ok(Err(_)) | Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACK_OFF_MAX);
        }
    }

    fn report_refused(&self, peer: NodeId) {
        let table = self.table();
        // A link that came up meanwhile has disproved it.
        if table.get(&peer).is_some_and(|entry| entry.link.is_none()) {
            tracing::debug!(peer = peer.0, "connection refused");
            self.tell(peer, LinkEvent::Refused);
        }
    }

    fn close(&self, peer: NodeId, entry: &mut Peer) {
        if let Some(link) = entry.link.take() {
            link.task.abort();
            self.tell(peer, LinkEvent::Down);
        }
    }

    fn tell(&self, peer: NodeId, event: LinkEvent) {
        self.shared.inbox.event(Event::Link(peer, event));
    }

    fn table(&self) -> MutexGuard<'_, HashMap<NodeId, Peer>> {
        // No code panics while it holds the lock and has the table half changed.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    fn takes(&self, incarnation: Incarnation) -> bool {
        let ordered = self.order.borrow().as_ref().map_or(Incarnation(0), |order| order.incarnation);
        let linked = self.link.as_ref().map_or(Incarnation(0), |link| link.incarnation);
        incarnation >= ordered.max(linked)
    }
}

fn entry(table: &mut HashMap<NodeId, Peer>, peer: NodeId) -> Option<&mut Peer> {
    if table.len() >= PEERS_MAX && !table.contains_key(&peer) {
        return None;
    }
    let new = || Peer { order: watch::Sender::new(None), link: None, links: 0, dialer: false, suspicion: None };
    Some(table.entry(peer).or_insert_with(new))
}

fn is_refused(error: &HandshakeError) -> bool {
    matches!(error, HandshakeError::Frame(FrameError::Ended(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests;
