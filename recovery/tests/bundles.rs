//! Requests that share a transaction, on real servers.
#![cfg(feature = "zookeeper")]

mod rig;

use bequest_harness::{Close, Proxy, ZooKeeperServer};
use bequest_recovery::bundle::BUNDLE_REQUESTS_MAX;
use bequest_recovery::keeper::{KeeperEvent, Outcome, Reason, Reply, Request, RequestId, Urgency};
use rig::*;
use std::time::Duration;

/// A keeper that has one shared transaction under way at most, which the server does not answer until it is resumed:
/// what is submitted meanwhile waits.
async fn held_up(server: &ZooKeeperServer) -> (Rig, Proxy, RequestId) {
    let proxy = proxy(server).await;
    let mut narrow = config(proxy.address());
    narrow.window_shared = 1;
    let rig = Rig::start(narrow);
    rig.wait_connected(1).await;
    assert_eq!(rig.multi([create("/ballot", b"")]).await, done());
    let before = proxy.requests_forwarded();
    server.pause().await.expect("it can be paused");
    let first = rig.submit_as(Urgency::Shared, Request::Multi(vec![create("/first", b"")]));
    while proxy.requests_forwarded() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (rig, proxy, first)
}

fn append(rig: &Rig, after: &str, path: &str) -> RequestId {
    let ops = vec![check("/ballot", 0), check(after, 0), create(path, b"entries")];
    rig.submit_as(Urgency::Shared, Request::Multi(ops))
}

async fn transaction(rig: &Rig, path: &str) -> i64 {
    found(&rig.ask(get(path)).await).expect("it was created").1.czxid
}

#[tokio::test]
async fn appends_that_wait_share_a_transaction_in_which_each_sees_the_one_before() {
    for installation in installations() {
        let server = server(&installation).await;
        let (rig, _proxy, first) = held_up(&server).await;
        let mut ids = vec![first, append(&rig, "/first", "/n0")];
        for n in 1..BUNDLE_REQUESTS_MAX + 5 {
            ids.push(append(&rig, &format!("/n{}", n - 1), &format!("/n{n}")));
        }
        server.resume().expect("it can be resumed");
        assert_eq!(rig.outcomes(&ids).await, vec![done(); ids.len()]);
        let one = transaction(&rig, "/n0").await;
        assert_ne!(transaction(&rig, "/first").await, one, "what was sent is not shared any more");
        assert_eq!(transaction(&rig, &format!("/n{}", BUNDLE_REQUESTS_MAX - 1)).await, one);
        assert_ne!(transaction(&rig, &format!("/n{BUNDLE_REQUESTS_MAX}")).await, one, "a bundle has its limit");
        rig.assert_one_outcome_each();
    }
}

#[tokio::test]
async fn what_shares_a_transaction_with_a_refused_request_gets_an_answer_of_its_own() {
    for installation in installations() {
        let server = server(&installation).await;
        let (rig, proxy, first) = held_up(&server).await;
        let before = proxy.requests_forwarded();
        let fenced = |path| Request::Multi(vec![check("/first", 0), check("/ballot", 7), create(path, b"")]);
        let submitted = [
            (first, done()),
            (append(&rig, "/first", "/a0"), done()),
            (rig.submit_as(Urgency::Shared, fenced("/b0")), refused(1, Reason::BadVersion)),
            (append(&rig, "/a0", "/a1"), done()),
            (append(&rig, "/b0", "/b1"), refused(1, Reason::NoNode)),
            (append(&rig, "/a1", "/a0"), refused(2, Reason::NodeExists)),
            // By itself it would be done, and it would be wrong to say that it is refused.
            (rig.submit_as(Urgency::Shared, Request::Multi(vec![set("/first", b"", 0)])), done()),
        ];
        server.resume().expect("it can be resumed");
        for (id, outcome) in submitted {
            assert_eq!(rig.outcome(id).await, outcome, "{id:?}");
        }
        assert_eq!(proxy.requests_forwarded(), before + 1 + 5, "all together, and then all others by themselves");
        assert_eq!(rig.ask(get("/b0")).await, Outcome::Ok(Reply::Data(None)));
        rig.assert_one_outcome_each();
    }
}

#[tokio::test]
async fn whatever_shares_a_transaction_that_is_lost_is_unknown() {
    for installation in installations() {
        for cut in [true, false] {
            let server = server(&installation).await;
            let proxy = proxy(&server).await;
            let rig = Rig::connected(proxy.address()).await;
            assert_eq!(rig.multi([create("/ballot", b""), create("/first", b"")]).await, done());
            let before = proxy.requests_forwarded();
            proxy.swallow_replies();
            // All that is submitted while nobody waits for anything is there before anything of it is sent.
            let mut ids = vec![append(&rig, "/first", "/n0")];
            ids.extend((1..20).map(|n| append(&rig, &format!("/n{}", n - 1), &format!("/n{n}"))));
            let other = Rig::connected(server.address()).await;
            while found(&other.ask(get("/n0")).await).is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if cut {
                proxy.cut(Close::Reset);
            }
            // Else they are given up at their deadline.
            for id in ids {
                assert!(matches!(rig.outcome(id).await, Outcome::Unknown(_)), "{id:?}");
            }
            assert_eq!(transaction(&other, "/n0").await, transaction(&other, "/n19").await);
            assert_eq!(proxy.requests_forwarded(), before + 1, "nothing is sent again by the keeper");
            rig.assert_one_outcome_each();
        }
    }
}

#[tokio::test]
async fn neither_appends_nor_other_requests_hold_each_other_up() {
    let server = server(&installations()[0]).await;
    let mut narrow = config(server.address());
    (narrow.window, narrow.window_shared) = (2, 1);
    let rig = Rig::start(narrow);
    rig.wait_connected(1).await;
    assert_eq!(rig.multi([create("/ballot", b""), create("/first", b"")]).await, done());
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(rig.submit(get("/first")));
        ids.push(append(&rig, "/first", &format!("/n{n}")));
    }
    let outcomes = rig.outcomes(&ids).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Ok(_))), "{outcomes:?}");
    let told = rig.events().into_iter().filter_map(|event| match event {
        KeeperEvent::Outcome { id, .. } => Some(id),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let place = |id: RequestId| told.iter().position(|other| *other == id);
    assert!(place(ids[1]) < place(ids[40]), "an append waits for no later read: {told:?}");
    assert!(place(ids[2]) < place(ids[99]), "a read waits for no later append: {told:?}");
}
