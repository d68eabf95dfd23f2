//! The raft thread: gives the core what happened and carries out what it wants done, turn by turn.
//!
//! It never waits for anything but its inbox: effects are handed to queues that take them at once. It decides nothing.

use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bequest_recovery::keeper::Keeper;
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::runtime::Handle;
use tokio::sync::{watch, OwnedSemaphorePermit};

use super::call::{Call, Join, ProposeAnswer, ReadAnswer};
use super::disk::{Disk, DiskJob};
use super::inbox::Input;
use super::io::IoRuntime;
use super::machine::{Machine, MachineJob};
use super::peers::Peers;
use crate::error::{GroupError, NodeError, ProposeError, ReadError};
use crate::replica::event::{Config, Effect, Effects, Event, GroupNumber, LinkEvent, Now, Token};
use crate::replica::status::{GroupStatus, Mode, Role};
use crate::replica::Core;
use crate::wire::handshake::Identity;

// Events taken in one turn at most: the effects of the first must not wait long for the last.
const TURN_EVENTS_MAX: usize = 4096;
// Wait for events when the core names no moment; it is woken by the first one anyway.
const IDLE: Duration = Duration::from_secs(1);

/// How far a node has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// Not registered yet.
    Starting,
    /// Registered under this identity.
    Registered(Identity),
    /// Shut down as asked for.
    ShutDown,
    /// Cannot go on.
    Failed(NodeError),
}

impl NodeState {
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self, Self::ShutDown | Self::Failed(_))
    }
}

/// What the raft thread works with. All of it ends with the thread.
pub(crate) struct Driver {
    pub(crate) config: Config,
    pub(crate) inbox: Receiver<Input>,
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) peers: Peers,
    pub(crate) disk: Disk,
    pub(crate) state: watch::Sender<NodeState>,
    /// Runs sockets and ZooKeeper.
    pub(crate) runtime: IoRuntime,
    /// Ends the ZooKeeper session of a node that shuts down cleanly.
    pub(crate) goodbye: Goodbye,
}

/// Ends a ZooKeeper session and waits for it, for a moment.
pub(crate) type Goodbye = Box<dyn FnOnce(&Handle) + Send>;

struct Group {
    name: String,
    machine: Machine,
    status: watch::Sender<Option<GroupStatus>>,
    /// Why its machine failed, in its own terms; the core knows only the words.
    failure: Option<GroupError>,
    role: Option<Role>,
}

enum Waiter {
    Propose(GroupNumber, ProposeAnswer),
    Read(GroupNumber, Bytes, ReadAnswer),
}

/// Starts the thread.
pub(crate) fn start(driver: Driver) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("bequest-raft".into()).spawn(move || run(driver))
}

fn run(driver: Driver) {
    let Driver { config, inbox, keeper, peers, disk, state, runtime, goodbye } = driver;
    let mut raft = RaftThread {
        core: Core::new(config),
        inbox,
        keeper,
        peers,
        disk: &disk,
        state: &state,
        began: Instant::now(),
        events: Vec::new(),
        permits: Vec::new(),
        groups: HashMap::new(),
        waiters: HashMap::new(),
        tokens: 0,
        wake_at: None,
    };
    // An assertion of the core that fails must end the node like any other fault: callers answered, port closed.
    let ended = catch_unwind(AssertUnwindSafe(|| raft.run()));
    let end = ended.unwrap_or_else(|_| {
        let message = "an assertion failed, see standard error".to_owned();
        NodeState::Failed(NodeError::Internal { message })
    });
    raft.end(&end);
    match &end {
        NodeState::Failed(error) => tracing::error!(%error, "node stopped"),
        _ => goodbye(runtime.handle()),
    }
    // Closes the peer port and all links: the other nodes notice at once.
    drop(runtime);
    drop(disk);
    state.send_replace(end);
}

struct RaftThread<'a> {
    core: Core,
    inbox: Receiver<Input>,
    keeper: Arc<dyn Keeper>,
    peers: Peers,
    disk: &'a Disk,
    state: &'a watch::Sender<NodeState>,
    began: Instant,
    // Of the turn under way.
    events: Vec<Event>,
    permits: Vec<OwnedSemaphorePermit>,
    groups: HashMap<GroupNumber, Group>,
    waiters: HashMap<Token, Waiter>,
    tokens: u64,
    wake_at: Option<Now>,
}

