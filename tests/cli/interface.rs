//! What `bequest serve` answers over HTTP.

use std::time::Duration;

use serde_json::{json, Value};

use crate::pair::{Pair, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_written_read_compared_listed_and_deleted() {
    let pair = Pair::start().await;
    let (leader, follower) = pair.settled().await;

    let first = pair.ask(leader, "PUT", "/kv/a/b%20c", b"one").await;
    assert_eq!(first.status, 200, "{first:?}");
    let second = pair.ask(leader, "PUT", "/kv/a/d", b"\xff\x00").await;
    assert!(second.json()["index"].as_u64() > first.json()["index"].as_u64(), "{second:?} after {first:?}");

    let read = pair.ask(leader, "GET", "/kv/a/b%20c", b"").await;
    assert_eq!((read.status, read.text().as_str()), (200, "one"));
    assert!(read.header("bequest-index").is_some_and(|index| index.parse::<u64>().is_ok()), "{read:?}");
    let absent = pair.ask(leader, "GET", "/kv/nowhere", b"").await;
    assert_eq!((absent.status, absent.json()["error"].as_str()), (404, Some("not_found")));

    let conflict = pair.ask(leader, "PUT", "/kv/a/b%20c?expect=two", b"three").await;
    assert_eq!((conflict.status, conflict.json()), (412, json!({ "error": "conflict", "current": "one" })));
    let absent = pair.ask(leader, "PUT", "/kv/a/b%20c?expect-absent=true", b"three").await;
    assert_eq!(absent.status, 412, "{absent:?}");
    let conflict = pair.ask(leader, "DELETE", "/kv/a/d?expect=x", b"").await;
    assert_eq!((conflict.status, conflict.json()["current_hex"].as_str()), (412, Some("ff00")));
    let swapped = pair.ask(leader, "PUT", "/kv/a/b%20c?expect=one", b"two").await;
    assert_eq!(swapped.status, 200, "{swapped:?}");

    let page = pair.ask(leader, "GET", "/kv?prefix=a/&limit=1", b"").await;
    assert_eq!(page.json(), json!({ "entries": [{ "key": "a/b c", "value": "two" }], "more": true }));
    let rest = pair.ask(leader, "GET", "/kv?prefix=a/&after=a/b%20c", b"").await;
    assert_eq!(rest.json(), json!({ "entries": [{ "key": "a/d", "value_hex": "ff00" }], "more": false }));

    let deleted = pair.ask(leader, "DELETE", "/kv/a/d", b"").await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert_eq!(pair.ask(leader, "GET", "/kv/a/d", b"").await.status, 404);

    // The follower's own state has it when it has applied that entry.
    let index = deleted.json()["index"].as_u64().expect("an index");
    pair.applied(follower, index).await;
    let stale = pair.ask(follower, "GET", "/kv/a/b%20c?stale=true", b"").await;
    assert_eq!((stale.status, stale.text().as_str()), (200, "two"));
    let at = stale.header("bequest-index").and_then(|at| at.parse::<u64>().ok());
    assert!(at >= Some(index), "{stale:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_points_to_the_leader_and_both_say_how_they_are() {
    let pair = Pair::start().await;
    let (leader, follower) = pair.settled().await;
    let leading = pair.nodes[leader].http;

    for (method, path) in [("PUT", "/kv/x?expect=1"), ("GET", "/kv/x"), ("DELETE", "/kv/x"), ("GET", "/kv?prefix=x")] {
        let answer = pair.ask(follower, method, path, b"1").await;
        assert_eq!(answer.status, 307, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("location"), Some(format!("http://{leading}{path}").as_str()));
        let node = pair.nodes[leader].id;
        let told = json!({ "error": "not_leader", "leader": { "node": node, "http": leading.to_string() } });
        assert_eq!(answer.json(), told);
    }
    let written = pair.ask(leader, "PUT", "/kv/x", b"1").await.json();
    pair.applied(follower, written["index"].as_u64().expect("an index")).await;
    for (node, role) in [(leader, "leader"), (follower, "follower")] {
        let status = pair.ask(node, "GET", "/status", b"").await.json();
        assert_eq!(status["role"], role, "{status}");
        assert_eq!(status["mode"], "full", "{status}");
        assert_eq!(status["leader"]["http"], leading.to_string(), "{status}");
        assert!(status["term"].as_u64() > Some(0) && status["last"].as_u64() > Some(0), "{status}");
        assert_eq!(pair.ask(node, "GET", "/health", b"").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused_by_name() {
    let pair = Pair::start().await;
    let (leader, _) = pair.settled().await;
    let cases: [(&str, &str, usize, u16, &str); 6] = [
        ("PUT", "/kv/x?expect=1&expect-absent=true", 1, 400, "bad_request"),
        ("PUT", "/kv/x?expected=1", 1, 400, "bad_request"),
        ("GET", "/kv?limit=0", 0, 400, "bad_request"),
        ("GET", "/kv/x?stale=perhaps", 0, 400, "bad_request"),
        ("PUT", "/kv/large", 512 * 1024 + 1, 413, "too_large"),
        // Fits as a body and not as a proposal.
        ("PUT", "/kv/large", bequest::PROPOSAL_BYTES_MAX, 413, "too_large"),
    ];
    for (method, path, bytes, status, error) in cases {
        let answer = pair.ask(leader, method, path, &vec![b'x'; bytes]).await;
        assert_eq!(
            (answer.status, answer.json()["error"].as_str()),
            (status, Some(error)),
            "{path}: {}",
            answer.text()
        );
        if status == 413 {
            assert!(answer.json()["limit"].as_u64() > Some(0), "{}", answer.text());
        }
    }
    let long = pair.ask(leader, "PUT", &format!("/kv/{}", "k".repeat(5000)), b"v").await;
    assert_eq!(long.status, 400, "{long:?}");
    assert!(long.json()["reason"].as_str().is_some_and(|reason| reason.contains("4 KiB")), "{}", long.text());
    assert_eq!(pair.ask(leader, "PUT", "/kv/fits", &vec![b'x'; 400 * 1024]).await.status, 200);
    assert_eq!(pair.ask(leader, "GET", "/kv/large", b"").await.json(), json!({ "error": "not_found" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_told_to_end_hands_over_and_ends_with_success() {
    let mut pair = Pair::start().await;
    let (leader, follower) = pair.settled().await;
    assert_eq!(pair.ask(leader, "PUT", "/kv/x", b"1").await.status, 200);
    let process = pair.nodes[leader].process.take().expect("it runs");
    process.terminate().expect("it can be told");
    let status = tokio::time::timeout(PATIENCE, process.wait()).await.expect("it ends");
    assert!(status.success(), "{status}: {}", process.log_tail());

    let served = async {
        loop {
            let read = pair.ask(follower, "GET", "/kv/x", b"").await;
            if read.status == 200 {
                return read.text();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, served).await.expect("the other takes over"), "1");
    let status: Value = pair.ask(follower, "GET", "/status", b"").await.json();
    assert_eq!((status["role"].as_str(), status["mode"].as_str()), (Some("leader"), Some("solo")), "{status}");
}
