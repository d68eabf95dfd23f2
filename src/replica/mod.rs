//! The pure core: Raft, its witnesses in ZooKeeper, and succession.
//!
//! [`Core::step`] is told what happened and answers what is to be done. There is no clock, thread, randomness, I/O or
//! async in here: the same events give the same effects, always, so a seed replays a run exactly.

mod agenda;
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
mod links;
mod log;
mod merge;
mod message;
mod peers;
mod propose;
mod publish;
mod reading;
mod registry;
#[expect(clippy::module_inception, reason = "the noun of this folder, beside its parts")]
mod replica;
mod restoring;
mod roster;
mod round;
pub mod status;
mod stop;
mod succession;
mod suspicion;
mod tail;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bequest_recovery::keeper::{KeeperEvent, Outcome, RequestId, SessionNumber};
use bequest_recovery::planted;
use bequest_recovery::record::Testimony;
use bytes::Bytes;

use agenda::{Agenda, Plan};
use challenge::{Challenges, Question};
use context::{context, Calls, Context, Facts, Owner, Random};
use event::{Config, Effect, Effects, Event, GroupNumber, Now, Token};
use registry::{News, Registry};
use replica::Replica;
use roster::Roster;

pub use engine::NODES_MAX;
pub use event::default_limits;
pub use propose::PROPOSAL_BYTES_MAX;

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
    roster: Roster,
    agenda: Agenda,
    /// The patience that the plans rest on.
    patience: Duration,
    /// Replicas that this step concerned.
    touched: BTreeSet<GroupNumber>,
    beaten: Now,
    halted: bool,
    told_shut_down: bool,
    /// When nothing was left to hand over or to give back, in a shutdown.
    left: Option<Now>,
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
            roster: Roster::default(),
            agenda: Agenda::default(),
            patience: Duration::ZERO,
            touched: BTreeSet::new(),
            beaten: Now::default(),
            halted: false,
            told_shut_down: false,
            left: None,
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
        let mut from = 0;
        for event in events {
            self.event(now, event, out);
            if self.halted(out, from) {
                return effects;
            }
            from = out.len();
        }
        self.time(now, out);
        let touched = std::mem::take(&mut self.touched);
        for group in &touched {
            if let Some(replica) = self.replicas.get_mut(group) {
                replica.settle(context!(self, now, out));
                self.roster.note(replica);
            }
        }
        self.shut_down(now, out);
        if self.halted(out, from) {
            return effects;
        }
        self.plan(now, touched);
        // What is overdue waits for something else, ZooKeeper mostly: to look at it at once again would be to spin.
        effects.wake_at = self.wake_at().map(|at| if at > now { at } else { now + self.config.beat });
        effects
    }

    /// Whether the node was stopped by an effect at `from` or later; whatever was to come after that is dropped.
    fn halted(&mut self, out: &mut Vec<Effect>, from: usize) -> bool {
        if let Some(at) = out[from..].iter().position(|effect| matches!(effect, Effect::StopNode(_))) {
            out.truncate(from + at + 1);
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
                self.roster.joined(name.clone(), group);
                self.agenda.set(group, Plan::Tick { at: Now::default(), idle: None });
                let before = self.replicas.insert(group, Replica::new(group, name, local, applied));
                assert!(before.is_none(), "two groups of one number: {group:?}");
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
            self.roster.note(replica);
        }
    }

    fn each(&mut self, now: Now, out: &mut Vec<Effect>, mut act: impl FnMut(&mut Replica, &mut Context<'_>)) {
        for (group, replica) in &mut self.replicas {
            self.touched.insert(*group);
            act(replica, context!(self, now, out));
            self.roster.note(replica);
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
                } else {
                    // They have this to tell.
                    self.touched.extend(self.agenda.resting(now));
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
                if let Some(group) = self.roster.at_path(&path) {
                    self.with(now, group, out, |r, cx| r.changed(cx, &path));
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
            Owner::Group(group, call) => {
                if call.is_append() && matches!(outcome, Outcome::Ok(_)) {
                    self.facts.appended = now;
                }
                self.with(now, group, out, |r, cx| r.outcome(cx, call, session, outcome));
            }
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
                let found = self.roster.group(&doubt.group).and_then(|group| self.replicas.get(&group));
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
        for group in self.roster.take_doubting() {
            let Some(replica) = self.replicas.get_mut(&group) else { continue };
            for (peer, doubt) in replica.take_doubts() {
                match doubt {
                    Some((uuid, version, incarnation, patience)) => {
                        let about = (uuid, version, incarnation);
                        self.challenges.doubt(context!(self, now, out), peer, group, about, patience);
                    }
                    None => self.challenges.trust(peer, group),
                }
            }
        }
    }
}
