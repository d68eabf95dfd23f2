//! The keeper on real servers: what it promises at its boundary.
#![cfg(feature = "zookeeper")]

mod rig;

use bequest_harness::{Close, ZooKeeperServer};
use bequest_recovery::address::Address;
use bequest_recovery::keeper::{KeeperEvent, Outcome, Reason, Reply, Request, Urgency};
use bequest_recovery::zookeeper::{frame_bytes, Config, FRAME_BYTES_MAX};
use bytes::Bytes;
use rig::*;
use std::time::Duration;

#[tokio::test]
async fn each_refusal_is_reported_with_its_reason_and_the_operation_that_failed() {
    for installation in installations() {
        let server = server(&installation).await;
        let rig = Rig::connected(server.address()).await;
        let made = rig.multi([create("/a", b"x"), create("/a/b", b""), ephemeral("/e"), check("/a", 0)]).await;
        assert_eq!(made, done());
        let cases = [
            (vec![check("/a", 0), check("/none", 0)], refused(1, Reason::NoNode)),
            (vec![check("/a", 0), create("/none/x", b"")], refused(1, Reason::NoNode)),
            (vec![set("/none", b"", 0)], refused(0, Reason::NoNode)),
            (vec![delete("/none", None)], refused(0, Reason::NoNode)),
            (vec![create("/a", b"")], refused(0, Reason::NodeExists)),
            (vec![set("/a", b"y", 0), set("/a", b"z", 1), check("/a", 1)], refused(2, Reason::BadVersion)),
            (vec![create("/c", b""), set("/a", b"", 7)], refused(1, Reason::BadVersion)),
            (vec![delete("/a/b", Some(3))], refused(0, Reason::BadVersion)),
            (vec![delete("/a", Some(0))], refused(0, Reason::NotEmpty)),
            (vec![create("/e/x", b"")], refused(0, Reason::NoChildrenForEphemerals)),
            (vec![create("/a//b", b"")], refused(0, Reason::BadArguments)),
            (vec![check("/a", 0), create("/a/..", b"")], refused(1, Reason::BadArguments)),
        ];
        for (ops, expected) in cases {
            assert_eq!(rig.multi(ops.clone()).await, expected, "{ops:?}");
        }
        // Nothing of all that took effect.
        let (data, stat) = found(&rig.ask(get("/a")).await).expect("it exists");
        assert_eq!((data, stat.version, stat.num_children), (Bytes::from("x"), 0, 1));
        rig.assert_one_outcome_each();
    }
}

#[tokio::test]
async fn an_acl_and_an_exhausted_quota_are_definite_refusals() {
    for installation in installations() {
        let builder = ZooKeeperServer::builder().installation(installation);
        let server = builder.setting("enforceQuota", "true").start().await.expect("the server starts");
        let address = server.address();
        let owner = Rig::start(Config::new(owner_address(address)));
        owner.wait_connected(1).await;
        assert_eq!(owner.multi([create("/mine", b""), create("/mine/a", b"")]).await, done());
        // Another session of the same user is the same user.
        let again = Rig::start(Config::new(owner_address(address)));
        again.wait_connected(1).await;
        assert_eq!(again.multi([set("/mine/a", b"1", 0)]).await, done());

        let other = Rig::connected(address).await;
        for ops in [
            vec![check("/mine/a", 1)],
            vec![set("/mine/a", b"", 1)],
            vec![create("/mine/b", b"")],
            vec![delete("/mine/a", None)],
        ] {
            assert_eq!(other.multi(ops.clone()).await, refused(0, Reason::NoAuth), "{ops:?}");
        }
        for request in [get("/mine/a"), children("/mine")] {
            assert_eq!(other.ask(request.clone()).await, refused(0, Reason::NoAuth), "{request:?}");
        }

        assert_eq!(other.multi([create("/narrow", b"")]).await, done());
        let raw = raw_client(address).await;
        raw.mkdir("/zookeeper/quota/narrow", &anyone()).await.expect("quotas are znodes");
        let limits = b"count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=-1";
        raw.create("/zookeeper/quota/narrow/zookeeper_limits", limits, &anyone()).await.expect("quotas are znodes");
        raw.create("/zookeeper/quota/narrow/zookeeper_stats", b"count=1,bytes=0", &anyone()).await.expect("znodes");
        let refusal = other.multi([check("/narrow", 0), set("/narrow", b"more than ten bytes", 0)]).await;
        assert_eq!(refusal, refused(1, Reason::QuotaExceeded));
    }
}

