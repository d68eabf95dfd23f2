//! The nodes' public HTTP interface, seen from outside.

use std::net::SocketAddr;
use std::time::Duration;

use bequest_harness::{HttpClient, HttpFailure, Method, StatusCode};
use bytes::Bytes;
use serde::Deserialize;

use super::history::{Outcome, Request, Value};

/// Keys of one page of a listing.
const PAGE_KEYS: usize = 1000;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing was done; this node leads.
    Elsewhere(SocketAddr),
    /// Nothing was done; try again, anywhere.
    Refused,
    /// It may have been done, or may yet be.
    Unknown,
    /// What no node must ever answer; it may have been done.
    Wrong(String),
}

/// What a node says about itself. Faults are aimed by it and readiness told; nothing is proved by it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// `leader`, `follower`, ...
    pub(crate) role: String,
    /// How well the group is off.
    pub(crate) mode: String,
    /// Why.
    pub(crate) reason: String,
    /// Raft's term.
    pub(crate) term: u64,
    /// Highest index its state has.
    pub(crate) applied: u64,
    /// Index of the archive's newest snapshot.
    pub(crate) snapshot: u64,
    /// Why the group is refused on it.
    pub(crate) stopped: Option<String>,
}

#[derive(Deserialize)]
struct Listing {
    entries: Vec<Item>,
    more: bool,
}

#[derive(Deserialize)]
struct Item {
    key: String,
    // Absent if it is not text, which no client here ever wrote.
    value: Option<String>,
}

#[derive(Deserialize)]
struct Conflict {
    current: Value,
}

/// A client of the HTTP interface. Every attempt is made once: what is tried again is for the caller to decide.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: HttpClient,
}

impl Http {
    /// A client that waits at most `timeout` for an answer.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { client: HttpClient::new(timeout) }
    }

    /// Asks a node once.
    pub(crate) async fn ask(&self, node: SocketAddr, key: &str, request: &Request) -> Result<Outcome, Failure> {
        let path = format!("/kv/{key}");
        let (method, path, body) = match request {
            Request::Read => (Method::GET, path, String::new()),
            Request::Write(None) => (Method::DELETE, path, String::new()),
            Request::Write(Some(value)) => (Method::PUT, path, value.clone()),
            Request::Swap { from, to } => {
                let condition = match from {
                    Some(value) => format!("expect={}", escaped(value)),
                    None => "expect-absent=true".to_owned(),
                };
                match to {
                    Some(value) => (Method::PUT, format!("{path}?{condition}"), value.clone()),
                    None => (Method::DELETE, format!("{path}?{condition}"), String::new()),
                }
            }
            Request::Scan => (Method::GET, format!("/kv?prefix={key}&limit={PAGE_KEYS}"), String::new()),
        };
        let (status, body) = self.exchange(method, node, &path, body).await?;
        match (request, status) {
            (Request::Read, StatusCode::NOT_FOUND) => Ok(Outcome::Value(None)),
            (Request::Read, StatusCode::OK) => text(&body).map(|value| Outcome::Value(Some(value))),
            (Request::Scan, StatusCode::OK) => {
                let listing: Listing = parsed(&body)?;
                if listing.more {
                    return Err(Failure::Wrong(format!("more than {PAGE_KEYS} keys below {key}")));
                }
                Ok(Outcome::Page(pairs(listing)))
            }
            (Request::Write(_) | Request::Swap { .. }, StatusCode::OK) => Ok(Outcome::Done),
            (Request::Swap { .. }, StatusCode::PRECONDITION_FAILED) => {
                parsed::<Conflict>(&body).map(|conflict| Outcome::Conflict(conflict.current))
            }
            (_, status) => Err(Failure::Wrong(format!("{status} to {request:?} of {key}"))),
        }
    }

    /// Everything in a node's own state.
    pub(crate) async fn own_state(&self, node: SocketAddr) -> Result<Vec<(String, String)>, Failure> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/kv?prefix=&after={after}&limit={PAGE_KEYS}&stale=true");
            let (status, body) = self.exchange(Method::GET, node, &path, String::new()).await?;
            if status != StatusCode::OK {
                return Err(Failure::Wrong(format!("{status} to a listing")));
            }
            let listing: Listing = parsed(&body)?;
            let more = listing.more;
            all.extend(pairs(listing));
            match all.last() {
                Some((last, _)) if more && *last > after => after = last.clone(),
                _ if more => return Err(Failure::Wrong("a listing that does not get on".to_owned())),
                _ => return Ok(all),
            }
        }
    }

    /// What a node says about itself.
    pub(crate) async fn status(&self, node: SocketAddr) -> Result<Status, Failure> {
        let (_, body) = self.exchange(Method::GET, node, "/status", String::new()).await?;
        parsed(&body)
    }

    async fn exchange(
        &self,
        method: Method,
        node: SocketAddr,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let answer = self.client.exchange(method, node, path, body).await.map_err(|failure| match failure {
            HttpFailure::Invalid(what) => Failure::Wrong(what),
            HttpFailure::NotConnected => Failure::Refused,
            HttpFailure::Unknown(_) => Failure::Unknown,
        })?;
        match answer.status {
            StatusCode::TEMPORARY_REDIRECT => Err(answer.leader.map_or(Failure::Refused, Failure::Elsewhere)),
            StatusCode::SERVICE_UNAVAILABLE => Err(Failure::Refused),
            StatusCode::GATEWAY_TIMEOUT => Err(Failure::Unknown),
            status => Ok((status, answer.body)),
        }
    }
}

/// Values are digits, minus signs, commas and blanks.
fn escaped(value: &str) -> String {
    value.replace(' ', "%20").replace(',', "%2C")
}

fn pairs(listing: Listing) -> Vec<(String, String)> {
    listing.entries.into_iter().map(|item| (item.key, item.value.unwrap_or_default())).collect()
}

fn text(body: &Bytes) -> Result<String, Failure> {
    String::from_utf8(body.to_vec()).map_err(|_| Failure::Wrong("a value that is not text".to_owned()))
}

fn parsed<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Wrong(format!("an answer not understood: {error}")))
}
