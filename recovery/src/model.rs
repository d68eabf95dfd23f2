//! ZooKeeper in memory: what the boundary in [`keeper`](crate::keeper) may see of a real ensemble, the unpleasant
//! parts included.
//!
//! There is no clock and no chance in here. The caller decides when the oldest request of a connection is served,
//! how far each server has applied the log of transactions, which connection breaks, what of its requests stays in a
//! server's socket to be applied *later*, and which session expires. So a simulation can bring about every order of
//! events a real ensemble can, and a seed repeats it.

mod fault;
mod frame;
mod tree;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use self::fault::Backup;
pub use self::frame::{frame_bytes, JUTE_MAX_BUFFER};
use self::tree::Touched;
pub use self::tree::{Tree, Znode};
use self::watch::Watches;
use crate::keeper::{Op, Outcome, Reason, Refusal, Reply, Request, RequestId};

/// A session, as the ensemble numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A server of the ensemble, counted from 0.
pub type ServerNumber = usize;

/// One committed transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Its number; ascends.
    pub zxid: i64,
    /// The session that caused it.
    pub session: SessionId,
    /// What it did.
    pub change: Change,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A session began.
    Opened,
    /// A session ended; its ephemeral znodes went with it.
    Closed,
    /// A multi took effect.
    Multi(Vec<Op>),
    /// A multi was refused. It takes a number all the same.
    Refused(Refusal),
}

/// What travels from a server to a client, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The outcome of a request. Never [`Outcome::Unknown`]: that is for the client to conclude.
    Outcome {
        /// The request.
        id: RequestId,
        /// What became of it.
        outcome: Outcome,
    },
    /// A watch fired.
    Changed {
        /// The znode the watch was left on.
        path: String,
    },
}

/// What serving one request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Nothing was waiting.
    Nothing,
    /// The oldest request was served; its outcome waits in [`ZooModel::deliveries`].
    Answered,
    /// The server dropped the connection: the request is larger than it takes.
    HungUp,
}

/// What became of a request served after its connection had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It took effect, though its client was told that nobody knows.
    Applied,
    /// It was a read, or refused.
    Nothing,
    /// Its session was over, or had moved to another server.
    SessionGone,
}

/// What a client loses with its connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Requests without an outcome delivered, in the order submitted.
    pub unanswered: Vec<RequestId>,
    /// Paths of watches that are gone.
    pub watches: Vec<String>,
}

/// Why a session cannot be attached to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// It is over.
    #[error("session expired")]
    Expired,
    /// The server has not applied yet what the session has seen; another may have, or this one later.
    #[error("server is behind the session")]
    Behind,
}

#[derive(Debug)]
struct Server {
    tree: Tree,
    // How many transactions of the log it has applied.
    applied: usize,
}

#[derive(Debug, Default)]
struct Session {
    server: Option<ServerNumber>,
    // The server whose requests the ensemble takes for this session's: the last it was connected to.
    owner: ServerNumber,
    pipe: VecDeque<(RequestId, Request)>,
    outbox: VecDeque<Delivery>,
    watches: Watches,
    // Answers on their way, each with the transactions of the log it shows the effect of.
    answers: VecDeque<(RequestId, usize)>,
    // Transactions of the log the client has seen the effect of.
    seen: usize,
    closed: bool,
}

#[derive(Debug)]
struct Socket {
    session: SessionId,
    server: ServerNumber,
    pipe: VecDeque<Request>,
}

/// An ensemble.
#[derive(Debug)]
pub struct ZooModel {
    head: Tree,
    zxid: i64,
    log: Vec<Transaction>,
    servers: Vec<Server>,
    sessions: BTreeMap<SessionId, Session>,
    sockets: Vec<Socket>,
    generation: u64,
}