#[tokio::test]
async fn a_server_that_refuses_who_we_are_is_told_as_trouble_and_tried_again() {
    for installation in installations() {
        let builder = ZooKeeperServer::builder().installation(installation);
        let builder = builder.setting("enforce.auth.enabled", "true").setting("enforce.auth.schemes", "digest");
        let server = builder.start().await.expect("the server starts");
        let known = Rig::start(Config::new(owner_address(server.address())));
        known.wait_connected(1).await;
        let rig = Rig::at(server.address());
        let outcome = rig.ask(get("/")).await;
        assert!(is_unknown(&outcome), "{outcome:?}");
        let trouble =
            |event: &KeeperEvent| matches!(event, KeeperEvent::Trouble(text) if text.contains("refuses who we are"));
        rig.wait_count(1, "trouble", trouble).await;
        let outcome = rig.ask(get("/")).await;
        assert!(is_unknown(&outcome), "{outcome:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_safely_is_refused_before_it_is_sent() {
    let server = server(&installations()[0]).await;
    let rig = Rig::connected(server.address()).await;
    assert_eq!(rig.multi([create("/a", b"")]).await, done());
    // Version -1 means "any" to ZooKeeper: a check that checks nothing.
    assert_eq!(rig.multi([check("/a", 0), check("/a", -1)]).await, refused(1, Reason::BadArguments));
    assert_eq!(rig.multi([set("/a", b"", -1)]).await, refused(0, Reason::BadArguments));
    assert_eq!(rig.multi([delete("/a", Some(-1))]).await, refused(0, Reason::BadArguments));
    assert_eq!(rig.multi([]).await, refused(0, Reason::BadArguments));
    assert_eq!(rig.ask(get("no slash")).await, refused(0, Reason::BadArguments));
    assert!(found(&rig.ask(get("/a")).await).is_some());
}

#[tokio::test]
async fn the_largest_request_passes_and_one_byte_more_is_refused_without_losing_the_connection() {
    for installation in installations() {
        let server = server(&installation).await;
        for chroot in ["", "/below/here"] {
            let raw = raw_client(server.address()).await;
            raw.mkdir(if chroot.is_empty() { "/x" } else { chroot }, &anyone()).await.expect("a plain create");
            let rig = Rig::start(below(server.address(), chroot));
            rig.wait_connected(1).await;
            let with = |bytes: usize| vec![check("/", 0), create("/big", &vec![7; bytes])];
            let limit = FRAME_BYTES_MAX - frame_bytes(chroot.len(), &with(0));
            assert_eq!(rig.multi(with(limit + 1)).await, refused(1, Reason::BadArguments));
            assert_eq!(rig.multi(with(limit)).await, done());
            let lost = |event: &KeeperEvent| matches!(event, KeeperEvent::Disconnected { .. });
            assert!(!rig.events().iter().any(lost), "{:?}", rig.events());
        }
    }
}

#[tokio::test]
async fn what_does_not_exist_is_read_as_none() {
    let server = server(&installations()[0]).await;
    let rig = Rig::connected(server.address()).await;
    for watch in [false, true] {
        let path = || "/none".to_owned();
        assert_eq!(rig.ask(Request::Get { path: path(), watch }).await, Outcome::Ok(Reply::Data(None)));
        assert_eq!(rig.ask(Request::Exists { path: path(), watch }).await, Outcome::Ok(Reply::Stat(None)));
        assert_eq!(rig.ask(Request::Children { path: path(), watch }).await, Outcome::Ok(Reply::Children(None)));
    }
}

#[tokio::test]
async fn a_multi_of_checks_alone_is_a_transaction_on_every_server() {
    for installation in installations() {
        let server = server(&installation).await;
        let rig = Rig::connected(server.address()).await;
        assert_eq!(rig.multi([create("/ballot", b"")]).await, done());
        assert_eq!(rig.multi([check("/ballot", 0)]).await, done());
        assert_eq!(rig.multi([check("/ballot", 1)]).await, refused(0, Reason::BadVersion));
    }
}

#[tokio::test]
async fn a_missing_chroot_reads_as_nothing_and_can_be_created_as_the_root() {
    let server = server(&installations()[0]).await;
    let rig = Rig::start(below(server.address(), "/cluster"));
    rig.wait_connected(1).await;
    assert_eq!(rig.ask(get("/")).await, Outcome::Ok(Reply::Data(None)));
    assert_eq!(rig.ask(children("/")).await, Outcome::Ok(Reply::Children(None)));
    assert_eq!(rig.multi([create("/nodes", b"")]).await, refused(0, Reason::NoNode));
    assert_eq!(rig.multi([create("/", b"record"), create("/nodes", b"")]).await, done());
    let (data, stat) = found(&rig.ask(get("/")).await).expect("it exists");
    assert_eq!((data, stat.version, stat.num_children), (Bytes::from("record"), 0, 1));
    assert_eq!(rig.ask(children("/")).await, Outcome::Ok(Reply::Children(Some(vec!["nodes".to_owned()]))));
    assert_eq!(rig.multi([check("/", 0), set("/", b"again", 0)]).await, done());
    let raw = raw_client(server.address()).await;
    assert_eq!(raw.get_data("/cluster").await.expect("it is there").0, b"again");
}

#[tokio::test]
async fn requests_take_effect_in_the_order_submitted_through_a_small_window() {
    let server = server(&installations()[0]).await;
    let mut small = config(server.address());
    small.window = 3;
    let rig = Rig::start(small);
    // Each depends on the one before; they are submitted before there is a session, and in one go.
    let mut ids = vec![rig.submit(Request::Multi(vec![create("/n", b"0")]))];
    for version in 0..200 {
        ids.push(rig.submit(Request::Multi(vec![set("/n", b"x", version)])));
    }
    assert!(rig.outcomes(&ids).await.iter().all(|outcome| *outcome == done()));
    let reported = rig.events().into_iter().filter_map(|event| match event {
        KeeperEvent::Outcome { id, .. } => Some(id),
        _ => None,
    });
    assert_eq!(reported.collect::<Vec<_>>(), ids, "outcomes come in the order of the requests");
}

#[tokio::test]
async fn an_urgent_request_overtakes_what_is_queued_and_not_what_is_sent() {
    let server = server(&installations()[0]).await;
    let proxy = proxy(&server).await;
    let mut small = config(proxy.address());
    small.window = 2;
    let rig = Rig::start(small);
    rig.wait_connected(1).await;
    server.pause().await.expect("it can be paused");
    let create_empty = |path: &str| Request::Multi(vec![create(path, b"")]);
    let mut ids = vec![rig.submit(create_empty("/n0")), rig.submit(create_empty("/n1"))];
    while proxy.requests_forwarded() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ids.extend([rig.submit(create_empty("/n2")), rig.submit(create_empty("/n3"))]);
    ids.push(rig.submit_as(Urgency::Urgent, create_empty("/urgent")));
    server.resume().expect("it can be resumed");
    assert_eq!(rig.outcomes(&ids).await, vec![done(); 5]);
    let mut czxids = Vec::new();
    for path in ["/n0", "/n1", "/urgent", "/n2", "/n3"] {
        czxids.push(found(&rig.ask(get(path)).await).expect("created").1.czxid);
    }
    assert!(czxids.is_sorted(), "{czxids:?}");
}

#[tokio::test]
async fn a_client_that_expired_itself_is_rebuilt_as_a_new_session() {
    for installation in installations() {
        let mut server = server(&installation).await;
        let address = server.address();
        let mut short = config(address).session_timeout(Duration::from_secs(2));
        short.session_wait = Duration::from_millis(100);
        let rig = Rig::start(short);
        rig.wait_connected(1).await;
        assert_eq!(rig.multi([create("/a", b""), ephemeral("/e")]).await, done());
        let watch = Request::Get { path: "/a".to_owned(), watch: true };
        assert!(found(&rig.ask(watch).await).is_some());
        server.kill().await.expect("it can be killed");
        // The library gives up at 1.4 session timeouts. What it carried is unknown by then.
        let carried = rig.submit(Request::Multi(vec![set("/a", b"", 0)]));
        let over = |event: &KeeperEvent| matches!(event, KeeperEvent::Expired { session } if session.0 == 1);
        rig.wait_count(1, "session 1 to end", over).await;
        assert!(is_unknown(&rig.outcome(carried).await));
        // Its watches are reported, since they can no longer be trusted.
        rig.wait_changed("/a", 1).await;
        let without = rig.ask(get("/a")).await;
        assert_eq!(without, Outcome::Unknown("there is no session".to_owned()));
        let trouble = |event: &KeeperEvent| matches!(event, KeeperEvent::Trouble(text) if text.contains("no ZooKeeper server answers"));
        rig.wait_count(1, "trouble", trouble).await;
        server.restart().await.expect("it comes back");
        rig.wait_connected(2).await;
        assert!(found(&rig.ask(get("/a")).await).is_some());
        rig.assert_one_outcome_each();
    }
}

#[tokio::test]
async fn a_lost_connection_is_told_and_the_session_goes_on() {
    let server = server(&installations()[0]).await;
    let proxy = proxy(&server).await;
    let rig = Rig::connected(proxy.address()).await;
    assert_eq!(rig.multi([ephemeral("/e")]).await, done());
    for cut in 1..=3 {
        proxy.cut(Close::Reset);
        rig.wait_count(cut, "a lost connection", |event| matches!(event, KeeperEvent::Disconnected { .. })).await;
        rig.wait_count(cut + 1, "a connection", |event| matches!(event, KeeperEvent::Connected { .. })).await;
    }
    assert!(found(&rig.ask(get("/e")).await).is_some(), "the session and its ephemeral znode live on");
    let sessions = rig.events().into_iter().filter_map(|event| match event {
        KeeperEvent::Connected { session, timeout_ms } => Some((session.0, timeout_ms)),
        _ => None,
    });
    assert_eq!(sessions.collect::<Vec<_>>(), vec![(1, 6000); 4]);
}

#[tokio::test]
async fn every_request_gets_exactly_one_outcome_whatever_breaks() {
    for installation in installations() {
        let server = server(&installation).await;
        let proxy = proxy(&server).await;
        let mut quick = config(proxy.address()).session_timeout(Duration::from_secs(1));
        quick.window = 8;
        quick.window_shared = 1;
        let rig = Rig::start(quick);
        rig.wait_connected(1).await;
        assert_eq!(rig.multi([create("/n", b"")]).await, done());
        let mut ids = Vec::new();
        for round in 0..8 {
            for n in 0..12 {
                let path = format!("/n/{round}-{n}");
                let urgency = if n % 2 == 0 { Urgency::Shared } else { Urgency::Normal };
                // Refused now and then, and with it whatever shares its transaction.
                let version = if n % 8 == 2 { 7 } else { 0 };
                ids.push(rig.submit_as(urgency, Request::Multi(vec![check("/n", version), create(&path, b"")])));
                ids.push(rig.submit_as(Urgency::Urgent, Request::Get { path, watch: n % 3 == 0 }));
            }
            match round {
                0 => proxy.cut(Close::Reset),
                1 => proxy.let_requests_through(3),
                2 => proxy.swallow_replies(),
                3 => proxy.silence(),
                4 => proxy.cut_client(Close::Fin),
                5 => {
                    proxy.refuse().await;
                    proxy.cut(Close::Fin);
                }
                6 => server.pause().await.expect("it can be paused"),
                _ => {}
            }
            for n in 0..4 {
                ids.push(rig.submit(Request::Multi(vec![create(&format!("/n/{round}-late-{n}"), b"")])));
            }
            // By the deadline, if not before, all have an outcome.
            rig.outcomes(&ids).await;
            if server.is_paused() {
                server.resume().expect("it can be resumed");
            }
            proxy.cut(Close::Reset);
            proxy.resume().await;
        }
        // Then it recovers, by itself.
        let recovered = async { while is_unknown(&rig.ask(exists("/n")).await) {} };
        tokio::time::timeout(LIMIT, recovered).await.expect("it answers");
        rig.assert_one_outcome_each();
    }
}

#[tokio::test]
async fn a_deadline_is_kept_while_the_server_is_silent_and_the_late_answer_is_not_reported() {
    let server = server(&installations()[0]).await;
    let proxy = proxy(&server).await;
    let mut hasty = config(proxy.address());
    hasty.deadline = Duration::from_millis(200);
    let rig = Rig::start(hasty);
    rig.wait_connected(1).await;
    proxy.silence();
    let late = rig.submit(Request::Multi(vec![create("/late", b"")]));
    assert_eq!(rig.outcome(late).await, Outcome::Unknown("no answer until the deadline".to_owned()));
    proxy.resume().await;
    // It was sent all the same, and its answer comes before the next one's.
    let mut seen = rig.ask(get("/late")).await;
    while is_unknown(&seen) {
        seen = rig.ask(get("/late")).await;
    }
    assert!(found(&seen).is_some());
    rig.assert_one_outcome_each();
}

#[tokio::test]
async fn dropping_the_keeper_reports_what_is_outstanding_as_unknown_and_ends_the_session() {
    let server = server(&installations()[0]).await;
    let proxy = proxy(&server).await;
    let mut rig = Rig::connected(proxy.address()).await;
    let raw = raw_client(server.address()).await;
    assert_eq!(rig.multi([ephemeral("/e")]).await, done());
    proxy.silence();
    let ids: Vec<_> = (0..300).map(|_| rig.submit(exists("/e"))).collect();
    rig.drop_keeper();
    assert!(rig.outcomes(&ids).await.iter().all(is_unknown));
    rig.assert_one_outcome_each();
    // The session ends as soon as the server can be told, not when it times out.
    let (stat, watcher) = raw.check_and_watch_stat("/e").await.expect("the server answers");
    if stat.is_some() {
        proxy.resume().await;
        tokio::time::timeout(LIMIT, watcher.changed()).await.expect("it is deleted");
    }
}

#[tokio::test]
async fn closing_the_keeper_waits_until_its_ephemeral_znodes_are_gone() {
    let server = server(&installations()[0]).await;
    let mut rig = Rig::connected(server.address()).await;
    let raw = raw_client(server.address()).await;
    assert_eq!(rig.multi([ephemeral("/e")]).await, done());
    rig.close().await;
    assert_eq!(raw.check_stat("/e").await.expect("the server answers"), None);
}

#[test]
fn the_end_of_the_runtime_leaves_no_request_without_an_outcome() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let rig = runtime.block_on(async {
        // Nobody listens there.
        let rig = Rig::at("127.0.0.1:1".parse().expect("an address"));
        rig.submit(get("/"));
        rig
    });
    runtime.shutdown_background();
    rig.submit(get("/"));
    let other = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let outcome = |event: &KeeperEvent| matches!(event, KeeperEvent::Outcome { .. });
    other.block_on(rig.wait_count(2, "outcomes", outcome));
    rig.assert_one_outcome_each();
}

#[tokio::test]
async fn too_many_requests_are_unknown_at_once_and_the_others_are_not_harmed() {
    let server = server(&installations()[0]).await;
    let mut narrow = config(server.address());
    narrow.window = 4;
    narrow.queue_requests_max = 16;
    let rig = Rig::start(narrow);
    rig.wait_connected(1).await;
    let many: Vec<_> = (0..100).map(|n| rig.submit(Request::Multi(vec![create(&format!("/n{n}"), b"")]))).collect();
    let outcomes = rig.outcomes(&many).await;
    let too_many = Outcome::Unknown("too many requests are waiting".to_owned());
    let kept = outcomes.iter().filter(|outcome| **outcome == done()).count();
    assert!(kept >= 20, "{kept} of the 20 that fit were carried");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == too_many).count(), 100 - kept, "{outcomes:?}");

    let mut light = config(server.address());
    light.queue_bytes_max = 100_000;
    let rig = Rig::start(light);
    let heavy = || Request::Multi(vec![create("/heavy", &[0; 60_000])]);
    let (first, second) = (rig.submit(heavy()), rig.submit(heavy()));
    assert_eq!(rig.outcome(second).await, too_many);
    assert_eq!(rig.outcome(first).await, done());
}

#[tokio::test]
async fn a_server_that_is_away_at_first_is_found_when_it_comes() {
    let installation = &installations()[0];
    let mut server =
        ZooKeeperServer::builder().installation(installation.clone()).prepare().expect("the folder can be written");
    let rig = Rig::at(server.address());
    let early = rig.ask(get("/")).await;
    assert_eq!(early, Outcome::Unknown("there is no session".to_owned()));
    server.restart().await.expect("the server starts");
    rig.wait_connected(1).await;
    assert!(found(&rig.ask(get("/")).await).is_some());
}

fn owner_address(address: std::net::SocketAddr) -> Address {
    format!("zk://ann:secret@{address}").parse().expect("a valid address")
}
