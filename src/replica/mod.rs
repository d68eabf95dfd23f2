//! The pure core: Raft, its witnesses in ZooKeeper, and succession.
//!
//! [`Core::step`] is told what happened and answers what is to be done. There is no clock, thread, randomness, I/O or
//! async in here: the same events give the same effects, always, so a seed replays a run exactly.

mod archive;
mod ballot;
mod birth;
mod challenge;
mod context;
mod doubt;
mod engine;
pub mod event;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hint;
mod lead;
mod log;
mod message;
mod peers;
mod publish;
mod reading;
mod registry;
#[expect(clippy::module_inception, reason = "the noun of this folder, beside its parts")]
mod replica;
mod restoring;
mod round;
pub mod status;
mod stop;
mod succession;
mod suspicion;
mod tail;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bequest_recovery::keeper::{KeeperEvent, Outcome, RequestId, SessionNumber};
use bequest_recovery::planted;
use bequest_recovery::record::{Addresses, Testimony};
use bytes::Bytes;
use prost::Message as _;

use challenge::{Challenges, Question};
use context::{Calls, Context, Facts, Owner, Random};
use event::{Config, Effect, Effects, Event, GroupNumber, Incarnation, LinkEvent, NodeId, Now, Token};
use message::{Beat, Body, Envelope};
use registry::{News, Registry};
use replica::Replica;

pub use engine::NODES_MAX;
pub use event::default_limits;
pub use lead::PROPOSAL_BYTES_MAX;

use crate::error::{ProposeError, ReadError};

/// One node: its registration, links and suspicions, and a replica for every group it hosts.
#[derive(Debug)]
pub struct Core {
    config: Config,
    random: Random,
    facts: Facts,
    calls: Calls,
    registry: Registry,
    challenges: Challenges,
    replicas: BTreeMap<GroupNumber, Replica>,
    /// Replicas that an event of this step concerned.
    touched: BTreeSet<GroupNumber>,
    beaten: Now,
    halted: bool,
    told_shut_down: bool,
}

/// Lends out what a step needs, beside one other field of the core.
macro_rules! context {
    ($core:ident, $now:expr, $effects:expr) => {
        &mut Context {
            now: $now,
            config: &$core.config,
            random: &mut $core.random,
            facts: &$core.facts,
            calls: &mut $core.calls,
            effects: $effects,
        }
    };
}

impl Core {
    /// A core that has not spoken to ZooKeeper yet. It begins when told that a session is connected.
    pub fn new(config: Config) -> Self {
        let random = Random::new(config.seed);
        Self {
            config,
            random,
            facts: Facts::default(),
            calls: Calls::default(),
            registry: Registry::new(),
            challenges: Challenges::default(),
            replicas: BTreeMap::new(),
            touched: BTreeSet::new(),
            beaten: Now::default(),
            halted: false,
            told_shut_down: false,
        }
    }

    /// Takes what happened, in order, and answers what is to be done.
    ///
    /// Give all events that are at hand at once: entries proposed in one step travel together.
    pub fn step(&mut self, now: Now, events: impl IntoIterator<Item = Event>) -> Effects {
        let mut effects = Effects::default();
        if self.halted {
            return effects;
        }
        let out = &mut effects.list;
        if planted!(TimeBeforeEvents) {
            self.time(now, out);
        }
        for event in events {
            self.event(now, event, out);
            if self.halted(out) {
                return effects;
            }
        }
        self.time(now, out);
        for group in std::mem::take(&mut self.touched) {
            if let Some(replica) = self.replicas.get_mut(&group) {
                replica.settle(context!(self, now, out));
            }
        }
        self.shut_down(out);
        if self.halted(out) {
            return effects;
        }
        // What is overdue waits for something else, ZooKeeper mostly: to look at it at once again would be to spin.
        effects.wake_at = self.wake_at(now).map(|at| if at > now { at } else { now + self.config.beat });
        effects
    }

    /// Whether the node was stopped; whatever was to come after that is dropped.
    fn halted(&mut self, out: &mut Vec<Effect>) -> bool {
        if let Some(at) = out.iter().position(|effect| matches!(effect, Effect::StopNode(_))) {
            out.truncate(at + 1);
            self.halted = true;
        }
        self.halted
    }

