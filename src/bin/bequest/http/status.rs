//! What this node says of itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::Json;
use bequest::{GroupStatus, Mode, Role, SuccessionReport};
use serde_json::{json, Value};

use super::Service;

/// `GET /status`
pub(super) async fn status(State(service): State<Arc<Service>>) -> Response {
    let mut body = match service.group.get() {
        Some(group) => told(&group.status()),
        None => {
            let (waits, reason) = service.waits();
            json!({ "role": "birth", "mode": mode(&waits), "reason": reason })
        }
    };
    body["node"] = service.node.into();
    body["group"] = service.name.as_str().into();
    Json(body).into_response()
}

/// `GET /health`
pub(super) async fn health(State(service): State<Arc<Service>>) -> Response {
    let Some(group) = service.group.get() else {
        let (waits, reason) = service.waits();
        let body = json!({ "healthy": false, "role": "birth", "mode": mode(&waits), "reason": reason });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    };
    let status = group.status();
    let healthy = is_healthy(&status);
    let body =
        json!({ "healthy": healthy, "role": role(status.role), "mode": mode(&status.mode), "reason": status.reason });
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

/// Leads, or follows one that does.
fn is_healthy(status: &GroupStatus) -> bool {
    match (&status.mode, status.role) {
        (Mode::Full | Mode::Solo, Role::Leader) => true,
        (Mode::Full | Mode::Solo, Role::Follower) => status.leader.is_some(),
        _ => false,
    }
}

fn told(status: &GroupStatus) -> Value {
    let GroupStatus { leader, succession, .. } = status;
    let leader = leader
        .as_ref()
        .map(|leader| json!({ "node": leader.node.0, "http": leader.addresses.client, "peer": leader.addresses.peer }));
    json!({
        "role": role(status.role),
        "term": status.term,
        "leader": leader,
        "mode": mode(&status.mode),
        "reason": status.reason,
        "last": status.last,
        "commit": status.commit,
        "applied": status.applied,
        "snapshot": status.snapshot,
        "wal": { "bytes": status.wal_bytes, "segments": status.wal_segments },
        "busy": status.busy,
        "proposals": status.proposals,
        "successions": status.successions,
        "succession": report(succession),
        "stopped": status.stopped.as_ref().map(ToString::to_string),
    })
}

fn report(report: &SuccessionReport) -> Value {
    let SuccessionReport { entries, bytes, detect, seal, read, replay, stand } = report;
    json!({
        "entries": entries,
        "bytes": bytes,
        "detect_us": micros(*detect),
        "seal_us": micros(*seal),
        "read_us": micros(*read),
        "replay_us": micros(*replay),
        "stand_us": micros(*stand),
    })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Birth => "birth",
        Role::Follower => "follower",
        Role::Successor => "successor",
        Role::Leader => "leader",
        Role::Resigning => "resigning",
        Role::Stopped => "stopped",
    }
}

fn mode(mode: &Mode) -> &'static str {
    match mode {
        Mode::Full => "full",
        Mode::Solo => "solo",
        Mode::Recovering => "recovering",
        Mode::NoKeeper => "no-keeper",
        Mode::Fenced => "fenced",
    }
}
