//! What every part of the core has at hand during one step.

use std::collections::BTreeMap;
use std::time::Duration;

use bequest_recovery::keeper::{Request, RequestId, SessionNumber, Urgency};
use bequest_recovery::record::Addresses;

use super::event::{Config, Effect, GroupNumber, Incarnation, NodeId, Now};

/// Lends out what a step needs, beside one other field of the core.
macro_rules! context {
    ($core:ident, $now:expr, $effects:expr) => {
        &mut $crate::replica::context::Context {
            now: $now,
            config: &$core.config,
            random: &mut $core.random,
            facts: &$core.facts,
            calls: &mut $core.calls,
            effects: $effects,
        }
    };
}
pub(super) use context;

/// Numbers that look random, from a seed alone: the core stays deterministic (SplitMix64, Steele et al. 2014).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Somewhere from zero up to `duration`.
    pub(super) fn up_to(&mut self, duration: Duration) -> Duration {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.next() % micros)
    }
}

/// Who asked ZooKeeper for something.
#[derive(Clone, Debug)]
pub(super) enum Owner {
    Registry(super::registry::Call),
    Challenge(super::challenge::Call),
    Group(GroupNumber, super::replica::Call),
}

/// Requests to ZooKeeper that have no outcome yet.
#[derive(Debug, Default)]
pub(super) struct Calls {
    next: u64,
    waiting: BTreeMap<RequestId, (Owner, Now)>,
}

impl Calls {
    /// How many.
    pub(super) fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Who made the request, and when.
    pub(super) fn take(&mut self, id: RequestId) -> Option<(Owner, Now)> {
        self.waiting.remove(&id)
    }
}

/// What this node knows of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// As registered in ZooKeeper.
    pub(super) registered: Option<(Incarnation, Addresses)>,
    /// The newest incarnation met, in ZooKeeper or by a handshake.
    pub(super) known: Option<Incarnation>,
    /// Incarnation at the other end of the link, while there is one.
    pub(super) link: Option<Incarnation>,
    /// When something arrived on a link last.
    pub(super) heard: Now,
    /// Whether a refused reconnect still counts: once per completed handshake.
    pub(super) armed: bool,
}

/// What holds for the whole node.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The ZooKeeper session in use.
    pub(super) session: Option<SessionNumber>,
    /// Whether it has a connection now.
    pub(super) connected: bool,
    /// When the connection was lost, while there is none.
    pub(super) disconnected: Now,
    /// What the server granted.
    pub(super) session_timeout: Duration,
    /// This node's incarnation and the version of its registration, once registered.
    pub(super) registered: Option<(Incarnation, i32)>,
    /// Peers of any group.
    pub(super) peers: BTreeMap<NodeId, Peer>,
    /// Smoothed time a write to ZooKeeper takes.
    pub(super) write_latency: Duration,
    /// When an append was answered last, of whatever group.
    pub(super) appended: Now,
    /// The last write that was counted: when its answer came, and after how long.
    last_write: Option<(Now, Duration)>,
    /// The node is going away.
    pub(super) shutting_down: bool,
}

impl Facts {
    /// A write was answered: smoothed like a round-trip time (RFC 6298), one eighth of each sample.
    ///
    /// What was out on a dead connection is answered late all at once, and says nothing about ZooKeeper. So writes that
    /// were out together count as one, and it takes two in a row to make ZooKeeper slow.
    pub(super) fn wrote(&mut self, now: Now, issued: Now) {
        if self.last_write.is_some_and(|(answered, _)| issued < answered) {
            return;
        }
        let took = now.since(issued);
        let smoothed = self.write_latency;
        self.write_latency = match self.last_write {
            None => took,
            Some((_, before)) => (smoothed * 7 + took.min(before)) / 8,
        };
        self.last_write = Some((now, took));
    }

    /// Silence that makes a leader doubted where nothing calls for more patience.
    pub(super) fn patience(&self, config: &Config) -> Duration {
        config.election_timeout.max(self.write_latency * 4)
    }

    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        self.registered.map(|(incarnation, _)| incarnation)
    }

    /// Whether there is a link to the peer.
    pub(super) fn is_linked(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.link.is_some())
    }

    /// Whether requests can be made on behalf of groups.
    pub(super) fn usable(&self) -> bool {
        self.connected && self.registered.is_some()
    }

    /// Whether the session must have expired by this node's own clock.
    pub(super) fn cut_off(&self, now: Now) -> bool {
        // The client notices silence after 2/5 of the timeout; the server may have heard from it until then.
        !self.connected && now.since(self.disconnected) >= self.session_timeout * 3 / 5
    }
}

/// Hands out effects and requests.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) config: &'a Config,
    pub(super) random: &'a mut Random,
    pub(super) facts: &'a Facts,
    pub(super) calls: &'a mut Calls,
    pub(super) effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn call(&mut self, owner: Owner, urgency: Urgency, request: Request) {
        self.calls.next += 1;
        let id = RequestId(self.calls.next);
        self.calls.waiting.insert(id, (owner, self.now));
        self.effects.push(Effect::Keeper { id, urgency, request });
    }
}
