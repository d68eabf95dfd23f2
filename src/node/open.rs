//! What happens before a node runs: local data, peer port, ZooKeeper, and a look at what it finds there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bequest_recovery::address::Address;
use bequest_recovery::entry::{Entry, EntryHash, Position};
use bequest_recovery::keeper::{Op, Outcome, Reason, Reply, Request};
use bequest_recovery::path::{GroupPaths, NODES};
use bequest_recovery::record::{self, Addresses, Genesis, Uuid};
use bequest_recovery::zookeeper::{Config as KeeperConfig, ZooKeeper};
use bequest_storage::{GroupMeta, LocalLog, Opened, Options, StorageError, Store};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Groups, Node, OpenError};
use crate::config::NodeConfig;
use crate::driver::counters::Counters;
use crate::driver::disk::Disk;
use crate::driver::gate::Gate;
use crate::driver::inbox::inbox;
use crate::driver::io::IoRuntime;
use crate::driver::machine::Machines;
use crate::driver::peers::Peers;
use crate::driver::raft::{self, Driver, Goodbye, NodeState};
use crate::driver::requester::{Requester, Waiting};
use crate::error::{GroupError, NodeError};
use crate::group::JoinError;
use crate::replica::event::{Config, Event, Known, LocalGroup, NodeId, Slot};
use crate::CHUNK_BYTES_MAX;

// The largest request a node sends: one chunk or entry, and what is around it.
const REQUEST_BYTES_MAX: usize = CHUNK_BYTES_MAX + 8 * 1024;
// How often a large request must fail, small ones passing, before its size is blamed.
const LARGE_ATTEMPTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(200);
const LOG_PAUSE: Duration = Duration::from_secs(5);

pub(super) async fn open(config: NodeConfig) -> Result<Node, OpenError> {
    let address = config.check()?;
    let runtime = IoRuntime::start().map_err(OpenError::Thread)?;
    let (store, local) = open_store(&config).await?;
    let cluster = check_identity(&store, config.id)?;
    let listener = listen(&config, &runtime).await?;

    let (inbox, receiver) = inbox();
    let waiting = Arc::<Waiting>::default();
    let keeper = {
        let (inbox, waiting) = (inbox.clone(), waiting.clone());
        let mut keeper = KeeperConfig::new(address.clone()).session_timeout(config.session_timeout);
        // One group alone has as many segments on their way as it may have.
        keeper.window_shared = keeper.window_shared.max(config.segments_in_flight);
        // What is not asked for here waits in the inbox until the core starts, in order.
        let sink = move |event| {
            if let Some(event) = waiting.sift(event) {
                inbox.event(Event::Keeper(event));
            }
        };
        Arc::new(ZooKeeper::start(keeper, sink, runtime.handle()))
    };
    let requester = Requester::new(keeper.clone(), waiting);
    let there = cluster_is_there(&requester, &address).await?;

    let nonce = rand::random();
    let counters = Arc::<Counters>::default();
    let no_thread = OpenError::Thread;
    let peers =
        Peers::start(NodeId(config.id), nonce, listener, inbox.clone(), runtime.handle().clone(), counters.clone());
    let disk = Disk::start(store.clone(), config.id, config.disk_sync, inbox.clone()).map_err(no_thread)?;
    let pool = Machines::start(machine_threads()).map_err(no_thread)?;
    let (state_sender, mut state) = watch::channel(NodeState::Starting);
    let driver = Driver {
        config: core_config(&config, nonce, cluster),
        inbox: receiver,
        keeper: keeper.clone(),
        peers,
        disk,
        state: state_sender,
        goodbye: goodbye(keeper),
        runtime,
    };
    let mut groups = Groups { local, pool: Some(pool), ..Groups::default() };
    if there {
        groups.raft = Some(raft::start(driver).map_err(no_thread)?);
    } else {
        tracing::warn!(%address, "no cluster at this address yet");
        groups.waiting = Some(driver);
    }
    let node = Node {
        id: config.id,
        gate: Arc::new(Gate::new(&config)),
        address: config.keeper,
        inbox,
        counters,
        requester,
        state: state.clone(),
        groups: Mutex::new(groups),
        store,
    };
    if there {
        let registered = state.wait_for(|state| *state != NodeState::Starting).await.map(|state| state.clone());
        if let Ok(NodeState::Failed(error)) = registered {
            return Err(OpenError::Node(error));
        }
    }
    Ok(node)
}

