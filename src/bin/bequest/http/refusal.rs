//! Why a request was not done, and how that is said.
//!
//! Every refusal is JSON with the field `error`. Nothing was done, and the request may be made again, unless it says
//! `unknown`.
//!
//! | Status | `error` | |
//! |---|---|---|
//! | 307 | `not_leader` | with `Location` and `leader`: ask there |
//! | 400 | `bad_request` | with `reason` |
//! | 404 | `not_found` | the key is absent |
//! | 412 | `conflict` | the value is not as expected; `current` has it |
//! | 413 | `too_large` | with `size` (if known) and `limit` |
//! | 503 | `no_leader`, `busy`, `starting`, `stopped`, `unreadable`, `shutting_down` | try again; `Retry-After` where waiting helps |
//! | 504 | `unknown` | it may have been done, or may yet be |
//! | 507 | `state_full` | the state may not grow; deletes pass |

use axum::http::{header, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::Json;
use bequest::{Leader, ProposeError, ReadError};
use serde_json::{json, Value};

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Another node leads, and takes HTTP at this address.
    NotLeader { node: u64, http: String, path: String },
    /// Nobody is known to lead.
    NoLeader,
    /// A bound was met.
    Busy { reason: &'static str },
    /// The group is not joined yet.
    Starting,
    /// The group is refused on this node.
    Stopped { reason: String },
    /// The node cannot read its own state.
    Unreadable { reason: String },
    /// The node is ending.
    ShuttingDown,
    /// It may have been done.
    Unknown,
    /// Too large for one request to ZooKeeper.
    TooLarge { size: Option<usize>, limit: usize },
    /// The request makes no sense.
    BadRequest { reason: String },
    /// The key is absent.
    NotFound,
    /// The value is not as expected.
    Conflict { current: Option<Vec<u8>> },
    /// The state may not grow.
    StateFull { bytes: u64, limit: u64 },
}

impl Refusal {
    /// Why a proposal, made by this `node` for the request to `path`, was not answered.
    pub(crate) fn of_proposal(error: ProposeError, node: u64, path: &str) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::not_leader(leader, node, path),
            ProposeError::Busy { reason } => Self::Busy { reason },
            ProposeError::ProposalTooLarge { size, limit } => Self::TooLarge { size: Some(size), limit },
            ProposeError::Stopped(error) => Self::Stopped { reason: error.to_string() },
            ProposeError::ShuttingDown => Self::ShuttingDown,
            // What is not understood here may have been done.
            _ => Self::Unknown,
        }
    }

    /// Why a read, made by this `node` for the request to `path`, was not answered.
    pub(crate) fn of_read(error: ReadError, node: u64, path: &str) -> Self {
        match error {
            ReadError::NotLeader { leader } => Self::not_leader(leader, node, path),
            ReadError::Busy { reason } => Self::Busy { reason },
            ReadError::Query { message } => Self::BadRequest { reason: message },
            ReadError::Unreadable { message } => Self::Unreadable { reason: message },
            ReadError::Stopped(error) => Self::Stopped { reason: error.to_string() },
            ReadError::ShuttingDown => Self::ShuttingDown,
            // A read has no effect whatever became of it.
            _ => Self::NoLeader,
        }
    }

    fn not_leader(leader: Option<Leader>, node: u64, path: &str) -> Self {
        match leader {
            // A node that names itself is on its way in or out of leadership: to send a client round would not help.
            Some(leader) if leader.node.0 != node && !leader.addresses.client.is_empty() => {
                Self::NotLeader { node: leader.node.0, http: leader.addresses.client, path: path.to_owned() }
            }
            _ => Self::NoLeader,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotLeader { .. } => StatusCode::TEMPORARY_REDIRECT,
            Self::NoLeader
            | Self::Busy { .. }
            | Self::Starting
            | Self::Stopped { .. }
            | Self::Unreadable { .. }
            | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::GATEWAY_TIMEOUT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict { .. } => StatusCode::PRECONDITION_FAILED,
            Self::StateFull { .. } => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    fn body(&self) -> Value {
        match self {
            Self::NotLeader { node, http, .. } => {
                json!({ "error": "not_leader", "leader": { "node": node, "http": http } })
            }
            Self::NoLeader => json!({ "error": "no_leader" }),
            Self::Busy { reason } => json!({ "error": "busy", "reason": reason }),
            Self::Starting => json!({ "error": "starting" }),
            Self::Stopped { reason } => json!({ "error": "stopped", "reason": reason }),
            Self::Unreadable { reason } => json!({ "error": "unreadable", "reason": reason }),
            Self::ShuttingDown => json!({ "error": "shutting_down" }),
            Self::Unknown => json!({ "error": "unknown" }),
            Self::TooLarge { size, limit } => json!({ "error": "too_large", "size": size, "limit": limit }),
            Self::BadRequest { reason } => json!({ "error": "bad_request", "reason": reason }),
            Self::NotFound => json!({ "error": "not_found" }),
            Self::Conflict { current } => {
                let mut body = json!({ "error": "conflict", "current": null });
                if let Some(current) = current {
                    put_bytes(&mut body, "current", current);
                }
                body
            }
            Self::StateFull { bytes, limit } => json!({ "error": "state_full", "bytes": bytes, "limit": limit }),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(self.body())).into_response();
        let headers = response.headers_mut();
        match &self {
            Self::NotLeader { http, path, .. } => {
                // An address that cannot stand in a header is still in the body.
                if let Ok(location) = HeaderValue::try_from(format!("http://{http}{path}")) {
                    headers.insert(header::LOCATION, location);
                }
            }
            Self::Busy { .. } | Self::Starting => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// Puts bytes into an object: as text under `name` if they are text, else in hexadecimal under `name_hex`.
pub(crate) fn put_bytes(object: &mut Value, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object[name] = text.into(),
        Err(_) => object[format!("{name}_hex")] = hex(bytes).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bequest::replica::event::NodeId;
    use bequest::Addresses;

    fn leader(node: u64, client: &str) -> Option<Leader> {
        let addresses = Addresses { peer: "h:1".to_owned(), client: client.to_owned() };
        Some(Leader { node: NodeId(node), addresses })
    }

    #[test]
    fn a_follower_points_to_the_leaders_own_address() {
        let error = ProposeError::NotLeader { leader: leader(2, "10.0.0.2:80") };
        let response = Refusal::of_proposal(error, 1, "/kv/a?expect=b").into_response();
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(response.headers()[header::LOCATION], "http://10.0.0.2:80/kv/a?expect=b");
    }

    #[test]
    fn nobody_is_sent_to_an_unknown_leader_or_round_in_a_circle() {
        for leader in [None, leader(1, "10.0.0.1:80"), leader(2, "")] {
            let refusal = Refusal::of_read(ReadError::NotLeader { leader }, 1, "/kv/a");
            assert_eq!(refusal, Refusal::NoLeader);
        }
    }

    #[test]
    fn only_an_unknown_outcome_is_told_as_unknown() {
        let status = |error| Refusal::of_proposal(error, 1, "/").into_response().status();
        assert_eq!(status(ProposeError::Unknown), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(status(ProposeError::Busy { reason: "wal" }), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(ProposeError::ProposalTooLarge { size: 2, limit: 1 }), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(status(ProposeError::ShuttingDown), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn bytes_that_are_no_text_are_told_in_hexadecimal() {
        let body = Refusal::Conflict { current: Some(vec![0xff, 0x0a]) }.body();
        assert_eq!(body["current_hex"], "ff0a");
        assert_eq!(Refusal::Conflict { current: None }.body()["current"], Value::Null);
    }
}
