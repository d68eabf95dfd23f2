//! Who is written to while somebody dies.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bequest_harness::kv::Kv;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

use crate::grpc::{Call, Connection, Done, PutRequest};
use crate::values::Values;
use crate::writers::Service;

/// Bytes of a written value.
const BYTES: usize = 100;
/// As our nodes ask for.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// Beyond what a writer waits for: it gives up by itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// What a leader's transactions check, and what they write.
const BALLOT: &str = "/bare-ballot";
const ZNODES: u64 = 64;
const OPTIONS: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

/// Our nodes, over HTTP. Redirects are refusals: a writer asks every server by itself.
#[derive(Debug)]
pub(crate) struct Nodes {
    kv: Kv,
    servers: [SocketAddr; 2],
    values: Values,
}

impl Nodes {
    /// At these addresses.
    pub(crate) fn new(servers: [SocketAddr; 2], values: Values) -> Self {
        Self { kv: Kv::new(ANSWER_LIMIT), servers, values }
    }
}

impl Service for Nodes {
    fn servers(&self) -> usize {
        self.servers.len()
    }

    async fn write(&self, server: usize, number: u64) -> Result<(), String> {
        let key = format!("{:04}", number % 4096);
        let written = self.kv.put(self.servers[server], &key, self.values.text(number, BYTES)).await;
        written.map(drop).map_err(|failure| format!("{failure:?}"))
    }
}

/// Members of etcd, each over a connection of its own.
#[derive(Debug)]
pub(crate) struct Members {
    members: Vec<(SocketAddr, Mutex<Option<Connection>>)>,
    values: Values,
}

impl Members {
    /// At these addresses.
    pub(crate) fn new(members: impl IntoIterator<Item = SocketAddr>, values: Values) -> Self {
        Self { members: members.into_iter().map(|member| (member, Mutex::default())).collect(), values }
    }

    async fn connection(&self, member: usize) -> Result<Connection, String> {
        let (address, connection) = &self.members[member];
        let known = connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let opened = Connection::open(*address).await.map_err(|error| format!("{error:#}"))?;
        *connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened.clone());
        Ok(opened)
    }
}

impl Service for Members {
    fn servers(&self) -> usize {
        self.members.len()
    }

    async fn write(&self, server: usize, number: u64) -> Result<(), String> {
        let put = PutRequest { key: Values::key(number, BYTES), value: self.values.value(number, BYTES) };
        let outcome = self.connection(server).await?.ask::<Done>(Call::Put, &put).await;
        if outcome.is_err() {
            // Whatever was wrong, a fresh one is not.
            *self.members[server].1.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        outcome.map(drop)
    }
}

/// A bare client of ZooKeeper, by the client library that bequest uses: it reconnects by itself.
#[derive(Debug)]
pub(crate) struct Bare {
    servers: String,
    client: Mutex<Client>,
    values: Values,
}

impl Bare {
    /// Opens a session with one of these servers.
    pub(crate) async fn connect(servers: String, values: Values) -> Result<Self> {
        let client = open(&servers).await.context("no session with ZooKeeper")?;
        client.create(BALLOT, b"", &OPTIONS).await?;
        for number in 0..ZNODES {
            client.create(&path(number), b"", &OPTIONS).await?;
        }
        Ok(Self { servers, client: Mutex::new(client), values })
    }
}

async fn open(servers: &str) -> Result<Client, Error> {
    Client::connector().with_session_timeout(SESSION_TIMEOUT).connect(servers).await
}

fn path(number: u64) -> String {
    format!("/bare-{:02}", number % ZNODES)
}

impl Service for Bare {
    fn servers(&self) -> usize {
        1
    }

    async fn write(&self, _server: usize, number: u64) -> Result<(), String> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wrote = transact(&client, number, &self.values.value(number, BYTES)).await;
        // A session that has ended never comes back.
        if wrote.is_err() && client.state().is_terminated() {
            let opened = open(&self.servers).await.map_err(|error| error.to_string())?;
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        }
        wrote
    }
}

async fn transact(client: &Client, number: u64, value: &[u8]) -> Result<(), String> {
    let mut writer = client.new_multi_writer();
    writer.add_check_version(BALLOT, 0).map_err(|error| error.to_string())?;
    writer.add_set_data(&path(number), value, None).map_err(|error| error.to_string())?;
    writer.commit().await.map(drop).map_err(|error| error.to_string())
}
