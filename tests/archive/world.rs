//! Two nodes of one process that die and lose their disks, and the ZooKeeper that remembers.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bequest::{bootstrap, Group, Limits, Node, ProposeError, Role, StateMachine};
use bequest_harness::{free_port, ZooKeeperServer};
use bequest_storage::{kv_answer, kv_response, KvAnswer, KvCommand, KvPair, KvQuery, KvResponse};
use prost::Message;
use tokio::task::JoinHandle;

pub(crate) type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Everything awaited comes true within it, or the test fails and says what did not.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
pub(crate) const GROUP: &str = "orders";
pub(crate) const CHROOT: &str = "/world";

pub(crate) struct World {
    pub(crate) server: ZooKeeperServer,
    scratch: tempfile::TempDir,
    lives: AtomicU32,
}

/// A node with its replica. Dropping it kills it: nothing is handed over.
pub(crate) struct Replica {
    _node: Node,
    pub(crate) group: Group,
}

impl World {
    pub(crate) async fn start(heap_mb: u32, limits: Limits) -> TestResult<Self> {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let server = ZooKeeperServer::builder().heap_mb(heap_mb).start().await?;
        let world = Self { server, scratch: tempfile::tempdir()?, lives: AtomicU32::new(0) };
        bootstrap(&world.address(), GROUP, &[1, 2], limits).await?;
        Ok(world)
    }

    pub(crate) fn address(&self) -> String {
        format!("zk://{}{CHROOT}", self.server.address())
    }

    /// Begins a life of a node with an empty disk.
    pub(crate) async fn born(&self, id: u64) -> TestResult<Replica> {
        let node = self.open(id).await?;
        let group = node.join_key_value(GROUP).await?;
        Ok(Replica { _node: node, group })
    }

    /// Begins a life of a node with a machine of the test's own.
    pub(crate) async fn born_with(&self, id: u64, machine: impl StateMachine) -> TestResult<Replica> {
        let node = self.open(id).await?;
        let group = node.join(GROUP, machine).await?;
        Ok(Replica { _node: node, group })
    }

    async fn open(&self, id: u64) -> TestResult<Node> {
        let life = self.lives.fetch_add(1, Relaxed);
        let port = free_port([127, 0, 0, 1].into())?;
        let node = Node::builder(id)
            .keeper(self.address())
            .listen(format!("127.0.0.1:{port}"))
            .data_dir(self.scratch.path().join(life.to_string()))
            // On a busy machine nobody is to be doubted for being slow: what dies here is seen to be dead.
            .configure(|config| config.election_timeout = Duration::from_secs(1))
            .open()
            .await?;
        Ok(node)
    }
}

/// Polls until `holds`, and fails with what `tell` says otherwise.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool, tell: impl Fn() -> String) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}: {}", tell());
        tokio::time::sleep(POLL).await;
    }
}

pub(crate) async fn leads(group: &Group) {
    let tell = || format!("{:#?}", group.status());
    until("leads", || group.status().role == Role::Leader, tell).await;
}

/// Waits until a replica has applied what another one had when this was called.
pub(crate) async fn caught_up(group: &Group, with: &Group) {
    let goal = with.status().applied;
    let tell = || format!("goal={goal} {:#?}", group.status());
    until("caught up", || group.status().applied >= goal, tell).await;
}

/// Proposes until it is accepted; only `Busy` is a reason to try again.
pub(crate) async fn apply(group: &Group, command: KvCommand) -> TestResult<kv_response::Response> {
    let command = command.encode_to_vec();
    let began = Instant::now();
    loop {
        match group.propose(command.clone()).await {
            Ok(answer) => {
                return Ok(KvResponse::decode(&answer[..])?.response.ok_or("a response is one of its kinds")?)
            }
            Err(ProposeError::Busy { .. }) if began.elapsed() < LIMIT => tokio::time::sleep(POLL).await,
            Err(error) => return Err(format!("{error}: {:#?}", group.status()).into()),
        }
    }
}

pub(crate) async fn put(group: &Group, key: &str, value: Vec<u8>) -> TestResult {
    match apply(group, KvCommand::put(key.to_owned(), value)).await? {
        kv_response::Response::Done(_) => Ok(()),
        other => Err(format!("a put is done: {other:?}").into()),
    }
}

pub(crate) async fn get(group: &Group, key: &str) -> TestResult<Option<Vec<u8>>> {
    let answer = group.read(KvQuery::get(key.to_owned()).encode_to_vec()).await?;
    match KvAnswer::decode(&answer[..])?.answer {
        Some(kv_answer::Answer::Value(found)) => Ok(found.value.map(|value| value.to_vec())),
        other => Err(format!("a get is answered with a value: {other:?}").into()),
    }
}

/// Everything a replica's own state holds: the number of pairs, and a hash of them in order.
pub(crate) async fn contents(group: &Group) -> TestResult<(u64, blake3::Hash)> {
    let mut after = None;
    let (mut pairs, mut hash) = (0, blake3::Hasher::new());
    loop {
        let (_, answer) = group.read_stale(KvQuery::scan("", after.clone(), 1000).encode_to_vec()).await?;
        let Some(kv_answer::Answer::Pairs(page)) = KvAnswer::decode(answer)?.answer else {
            return Err("a scan is answered with pairs".into());
        };
        for KvPair { key, value } in &page.pairs {
            pairs += 1;
            for part in [key, value] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            after = Some(key.clone());
        }
        if !page.more {
            return Ok((pairs, hash.finalize()));
        }
    }
}

/// Bytes that differ for every number and do not compress.
pub(crate) fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Clients that overwrite `keys` keys at full speed until they are stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<u64, ProposeError>>>,
}

impl Load {
    pub(crate) fn begin(group: &Group, clients: u64, keys: u64, length: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|client| {
                let (group, stop) = (group.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut written = 0;
                    while !stop.load(Relaxed) {
                        let number = client << 32 | written;
                        let key = format!("load-{}", (number ^ number >> 29) % keys);
                        let command = KvCommand::put(key, noise(number, length)).encode_to_vec();
                        match group.propose(command).await {
                            Ok(_) => written += 1,
                            Err(ProposeError::Busy { .. }) => tokio::time::sleep(POLL).await,
                            // Whoever leads next has clients of its own.
                            Err(ProposeError::NotLeader { .. } | ProposeError::Unknown) => return Ok(written),
                            Err(ProposeError::ShuttingDown) => return Ok(written),
                            Err(error) => return Err(error),
                        }
                    }
                    Ok(written)
                })
            })
            .collect();
        Self { stop, clients }
    }

    /// Stops the clients; returns how much they wrote.
    pub(crate) async fn end(self) -> TestResult<u64> {
        self.stop.store(true, Relaxed);
        let mut written = 0;
        for client in self.clients {
            written += client.await??;
        }
        Ok(written)
    }
}
