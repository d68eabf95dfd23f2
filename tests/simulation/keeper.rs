//! Each process' client of ZooKeeper: its session and connection, the window, lost and late answers, expiry.

mod bundles;
mod connection;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bequest::replica::event::Event;
use bequest_recovery::keeper::{KeeperEvent, Op, Outcome, Reply, Request, RequestId, SessionNumber, Urgency};
use bequest_recovery::model::{Delivery, Late, Served, SessionId};
use bequest_recovery::queue::{Parcel, Queue};
use rand::Rng;

use crate::blows::Blow;
use crate::dice::{Organ, Part};
use crate::mix::{Micros, MILLI, SECOND};
use crate::wal::checks_a_ballot;
use crate::world::{Happening, Pid, World};
use bundles::Bundles;

/// What the ensemble grants.
pub const SESSION_TIMEOUT: Micros = SECOND;
// A client without a server for this long declares its session expired.
const SELF_EXPIRY: Micros = SESSION_TIMEOUT * 7 / 5;
// A request is given up after this long.
const PATIENCE: Micros = 2 * SECOND;
// So many times slower is a slow way.
const DRAG: Micros = 40;

/// What of a connection still works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Silence {
    /// Everything.
    Nothing,
    /// Requests reach the server and are served; answers are lost.
    Answers,
    /// Requests lie in the socket of a server that does not read it.
    Both,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub id: u64,
    pub server: usize,
    pub mute: Silence,
}

/// One process' client.
#[derive(Debug)]
pub struct Client {
    pub session: Option<SessionId>,
    pub connection: Option<Connection>,
    pub number: u64,
    /// So many requests may be on their way at once.
    pub window: usize,
    pub queue: Queue<RequestId>,
    bundles: Bundles,
    outstanding: VecDeque<RequestId>,
    reported: BTreeSet<RequestId>,
    watching: BTreeSet<String>,
    // Served with success, the answer on its way.
    done: BTreeSet<RequestId>,
    seals: BTreeSet<RequestId>,
    serve_at: Micros,
    arrive_at: Micros,
    pub silent_since: Option<Micros>,
    lost_at: Micros,
    reconnect_serial: u64,
}

/// What concerns the ensemble as a whole.
#[derive(Debug, Default)]
pub struct Keepers {
    /// All servers are down.
    pub down: bool,
    /// Nodes that reach no server.
    pub isolated: BTreeSet<u64>,
    /// Nodes whose way to the servers is slow.
    pub dragged: BTreeSet<u64>,
    /// Servers that apply nothing new.
    pub lagging: BTreeSet<usize>,
    /// Servers that take no new connection.
    pub closed: BTreeSet<usize>,
    /// No watch is heard of any more.
    pub deaf: bool,
    /// What is left in the sockets of broken connections stays there until it is asked for.
    pub sockets_kept: bool,
    /// Which process opened a session.
    pub owners: BTreeMap<SessionId, Pid>,
    /// Since when the ensemble has heard nothing of a session.
    pub silent: BTreeMap<SessionId, Micros>,
    advancing: BTreeSet<usize>,
    late_due: bool,
}

impl Client {
    pub fn new(window: usize, shared: usize) -> Self {
        Self {
            session: None,
            connection: None,
            number: 0,
            window,
            queue: Queue::default(),
            bundles: Bundles::new(shared),
            outstanding: VecDeque::new(),
            reported: BTreeSet::new(),
            watching: BTreeSet::new(),
            done: BTreeSet::new(),
            seals: BTreeSet::new(),
            serve_at: 0,
            arrive_at: 0,
            silent_since: None,
            lost_at: 0,
            reconnect_serial: 0,
        }
    }

    /// Its clock leapt: it takes its connection to be lost for longer than it is.
    pub fn clock_leaps(&mut self, by: Micros) {
        self.lost_at = self.lost_at.saturating_sub(by);
    }

    /// Its clock stood still: what passed meanwhile it does not count.
    pub fn clock_stood(&mut self, duration: Micros) {
        self.lost_at += duration;
    }

    /// From now on the ensemble hears nothing of it.
    pub fn falls_silent(&mut self, now: Micros) {
        self.silent_since.get_or_insert(now);
    }
}

fn watched(request: &Request) -> Option<&String> {
    match request {
        Request::Get { path, watch: true }
        | Request::Exists { path, watch: true }
        | Request::Children { path, watch: true } => Some(path),
        _ => None,
    }
}

fn is_seal(request: &Request) -> bool {
    matches!(request, Request::Multi(ops) if ops.len() == 3
        && matches!(&ops[1], Op::Set { path, .. } if path.ends_with("/ballot")))
}

impl World {
    pub fn keeper(&mut self, pid: Pid) -> Option<&mut Client> {
        self.processes.get_mut(&pid).map(|process| &mut process.keeper)
    }

