//! Everything there is in one run, and the order in which it happens.

use std::collections::BTreeMap;

use bequest::replica::event::{Event, NodeId, Token};
use bequest_recovery::keeper::RequestId;
use bequest_recovery::model::{Delivery, SessionId, ZooModel};
use bytes::Bytes;
use rand::Rng;

use crate::aim::Waiting;
use crate::backwards::Fork;
use crate::clients::Clients;
use crate::counts::Counts;
use crate::decisions::Decisions;
use crate::dice::{Dice, Part};
use crate::disk::Disk;
use crate::faults::Fault;
use crate::genesis;
use crate::golden::hold::Held;
use crate::golden::tale::Tale;
use crate::history::History;
use crate::mix::{Machines, Micros, Mix, MILLI};
use crate::network::Network;
use crate::pairs::strike::{Aftermath, Strikes};
use crate::process::Process;
use crate::trace::Trace;
use crate::trouble::Troubles;
use crate::wal::Mirror;

// Where nothing happens for longer, time is skipped and not counted.
const IDLE: Micros = MILLI;

/// One process, counted over the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u64);

/// A host that a node's process runs on: 0 is its own, 1 the one a twin is started on by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub node: u64,
    pub host: u8,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n{}{}", self.node, if self.host == 0 { "" } else { "b" })
    }
}

impl Place {
    /// The address a process there listens at.
    pub fn address(self) -> String {
        format!("node{}-{}:7000", self.node, self.host)
    }
}

/// Something to happen at a moment.
#[derive(Debug)]
pub enum Happening {
    /// A process is started.
    Birth(Place),
    /// A core is given what is in its inbox.
    Step(Pid),
    /// A core's timer.
    Wake(Pid, u64),
    /// Something comes to a process' inbox.
    Tell(Pid, Event),
    /// The oldest write of a process reaches its disk.
    DiskWrite(Pid, usize),
    /// A disk is synced.
    DiskSync(Place),
    /// The oldest job of a process' machine.
    MachineJob(Pid, usize),
    /// The group is joined.
    Join(Pid, usize),
    /// A client of ZooKeeper tries to get a connection.
    Reconnect(Pid, u64),
    /// ZooKeeper serves the oldest request of a connection.
    Serve(Pid, u64),
    /// Something from ZooKeeper reaches its client.
    Arrive(Pid, u64, Delivery),
    /// A request has waited long enough.
    Deadline(Pid, RequestId),
    /// A client of ZooKeeper finds its connection dead.
    Notice(Pid, u64),
    /// The ensemble looks whether a session is over.
    SessionClock(SessionId),
    /// A ZooKeeper server applies what others committed.
    Advance(usize),
    /// A request left in a broken connection's socket is served.
    Late,
    /// A process tries to get a link to a peer.
    Dial(Pid, NodeId, u64),
    /// A handshake completes on one side.
    LinkUp(Pid, NodeId, u64),
    /// One side finds its link ended.
    LinkDown(Pid, NodeId, u64),
    /// A message arrives.
    Message { to: Pid, from: NodeId, link: u64, bytes: Bytes },
    /// A copy of a message arrives that is older than its link.
    Stale { to: NodeId, from: NodeId, bytes: Bytes },
    /// A client does something.
    Client(usize, u64),
    /// The next fault.
    Fault,
    /// A fault ends.
    End(Fault),
    /// A process that was asked to shut down should be gone by now.
    Overdue(Pid),
    /// A process whose disk failed ends; of what was not synced, so much is there.
    DiskFailed(Pid, Option<usize>),
    /// What an effect that was struck leads to.
    Aftermath(Pid, Aftermath),
    /// A moment somebody waits for.
    Moment,
}

/// One group, as everybody outside of its replicas sees it.
pub struct Group {
    pub mirror: Mirror,
    pub clients: Clients,
    pub history: History,
}

impl Group {
    fn new(group: usize, mix: &Mix, zoo: &ZooModel) -> Self {
        Self { mirror: Mirror::new(group, zoo), clients: Clients::new(mix.clients), history: History::default() }
    }
}

