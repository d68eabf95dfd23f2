//! A real server, a keeper on it, and everything the keeper says.
#![allow(dead_code)] // Each test program uses its own part of it.

use bequest_harness::{Framing, Installation, Proxy, ZooKeeperServer};
use bequest_recovery::address::Address;
use bequest_recovery::keeper::{
    Keeper, KeeperEvent, Op, Outcome, Reason, Refusal, Reply, Request, RequestId, SessionNumber, Stat, Urgency,
};
use bequest_recovery::zookeeper::{Config, ZooKeeper};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Longer than anything takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The session timeout tests ask for: long enough for a busy machine.
pub(crate) const SESSION: Duration = Duration::from_secs(6);

pub(crate) fn installations() -> Vec<Installation> {
    Installation::every().expect("tests need a ZooKeeper")
}

pub(crate) async fn server(installation: &Installation) -> ZooKeeperServer {
    ZooKeeperServer::builder().installation(installation.clone()).start().await.expect("the server starts")
}

pub(crate) async fn proxy(server: &ZooKeeperServer) -> Proxy {
    Proxy::start(server.address(), Framing::ZooKeeper).await.expect("the proxy starts")
}

/// A client of its own, past any proxy.
pub(crate) async fn raw_client(address: SocketAddr) -> zookeeper_client::Client {
    zookeeper_client::Client::connect(&address.to_string()).await.expect("the server accepts clients")
}

/// A plain znode that anyone may do anything to.
pub(crate) fn anyone() -> zookeeper_client::CreateOptions<'static> {
    zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all())
}

/// A keeper and what it said so far.
pub(crate) struct Rig {
    keeper: Option<ZooKeeper>,
    events: Arc<Events>,
    next: AtomicU64,
}

struct Events {
    list: Mutex<Vec<KeeperEvent>>,
    count: watch::Sender<usize>,
}

impl Rig {
    pub(crate) fn start(config: Config) -> Self {
        let events = Arc::new(Events { list: Mutex::new(Vec::new()), count: watch::Sender::new(0) });
        let heard = Arc::clone(&events);
        let sink = move |event| {
            let mut list = heard.list.lock().expect("no test panics while it holds this");
            list.push(event);
            heard.count.send_replace(list.len());
        };
        let keeper = ZooKeeper::start(config, sink, &tokio::runtime::Handle::current());
        Self { keeper: Some(keeper), events, next: AtomicU64::new(1) }
    }

