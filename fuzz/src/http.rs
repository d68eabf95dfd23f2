//! Requests to a node's HTTP interface: paths, queries, bodies, as far as they are judged before a group is asked.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use tower::ServiceExt;

use crate::source::Source;
use bin::http::{router, Service};

#[allow(dead_code, unreachable_pub, reason = "the program's own, which uses all of it")]
#[path = "../../src/bin/bequest"]
mod bin {
    pub(super) mod http;
}

const METHODS: [&str; 5] = ["GET", "PUT", "DELETE", "POST", "HEAD"];

/// Whether the request made sense: then it fails only because no group is there yet.
pub fn requests(data: &[u8]) -> bool {
    let mut source = Source::new(data);
    let method = METHODS[usize::from(source.pick(5))];
    let target = source.bytes();
    let Ok(request) = Request::builder().method(method).uri(&target[..]).body(Body::from(source.rest())) else {
        return false;
    };
    let service = Arc::new(Service::new(1, "orders".to_owned(), "zk://h:2181/x".to_owned()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let response = runtime.block_on(router(service).oneshot(request)).expect("the router answers");
    assert_ne!(response.status(), StatusCode::INTERNAL_SERVER_ERROR, "{response:?}");
    matches!(response.status(), StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE)
}

/// Each request once, and what makes no sense.
pub fn request_seeds() -> Vec<Vec<u8>> {
    let seed = |method: u8, target: &str, body: &str| {
        [&[method, target.len() as u8][..], target.as_bytes(), body.as_bytes()].concat()
    };
    vec![
        seed(0, "/kv/a%20b/c?stale=true", ""),
        seed(0, "/kv?prefix=a&after=b&limit=10&stale=false", ""),
        seed(0, "/kv?limit=99999999999999999999", ""),
        seed(0, "/status", ""),
        seed(1, "/kv/a?expect=x%26y", "value"),
        seed(1, "/kv/a?expect-absent=true", "\u{0}\u{1}"),
        seed(1, "/kv/a?expect=x&expect-absent=true", ""),
        seed(1, "/kv/%ff", "value"),
        seed(2, "/kv/a?expect=x", ""),
        seed(3, "/kv/a", ""),
        seed(0, "http://elsewhere:80/kv/../x?y#z", ""),
    ]
}