impl ZooModel {
    /// An ensemble of this many servers without a single znode, not even the chroot.
    pub fn new(servers: usize) -> Self {
        Self {
            head: Tree::default(),
            zxid: 1 << 32,
            log: Vec::new(),
            servers: (0..servers.max(1)).map(|_| Server { tree: Tree::default(), applied: 0 }).collect(),
            sessions: BTreeMap::new(),
            sockets: Vec::new(),
            generation: 0,
        }
    }

    /// The tree with every committed transaction in it.
    pub fn head(&self) -> &Tree {
        &self.head
    }

    /// All committed transactions since the ensemble began or went backwards.
    pub fn log(&self) -> &[Transaction] {
        &self.log
    }

    /// How often the ensemble went backwards. The log begins anew with each.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Number of servers.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// How many transactions a server has still to apply.
    pub fn lag(&self, server: ServerNumber) -> usize {
        self.log.len() - self.servers[server].applied
    }

    /// Opens a session on a server.
    pub fn connect(&mut self, server: ServerNumber) -> SessionId {
        // The number tells sessions apart across wipes, too.
        let id = SessionId(self.sessions.last_key_value().map_or(0, |(last, _)| last.0) + 1);
        self.commit(id, Change::Opened);
        self.sessions.insert(id, Session { server: Some(server), owner: server, ..Session::default() });
        self.catch_up(server);
        id
    }

    /// Connects a session again, to the same or another server. What is in the socket of another server is refused
    /// from now on.
    ///
    /// # Errors
    /// If the session is over, or the server is behind it.
    pub fn attach(&mut self, id: SessionId, server: ServerNumber) -> Result<(), AttachError> {
        let applied = self.servers[server].applied;
        let session = self.sessions.get_mut(&id).filter(|session| !session.closed).ok_or(AttachError::Expired)?;
        if applied < session.seen {
            return Err(AttachError::Behind);
        }
        session.server = Some(server);
        session.owner = server;
        Ok(())
    }

