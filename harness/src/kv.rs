//! What the nodes' public HTTP interface means, seen from outside.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::{HttpClient, HttpFailure};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was done; this node knows who leads.
    Elsewhere(SocketAddr),
    /// Nothing was done; try again, anywhere.
    Refused,
    /// It may have been done, or may yet be.
    Unknown(String),
}

/// What a write was answered with.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Written {
    index: u64,
}

/// One page of a listing.
#[derive(Clone, Debug, Deserialize)]
pub struct Listing {
    /// Keys and values, ascending.
    pub entries: Vec<Item>,
    /// Whether there are more keys behind the last one.
    pub more: bool,
}

/// One key of a listing.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    /// The key.
    pub key: String,
    /// Its value; absent if it is not text, which no client here ever wrote.
    #[serde(default)]
    pub value: Option<String>,
}

/// What a node says about itself. Used to find the leader and to tell what a succession took; nothing is proved by it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `leader`, `follower`, ...
    pub role: String,
    /// Raft's term.
    pub term: u64,
    /// How well the group is off.
    pub mode: String,
    /// Why.
    pub reason: String,
    /// The process' incarnation.
    pub incarnation: u64,
    /// Highest index its state has.
    pub applied: u64,
    /// Index of the archive's newest snapshot.
    pub snapshot: u64,
    /// What the log in ZooKeeper holds.
    pub wal: Wal,
    /// Proposals it refused as busy.
    pub busy: u64,
    /// The last succession on it.
    pub succession: Succession,
}

/// What the log in ZooKeeper holds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wal {
    /// Bytes of entries.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
}

/// What a succession took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(default)]
pub struct Succession {
    /// Entries replayed.
    pub entries: u64,
    /// Bytes replayed.
    pub bytes: u64,
    /// Microseconds from the old leader's last sign to the decision.
    pub detect_us: u64,
    /// Until the ballot was won.
    pub seal_us: u64,
    /// Until everything was read.
    pub read_us: u64,
    /// Until it was in the local log.
    pub replay_us: u64,
    /// Until the first entry of the term was committed.
    pub stand_us: u64,
}

/// A client of the HTTP interface. Every attempt is made once: what is tried again is for the caller to decide.
#[derive(Clone, Debug)]
pub struct Kv {
    client: HttpClient,
}

impl Kv {
    /// A client that waits at most `timeout` for an answer.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { client: HttpClient::new(timeout) }
    }

    /// Writes a key; returns the index of the entry.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn put(&self, node: SocketAddr, key: &str, value: String) -> Result<u64, Failure> {
        let body = self.ask(Method::PUT, node, &format!("/kv/{key}"), value).await?;
        parsed::<Written>(&body).map(|written| written.index)
    }

    /// Deletes a key; returns the index of the entry.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn delete(&self, node: SocketAddr, key: &str) -> Result<u64, Failure> {
        let body = self.ask(Method::DELETE, node, &format!("/kv/{key}"), String::new()).await?;
        parsed::<Written>(&body).map(|written| written.index)
    }

    /// Reads a key, linearizably.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn get(&self, node: SocketAddr, key: &str) -> Result<Option<String>, Failure> {
        let (status, body) = self.exchange(Method::GET, node, &format!("/kv/{key}"), String::new()).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        String::from_utf8(body.to_vec()).map(Some).map_err(|_| Failure::Unknown("value is not text".to_owned()))
    }

    /// Lists up to `limit` keys that begin with `prefix` and come after `after`; with `stale`, of the node's own state.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn list(
        &self,
        node: SocketAddr,
        prefix: &str,
        after: &str,
        limit: usize,
        stale: bool,
    ) -> Result<Listing, Failure> {
        let query = format!("/kv?prefix={prefix}&after={after}&limit={limit}&stale={stale}");
        parsed(&self.ask(Method::GET, node, &query, String::new()).await?)
    }

    /// What a node says about itself.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn status(&self, node: SocketAddr) -> Result<Status, Failure> {
        parsed(&self.ask(Method::GET, node, "/status", String::new()).await?)
    }

    async fn ask(&self, method: Method, node: SocketAddr, path: &str, body: String) -> Result<Bytes, Failure> {
        match self.exchange(method, node, path, body).await? {
            (StatusCode::NOT_FOUND, _) => Err(Failure::Unknown(format!("nothing at {path}"))),
            (_, body) => Ok(body),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        node: SocketAddr,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let answer = self.client.exchange(method, node, path, body).await.map_err(|failure| match failure {
            HttpFailure::Invalid(_) | HttpFailure::NotConnected => Failure::Refused,
            HttpFailure::Unknown(what) => Failure::Unknown(what),
        })?;
        match answer.status {
            StatusCode::OK | StatusCode::NOT_FOUND => Ok((answer.status, answer.body)),
            StatusCode::TEMPORARY_REDIRECT => Err(answer.leader.map_or(Failure::Refused, Failure::Elsewhere)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE | StatusCode::PAYLOAD_TOO_LARGE => {
                Err(Failure::Refused)
            }
            other => Err(Failure::Unknown(format!("status {other}"))),
        }
    }
}

fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Unknown(format!("answer not understood: {error}")))
}