/// One run.
pub struct World {
    pub mix: &'static Mix,
    pub dice: Dice,
    pub decisions: Decisions,
    /// Processes born so far, by place.
    pub lives: BTreeMap<Place, u64>,
    pub now: Micros,
    /// How long something was going on, at least once a millisecond.
    pub busy: Micros,
    /// How many steps cores have done.
    pub steps: u64,
    pub durable: bool,
    pub zoo: ZooModel,
    pub disks: BTreeMap<Place, Disk>,
    pub processes: BTreeMap<Pid, Process>,
    pub network: Network,
    pub keepers: crate::keeper::Keepers,
    pub groups: Vec<Group>,
    pub counts: Counts,
    pub trace: Trace,
    /// Faults are over.
    pub healing: bool,
    /// Since when.
    pub healed_at: Option<Micros>,
    /// Stops are wanted: a scenario looks at them itself.
    pub hostile: bool,
    /// Groups stopped, by the process that did.
    pub stops: Vec<(Pid, bequest::GroupError)>,
    /// Nodes stopped.
    pub node_stops: Vec<(Pid, bequest::NodeError)>,
    /// What becomes of effects, by their numbers.
    pub strikes: Strikes,
    /// Where processes lived that are dead.
    pub last_places: BTreeMap<Pid, Place>,
    /// Since when a second process of a node may have been about, by node.
    pub twins: BTreeMap<u64, Pid>,
    /// What is wrong with disks, and with single servers.
    pub troubles: Troubles,
    /// Set once ZooKeeper went back.
    pub fork: Option<Fork>,
    /// Faults that wait for their moment.
    pub waiting: Waiting,
    /// Processes are started by hand alone.
    pub by_hand: bool,
    /// What waits at places that are held back.
    pub held: Held,
    /// What happens, told in the protocol's words, where somebody listens.
    pub tale: Option<Tale>,
    // Boxed, since a tree moves its entries about.
    queue: BTreeMap<(Micros, u64), Box<Happening>>,
    serial: u64,
}

impl World {
    pub fn new(seed: u64, mix: &'static Mix, keep_trace: bool) -> Self {
        let mut world = Self::empty(Dice::seeded(seed), mix, keep_trace);
        for place in world.places() {
            let delay = world.roll(Part::Births(place)).random_range(0..20 * MILLI);
            world.after(delay, Happening::Birth(place));
        }
        for group in 0..mix.groups {
            for client in 0..mix.clients {
                world.after(100 * MILLI, Happening::Client(group, client));
            }
        }
        let mut roll = world.roll(Part::Faults);
        let calm = world.lasts(&mut roll, mix.calm);
        world.after(200 * MILLI + calm, Happening::Fault);
        world
    }

    /// Cluster and groups are founded; nothing will happen by itself.
    pub fn empty(mut dice: Dice, mix: &'static Mix, keep_trace: bool) -> Self {
        let durable = match mix.machines {
            Machines::Volatile => false,
            Machines::Durable => true,
            Machines::Any => dice.roll(Part::World).random_bool(0.5),
        };
        let mut zoo = ZooModel::new(mix.servers);
        genesis::create(&mut zoo, mix);
        Self {
            mix,
            now: 0,
            busy: 0,
            steps: 0,
            durable,
            groups: (0..mix.groups).map(|group| Group::new(group, mix, &zoo)).collect(),
            zoo,
            disks: BTreeMap::new(),
            processes: BTreeMap::new(),
            network: Network::default(),
            keepers: crate::keeper::Keepers::default(),
            counts: Counts::default(),
            trace: Trace::new(keep_trace),
            healing: false,
            healed_at: None,
            hostile: false,
            stops: Vec::new(),
            node_stops: Vec::new(),
            strikes: Strikes::default(),
            last_places: BTreeMap::new(),
            twins: BTreeMap::new(),
            troubles: Troubles::default(),
            fork: None,
            waiting: Waiting::default(),
            by_hand: false,
            held: Held::default(),
            tale: None,
            queue: BTreeMap::new(),
            serial: 0,
            dice,
            decisions: Decisions::default(),
            lives: BTreeMap::new(),
        }
    }