    /// A core submits a request.
    pub fn submit(&mut self, pid: Pid, id: RequestId, urgency: Urgency, request: Request) {
        let Some(mut roll) = self.roll_of(pid, Organ::Requests) else { return };
        let given_up = self.befalls(pid, &mut roll, Blow::GivenUp, self.mix.given_up);
        if given_up {
            self.struck(Blow::GivenUp, pid);
        }
        let patience = if given_up { roll.random_range(1..20 * MILLI) } else { PATIENCE };
        let Some(client) = self.keeper(pid) else { return };
        if is_seal(&request) {
            client.seals.insert(id);
        }
        if let (Urgency::Shared, Request::Multi(ops)) = (urgency, &request) {
            let fences = ops.iter().filter(|op| checks_a_ballot(op)).count();
            assert!(fences == 1 && ops.first().is_some_and(checks_a_ballot), "A1: not fenced: {ops:?}");
        }
        client.queue.push(id, urgency, request);
        self.after(patience, Happening::Deadline(pid, id));
        self.flush(pid);
    }

    fn flush(&mut self, pid: Pid) {
        loop {
            let Some(client) = self.processes.get_mut(&pid).map(|process| &mut process.keeper) else { return };
            let (Some(connection), Some(session)) = (client.connection, client.session) else { return };
            if client.outstanding.len() >= client.window {
                return;
            }
            let bytes = |ops: &[Op]| ops.iter().map(Op::bytes).sum();
            let Some(parcel) = client.queue.pop(client.bundles.room(), bytes) else { return };
            let id = client.bundles.send(&parcel);
            let Parcel { owners, request, .. } = parcel;
            client.watching.extend(watched(&request).cloned());
            client.outstanding.push_back(id);
            if owners.len() > 1 {
                self.counts.one("several requests sent as one transaction");
            }
            if self.zoo.attached(session).is_some() {
                self.zoo.submit(session, id, request);
            }
            if connection.mute != Silence::Both {
                let delay = self.way(pid, Organ::Requests);
                let now = self.now;
                let Some(client) = self.keeper(pid) else { return };
                client.serve_at = client.serve_at.max(now + delay);
                let delay = client.serve_at - now;
                self.after(delay, Happening::Serve(pid, connection.id));
            }
        }
    }

    /// How long a process' request or answer takes, one way.
    fn way(&mut self, pid: Pid, organ: Organ) -> Micros {
        let Some(mut roll) = self.roll_of(pid, organ) else { return self.mix.keeper.max };
        let dragged =
            self.processes.get(&pid).is_some_and(|process| self.keepers.dragged.contains(&process.place.node));
        self.takes(&mut roll, self.mix.keeper) * if dragged { DRAG } else { 1 }
    }

    pub fn serve(&mut self, pid: Pid, connection: u64) {
        let Some(client) = self.keeper(pid) else { return };
        let Some(current) =
            client.connection.filter(|current| current.id == connection && current.mute != Silence::Both)
        else {
            return;
        };
        let Some(session) = client.session else { return };
        if self.zoo.attached(session).is_none() {
            return;
        }
        if self.request_struck(pid, session) {
            return;
        }
        let lag = self.zoo.lag(current.server);
        match self.zoo.serve(session) {
            Served::Nothing => {}
            Served::Answered => {
                if lag > 0 && self.zoo.lag(current.server) > 0 {
                    self.counts.one("stale read by a lagging server");
                }
            }
            Served::HungUp => {
                self.counts.one("request larger than the server takes");
                self.break_connection(pid, 0);
                return;
            }
        }
        self.pump();
    }

    /// Sends on what the servers have for their clients, and lets the servers that are behind go on.
    pub fn pump(&mut self) {
        for pid in self.pids() {
            let Some(client) = self.keeper(pid) else { continue };
            let (Some(connection), Some(session)) = (client.connection, client.session) else { continue };
            for delivery in self.zoo.sent(session) {
                let delay = self.way(pid, Organ::Replies);
                let now = self.now;
                let Some(client) = self.keeper(pid) else { continue };
                if let Delivery::Outcome { id, outcome: Outcome::Ok(Reply::Done) } = &delivery {
                    client.done.insert(*id);
                }
                if connection.mute == Silence::Nothing {
                    client.arrive_at = client.arrive_at.max(now + delay);
                    let delay = client.arrive_at - now;
                    self.after(delay, Happening::Arrive(pid, connection.id, delivery));
                }
            }
        }
        for server in 0..self.zoo.servers() {
            if self.zoo.lag(server) > 0 && self.keepers.advancing.insert(server) {
                let mut roll = self.roll(Part::Server(server));
                let delay = self.takes(&mut roll, self.mix.behind);
                self.after(delay, Happening::Advance(server));
            }
        }
    }

