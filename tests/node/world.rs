//! What the tests share.

use std::path::PathBuf;
use std::time::Duration;

use bequest::{default_limits, BootstrapError, Bootstrapped, Group, Node, NodeBuilder, OpenError, Role};
use bequest_harness::{free_port, ZooKeeperServer, ZooKeeperServerBuilder};
use bequest_storage::{KvAnswer, KvCommand, KvQuery};
use prost::Message;

pub(crate) type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Far more than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A ZooKeeper of its own, and room for the nodes 1 and 2 of the group `orders`.
pub(crate) struct World {
    pub(crate) server: ZooKeeperServer,
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) ports: [u16; 2],
}

impl World {
    pub(crate) async fn start() -> Result<Self, Box<dyn std::error::Error>> {
        Self::start_on(ZooKeeperServer::builder()).await
    }

    pub(crate) async fn start_on(server: ZooKeeperServerBuilder) -> Result<Self, Box<dyn std::error::Error>> {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).try_init();
        let server = server.start().await?;
        let ports = [free_port([127, 0, 0, 1].into())?, free_port([127, 0, 0, 1].into())?];
        Ok(Self { server, scratch: tempfile::tempdir()?, ports })
    }

    pub(crate) fn address(&self) -> String {
        format!("zk://{}/world", self.server.address())
    }

    pub(crate) fn builder(&self, id: u64) -> NodeBuilder {
        let port = self.ports[usize::try_from(id - 1).expect("one or two")];
        Node::builder(id).keeper(self.address()).listen(format!("127.0.0.1:{port}")).data_dir(self.dir(id))
    }

    pub(crate) fn dir(&self, id: u64) -> PathBuf {
        self.scratch.path().join(id.to_string())
    }

    pub(crate) async fn open(&self, id: u64) -> Result<Node, OpenError> {
        self.builder(id).open().await
    }

    pub(crate) async fn bootstrap(&self) -> Result<Bootstrapped, BootstrapError> {
        bequest::bootstrap(&self.address(), "orders", &[1, 2], default_limits()).await
    }

    pub(crate) async fn node(&self, id: u64) -> Result<(Node, Group), Box<dyn std::error::Error>> {
        let node = self.open(id).await?;
        let group = node.join_key_value("orders").await?;
        Ok((node, group))
    }
}

pub(crate) async fn leads(group: &Group) {
    let leads = async { drop(group.watch_status().wait_for(|status| status.role == Role::Leader).await) };
    if tokio::time::timeout(LIMIT, leads).await.is_err() {
        panic!("does not lead within {LIMIT:?}: {:#?}", group.status());
    }
}

pub(crate) async fn put(group: &Group, key: &str, value: &str) -> Result<(), bequest::ProposeError> {
    let command = KvCommand::put(key.to_owned(), value.to_owned()).encode_to_vec();
    group.propose(command).await.map(drop)
}

pub(crate) async fn get(group: &Group, key: &str) -> Result<Option<String>, Box<dyn std::error::Error>> {
    let answer = group.read(KvQuery::get(key.to_owned()).encode_to_vec()).await?;
    Ok(value(&answer)?)
}

pub(crate) fn value(answer: &[u8]) -> Result<Option<String>, prost::DecodeError> {
    use bequest_storage::kv_answer::Answer;
    let answer = KvAnswer::decode(answer)?;
    Ok(match answer.answer {
        Some(Answer::Value(found)) => found.value.map(|value| String::from_utf8_lossy(&value).into_owned()),
        other => panic!("a get is answered with a value: {other:?}"),
    })
}