impl RaftThread<'_> {
    fn run(&mut self) -> NodeState {
        loop {
            let wait = self.wake_at.map_or(IDLE, |wake_at| wake_at.since(self.now()));
            let first = match self.inbox.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                // The last handle went away without a word.
                Err(RecvTimeoutError::Disconnected) => return NodeState::ShutDown,
            };
            if let Some(end) = self.gather(first) {
                return end;
            }
            let now = self.now();
            if self.wake_at.is_some_and(|wake_at| wake_at <= now) {
                self.events.push(Event::Tick);
            }
            let effects = self.core.step(now, self.events.drain(..));
            self.permits.clear();
            if let Some(end) = self.carry_out(effects) {
                return end;
            }
        }
    }

    fn now(&self) -> Now {
        Now(self.began.elapsed())
    }

    /// Takes what is at hand.
    fn gather(&mut self, first: Option<Input>) -> Option<NodeState> {
        let mut next = first;
        while let Some(input) = next {
            if let Some(end) = self.take(input) {
                return Some(end);
            }
            if self.events.len() >= TURN_EVENTS_MAX {
                break;
            }
            next = self.inbox.try_recv().ok();
        }
        None
    }

    fn take(&mut self, input: Input) -> Option<NodeState> {
        match input {
            Input::Event(event) => self.events.push(event),
            Input::Message { peer, message, permit } => {
                self.permits.push(permit);
                self.events.push(Event::Link(peer, LinkEvent::Message(message)));
            }
            Input::Call(call) => return self.take_call(call),
            Input::MachineFailed(group, error) => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.failure.get_or_insert(error);
                }
            }
            Input::Fatal(error) => return Some(NodeState::Failed(error)),
        }
        None
    }

    fn take_call(&mut self, call: Call) -> Option<NodeState> {
        match call {
            Call::Propose { group, data, answer, permits } => {
                self.permits.extend(permits);
                let token = self.wait(Waiter::Propose(group, answer));
                self.events.push(Event::Propose { group, token, data });
            }
            Call::Read { group, query, answer, permits } => {
                self.permits.extend(permits);
                let token = self.wait(Waiter::Read(group, query, answer));
                self.events.push(Event::Read { group, token });
            }
            Call::Join(join) => self.join(*join),
            Call::HandOver { group } => self.events.push(Event::HandOver { group }),
            Call::ShutDown => self.events.push(Event::ShutDown),
            Call::Abort => return Some(NodeState::ShutDown),
        }
        None
    }

    fn wait(&mut self, waiter: Waiter) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.waiters.insert(token, waiter);
        token
    }

    fn join(&mut self, join: Join) {
        let Join { group, name, local, applied, machine, status } = join;
        if let Some(local) = &local {
            self.give_disk(DiskJob::Attach(group, local.uuid));
        }
        // The machine speaks to the core only from here on, so the core hears of the group first.
        self.events.push(Event::Join { group, name: name.clone(), local, applied });
        machine.give(MachineJob::Joined);
        let entry = Group { name, machine, status, failure: None, role: None };
        self.groups.insert(group, entry);
    }

    fn carry_out(&mut self, effects: Effects) -> Option<NodeState> {
        self.wake_at = effects.wake_at;
        for effect in effects.list {
            match effect {
                Effect::Keeper { id, urgency, request } => self.keeper.submit(id, urgency, request),
                Effect::Dial { peer, incarnation, address } => self.peers.dial(peer, incarnation, address),
                Effect::Probe { address } => self.peers.probe(address),
                Effect::Send { peer, message } => self.peers.send(peer, message),
                Effect::PersistIdentity { cluster } => self.give_disk(DiskJob::Identity(cluster)),
                Effect::Persist(group, persist) => self.give_disk(DiskJob::Persist(group, Box::new(persist))),
                Effect::FetchLog { group, low, high } => self.give_disk(DiskJob::Fetch { group, low, high }),
                Effect::RefuseProposal(token, error) => self.refuse_proposal(token, error),
                Effect::RefuseRead(token, error) => self.refuse_read(token, error),
                Effect::Status(group, status) => self.status(group, *status),
                Effect::StopGroup(group, error) => self.stop_group(group, error),
                Effect::StopNode(error) => return Some(NodeState::Failed(error)),
                Effect::Registered { cluster, incarnation } => {
                    let identity = Identity { cluster, incarnation };
                    tracing::info!(%cluster, incarnation = incarnation.0, "registered");
                    self.peers.identify(identity);
                    self.state.send_replace(NodeState::Registered(identity));
                }
                Effect::ShutDown => return Some(NodeState::ShutDown),
                effect => self.give_machine(effect),
            }
        }
        None
    }

    fn give_machine(&mut self, effect: Effect) {
        let (group, job) = match effect {
            Effect::Apply(group, entries) => {
                let tokens = entries.iter().filter_map(|apply| apply.token);
                let answers = tokens.map(|token| self.proposal(token)).collect();
                (group, MachineJob::Apply { entries, answers })
            }
            Effect::Query(group, token) => match self.waiters.remove(&token) {
                Some(Waiter::Read(_, query, answer)) => (group, MachineJob::Query { query, answer }),
                _ => return,
            },
            Effect::SnapshotTake { group, upload, credit } => (group, MachineJob::SnapshotTake { upload, credit }),
            Effect::SnapshotCredit { group, upload, credit } => (group, MachineJob::SnapshotCredit { upload, credit }),
            Effect::SnapshotAbandon { group, upload } => (group, MachineJob::SnapshotAbandon { upload }),
            Effect::RestoreBegin { group, restore } => (group, MachineJob::RestoreBegin { restore }),
            Effect::RestoreChunk { group, restore, chunk } => (group, MachineJob::RestoreChunk { restore, chunk }),
            Effect::RestoreFinish { group, restore, applied } => {
                (group, MachineJob::RestoreFinish { restore, applied })
            }
            Effect::RestoreAbandon { group, restore } => (group, MachineJob::RestoreAbandon { restore }),
            Effect::Leadership(group, leading) => (group, MachineJob::Leadership(leading)),
            other => unreachable!("carried out before it comes here: {other:?}"),
        };
        if let Some(group) = self.groups.get(&group) {
            group.machine.give(job);
        }
    }

    fn give_disk(&self, job: DiskJob) {
        // If the disk thread has ended it has said why, and that input ends this thread too.
        let _ = self.disk.jobs.send(job);
    }

    fn proposal(&mut self, token: Token) -> Option<ProposeAnswer> {
        match self.waiters.remove(&token) {
            Some(Waiter::Propose(_, answer)) => Some(answer),
            _ => None,
        }
    }

    fn refuse_proposal(&mut self, token: Token, error: ProposeError) {
        if let Some(answer) = self.proposal(token) {
            // Nothing is to be done for a caller who went away.
            let _ = answer.send(Err(error));
        }
    }

    fn refuse_read(&mut self, token: Token, error: ReadError) {
        if let Some(Waiter::Read(_, _, answer)) = self.waiters.remove(&token) {
            let _ = answer.send(Err(error));
        }
    }

    fn status(&mut self, number: GroupNumber, mut status: GroupStatus) {
        let Some(group) = self.groups.get_mut(&number) else { return };
        if let (Some(_), Some(failure)) = (&status.stopped, &group.failure) {
            status.stopped = Some(failure.clone());
        }
        if group.role.replace(status.role) != Some(status.role) {
            let GroupStatus { role, term, reason, .. } = &status;
            tracing::info!(group = group.name, ?role, term, reason, "role");
        }
        group.status.send_replace(Some(status));
    }

    fn stop_group(&mut self, number: GroupNumber, error: GroupError) {
        let Some(group) = self.groups.get_mut(&number) else { return };
        let error = group.failure.clone().unwrap_or(error);
        tracing::error!(group = group.name, %error, "group stopped");
        group.machine.give(MachineJob::Stop);
        let mut status = group.status.borrow().clone().unwrap_or_else(GroupStatus::unknown);
        status.role = Role::Stopped;
        status.mode = Mode::Fenced;
        status.reason = error.to_string();
        status.stopped = Some(error.clone());
        group.status.send_replace(Some(status));
        // Whoever still waits learns it now. A proposal may be carried on by others, so its outcome is unknown.
        let waiting: Vec<Token> =
            self.waiters.iter().filter(|(_, waiter)| waiter.group() == number).map(|(token, _)| *token).collect();
        for token in waiting {
            match self.waiters.remove(&token) {
                Some(Waiter::Propose(_, answer)) => drop(answer.send(Err(ProposeError::Unknown))),
                Some(Waiter::Read(_, _, answer)) => drop(answer.send(Err(ReadError::Stopped(error.clone())))),
                None => {}
            }
        }
    }

    /// Ends the machines, says so in every status, and drops everybody who waits.
    fn end(self, end: &NodeState) {
        for group in self.groups.values() {
            group.machine.give(MachineJob::Stop);
            let mut status = group.status.borrow().clone().unwrap_or_else(GroupStatus::unknown);
            status.role = Role::Stopped;
            status.mode = Mode::Fenced;
            status.leader = None;
            match end {
                NodeState::Failed(error) => {
                    status.reason = error.to_string();
                    status.stopped.get_or_insert(GroupError::Failed { message: error.to_string() });
                }
                _ => status.reason = "the node is shut down".to_owned(),
            }
            group.status.send_replace(Some(status));
        }
    }
}

impl Waiter {
    fn group(&self) -> GroupNumber {
        match self {
            Self::Propose(group, _) | Self::Read(group, _, _) => *group,
        }
    }
}