    /// Whether a session is still alive.
    pub fn alive(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| !session.closed)
    }

    /// The server a session is connected to.
    pub fn attached(&self, id: SessionId) -> Option<ServerNumber> {
        self.sessions.get(&id).and_then(|session| session.server)
    }

    /// Sends a request: it lies in the connection's socket until served. Not possible without a connection.
    pub fn submit(&mut self, id: SessionId, request_id: RequestId, request: Request) {
        let session = self.session(id);
        assert!(session.server.is_some(), "session {id:?} sends {request_id:?} without a connection");
        session.pipe.push_back((request_id, request));
    }

    /// Requests in a connection's socket.
    pub fn waiting(&self, id: SessionId) -> usize {
        self.sessions.get(&id).map_or(0, |session| session.pipe.len())
    }

    /// The oldest request in a connection's socket.
    pub fn oldest(&self, id: SessionId) -> Option<RequestId> {
        self.sessions.get(&id)?.pipe.front().map(|(request_id, _)| *request_id)
    }

    /// Serves the oldest request of a session's connection: a write is committed at once, a read answered from what
    /// the server has applied. A connection serves its requests in order, and its reads see its earlier writes.
    pub fn serve(&mut self, id: SessionId) -> Served {
        let Some(server) = self.attached(id) else { return Served::Nothing };
        let Some((request_id, request)) = self.session(id).pipe.pop_front() else { return Served::Nothing };
        if frame_bytes(&request, 0) > JUTE_MAX_BUFFER {
            self.session(id).pipe.push_front((request_id, request));
            return Served::HungUp;
        }
        let outcome = match &request {
            Request::Multi(ops) => {
                let outcome = self.write(id, ops);
                self.catch_up(server);
                outcome
            }
            read => self.read(id, server, read),
        };
        self.answer(id, server, request_id, outcome);
        Served::Answered
    }

    fn answer(&mut self, id: SessionId, server: ServerNumber, request_id: RequestId, outcome: Outcome) {
        let applied = self.servers[server].applied;
        let session = self.session(id);
        session.outbox.push_back(Delivery::Outcome { id: request_id, outcome });
        session.answers.push_back((request_id, applied));
    }

    /// What the server has sent to a client since this was asked last. It has arrived.
    pub fn deliveries(&mut self, id: SessionId) -> Vec<Delivery> {
        let sent = self.sent(id);
        for delivery in &sent {
            if let Delivery::Outcome { id: request, .. } = delivery {
                self.received(id, *request);
            }
        }
        sent
    }

    /// What the server has sent to a client since this was asked last. Until the answer of a request is
    /// [received](Self::received) the client knows nothing of it, and finds a server that is behind it good enough.
    pub fn sent(&mut self, id: SessionId) -> Vec<Delivery> {
        self.session(id).outbox.drain(..).collect()
    }

    /// The answer of a request has arrived at the client: from now on no server behind it will do.
    pub fn received(&mut self, id: SessionId, request: RequestId) {
        let session = self.session(id);
        let Some(at) = session.answers.iter().position(|(answered, _)| *answered == request) else { return };
        let shown = session.answers.drain(..=at).map(|(_, applied)| applied).max().unwrap_or_default();
        session.seen = session.seen.max(shown);
    }

    /// Lets a server apply up to `count` more transactions; the watches of its sessions fire.
    pub fn advance(&mut self, server: ServerNumber, count: usize) {
        for _ in 0..count.min(self.lag(server)) {
            let place = &mut self.servers[server];
            let transaction = &self.log[place.applied];
            place.applied += 1;
            let touched = apply(&mut place.tree, transaction);
            for session in self.sessions.values_mut().filter(|session| session.server == Some(server)) {
                for touched in &touched {
                    let fired = session.watches.fire(touched);
                    session.outbox.extend(fired.into_iter().map(|path| Delivery::Changed { path }));
                }
            }
        }
    }

    /// Lets a server apply everything.
    pub fn catch_up(&mut self, server: ServerNumber) {
        self.advance(server, usize::MAX);
    }

    /// Breaks a session's connection. The first `adrift` requests not served yet stay in the server's socket and may
    /// be served later, by [`serve_adrift`](Self::serve_adrift); the others are gone.
    pub fn cut(&mut self, id: SessionId, adrift: usize) -> Lost {
        let session = self.session(id);
        session.answers.clear();
        let mut unanswered: Vec<RequestId> = session.outbox.drain(..).filter_map(outcome_of).collect();
        unanswered.extend(session.pipe.iter().map(|(request_id, _)| *request_id));
        let pipe: VecDeque<Request> = session.pipe.drain(..).take(adrift).map(|(_, request)| request).collect();
        let watches = session.watches.drain().into_iter().collect();
        if let (Some(server), false) = (session.server.take(), pipe.is_empty()) {
            self.sockets.push(Socket { session: id, server, pipe });
        }
        Lost { unanswered, watches }
    }

    /// Number of broken connections with requests still in a server's socket.
    pub fn adrift(&self) -> usize {
        self.sockets.len()
    }

    /// Serves the oldest request of the `socket`th broken connection.
    pub fn serve_adrift(&mut self, socket: usize) -> Late {
        let Some(place) = self.sockets.get_mut(socket) else { return Late::Nothing };
        let (id, server) = (place.session, place.server);
        let request = place.pipe.pop_front();
        if place.pipe.is_empty() {
            self.sockets.remove(socket);
        }
        let Some(Request::Multi(ops)) = request else { return Late::Nothing };
        if !self.sessions.get(&id).is_some_and(|session| !session.closed && session.owner == server) {
            return Late::SessionGone;
        }
        match self.write(id, &ops) {
            Outcome::Ok(_) => Late::Applied,
            _ => Late::Nothing,
        }
    }

    /// Ends a session, as its client or the ensemble's clock does; its ephemeral znodes go with it.
    pub fn expire(&mut self, id: SessionId) -> Lost {
        if !self.alive(id) {
            return Lost::default();
        }
        let lost = self.cut(id, 0);
        self.session(id).closed = true;
        self.head.close(id);
        self.commit(id, Change::Closed);
        lost
    }

    /// Puts a request and its outcome through at once: the convenient way where time does not matter. What was
    /// submitted before is served first; a session without a connection gets one to the first server.
    pub fn execute(&mut self, id: SessionId, request: &Request) -> Outcome {
        if self.attached(id).is_none() {
            self.catch_up(0);
            if let Err(error) = self.attach(id, 0) {
                return Outcome::Unknown(error.to_string());
            }
        }
        let own = RequestId(u64::MAX);
        self.submit(id, own, request.clone());
        loop {
            match self.serve(id) {
                Served::Answered => {}
                Served::Nothing => return Outcome::Unknown("no answer".to_owned()),
                Served::HungUp => {
                    self.cut(id, 0);
                    return Outcome::Unknown("connection lost".to_owned());
                }
            }
            match self.session(id).outbox.pop_back() {
                Some(Delivery::Outcome { id: answered, outcome }) if answered == own => {
                    self.received(id, own);
                    return outcome;
                }
                Some(other) => self.session(id).outbox.push_back(other),
                None => {}
            }
        }
    }

    fn session(&mut self, id: SessionId) -> &mut Session {
        self.sessions.get_mut(&id).unwrap_or_else(|| panic!("no such session: {id:?}"))
    }

    fn commit(&mut self, session: SessionId, change: Change) {
        self.zxid += 1;
        self.log.push(Transaction { zxid: self.zxid, session, change });
    }

    fn write(&mut self, id: SessionId, ops: &[Op]) -> Outcome {
        match self.head.apply(id, ops, self.zxid + 1) {
            Ok(_) => {
                self.commit(id, Change::Multi(ops.to_vec()));
                Outcome::Ok(Reply::Done)
            }
            Err(refusal) => {
                self.commit(id, Change::Refused(refusal));
                Outcome::Refused(refusal)
            }
        }
    }

    fn read(&mut self, id: SessionId, server: ServerNumber, request: &Request) -> Outcome {
        let tree = &self.servers[server].tree;
        let (Request::Get { path, watch } | Request::Exists { path, watch } | Request::Children { path, watch }) =
            request
        else {
            return Outcome::Refused(Refusal { op: 0, reason: Reason::BadArguments });
        };
        let znode = tree.get(path);
        let reason = match znode {
            _ if !tree::valid(path) => Some(Reason::BadArguments),
            Some(_) if tree.denied(path) => Some(Reason::NoAuth),
            _ => None,
        };
        if let Some(reason) = reason {
            return Outcome::Refused(Refusal { op: 0, reason });
        }
        let reply = match request {
            Request::Get { .. } => Reply::Data(znode.map(|znode| (znode.data.clone(), znode.stat()))),
            Request::Exists { .. } => Reply::Stat(znode.map(Znode::stat)),
            _ => Reply::Children(znode.map(|znode| znode.children.iter().cloned().collect())),
        };
        let exists = znode.is_some();
        if *watch {
            let watches = &mut self.session(id).watches;
            match request {
                Request::Children { .. } if exists => watches.watch_children(path),
                Request::Get { .. } if exists => watches.watch_data(path),
                Request::Exists { .. } => watches.watch_data(path),
                _ => {}
            }
        }
        Outcome::Ok(reply)
    }
}

fn apply(tree: &mut Tree, transaction: &Transaction) -> Vec<Touched> {
    match &transaction.change {
        Change::Opened | Change::Refused(_) => Vec::new(),
        Change::Closed => tree.close(transaction.session),
        Change::Multi(ops) => tree.replay(transaction.session, ops, transaction.zxid),
    }
}

fn outcome_of(delivery: Delivery) -> Option<RequestId> {
    match delivery {
        Delivery::Outcome { id, .. } => Some(id),
        Delivery::Changed { .. } => None,
    }
}