    fn event(&mut self, now: Now, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Keeper(event) => self.keeper(now, event, out),
            Event::Link(peer, event) => self.link(now, peer, event, out),
            Event::Probed { nonce } => {
                let news = self.registry.probed(context!(self, now, out), nonce);
                self.news(now, news, out);
            }
            Event::Join { group, name, local, applied } => {
                self.replicas.insert(group, Replica::new(group, name, local, applied));
                self.touched.insert(group);
            }
            Event::Persisted { group, number } => self.with(now, group, out, |r, cx| r.persisted(cx, number)),
            Event::LogFetched { group, entries } => self.with(now, group, out, |r, _| r.fetched(entries)),
            Event::Machine(group, event) => self.with(now, group, out, |r, cx| r.machine(cx, event)),
            Event::Propose { group, token, data } => self.propose(now, group, token, data, out),
            Event::Read { group, token } => {
                if self.replicas.contains_key(&group) {
                    self.with(now, group, out, |r, cx| r.read(cx, token));
                } else {
                    out.push(Effect::RefuseRead(token, ReadError::NotLeader { leader: None }));
                }
            }
            Event::HandOver { group } => self.with(now, group, out, |r, cx| r.hand_over(cx)),
            Event::ShutDown => {
                self.facts.shutting_down = true;
                for group in self.replicas.keys().copied().collect::<Vec<_>>() {
                    self.with(now, group, out, |r, cx| r.hand_over(cx));
                }
            }
        }
    }

    fn propose(&mut self, now: Now, group: GroupNumber, token: Token, data: Bytes, out: &mut Vec<Effect>) {
        if self.replicas.contains_key(&group) {
            self.with(now, group, out, |r, cx| r.propose(cx, token, data));
        } else {
            out.push(Effect::RefuseProposal(token, ProposeError::NotLeader { leader: None }));
        }
    }

    /// Lets an event reach one replica, if there is such.
    fn with(
        &mut self,
        now: Now,
        group: GroupNumber,
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Replica, &mut Context<'_>),
    ) {
        if let Some(replica) = self.replicas.get_mut(&group) {
            self.touched.insert(group);
            act(replica, context!(self, now, out));
        }
    }

    fn each(&mut self, now: Now, out: &mut Vec<Effect>, mut act: impl FnMut(&mut Replica, &mut Context<'_>)) {
        for (group, replica) in &mut self.replicas {
            self.touched.insert(*group);
            act(replica, context!(self, now, out));
        }
    }

    // ---- ZooKeeper ------------------------------------------------------------------------------------------------

    fn keeper(&mut self, now: Now, event: KeeperEvent, out: &mut Vec<Effect>) {
        match event {
            KeeperEvent::Connected { session, timeout_ms } => {
                // News of an older session may come late.
                if self.facts.session.is_some_and(|own| own > session) {
                    return;
                }
                self.facts.session = Some(session);
                self.facts.connected = true;
                self.facts.session_timeout = Duration::from_millis(timeout_ms);
                self.registry.connected(context!(self, now, out));
                if self.facts.registered.is_some() {
                    self.challenges.connected(context!(self, now, out));
                    self.each(now, out, |r, cx| r.connected(cx));
                }
            }
            KeeperEvent::Disconnected { session } | KeeperEvent::Expired { session } => {
                if self.facts.session == Some(session) && self.facts.connected {
                    self.facts.connected = false;
                    self.facts.disconnected = now;
                    self.touched.extend(self.replicas.keys());
                }
            }
            KeeperEvent::Trouble(words) => self.each(now, out, |r, _| r.trouble = Some(words.clone())),
            KeeperEvent::Outcome { id, session, outcome } => self.outcome(now, id, session, outcome, out),
            KeeperEvent::Changed { path } => {
                self.registry.changed(context!(self, now, out), &path);
                self.challenges.changed(context!(self, now, out), &path);
                // Group paths all begin alike; what concerns one group is cheap to tell apart from the rest.
                for (group, replica) in &mut self.replicas {
                    if path.starts_with(replica.paths.genesis()) {
                        self.touched.insert(*group);
                        replica.changed(context!(self, now, out), &path);
                    }
                }
            }
        }
    }

    fn outcome(&mut self, now: Now, id: RequestId, session: SessionNumber, outcome: Outcome, out: &mut Vec<Effect>) {
        let Some((owner, issued)) = self.calls.take(id) else { return };
        if matches!(outcome, Outcome::Ok(bequest_recovery::keeper::Reply::Done)) {
            self.facts.wrote(now, issued);
        }
        match owner {
            Owner::Registry(call) => {
                let news = self.registry.outcome(context!(self, now, out), call, session, outcome);
                self.news(now, news, out);
            }
            Owner::Challenge(call) => {
                let (verdicts, question) = self.challenges.outcome(context!(self, now, out), call, outcome);
                for (group, version, verdict) in verdicts {
                    self.with(now, group, out, |r, cx| r.judged(cx, version, verdict));
                }
                if let Some(question) = question {
                    self.testify(now, &question, out);
                }
            }
            Owner::Group(group, call) => self.with(now, group, out, |r, cx| r.outcome(cx, call, session, outcome)),
        }
        self.doubts(now, out);
    }

    fn news(&mut self, now: Now, news: Option<News>, out: &mut Vec<Effect>) {
        match news {
            None => {}
            Some(News::Stop(error)) => out.push(Effect::StopNode(error)),
            Some(News::Registered { cluster, incarnation, version }) => {
                self.facts.registered = Some((incarnation, version));
                out.push(Effect::Registered { cluster, incarnation });
                self.challenges.connected(context!(self, now, out));
                self.each(now, out, |r, cx| r.connected(cx));
            }
            Some(News::Peer { peer, incarnation, addresses }) => {
                self.peer_registered(now, peer, incarnation, addresses, out);
            }
        }
    }

    /// What the cores of this node say of the groups they are doubted in.
    fn testify(&mut self, now: Now, question: &Question, out: &mut Vec<Effect>) {
        let own = self.facts.incarnation().map_or(0, |own| own.0);
        let cx = context!(self, now, out);
        let testimonies: Vec<Testimony> = question
            .doubts
            .iter()
            .map(|doubt| {
                let found = self.replicas.values().find(|r| r.uuid().is_some_and(|uuid| uuid.0[..] == doubt.group[..]));
                found
                    .filter(|_| question.incarnation == own)
                    .and_then(|r| r.testify(cx, doubt.version))
                    .unwrap_or(Testimony { group: doubt.group.clone(), version: doubt.version, stand: 0, progress: 0 })
            })
            .collect();
        self.challenges.answer(context!(self, now, out), question, testimonies);
    }

    /// Passes on the doubts that replicas came to have.
    fn doubts(&mut self, now: Now, out: &mut Vec<Effect>) {
        for (group, replica) in &mut self.replicas {
            for (peer, doubt) in replica.take_doubts() {
                match doubt {
                    Some((uuid, version, incarnation, patience)) => {
                        let about = (uuid, version, incarnation);
                        self.challenges.doubt(context!(self, now, out), peer, *group, about, patience);
                    }
                    None => self.challenges.trust(peer, *group),
                }
            }
        }
    }

    // ---- links ----------------------------------------------------------------------------------------------------

    fn peer_registered(
        &mut self,
        now: Now,
        peer: NodeId,
        incarnation: Incarnation,
        addresses: Addresses,
        out: &mut Vec<Effect>,
    ) {
        let known = self.facts.peers.entry(peer).or_default();
        let newer = known.registered.as_ref().is_none_or(|(registered, _)| incarnation > *registered);
        if !newer {
            return;
        }
        out.push(Effect::Dial { peer, incarnation, address: addresses.peer.clone() });
        known.registered = Some((incarnation, addresses));
        if known.meet(incarnation) {
            // Whatever link there is belongs to an earlier life.
            known.link = None;
            self.each(now, out, |r, cx| r.consider(cx));
        }
    }

    fn link(&mut self, now: Now, peer: NodeId, event: LinkEvent, out: &mut Vec<Effect>) {
        let known = self.facts.peers.entry(peer).or_default();
        match event {
            LinkEvent::Up { incarnation } => self.linked(now, peer, incarnation, out),
            LinkEvent::Down => {
                known.link = None;
                self.touched.extend(self.replicas.keys());
            }
            LinkEvent::Refused => {
                known.link = None;
                // Once per established link: a firewall's refusal must not make two live nodes duel.
                if let (true, Some(incarnation)) = (std::mem::take(&mut known.armed), known.known) {
                    self.each(now, out, |r, cx| r.refused(cx, peer, incarnation.0));
                }
            }
            LinkEvent::Message(bytes) => self.message(now, peer, bytes, out),
        }
    }

    /// A handshake is complete.
    fn linked(&mut self, now: Now, peer: NodeId, incarnation: Incarnation, out: &mut Vec<Effect>) {
        // What raft-rs has to say so far is for the life before: a heartbeat whose commit index rests on what that life
        // acknowledged would make a new one commit entries of its own.
        if !planted!(OldMessagesToANewLife) {
            self.each(now, out, |r, cx| r.pump(cx));
        }
        let known = self.facts.peers.entry(peer).or_default();
        known.meet(incarnation);
        if known.known != Some(incarnation) {
            return;
        }
        known.link = Some(incarnation);
        known.heard = now;
        known.armed = true;
        self.each(now, out, |r, cx| {
            r.greeted(peer);
            r.greet(cx, peer);
            // A newer life than the ballot's may have been met.
            r.consider(cx);
        });
    }

    fn message(&mut self, now: Now, peer: NodeId, bytes: Bytes, out: &mut Vec<Effect>) {
        let (Ok(envelope), Some(own)) = (Envelope::decode(bytes), self.facts.incarnation()) else { return };
        let Some(known) = self.facts.peers.get_mut(&peer) else { return };
        // A delayed message of a dead incarnation, or to one, must never reach raft-rs.
        let stranger = envelope.to != own.0 || known.known != Some(Incarnation(envelope.from));
        if stranger && !planted!(AnyIncarnationIsHeard) {
            return;
        }
        known.heard = now;
        match envelope.body {
            None => {}
            Some(Body::Beat(beat)) => {
                for ballot in beat.ballots {
                    self.in_group(now, &ballot.group, out, |r, cx| r.beat(cx, peer, ballot.version));
                }
            }
            Some(Body::Raft(raft)) => {
                self.in_group(now, &raft.group, out, |r, cx| r.raft_message(cx, peer, &raft.message));
            }
            Some(Body::Hello(hello)) => {
                for group in hello.groups {
                    self.in_group(now, &group.group, out, |r, _| r.greeted(peer));
                }
            }
            Some(Body::HandOver(group)) => {
                self.in_group(now, &group.group, out, |r, cx| r.asked_to_seal(cx, peer, group.version));
            }
            Some(Body::Fetch(group)) => {
                self.in_group(now, &group.group, out, |r, cx| r.told_to_fetch(cx, peer, group.version));
            }
        }
    }

    fn in_group(
        &mut self,
        now: Now,
        uuid: &[u8],
        out: &mut Vec<Effect>,
        act: impl FnOnce(&mut Replica, &mut Context<'_>),
    ) {
        let group = self.replicas.iter().find(|(_, r)| r.uuid().is_some_and(|own| own.0[..] == *uuid));
        if let Some(group) = group.map(|(group, _)| *group) {
            self.with(now, group, out, act);
        }
    }

    // ---- time -----------------------------------------------------------------------------------------------------

    fn time(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.registry.tick(context!(self, now, out));
        for (group, replica) in &mut self.replicas {
            let cx = context!(self, now, out);
            if replica.due <= now {
                replica.tick(cx);
                self.touched.insert(*group);
            }
        }
        for peer in self.voters() {
            self.registry.watch_peer(context!(self, now, out), peer);
        }
        self.doubts(now, out);
        self.challenges.tick(context!(self, now, out));
        if now.since(self.beaten) >= self.config.beat {
            self.beaten = now;
            self.beat(now, out);
        }
    }

    /// Voters of groups whose genesis was read lately, other than this node.
    fn voters(&mut self) -> BTreeSet<NodeId> {
        let own = self.config.node;
        self.replicas.values_mut().flat_map(Replica::take_voters).filter(|voter| *voter != own).collect()
    }

    fn beat(&mut self, now: Now, out: &mut Vec<Effect>) {
        let cx = context!(self, now, out);
        let ballots: Vec<_> = self.replicas.values_mut().filter_map(|replica| replica.standing(cx)).collect();
        let linked: Vec<_> =
            self.facts.peers.iter().filter(|(_, peer)| peer.link.is_some()).map(|(peer, _)| *peer).collect();
        for peer in linked {
            let body = Body::Beat(Beat { ballots: ballots.clone() });
            peers::send(context!(self, now, out), peer, body);
        }
    }

    /// When to be woken; remembers for each replica when it is due.
    fn wake_at(&mut self, now: Now) -> Option<Now> {
        let mut wake = [
            self.registry.wake_at(self.config.poll),
            self.challenges.wake_at(self.config.poll),
            Some(self.beaten + self.config.beat),
        ]
        .into_iter()
        .flatten()
        .min();
        let mut nothing = Vec::new();
        let cx = context!(self, now, &mut nothing);
        for replica in self.replicas.values_mut() {
            if let Some(at) = replica.wake_at(cx) {
                replica.due = at;
                wake = Some(wake.map_or(at, |wake| wake.min(at)));
            }
        }
        wake
    }

    /// Once everything is handed over or given up, the process may end.
    fn shut_down(&mut self, out: &mut Vec<Effect>) {
        if self.facts.shutting_down && !self.told_shut_down && self.replicas.values().all(Replica::at_rest) {
            self.told_shut_down = true;
            out.push(Effect::ShutDown);
        }
    }
}
