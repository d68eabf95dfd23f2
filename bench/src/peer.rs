//! etcd, as its users have it: three members with their default timers, asked at their leader.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;

use anyhow::{Context, Result};
use bequest_harness::Etcd;

use crate::grpc::{
    Call, CompactionRequest, Connection, Done, PutRequest, RangeRequest, RangeResponse, StatusRequest, StatusResponse,
};
use crate::load::{self, Measured, Target, Timing};
use crate::plan::Case;
use crate::values::{keys, Values, READ_BYTES};

const MEMBERS: usize = 3;
/// A history that fills its store would stop it; and between its snapshots it keeps every entry in memory, which with
/// its usual 100,000 entries of 64 KiB is more than a machine has.
const SETTINGS: [&str; 4] = ["--quota-backend-bytes", "8589934592", "--snapshot-count", "10000"];

/// Connections to a cluster.
#[derive(Debug)]
pub(crate) struct Peer {
    etcd: Etcd,
    connections: Vec<Connection>,
    values: Values,
    numbers: Arc<AtomicU64>,
}

impl Peer {
    /// Starts a cluster, and opens so many connections to its leader.
    pub(crate) async fn start(dir: &Path, connections: usize, values: Values) -> Result<Self> {
        let etcd = Etcd::builder(MEMBERS, dir).args(SETTINGS).start().await?;
        let mut leader = None;
        for member in etcd.members() {
            let connection = Connection::open(member.address()).await?;
            let status = status(&connection).await?;
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                leader = Some(member.address());
            }
        }
        let leader = leader.context("etcd has no leader")?;
        let mut all = Vec::new();
        for _ in 0..connections {
            all.push(Connection::open(leader).await?);
        }
        Ok(Self { etcd, connections: all, values, numbers: Arc::default() })
    }

    /// Its version.
    pub(crate) async fn version(&self) -> Result<String> {
        Ok(self.etcd.version().await?)
    }

    fn target(&self, connections: usize) -> Arc<Keys> {
        let connections = self.connections[..connections.min(self.connections.len())].to_vec();
        Arc::new(Keys { connections, values: self.values.clone() })
    }

    /// Writes every key that is read.
    pub(crate) async fn fill(&self) -> Result<()> {
        load::fill(&self.target(1), &self.numbers, keys(READ_BYTES), READ_BYTES).await
    }

    /// Measures over so many connections, then lets etcd forget the history.
    pub(crate) async fn measure(&self, case: Case, connections: usize, timing: Timing) -> Result<Measured> {
        let measured = load::measure(&self.target(connections), &self.numbers, case, timing).await?;
        let connection = &self.connections[0];
        let revision = status(connection).await?.header.unwrap_or_default().revision;
        let compact = CompactionRequest { revision, physical: true };
        // Where nothing was written since the last time there is nothing to forget, which is refused.
        let _ = connection.ask::<Done>(Call::Compact, &compact).await;
        Ok(measured)
    }
}

async fn status(connection: &Connection) -> Result<StatusResponse> {
    connection.ask(Call::Status, &StatusRequest {}).await.map_err(anyhow::Error::msg)
}

/// Keys in etcd.
#[derive(Debug)]
struct Keys {
    connections: Vec<Connection>,
    values: Values,
}

impl Target for Keys {
    async fn write(&self, worker: usize, number: u64, bytes: usize) -> Result<(), String> {
        let put = PutRequest { key: Values::key(number, bytes), value: self.values.value(number, bytes) };
        let connection = &self.connections[worker % self.connections.len()];
        connection.ask::<Done>(Call::Put, &put).await.map(drop)
    }

    async fn read(&self, worker: usize, number: u64) -> Result<(), String> {
        let range = RangeRequest { key: Values::key(number, READ_BYTES) };
        let connection = &self.connections[worker % self.connections.len()];
        let found: RangeResponse = connection.ask(Call::Range, &range).await?;
        match found.pairs.first() {
            Some(pair) if pair.value.len() == READ_BYTES => Ok(()),
            _ => Err("not found".to_owned()),
        }
    }
}
