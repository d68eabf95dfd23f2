//! Reads and writes of keys.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{header, HeaderName, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::Json;
use bequest_storage::{kv_answer, kv_response, KvAnswer, KvCommand, KvPair, KvQuery, KvResponse, SCAN_PAIRS_MAX};
use prost::Message;
use serde::Deserialize;
use serde_json::{json, Value};

use super::refusal::{put_bytes, Refusal};
use super::{Service, BODY_BYTES_MAX};

/// Keys listed at once unless told otherwise.
const LIST_DEFAULT: u32 = 1000;
/// The index an answer reflects at least; of a stale read, exactly.
const INDEX: HeaderName = HeaderName::from_static("bequest-index");

type Shared = State<Arc<Service>>;

/// Under which condition a write is done.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Condition {
    expect: Option<String>,
    expect_absent: bool,
}

/// How a key is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Reading {
    stale: bool,
}

/// Which keys are listed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listing {
    prefix: String,
    after: Option<String>,
    limit: Option<u32>,
    stale: bool,
}

/// `PUT /kv/KEY`
pub(super) async fn write(
    State(service): Shared,
    uri: Uri,
    Path(key): Path<String>,
    condition: Result<Query<Condition>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let value = body.map_err(too_large)?;
    let command = match expected(condition)? {
        Some(expected) => KvCommand::compare_and_set(key, expected, Some(value)),
        None => KvCommand::put(key, value),
    };
    propose(&service, &uri, &command).await
}

/// `DELETE /kv/KEY`
pub(super) async fn remove(
    State(service): Shared,
    uri: Uri,
    Path(key): Path<String>,
    condition: Result<Query<Condition>, QueryRejection>,
) -> Result<Response, Refusal> {
    let command = match expected(condition)? {
        Some(expected) => KvCommand::compare_and_set(key, expected, None),
        None => KvCommand::delete(key),
    };
    propose(&service, &uri, &command).await
}

/// `GET /kv/KEY`
pub(super) async fn read(
    State(service): Shared,
    uri: Uri,
    Path(key): Path<String>,
    reading: Result<Query<Reading>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(Reading { stale }) = reading.map_err(bad_query)?;
    let (index, answer) = ask(&service, &uri, &KvQuery::get(key), stale).await?;
    let Some(kv_answer::Answer::Value(value)) = answer else { return Err(not_understood()) };
    let value = value.value.ok_or(Refusal::NotFound)?;
    let headers = [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (INDEX, index.to_string())];
    Ok((headers, value).into_response())
}

/// `GET /kv`
pub(super) async fn list(
    State(service): Shared,
    uri: Uri,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(Listing { prefix, after, limit, stale }) = listing.map_err(bad_query)?;
    let limit = limit.unwrap_or(LIST_DEFAULT);
    if !(1..=SCAN_PAIRS_MAX).contains(&limit) {
        return Err(Refusal::BadRequest { reason: format!("limit={limit} must be 1 to {SCAN_PAIRS_MAX}") });
    }
    let after = after.filter(|after| !after.is_empty()).map(Bytes::from);
    let (index, answer) = ask(&service, &uri, &KvQuery::scan(prefix, after, limit), stale).await?;
    let Some(kv_answer::Answer::Pairs(pairs)) = answer else { return Err(not_understood()) };
    let entries: Vec<Value> = pairs.pairs.iter().map(entry).collect();
    Ok(([(INDEX, index.to_string())], Json(json!({ "entries": entries, "more": pairs.more }))).into_response())
}

fn entry(KvPair { key, value }: &KvPair) -> Value {
    let mut entry = json!({});
    put_bytes(&mut entry, "key", key);
    put_bytes(&mut entry, "value", value);
    entry
}

async fn propose(service: &Service, uri: &Uri, command: &KvCommand) -> Result<Response, Refusal> {
    let answer = service.group()?.propose(command.encode_to_vec()).await;
    let answer = answer.map_err(|error| Refusal::of_proposal(error, service.node, path(uri)))?;
    // An answer that is not understood comes from a machine that did something.
    match KvResponse::decode(answer).map_err(|_| Refusal::Unknown)?.response {
        Some(kv_response::Response::Done(done)) => {
            Ok((StatusCode::OK, Json(json!({ "index": done.index }))).into_response())
        }
        Some(kv_response::Response::Conflict(conflict)) => {
            Err(Refusal::Conflict { current: conflict.current.map(|current| current.to_vec()) })
        }
        Some(kv_response::Response::StateFull(full)) => {
            Err(Refusal::StateFull { bytes: full.bytes, limit: full.limit })
        }
        Some(kv_response::Response::Invalid(invalid)) => Err(Refusal::BadRequest { reason: invalid.reason }),
        None => Err(Refusal::Unknown),
    }
}

async fn ask(
    service: &Service,
    uri: &Uri,
    query: &KvQuery,
    stale: bool,
) -> Result<(u64, Option<kv_answer::Answer>), Refusal> {
    let group = service.group()?;
    let query = query.encode_to_vec();
    let answered = if stale {
        group.read_stale(query).await
    } else {
        // The state only moves forward, so the answer reflects at least this.
        let applied = group.status().applied;
        group.read(query).await.map(|answer| (applied, answer))
    };
    let (index, answer) = answered.map_err(|error| Refusal::of_read(error, service.node, path(uri)))?;
    let answer = KvAnswer::decode(answer).map_err(|_| not_understood())?;
    Ok((index, answer.answer))
}

/// What the key's value must be, if anything; the inner `None` means absent.
fn expected(condition: Result<Query<Condition>, QueryRejection>) -> Result<Option<Option<Bytes>>, Refusal> {
    let Query(condition) = condition.map_err(bad_query)?;
    match (condition.expect, condition.expect_absent) {
        (None, false) => Ok(None),
        (None, true) => Ok(Some(None)),
        (Some(value), false) => Ok(Some(Some(value.into()))),
        (Some(_), true) => {
            Err(Refusal::BadRequest { reason: "expect and expect-absent exclude each other".to_owned() })
        }
    }
}

fn path(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |path| path.as_str())
}

fn bad_query(rejection: QueryRejection) -> Refusal {
    Refusal::BadRequest { reason: rejection.body_text() }
}

fn too_large(rejection: BytesRejection) -> Refusal {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Refusal::TooLarge { size: None, limit: BODY_BYTES_MAX }
    } else {
        Refusal::BadRequest { reason: rejection.body_text() }
    }
}

fn not_understood() -> Refusal {
    Refusal::BadRequest { reason: "the state machine's answer is of another release".to_owned() }
}