    /// A keeper with default settings at this address, below the root.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self::start(config(address))
    }

    /// The same, and connected.
    pub(crate) async fn connected(address: SocketAddr) -> Self {
        let rig = Self::at(address);
        rig.wait_connected(1).await;
        rig
    }

    pub(crate) fn submit(&self, request: Request) -> RequestId {
        self.submit_as(Urgency::Normal, request)
    }

    pub(crate) fn submit_as(&self, urgency: Urgency, request: Request) -> RequestId {
        let id = RequestId(self.next.fetch_add(1, Ordering::SeqCst));
        self.keeper.as_ref().expect("not dropped").submit(id, urgency, request);
        id
    }

    pub(crate) async fn ask(&self, request: Request) -> Outcome {
        let id = self.submit(request);
        self.outcome(id).await
    }

    pub(crate) async fn multi(&self, ops: impl Into<Vec<Op>>) -> Outcome {
        self.ask(Request::Multi(ops.into())).await
    }

    pub(crate) async fn outcome(&self, id: RequestId) -> Outcome {
        self.wait_for(&format!("the outcome of {id:?}"), |events| outcome_in(events, id)).await
    }

    pub(crate) async fn outcomes(&self, ids: &[RequestId]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for id in ids {
            outcomes.push(self.outcome(*id).await);
        }
        outcomes
    }

    /// Waits until session `number` is connected.
    pub(crate) async fn wait_connected(&self, number: u64) {
        let connected =
            |event: &KeeperEvent| matches!(event, KeeperEvent::Connected { session, .. } if session.0 == number);
        self.wait_for(&format!("session {number} to connect"), |events| events.iter().any(connected).then_some(()))
            .await;
    }

    /// Waits until `count` events are as wanted.
    pub(crate) async fn wait_count(&self, count: usize, what: &str, wanted: impl Fn(&KeeperEvent) -> bool) {
        let what = format!("{what}, {count} times");
        self.wait_for(&what, |events| (events.iter().filter(|event| wanted(event)).count() >= count).then_some(()))
            .await;
    }

    pub(crate) async fn wait_changed(&self, path: &str, count: usize) {
        let what = format!("{path} to be reported as changed");
        self.wait_count(count, &what, |event| matches!(event, KeeperEvent::Changed { path: at } if at == path)).await;
    }

    pub(crate) async fn wait_for<T>(&self, what: &str, found: impl Fn(&[KeeperEvent]) -> Option<T>) -> T {
        let mut count = self.events.count.subscribe();
        let wait = async {
            loop {
                if let Some(found) = found(&self.events()) {
                    return found;
                }
                count.changed().await.expect("the rig holds the sender");
            }
        };
        match tokio::time::timeout(LIMIT, wait).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain for {what}; heard {:#?}", self.events()),
        }
    }

    pub(crate) fn events(&self) -> Vec<KeeperEvent> {
        self.events.list.lock().expect("no test panics while it holds this").clone()
    }

    /// How many outcomes each request got.
    pub(crate) fn outcome_counts(&self) -> HashMap<RequestId, usize> {
        let mut counts = HashMap::new();
        for event in self.events() {
            if let KeeperEvent::Outcome { id, .. } = event {
                *counts.entry(id).or_default() += 1;
            }
        }
        counts
    }

    /// The session each of these requests' outcomes names.
    pub(crate) fn session_of(&self, id: RequestId) -> Option<SessionNumber> {
        self.events().into_iter().find_map(|event| match event {
            KeeperEvent::Outcome { id: of, session, .. } if of == id => Some(session),
            _ => None,
        })
    }

    /// Drops the keeper; what it says afterwards is still heard.
    pub(crate) fn drop_keeper(&mut self) {
        self.keeper = None;
    }

    pub(crate) async fn close(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.close().await;
        }
    }

    /// Every request that was submitted has exactly one outcome.
    pub(crate) fn assert_one_outcome_each(&self) {
        let counts = self.outcome_counts();
        for id in (1..self.next.load(Ordering::SeqCst)).map(RequestId) {
            assert_eq!(counts.get(&id), Some(&1), "outcomes of {id:?}");
        }
    }
}

fn outcome_in(events: &[KeeperEvent], id: RequestId) -> Option<Outcome> {
    events.iter().find_map(|event| match event {
        KeeperEvent::Outcome { id: of, outcome, .. } if *of == id => Some(outcome.clone()),
        _ => None,
    })
}

pub(crate) fn config(address: SocketAddr) -> Config {
    below(address, "")
}

pub(crate) fn below(address: SocketAddr, chroot: &str) -> Config {
    let address: Address = format!("zk://{address}{chroot}").parse().expect("a valid address");
    Config::new(address).session_timeout(SESSION)
}

pub(crate) fn check(path: &str, version: i32) -> Op {
    Op::Check { path: path.to_owned(), version }
}

pub(crate) fn create(path: &str, data: &[u8]) -> Op {
    Op::Create { path: path.to_owned(), data: Bytes::copy_from_slice(data), ephemeral: false }
}

pub(crate) fn ephemeral(path: &str) -> Op {
    Op::Create { path: path.to_owned(), data: Bytes::new(), ephemeral: true }
}

pub(crate) fn set(path: &str, data: &[u8], version: i32) -> Op {
    Op::Set { path: path.to_owned(), data: Bytes::copy_from_slice(data), version }
}

pub(crate) fn delete(path: &str, version: Option<i32>) -> Op {
    Op::Delete { path: path.to_owned(), version }
}

pub(crate) fn get(path: &str) -> Request {
    Request::Get { path: path.to_owned(), watch: false }
}

pub(crate) fn exists(path: &str) -> Request {
    Request::Exists { path: path.to_owned(), watch: false }
}

pub(crate) fn children(path: &str) -> Request {
    Request::Children { path: path.to_owned(), watch: false }
}

pub(crate) fn done() -> Outcome {
    Outcome::Ok(Reply::Done)
}

pub(crate) fn refused(op: usize, reason: Reason) -> Outcome {
    Outcome::Refused(Refusal { op, reason })
}

pub(crate) fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unknown(_))
}

/// What a get returned; panics if it was no success.
pub(crate) fn found(outcome: &Outcome) -> Option<(Bytes, Stat)> {
    match outcome {
        Outcome::Ok(Reply::Data(found)) => found.clone(),
        other => panic!("not the answer to a get: {other:?}"),
    }
}