/// Opens the store and reads what it has of every group, so that damage is met while everything can still be rebuilt.
async fn open_store(config: &NodeConfig) -> Result<(Store, HashMap<String, LocalGroup>), OpenError> {
    let dir = config.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || -> Result<_, StorageError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (store, opened) = Store::open(&dir, Options::default())?;
            if let Opened::Quarantined { moved_to, reason } = &opened {
                let moved_to = moved_to.display();
                tracing::error!(%moved_to, reason, "local data was damaged and moved aside; rebuilding from zookeeper");
            }
            match load_groups(&store) {
                Ok(local) => return Ok((store, local)),
                Err(error @ StorageError::Damaged { .. }) if attempts == 1 => {
                    tracing::error!(%error, "local data is damaged");
                    // Opening it again moves it aside.
                    store.condemn(&error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
    });
    // The task is not cancelled, and storage does not panic on what it reads.
    let opened = opened.await.map_err(|error| OpenError::Thread(std::io::Error::other(error)))?;
    Ok(opened?)
}

/// All payloads are loaded, bounded by the groups' WAL limits: which of them the machine still has to apply is not known
/// yet. The core drops those that are settled, down to its budget.
fn load_groups(store: &Store) -> Result<HashMap<String, LocalGroup>, StorageError> {
    let mut groups = HashMap::new();
    for GroupMeta { uuid, .. } in store.groups()? {
        if let Some(log) = store.load(uuid, u64::MAX)? {
            groups.insert(log.meta.name.clone(), local_group(log));
        }
    }
    Ok(groups)
}

fn local_group(log: LocalLog) -> LocalGroup {
    let LocalLog { meta, base, hard_state, known, entries } = log;
    let slots = entries.into_iter().map(|slot| Slot {
        position: Position { index: slot.index, term: slot.term, hash: EntryHash(slot.hash) },
        bytes: slot.size,
        entry: slot.payload.map(|(data, context)| Entry {
            index: slot.index,
            term: slot.term,
            kind: u32::from(slot.kind),
            data,
            context,
        }),
    });
    let known = known.unwrap_or_default();
    LocalGroup {
        uuid: Uuid(meta.uuid),
        genesis_czxid: meta.genesis_czxid,
        term: hard_state.term,
        commit: hard_state.commit,
        base: Position { index: base.index, term: base.term, hash: EntryHash(base.hash) },
        slots: slots.collect(),
        known: Known {
            term: known.term,
            position: Position { index: known.index, term: known.entry_term, hash: EntryHash(known.hash) },
        },
    }
}

/// The cluster the directory belongs to, if it was used before.
fn check_identity(store: &Store, node: u64) -> Result<Option<Uuid>, OpenError> {
    let Some(found) = store.identity()? else { return Ok(None) };
    if found.node != node {
        let given = bequest_storage::Identity { node, ..found };
        return Err(StorageError::IdentityMismatch { found, given }.into());
    }
    Ok(Some(Uuid(found.cluster)))
}

async fn listen(config: &NodeConfig, runtime: &IoRuntime) -> Result<TcpListener, OpenError> {
    let address = config.listen.clone();
    let failed = |source| OpenError::Listen { address: config.listen.clone(), source };
    // On the runtime that will use it.
    let bound = runtime.handle().spawn(async move { TcpListener::bind(address).await }).await;
    bound.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
}

/// Waits for ZooKeeper and looks whether a cluster is there; if so, also whether large requests pass.
async fn cluster_is_there(requester: &Requester, address: &Address) -> Result<bool, OpenError> {
    let mut logged: Option<Instant> = None;
    let mut large_attempts = 0;
    loop {
        let cause = match requester.request(Request::Get { path: "/".to_owned(), watch: false }).await {
            Outcome::Ok(Reply::Data(found)) if found.as_ref().is_none_or(|(data, _)| data.is_empty()) => {
                return Ok(false)
            }
            Outcome::Ok(_) => match large_request(requester).await {
                Outcome::Ok(_) => return Ok(true),
                Outcome::Refused(refusal) if refusal.reason == Reason::NoAuth => return Err(denied(NODES)),
                Outcome::Refused(refusal) => format!("{refusal:?}"),
                Outcome::Unknown(cause) => {
                    large_attempts += 1;
                    if large_attempts >= LARGE_ATTEMPTS {
                        return Err(OpenError::RequestTooLarge { bytes: REQUEST_BYTES_MAX });
                    }
                    cause
                }
            },
            Outcome::Refused(refusal) if refusal.reason == Reason::NoAuth => return Err(denied("/")),
            Outcome::Refused(refusal) => format!("{refusal:?}"),
            Outcome::Unknown(cause) => cause,
        };
        if logged.is_none_or(|logged| logged.elapsed() >= LOG_PAUSE) {
            logged = Some(Instant::now());
            tracing::warn!(%address, cause, "waiting for zookeeper");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Creates and deletes a znode of the largest size in one transaction: it is never there for anybody to see or to
/// clean up, and yet the request travels the whole way, also between the servers.
async fn large_request(requester: &Requester) -> Outcome {
    let path = format!("{NODES}/size-{:016x}", rand::random::<u64>());
    let data = Bytes::from(vec![0; REQUEST_BYTES_MAX]);
    let create = Op::Create { path: path.clone(), data, ephemeral: false };
    requester.request(Request::Multi(vec![create, Op::Delete { path, version: Some(0) }])).await
}

fn denied(path: &str) -> OpenError {
    OpenError::Node(NodeError::Denied { path: path.to_owned() })
}

/// Reads a group's genesis, waiting for ZooKeeper as long as it takes.
pub(super) async fn read_genesis(requester: &Requester, name: &str) -> Result<(Uuid, Genesis), JoinError> {
    let path = GroupPaths::new(name).genesis().to_owned();
    loop {
        match requester.request(Request::Get { path: path.clone(), watch: false }).await {
            Outcome::Ok(Reply::Data(Some((data, _)))) => {
                let damaged = |what| GroupError::Damaged { path: path.clone(), index: 0, what };
                let genesis: Genesis = record::open(&data, None).map_err(|error| damaged(error.to_string()))?;
                let uuid = Uuid::from_slice(&genesis.uuid).ok_or_else(|| damaged("uuid".to_owned()))?;
                return Ok((uuid, genesis));
            }
            // A server may lag; only a transaction's "no" is certain.
            Outcome::Ok(_) if is_missing(requester, NODES).await => {
                return Err(NodeError::NoSuchCluster { path: NODES.to_owned() }.into());
            }
            Outcome::Ok(_) if is_missing(requester, &path).await => return Err(GroupError::NoSuchGroup { path }.into()),
            Outcome::Refused(_) => return Err(GroupError::Denied { path }.into()),
            Outcome::Ok(_) => {}
            Outcome::Unknown(cause) => tracing::debug!(cause, "waiting for zookeeper"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a transaction says that the znode does not exist.
async fn is_missing(requester: &Requester, path: &str) -> bool {
    let check = Op::Check { path: path.to_owned(), version: 0 };
    let outcome = requester.request(Request::Multi(vec![check])).await;
    matches!(outcome, Outcome::Refused(refusal) if refusal.reason == Reason::NoNode)
}

/// Waits until the session sees the group. It was created on another one, which this one may lag behind.
pub(super) async fn wait_for_group(requester: &Requester, name: &str) {
    let path = GroupPaths::new(name).genesis().to_owned();
    loop {
        let found = requester.request(Request::Exists { path: path.clone(), watch: false }).await;
        if matches!(found, Outcome::Ok(Reply::Stat(Some(_)))) {
            return;
        }
        tokio::time::sleep(PAUSE / 10).await;
    }
}

/// Threads for the state machines of all groups: as many as can work at once, and a few where that is few, as a machine
/// may wait for something.
fn machine_threads() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get).clamp(4, 16)
}

fn goodbye(keeper: Arc<ZooKeeper>) -> Goodbye {
    Box::new(move |runtime| {
        // Another holder is about to drop it, which ends the session too, only not awaited.
        if let Ok(keeper) = Arc::try_unwrap(keeper) {
            runtime.block_on(async { drop(tokio::time::timeout(Duration::from_secs(1), keeper.close()).await) });
        }
    })
}

fn core_config(config: &NodeConfig, nonce: u64, cluster: Option<Uuid>) -> Config {
    Config {
        node: NodeId(config.id),
        addresses: Addresses { peer: config.advertised().to_owned(), client: config.client_address.clone() },
        nonce,
        seed: rand::random(),
        cluster,
        beat: config.beat,
        election_timeout: config.election_timeout,
        poll: config.poll,
        segment_bytes: config.segment_bytes,
        segments_in_flight: config.segments_in_flight,
        proposal_bytes_in_flight: config.proposal_bytes_in_flight,
        proposals_in_flight: config.proposals_in_flight,
        reads_in_flight: config.reads_in_flight,
        log_cache_bytes: config.log_cache_bytes,
    }
}
