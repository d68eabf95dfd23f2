//! This node's place in the cluster: which incarnation it is, and who its peers are.
//!
//! A starting process takes the next incarnation by compare-and-set, unless the process recorded there answers. It is
//! told apart by its random nonce, also when the reply to its own registration was lost. Once another process has
//! registered later, this one stops.

use std::collections::BTreeMap;

use bequest_recovery::keeper::{Op, Outcome, Reason, Reply, Request, SessionNumber, Stat, Urgency};
use bequest_recovery::path;
use bequest_recovery::record::{self, Addresses, Cluster, Registration, Uuid, FORMAT};
use bytes::Bytes;

use super::context::{Context, Owner, Peer};
use super::event::{Effect, Incarnation, NodeId, Now};
use crate::error::NodeError;

/// A request of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Does the cluster exist? Asked by a transaction, whose "no" is certain.
    Exists,
    Cluster,
    Read,
    Register,
    Watch,
    Live,
    LiveAgain,
    Peer(NodeId),
    PeerWatch(NodeId),
}

#[derive(Debug)]
enum Phase {
    /// Waiting for a session.
    Idle,
    /// One of the requests on the way to a registration is outstanding.
    Asking,
    /// Waiting for the probe of the recorded process.
    Probing {
        found: Registration,
        version: i32,
    },
    /// An outcome was unknown: go on from reading at this time.
    Retry(Now),
    Registered,
}

/// What the registry found out that concerns the rest of the node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Registered {
        cluster: Uuid,
        incarnation: Incarnation,
        version: i32,
    },
    /// A peer's registration was read.
    Peer {
        peer: NodeId,
        incarnation: Incarnation,
        addresses: Addresses,
    },
    Stop(NodeError),
}