    pub fn advance(&mut self, server: usize) {
        self.keepers.advancing.remove(&server);
        if !self.keepers.lagging.contains(&server) {
            let lag = self.zoo.lag(server);
            let count = self.roll(Part::Server(server)).random_range(1..=lag.max(1));
            self.zoo.advance(server, count);
        }
        self.pump();
    }

    pub fn arrive(&mut self, pid: Pid, connection: u64, delivery: Delivery) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::Arrive(pid, connection, delivery));
            return;
        }
        let client = &mut process.keeper;
        if client.connection.is_none_or(|current| current.id != connection || current.mute != Silence::Nothing) {
            return;
        }
        match delivery {
            Delivery::Changed { path } => {
                client.watching.remove(&path);
                if self.keepers.deaf {
                    return;
                }
                self.tell(pid, Event::Keeper(KeeperEvent::Changed { path }));
            }
            Delivery::Outcome { id, outcome } => {
                let sent = client.outstanding.pop_front();
                assert_eq!(sent, Some(id), "answers come in the order of the requests");
                client.done.remove(&id);
                if client.seals.remove(&id) {
                    let won = matches!(outcome, Outcome::Ok(_));
                    self.counts.one(if won { "seal answered" } else { "seal refused" });
                }
                let Some(client) = self.keeper(pid) else { return };
                let session = client.session;
                if let Some(session) = session {
                    self.zoo.received(session, id);
                }
                self.keeper_answered(pid, id, outcome);
            }
        }
        self.flush(pid);
    }

    fn keeper_answered(&mut self, pid: Pid, id: RequestId, outcome: Outcome) {
        let Some(client) = self.keeper(pid) else { return };
        let session = SessionNumber(client.number);
        let (known, again) = client.bundles.answered(id, outcome);
        let count = again.len();
        for (id, ops) in again {
            // What was given up meanwhile is not sent again.
            if !client.reported.remove(&id) {
                client.queue.push_again(id, ops);
            }
        }
        if count > 0 {
            self.counts.one("sent again because another request was refused");
        }
        for (id, outcome) in known {
            let Some(client) = self.keeper(pid) else { return };
            if !client.reported.remove(&id) {
                self.tell(pid, Event::Keeper(KeeperEvent::Outcome { id, session, outcome }));
            }
        }
    }

    /// A request has waited long enough: its outcome is unknown, whatever becomes of it.
    pub fn give_up(&mut self, pid: Pid, id: RequestId) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::Deadline(pid, id));
            return;
        }
        let client = &mut process.keeper;
        let was_queued = client.queue.retain(|queued| *queued != id) > 0;
        let sent = (client.outstanding.contains(&id) || client.bundles.carries(id)) && client.reported.insert(id);
        if was_queued || sent {
            self.counts.one("request given up by its client");
            self.report_unknown(pid, id, "deadline");
        }
    }

    pub fn report_unknown(&mut self, pid: Pid, id: RequestId, why: &str) {
        let Some(client) = self.keeper(pid) else { return };
        let (session, outcome) = (SessionNumber(client.number), Outcome::Unknown(why.to_owned()));
        let event = Event::Keeper(KeeperEvent::Outcome { id, session, outcome });
        // "Has been, or is about to be": also after the session's end, or the next one's beginning.
        let Some(mut roll) = self.roll_of(pid, Organ::Unknown) else { return };
        if self.hurts(&mut roll, "late", 1_000) {
            let delay = roll.random_range(1..200 * MILLI);
            self.after(delay, Happening::Tell(pid, event));
        } else {
            self.tell(pid, event);
        }
    }

    pub fn drift(&mut self) {
        if self.zoo.adrift() > 0 && !self.keepers.late_due && !self.keepers.sockets_kept {
            self.keepers.late_due = true;
            // Mostly soon, while what was sent before them is still being looked at; sometimes much later.
            let mut roll = self.roll(Part::Sockets);
            let most = if roll.random_bool(0.7) { 20 * MILLI } else { 2 * SECOND };
            let delay = roll.random_range(1..most);
            self.after(self.drifts_for().unwrap_or(delay), Happening::Late);
        }
    }

    pub fn serve_late(&mut self) {
        self.keepers.late_due = false;
        let sockets = self.zoo.adrift();
        if sockets > 0 && !self.keepers.down {
            let socket = self.roll(Part::Sockets).random_range(0..sockets);
            let late = self.zoo.serve_adrift(socket);
            self.counts.one(match late {
                Late::Applied => "late application",
                Late::Nothing => "late request without effect",
                Late::SessionGone => "late request of a session that is gone",
            });
            self.note(("late", late == Late::Applied), || format!("a late request: {late:?}"));
            self.pump();
        }
        self.drift();
    }

    /// Number of requests in the sockets of a process' connection.
    pub fn in_socket(&self, pid: Pid) -> usize {
        let session = self.processes.get(&pid).and_then(|process| process.keeper.session);
        session.map_or(0, |session| self.zoo.waiting(session))
    }
}
