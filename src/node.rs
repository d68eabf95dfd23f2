//! A node: a process' part in a cluster.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bequest_recovery::path::valid_group_name;
use bequest_recovery::record::Limits;
use tokio::sync::watch;

use crate::bootstrap::{bootstrap, BootstrapError, Bootstrapped};
use crate::config::{ConfigError, NodeConfig};
use crate::driver::call::{Call, Join};
use crate::driver::counters::{Counters, PeerCounters};
use crate::driver::gate::Gate;
use crate::driver::inbox::{Inbox, Input};
use crate::driver::machine::{Ended, Machine, Machines, Started};
use crate::driver::raft::{self, Driver, NodeState};
use crate::driver::requester::Requester;
use crate::error::NodeError;
use crate::group::{Group, JoinError, Shared};
use crate::kv::KeyValue;
use crate::machine::StateMachine;
use crate::replica::event::{default_limits, GroupNumber, LocalGroup};
use crate::replica::status::{GroupStatus, Role};

mod open;

// A clean shutdown hands over what it can in this time; what is left ends as by a crash, which loses nothing.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(5);
// A node that is dropped waits this long for its threads.
const DROP_LIMIT: Duration = Duration::from_secs(2);

/// A node. Dropping it ends it at once, as a crash would: nothing acknowledged is lost, and another node takes over.
/// [`shutdown`](Self::shutdown) does it without an interruption for clients.
pub struct Node {
    id: u64,
    address: String,
    inbox: Inbox,
    gate: Arc<Gate>,
    counters: Arc<Counters>,
    requester: Requester,
    state: watch::Receiver<NodeState>,
    groups: Mutex<Groups>,
    store: bequest_storage::Store,
}

#[derive(Default)]
struct Groups {
    joined: HashSet<String>,
    numbers: u32,
    // What the local disk has of groups that are not joined yet.
    local: HashMap<String, LocalGroup>,
    // Until the cluster exists.
    waiting: Option<Driver>,
    // Until the node ends.
    pool: Option<Arc<Machines>>,
    machines: Vec<Ended>,
    raft: Option<JoinHandle<()>>,
}

/// A name that nobody else may join, given back unless it was taken.
struct Reserved<'a> {
    node: &'a Node,
    name: String,
    taken: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.node.groups().joined.remove(&self.name);
        }
    }
}

/// What must have ended before the process may: a process that ends while a thread still uses RocksDB, or ends after
/// having used it, is torn down by RocksDB's own destructors.
struct Threads {
    waiting: Option<Driver>,
    raft: Option<JoinHandle<()>>,
    machines: Vec<Ended>,
    pool: Option<Arc<Machines>>,
}

impl Threads {
    /// Waits for them beside the current thread, so that a state machine that does not come back holds it up for no
    /// longer than this; whether all ended.
    fn join(self, limit: Duration) -> bool {
        let (ended, wait) = std::sync::mpsc::channel::<()>();
        let waiter = std::thread::Builder::new().name("bequest-end".into()).spawn(move || {
            drop(self.waiting);
            self.raft.into_iter().for_each(|thread| drop(thread.join()));
            self.machines.into_iter().for_each(|machine| assert!(machine.recv().is_err(), "nothing is sent"));
            // Its threads end with it. Not before the machines have: they need it for that.
            drop(self.pool);
            drop(ended);
        });
        // Nothing is ever sent: it ends with the threads, or with the limit.
        match waiter {
            Ok(waiter) if wait.recv_timeout(limit) == Err(RecvTimeoutError::Disconnected) => waiter.join().is_ok(),
            _ => false,
        }
    }
}

/// Why a node was not opened. Whatever was begun has been ended again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A value of the configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] bequest_storage::StorageError),
    /// The peer port cannot be listened on.
    #[error("cannot listen for peers: address={address} cause={source}; stop what uses it, or choose another")]
    Listen {
        /// The address.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// ZooKeeper hangs up on requests of the size this node needs.
    #[error(
        "zookeeper takes no request of bytes={bytes}: raise jute.maxbuffer to at least {} on all of its servers",
        bequest_recovery::zookeeper::FRAME_BYTES_MAX
    )]
    RequestTooLarge {
        /// The size that was tried.
        bytes: usize,
    },
    /// The node may not run.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The system refused a thread.
    #[error("cannot start a thread: cause={0}")]
    Thread(std::io::Error),
}

/// Sets up a [`Node`]. Made by [`Node::builder`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    config: NodeConfig,
}

impl NodeBuilder {
    /// Where ZooKeeper is: `zk://[user:password@]host:port,host:port/path`.
    #[must_use]
    pub fn keeper(mut self, address: impl Into<String>) -> Self {
        self.config.keeper = address.into();
        self
    }