#[derive(Debug)]
pub(super) struct Registry {
    phase: Phase,
    cluster: Option<Uuid>,
    /// The registration this process tries to create, or has.
    record: Option<(Registration, i32)>,
    live_on: Option<SessionNumber>,
    peers: BTreeMap<NodeId, bool>,
    polled: Now,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Idle,
            cluster: None,
            record: None,
            live_on: None,
            peers: BTreeMap::new(),
            polled: Now::default(),
        }
    }

    fn call(cx: &mut Context<'_>, call: Call, request: Request) {
        cx.call(Owner::Registry(call), Urgency::Normal, request);
    }

    /// A session is there, or back.
    pub(super) fn connected(&mut self, cx: &mut Context<'_>) {
        match self.phase {
            Phase::Idle | Phase::Retry(_) => self.begin(cx),
            Phase::Registered => self.look(cx),
            Phase::Asking | Phase::Probing { .. } => {}
        }
    }

    fn begin(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Asking;
        let check = Op::Check { path: path::NODES.to_owned(), version: 0 };
        Self::call(cx, Call::Exists, Request::Multi(vec![check]));
    }

    fn retry(&mut self, cx: &Context<'_>) {
        self.phase = Phase::Retry(cx.now + cx.config.election_timeout);
    }

    /// Reads everything that is watched once more, and renews the hint of life.
    fn look(&mut self, cx: &mut Context<'_>) {
        self.polled = cx.now;
        let own = path::node(cx.config.node.0);
        Self::call(cx, Call::Watch, Request::Get { path: own, watch: true });
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.look_at(cx, peer);
        }
        if self.live_on != cx.facts.session {
            self.create_live(cx, Call::Live);
        }
    }

    fn create_live(&self, cx: &mut Context<'_>, call: Call) {
        let path = path::live(cx.config.node.0);
        let mut ops = vec![Op::Create { path: path.clone(), data: Bytes::new(), ephemeral: true }];
        if call == Call::LiveAgain {
            // Left over from this node's former session or life; only a hint, so nobody minds the moment without.
            ops.insert(0, Op::Delete { path, version: None });
        }
        Self::call(cx, call, Request::Multi(ops));
    }

    /// Follow the registration of a peer from now on.
    pub(super) fn watch_peer(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        if self.peers.insert(peer, false).is_none() && cx.facts.connected {
            self.look_at(cx, peer);
        }
    }

    fn look_at(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        Self::call(cx, Call::Peer(peer), Request::Get { path: path::node(peer.0), watch: true });
    }

    pub(super) fn changed(&mut self, cx: &mut Context<'_>, changed: &str) {
        if !matches!(self.phase, Phase::Registered) {
            return;
        }
        if changed == path::node(cx.config.node.0) {
            Self::call(cx, Call::Watch, Request::Get { path: changed.to_owned(), watch: true });
        }
        if let Some(peer) = self.peers.keys().copied().find(|peer| path::node(peer.0) == changed) {
            self.look_at(cx, peer);
        }
    }

    pub(super) fn tick(&mut self, cx: &mut Context<'_>) {
        if !cx.facts.connected {
            return;
        }
        match self.phase {
            Phase::Retry(at) if cx.now >= at => self.begin(cx),
            Phase::Registered if cx.now.since(self.polled) >= cx.config.poll => self.look(cx),
            _ => {}
        }
    }

    pub(super) fn wake_at(&self, poll: std::time::Duration) -> Option<Now> {
        match self.phase {
            Phase::Retry(at) => Some(at),
            Phase::Registered => Some(self.polled + poll),
            _ => None,
        }
    }

    /// The probe of the recorded process ended.
    pub(super) fn probed(&mut self, cx: &mut Context<'_>, nonce: Option<u64>) -> Option<News> {
        let Phase::Probing { found, version } = &self.phase else { return None };
        let (found, version) = (found.clone(), *version);
        if nonce == Some(found.nonce) {
            let address = found.addresses.unwrap_or_default().peer;
            return Some(News::Stop(NodeError::NodeAlreadyRunning { id: cx.config.node.0, address }));
        }
        self.register(cx, found.incarnation + 1, Some(version));
        None
    }

    /// Takes the incarnation. A crash right after is harmless: the next process takes the one after it.
    fn register(&mut self, cx: &mut Context<'_>, incarnation: u64, version: Option<i32>) {
        let Some(cluster) = self.cluster else { return self.retry(cx) };
        let node = cx.config.node.0;
        let registration = Registration {
            format: FORMAT,
            uuid: cluster.to_bytes(),
            incarnation,
            nonce: cx.config.nonce,
            addresses: Some(cx.config.addresses.clone()),
        };
        let data = record::seal(&registration);
        let create = |path| Op::Create { path, data: Bytes::new(), ephemeral: false };
        let ops = match version {
            Some(version) => vec![Op::Set { path: path::node(node), data, version }],
            None => vec![
                Op::Create { path: path::node(node), data, ephemeral: false },
                create(path::challenges(node)),
                create(path::answers(node)),
            ],
        };
        self.phase = Phase::Asking;
        self.record = Some((registration, version.map_or(0, |version| version + 1)));
        Self::call(cx, Call::Register, Request::Multi(ops));
    }

    fn registered(&mut self, cx: &mut Context<'_>, version: i32) -> Option<News> {
        let (record, expected) = self.record.as_mut()?;
        *expected = version;
        let incarnation = Incarnation(record.incarnation);
        self.phase = Phase::Registered;
        let cluster = self.cluster?;
        self.look(cx);
        Some(News::Registered { cluster, incarnation, version })
    }

    pub(super) fn outcome(
        &mut self,
        cx: &mut Context<'_>,
        call: Call,
        session: SessionNumber,
        outcome: Outcome,
    ) -> Option<News> {
        let node = cx.config.node.0;
        match (call, outcome) {
            (_, Outcome::Refused(refusal)) if refusal.reason == Reason::NoAuth => {
                (!matches!(self.phase, Phase::Registered))
                    .then(|| News::Stop(NodeError::Denied { path: path::node(node) }))
            }
            (Call::Exists, Outcome::Ok(_)) => {
                Self::call(cx, Call::Cluster, Request::Get { path: "/".to_owned(), watch: false });
                None
            }
            (Call::Exists, Outcome::Refused(refusal)) if refusal.reason == Reason::NoNode => {
                Some(News::Stop(NodeError::NoSuchCluster { path: path::NODES.to_owned() }))
            }
            (Call::Cluster, Outcome::Ok(Reply::Data(Some((bytes, _))))) => self.cluster(cx, &bytes),
            (Call::Read, Outcome::Ok(Reply::Data(data))) => self.read(cx, data),
            (Call::Register, Outcome::Ok(_)) => {
                let version = self.record.as_ref().map_or(0, |(_, version)| *version);
                self.registered(cx, version)
            }
            // Lost a race, or an earlier attempt of our own won it: the nonce tells.
            (Call::Register, Outcome::Refused(refusal))
                if matches!(refusal.reason, Reason::BadVersion | Reason::NodeExists) =>
            {
                Self::call(cx, Call::Read, Request::Get { path: path::node(node), watch: false });
                None
            }
            (Call::Watch, Outcome::Ok(Reply::Data(Some((bytes, stat))))) => self.watched(cx, &bytes, stat),
            (Call::Live | Call::LiveAgain, Outcome::Ok(_)) => {
                self.live_on = Some(session);
                None
            }
            (Call::Live, Outcome::Refused(_)) => {
                self.create_live(cx, Call::LiveAgain);
                None
            }
            (Call::Peer(peer), Outcome::Ok(Reply::Data(data))) => self.read_peer(cx, peer, data),
            (Call::Peer(_), Outcome::Unknown(_)) => {
                // Whom to link to must not wait for the poll.
                self.polled = Now(cx.now.0.saturating_sub(cx.config.poll)) + super::replica::RETRY;
                None
            }
            (Call::Watch | Call::Live | Call::LiveAgain | Call::Peer(_) | Call::PeerWatch(_), _) => None,
            // Unknown, or a server that has not seen the cluster yet; or where registrations lie is gone, and the check at
            // the next beginning says so.
            (Call::Exists | Call::Cluster | Call::Read | Call::Register, _) => {
                self.retry(cx);
                None
            }
        }
    }

    fn cluster(&mut self, cx: &mut Context<'_>, bytes: &Bytes) -> Option<News> {
        let cluster: Cluster = match record::open(bytes, None) {
            Ok(cluster) => cluster,
            Err(error) => return Some(News::Stop(NodeError::Record { path: "/".to_owned(), what: error.to_string() })),
        };
        let found = Uuid::from_slice(&cluster.uuid)?;
        match cx.config.cluster {
            Some(local) if local != found => return Some(News::Stop(NodeError::OtherCluster { local, found })),
            Some(_) => {}
            None if self.cluster.is_none() => cx.push(Effect::PersistIdentity { cluster: found }),
            None => {}
        }
        self.cluster = Some(found);
        let path = path::node(cx.config.node.0);
        Self::call(cx, Call::Read, Request::Get { path, watch: false });
        None
    }

    fn read(&mut self, cx: &mut Context<'_>, data: Option<(Bytes, Stat)>) -> Option<News> {
        let Some((bytes, stat)) = data else {
            self.register(cx, 1, None);
            return None;
        };
        let found: Registration = match record::open(&bytes, self.cluster) {
            Ok(found) => found,
            Err(error) => {
                let path = path::node(cx.config.node.0);
                return Some(News::Stop(NodeError::Record { path, what: error.to_string() }));
            }
        };
        if found.nonce == cx.config.nonce {
            self.record = Some((found, stat.version));
            return self.registered(cx, stat.version);
        }
        let address = found.addresses.clone().unwrap_or_default().peer;
        self.phase = Phase::Probing { found, version: stat.version };
        cx.push(Effect::Probe { address });
        None
    }

    fn watched(&mut self, cx: &mut Context<'_>, bytes: &Bytes, stat: Stat) -> Option<News> {
        let (own, version) = self.record.as_ref()?;
        // A server that lags behind our own registration shows an older one.
        if stat.version <= *version {
            return None;
        }
        let newer = record::open::<Registration>(bytes, self.cluster).map_or(0, |found| found.incarnation);
        let (id, incarnation) = (cx.config.node.0, own.incarnation);
        Some(News::Stop(NodeError::Superseded { id, incarnation, newer }))
    }

    fn read_peer(&mut self, cx: &mut Context<'_>, peer: NodeId, data: Option<(Bytes, Stat)>) -> Option<News> {
        let Some((bytes, _)) = data else {
            // Never registered yet: the poll finds it where the watch does not.
            Self::call(cx, Call::PeerWatch(peer), Request::Exists { path: path::node(peer.0), watch: true });
            return None;
        };
        // A damaged registration of a peer is the peer's trouble; it is found again at the next poll.
        let found: Registration = record::open(&bytes, self.cluster).ok()?;
        let incarnation = Incarnation(found.incarnation);
        Some(News::Peer { peer, incarnation, addresses: found.addresses.unwrap_or_default() })
    }
}

impl Peer {
    /// Learns of an incarnation; whether it is newer than any met before.
    pub(super) fn meet(&mut self, incarnation: Incarnation) -> bool {
        let newer = self.known.is_none_or(|known| incarnation > known);
        if newer {
            self.known = Some(incarnation);
        }
        newer
    }
}