    /// A number that was never given before in this run.
    pub fn fresh(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// A token that was never given before in this run.
    pub fn fresh_token(&mut self) -> Token {
        Token(self.fresh())
    }

    /// Lets something happen later.
    pub fn after(&mut self, delay: Micros, happening: Happening) {
        let serial = self.fresh();
        self.queue.insert((self.now + delay, serial), Box::new(happening));
    }

    /// Runs until the cores have done this many steps more, or `done` says so; `false` if nothing is left to happen
    /// before `until`.
    pub fn run(&mut self, steps: u64, until: Micros, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.steps.saturating_add(steps);
        while self.steps < end {
            let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= until) else { return false };
            let ((now, _), happening) = first.remove_entry();
            self.busy += (now - self.now).min(IDLE);
            self.now = now;
            self.happen(*happening);
            for group in &mut self.groups {
                group.mirror.follow(&self.zoo, &mut self.counts);
            }
            self.tell_transactions();
            if done(self) {
                return true;
            }
        }
        true
    }

    pub fn happen(&mut self, happening: Happening) {
        let Some(happening) = self.hold_back(happening) else { return };
        match happening {
            Happening::Birth(place) => self.give_birth(place),
            Happening::Step(pid) => self.step(pid),
            Happening::Wake(pid, serial) => self.wake(pid, serial),
            Happening::Tell(pid, event) => self.tell(pid, event),
            Happening::DiskWrite(pid, group) => self.disk_write(pid, group),
            Happening::DiskSync(place) => self.disk_sync(place),
            Happening::MachineJob(pid, group) => self.machine_job(pid, group),
            Happening::Join(pid, group) => self.join(pid, group),
            Happening::Reconnect(pid, serial) => self.reconnect(pid, serial),
            Happening::Serve(pid, connection) => self.serve(pid, connection),
            Happening::Arrive(pid, connection, delivery) => self.arrive(pid, connection, delivery),
            Happening::Deadline(pid, id) => self.give_up(pid, id),
            Happening::Notice(pid, connection) => self.notice(pid, connection),
            Happening::SessionClock(session) => self.session_clock(session),
            Happening::Advance(server) => self.advance(server),
            Happening::Late => self.serve_late(),
            Happening::Dial(pid, peer, serial) => self.dial(pid, peer, serial),
            Happening::LinkUp(pid, peer, link) => self.link_up(pid, peer, link),
            Happening::LinkDown(pid, peer, link) => self.link_down(pid, peer, link),
            Happening::Message { to, from, link, bytes } => self.message(to, from, link, bytes),
            Happening::Stale { to, from, bytes } => self.stale_message(to, from, bytes),
            Happening::Client(group, client) => self.client_acts(group, client),
            Happening::Fault => self.strike(),
            Happening::End(fault) => self.end(fault),
            Happening::Overdue(pid) => self.overdue(pid),
            Happening::DiskFailed(pid, kept) => self.disk_failed(pid, kept),
            Happening::Aftermath(pid, aftermath) => self.aftermath(pid, aftermath),
            Happening::Moment => {}
        }
    }

    /// The live process at a place.
    pub fn at(&self, place: Place) -> Option<Pid> {
        self.processes.values().find(|process| process.place == place).map(|process| process.pid)
    }

    /// A line in the trace.
    pub fn note(&mut self, key: impl std::hash::Hash, text: impl FnOnce() -> String) {
        self.trace.note(self.now, key, text);
    }

    /// All live processes, in order.
    pub fn pids(&self) -> Vec<Pid> {
        self.processes.keys().copied().collect()
    }

    /// The places of all nodes' own hosts.
    pub fn places(&self) -> Vec<Place> {
        (1..=self.mix.nodes).map(|node| Place { node, host: 0 }).collect()
    }
}