    /// Where the peer port listens: `host:port`.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.config.listen = address.into();
        self
    }

    /// Where peers reach it, if not where it listens: `host:port`.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.config.advertise = Some(address.into());
        self
    }

    /// What status and errors tell clients of this node: free text, for instance a URL.
    #[must_use]
    pub fn client_address(mut self, text: impl Into<String>) -> Self {
        self.config.client_address = text.into();
        self
    }

    /// The directory for everything local.
    #[must_use]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.data_dir = dir.into();
        self
    }

    /// Changes any other value; see [`NodeConfig`] for them and their defaults.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut NodeConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Opens the node; see [`Node::open`].
    ///
    /// # Errors
    /// As for [`Node::open`].
    pub async fn open(self) -> Result<Node, OpenError> {
        Node::open(self.config).await
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Node {
    /// Begins to set up a node with this id. `keeper`, `listen` and `data_dir` have no defaults.
    pub fn builder(id: u64) -> NodeBuilder {
        NodeBuilder { config: NodeConfig::new(id, "", "", "") }
    }

    /// Opens the data directory and the peer port, and registers the node in its cluster.
    ///
    /// Waits for ZooKeeper as long as it takes, and says so in the log; dropping the future ends everything it began.
    /// Returns when the node is registered, or, if there is no cluster at the address yet, when that is known:
    /// [`bootstrap`](Self::bootstrap) then creates it and registers the node.
    ///
    /// Damaged local data is moved aside, logged, and rebuilt from ZooKeeper.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing runs then.
    pub async fn open(config: NodeConfig) -> Result<Self, OpenError> {
        open::open(config).await
    }

    /// This node's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Creates the cluster, if it is not there, and in it the group `name` with these voters, with the default limits.
    /// Done once for a group, by anybody; if the same group is there already, nothing is changed.
    ///
    /// # Errors
    /// See [`BootstrapError`]; the node itself is not affected.
    pub async fn bootstrap(&self, name: &str, voters: &[u64]) -> Result<Bootstrapped, BootstrapError> {
        self.bootstrap_with(name, voters, default_limits()).await
    }

    /// As [`bootstrap`](Self::bootstrap), with limits of the caller's choice.
    ///
    /// # Errors
    /// See [`BootstrapError`].
    pub async fn bootstrap_with(
        &self,
        name: &str,
        voters: &[u64],
        limits: Limits,
    ) -> Result<Bootstrapped, BootstrapError> {
        let done = bootstrap(&self.address, name, voters, limits).await?;
        // Another session did it. This node's own must not look for the group in a past without it.
        open::wait_for_group(&self.requester, name).await;
        Ok(done)
    }

    /// Hosts a replica of a group: reads what ZooKeeper has of it, replays what is missing here, and takes part from
    /// then on. Returns when it follows (or leads already); waits for ZooKeeper as long as it takes. If the future is
    /// dropped the group goes on being joined.
    ///
    /// Never creates a group: if it is not there, that is an error.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub async fn join(&self, name: &str, machine: impl StateMachine) -> Result<Group, JoinError> {
        self.host(self.reserve(name)?, machine).await
    }

    async fn host(&self, reserved: Reserved<'_>, machine: impl StateMachine) -> Result<Group, JoinError> {
        let name = reserved.name.clone();
        let (number, local, pool) = self.begin_join(reserved)?;
        let started = Machine::start(&pool, number, &name, Box::new(machine), self.inbox.clone());
        drop(pool);
        let Started { machine, ended, recovered } =
            started.map_err(|error| JoinError::Thread { message: error.to_string() })?;
        self.groups().machines.push(ended);
        let applied = match recovered.await {
            Ok(recovered) => recovered?,
            Err(_) => {
                let message = "the thread that recovers the state machine ended".to_owned();
                return Err(JoinError::Thread { message });
            }
        };
        let (status_sender, mut status) = watch::channel(None);
        let join =
            Join { group: number, name: name.clone(), local, applied, machine: machine.clone(), status: status_sender };
        if !self.inbox.put(Input::Call(Call::Join(Box::new(join)))) {
            return Err(self.why_ended());
        }
        let born = |status: &Option<GroupStatus>| status.as_ref().is_some_and(|status| status.role != Role::Birth);
        let first = status.wait_for(born).await.map(|status| status.clone());
        let first = first.map_err(|_| self.why_ended())?;
        if let Some(error) = first.and_then(|status| status.stopped) {
            return Err(JoinError::Group(error));
        }
        Ok(Group::new(Shared {
            name,
            number,
            inbox: self.inbox.clone(),
            gate: self.gate.clone(),
            machine,
            stale_reads: Group::stale_reads(),
            status,
        }))
    }

    /// Joins a group whose machine is the key-value store on this node's own RocksDB. Its commands, queries and answers
    /// are those of [`bequest_storage`]: `kv_command`, `kv_query`, `kv_response`, `kv_answer`.
    ///
    /// # Errors
    /// As for [`join`](Self::join).
    pub async fn join_key_value(&self, name: &str) -> Result<Group, JoinError> {
        // Before the state is opened: nobody else may be at work on it.
        let reserved = self.reserve(name)?;
        let (uuid, genesis) = open::read_genesis(&self.requester, name).await?;
        let (store, mut rebuilt) = (self.store.clone(), false);
        let opened = tokio::task::spawn_blocking(move || {
            let machine = KeyValue::open(&store, uuid, &genesis, &mut rebuilt);
            machine.map(|machine| (machine, rebuilt))
        });
        let opened = opened.await.map_err(|error| JoinError::Thread { message: error.to_string() })?;
        let (machine, rebuilt) = opened?;
        if rebuilt {
            self.groups().local.remove(name);
        }
        self.host(reserved, machine).await
    }

    fn reserve(&self, name: &str) -> Result<Reserved<'_>, JoinError> {
        if !valid_group_name(name) {
            return Err(JoinError::Name { name: name.to_owned() });
        }
        match self.groups().joined.insert(name.to_owned()) {
            true => Ok(Reserved { node: self, name: name.to_owned(), taken: false }),
            false => Err(JoinError::AlreadyJoined { name: name.to_owned() }),
        }
    }

    /// Takes the name for good: from here on there may be a replica.
    fn begin_join(
        &self,
        mut reserved: Reserved<'_>,
    ) -> Result<(GroupNumber, Option<LocalGroup>, Arc<Machines>), JoinError> {
        reserved.taken = true;
        let mut groups = self.groups();
        let Some(pool) = groups.pool.clone() else { return Err(JoinError::ShutDown) };
        if let Some(driver) = groups.waiting.take() {
            let started = raft::start(driver).map_err(|error| JoinError::Thread { message: error.to_string() })?;
            groups.raft = Some(started);
        }
        groups.numbers += 1;
        Ok((GroupNumber(groups.numbers), groups.local.remove(&reserved.name), pool))
    }

    fn why_ended(&self) -> JoinError {
        match &*self.state.borrow() {
            NodeState::Failed(error) => JoinError::Node(error.clone()),
            _ => JoinError::ShutDown,
        }
    }

    /// Counts of what peers and strangers did to the peer port.
    pub fn peer_counters(&self) -> PeerCounters {
        self.counters.read()
    }

    /// The node's local store, for state machines that keep their state in it.
    pub fn store(&self) -> &bequest_storage::Store {
        &self.store
    }

    /// Waits until the node has ended.
    ///
    /// # Errors
    /// Why it ended, if not by [`shutdown`](Self::shutdown). Open it again once the reason is gone.
    pub async fn ended(&self) -> Result<(), NodeError> {
        let mut state = self.state.clone();
        let ended = state.wait_for(NodeState::has_ended).await.map(|state| state.clone());
        match ended {
            Ok(NodeState::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends the node cleanly: stops accepting proposals, drains what is in flight, hands every leadership over, and
    /// ends. Takes at most about seven seconds; what is not done then ends as by a crash, which loses nothing.
    ///
    /// On return the data directory is free, unless a state machine is still busy.
    ///
    /// # Errors
    /// If the node had ended already, why.
    pub async fn shutdown(self) -> Result<(), NodeError> {
        let began = Instant::now();
        // One that waits for its cluster has nobody to tell.
        if self.groups().waiting.is_none() {
            // Refused by a node that is ending already; why, is known when it has.
            self.inbox.put(Input::Call(Call::ShutDown));
            let mut state = self.state.clone();
            let ended = async { drop(state.wait_for(NodeState::has_ended).await) };
            if tokio::time::timeout(SHUT_DOWN_LIMIT, ended).await.is_err() {
                tracing::warn!(limit = ?SHUT_DOWN_LIMIT, "shutdown is taking too long, ending at once");
                self.inbox.put(Input::Call(Call::Abort));
            }
        }
        let threads = self.take_threads();
        let left = SHUT_DOWN_LIMIT.saturating_sub(began.elapsed()).max(DROP_LIMIT);
        if !tokio::task::spawn_blocking(move || threads.join(left)).await.unwrap_or(false) {
            tracing::warn!("a state machine or the disk does not come back");
        }
        match &*self.state.borrow() {
            NodeState::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn take_threads(&self) -> Threads {
        let mut groups = self.groups();
        let machines = std::mem::take(&mut groups.machines);
        Threads { waiting: groups.waiting.take(), raft: groups.raft.take(), machines, pool: groups.pool.take() }
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails if the raft thread has ended, which is what is wanted.
        self.inbox.put(Input::Call(Call::Abort));
        let threads = self.take_threads();
        threads.join(DROP_LIMIT);
    }
}
