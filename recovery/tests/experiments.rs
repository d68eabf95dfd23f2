//! What real servers and the real client library do under faults: the facts the protocol is built on. Each was found
//! by an experiment; a new version of either that behaves otherwise is told here.
#![cfg(feature = "zookeeper")]

mod rig;

use bequest_harness::{Close, Ensemble, Framing, Proxy, ZooKeeperServer};
use bequest_recovery::keeper::{KeeperEvent, Op, Outcome, Reason, Reply, Request, RequestId};
use rig::*;
use std::net::SocketAddr;
use std::time::Duration;
use zookeeper_client::{AddWatchMode, Client, EventType, SessionState};

fn disconnected(event: &KeeperEvent) -> bool {
    matches!(event, KeeperEvent::Disconnected { .. })
}

/// The append of segment `n`, chained to its predecessor, or not.
fn append(n: usize, chained: bool) -> Request {
    let segment = create(&format!("/wal/{n}"), b"");
    Request::Multi(match chained {
        true => vec![check("/ballot", 0), check(&format!("/wal/{}", n - 1), 0), segment],
        false => vec![check("/ballot", 0), segment],
    })
}

async fn segments(rig: &Rig) -> Vec<String> {
    match rig.ask(children("/wal")).await {
        Outcome::Ok(Reply::Children(Some(mut names))) => {
            names.sort_unstable();
            names
        }
        other => panic!("not a listing: {other:?}"),
    }
}

/// Nine appends: two reach the server, four are lost with the connection, three are submitted while there is none.
async fn nine_appends_over_a_broken_connection(proxy: &Proxy, chained: bool) -> (Rig, Vec<RequestId>) {
    let rig = Rig::connected(proxy.address()).await;
    let header = [create("/ballot", b""), create("/wal", b""), create("/wal/0", b"")];
    assert_eq!(rig.multi(header).await, done());
    proxy.let_requests_through(2);
    let swallowed = proxy.requests_swallowed();
    let mut ids: Vec<RequestId> = (1..=6).map(|n| rig.submit(append(n, chained))).collect();
    wait_until("four requests are lost", || proxy.requests_swallowed() == swallowed + 4).await;
    proxy.refuse().await;
    proxy.cut(Close::Reset);
    rig.wait_count(1, "the loss of the connection", disconnected).await;
    ids.extend((7..=9).map(|n| rig.submit(append(n, chained))));
    proxy.resume().await;
    rig.outcomes(&ids).await;
    (rig, ids)
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, poll).await.is_ok(), "waited in vain until {what}");
}

/// Waits until a znode exists, as a client of its own sees it.
async fn wait_exists(client: &Client, path: &str) {
    let (stat, watcher) = client.check_and_watch_stat(path).await.expect("the server answers");
    if stat.is_none() {
        let event = tokio::time::timeout(LIMIT, watcher.changed()).await;
        let event = event.unwrap_or_else(|_| panic!("waited in vain for {path} to exist"));
        assert_eq!(event.event_type, EventType::NodeCreated, "{event:?}");
    }
}

#[tokio::test]
async fn appends_chained_to_their_predecessors_land_as_a_prefix_when_the_connection_breaks() {
    for installation in installations() {
        let server = server(&installation).await;
        let proxy = proxy(&server).await;
        let (rig, ids) = nine_appends_over_a_broken_connection(&proxy, true).await;
        let outcomes = rig.outcomes(&ids).await;
        // The first two were applied, whether or not their answers came back.
        assert!(outcomes[..2].iter().all(|outcome| is_unknown(outcome) || *outcome == done()), "{outcomes:?}");
        assert!(outcomes[2..6].iter().all(is_unknown), "{outcomes:?}");
        assert_eq!(outcomes[6..], vec![refused(1, Reason::NoNode); 3]);
        assert_eq!(segments(&rig).await, ["0", "1", "2"]);
        // Issued again, in order and unchanged, each is found applied or is applied.
        let again: Vec<RequestId> = (1..=9).map(|n| rig.submit(append(n, true))).collect();
        let outcomes = rig.outcomes(&again).await;
        assert_eq!(outcomes[..2], vec![refused(2, Reason::NodeExists); 2]);
        assert_eq!(outcomes[2..], vec![done(); 7]);
    }
}

#[tokio::test]
async fn appends_not_chained_leave_a_hole_when_the_connection_breaks() {
    for installation in installations() {
        let server = server(&installation).await;
        let proxy = proxy(&server).await;
        let (rig, _) = nine_appends_over_a_broken_connection(&proxy, false).await;
        assert_eq!(segments(&rig).await, ["0", "1", "2", "7", "8", "9"]);
    }
}

#[tokio::test]
async fn a_failed_multi_does_not_stop_those_behind_it() {
    for installation in installations() {
        let server = server(&installation).await;
        let rig = Rig::connected(server.address()).await;
        let multis: [Vec<Op>; 3] = [vec![create("/a", b"")], vec![create("/a", b"")], vec![create("/b", b"")]];
        let ids: Vec<RequestId> = multis.into_iter().map(|ops| rig.submit(Request::Multi(ops))).collect();
        assert_eq!(rig.outcomes(&ids).await, [done(), refused(0, Reason::NodeExists), done()]);
    }
}

#[tokio::test]
async fn a_ballot_deleted_and_created_again_fences_nobody() {
    for installation in installations() {
        let server = server(&installation).await;
        let zombie = Rig::connected(server.address()).await;
        assert_eq!(zombie.multi([create("/ballot", b"zombie"), create("/wal", b"")]).await, done());
        let operator = Rig::connected(server.address()).await;
        assert_eq!(operator.multi([delete("/ballot", Some(0)), create("/ballot", b"successor")]).await, done());
        // Its version is 0 again, so the check holds: a ballot is never deleted.
        assert_eq!(zombie.multi([check("/ballot", 0), create("/wal/1", b"")]).await, done());
        // One that was set anew does fence.
        assert_eq!(operator.multi([set("/ballot", b"successor", 0)]).await, done());
        let fenced = zombie.multi([check("/ballot", 0), create("/wal/2", b"")]).await;
        assert_eq!(fenced, refused(0, Reason::BadVersion));
    }
}

#[tokio::test]
async fn a_write_is_applied_after_its_client_saw_a_reset() {
    for installation in installations() {
        let server = server(&installation).await;
        let proxy = proxy(&server).await;
        let rig = Rig::connected(proxy.address()).await;
        let forwarded = proxy.requests_forwarded();
        server.pause().await.expect("it can be paused");
        let late = rig.submit(Request::Multi(vec![create("/late", b"")]));
        wait_until("it is in the server's socket", || proxy.requests_forwarded() > forwarded).await;
        // No new connection until it is applied: the server would close the old one first.
        proxy.refuse().await;
        proxy.cut_client(Close::Reset);
        let outcome = rig.outcome(late).await;
        assert!(matches!(&outcome, Outcome::Unknown(cause) if cause.contains("reset")), "{outcome:?}");
        server.resume().expect("it can be resumed");
        wait_exists(&raw_client(server.address()).await, "/late").await;
    }
}

#[tokio::test]
async fn a_write_is_applied_after_its_client_gave_up_a_silent_server() {
    for installation in installations() {
        let server = server(&installation).await;
        let proxy = proxy(&server).await;
        let rig = Rig::start(config(proxy.address()).session_timeout(Duration::from_secs(2)));
        rig.wait_connected(1).await;
        let forwarded = proxy.requests_forwarded();
        server.pause().await.expect("it can be paused");
        let late = rig.submit(Request::Multi(vec![create("/late", b"")]));
        wait_until("it is in the server's socket", || proxy.requests_forwarded() > forwarded).await;
        proxy.refuse().await;
        // Two fifths of the session timeout.
        let silence = Outcome::Unknown("no response from connection in 800ms".to_owned());
        assert_eq!(rig.outcome(late).await, silence);
        server.resume().expect("it can be resumed");
        wait_exists(&raw_client(server.address()).await, "/late").await;
    }
}

#[tokio::test]
async fn one_shot_watches_survive_a_reconnection_and_the_librarys_persistent_ones_do_not() {
    for installation in installations() {
        let server = server(&installation).await;
        let proxy = proxy(&server).await;
        let writer = Rig::connected(server.address()).await;
        assert_eq!(writer.multi([create("/a", b""), create("/b", b""), create("/c", b"")]).await, done());
        let watcher = Rig::connected(proxy.address()).await;
        let client = raw_client(proxy.address()).await;
        watcher.ask(Request::Get { path: "/a".to_owned(), watch: true }).await;
        let (_, _, one_shot) = client.get_and_watch_data("/a").await.expect("it exists");
        let mut persistent = client.watch("/b", AddWatchMode::Persistent).await.expect("watched");
        let mut recursive = client.watch("/c", AddWatchMode::PersistentRecursive).await.expect("watched");
        let mut state = client.state_watcher();
        proxy.cut(Close::Reset);
        while state.changed().await != SessionState::SyncConnected {}
        watcher.wait_count(2, "a connection", |event| matches!(event, KeeperEvent::Connected { .. })).await;

        assert_eq!(writer.multi([set("/b", b"1", 0), set("/c", b"1", 0), set("/a", b"1", 0)]).await, done());
        watcher.wait_changed("/a", 1).await;
        let event = tokio::time::timeout(LIMIT, one_shot.changed()).await.expect("the one-shot watch fires");
        assert_eq!(event.event_type, EventType::NodeDataChanged);
        // Events come before the answers that show what they tell of, so whatever was to come is here.
        assert_eq!(client.get_data("/c").await.expect("it exists").1.version, 1);
        for watcher in [&mut persistent, &mut recursive] {
            while let Ok(event) = tokio::time::timeout(Duration::ZERO, watcher.changed()).await {
                let text = "the library renews persistent watches now; the design may use them";
                assert_eq!(event.event_type, EventType::Session, "{text}: {event:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_dead_leaders_write_lands_after_its_successor_has_read_unless_it_checks_the_ballot() {
    for installation in installations() {
        // Long ticks: the paused follower and the dead leader's session must both outlast the test.
        let server = ZooKeeperServer::builder().installation(installation).tick_ms(2000);
        let ensemble = Ensemble::builder(3).server(server).start().await.expect("the ensemble starts");
        let leader = ensemble.wait_for_leader().await.expect("it elects");
        let follower = &ensemble.servers()[(leader + 1) % 3];
        let other = ensemble.servers()[(leader + 2) % 3].address();

        let proxy = Proxy::start(follower.address(), Framing::ZooKeeper).await.expect("the proxy starts");
        let dying = Rig::start(config(proxy.address()).session_timeout(Duration::from_secs(30)));
        dying.wait_connected(1).await;
        assert_eq!(dying.multi([create("/ballot", b"dying")]).await, done());
        let forwarded = proxy.requests_forwarded();
        follower.pause().await.expect("it can be paused");
        dying.submit(Request::Multi(vec![check("/ballot", 0), create("/fenced", b"")]));
        dying.submit(Request::Multi(vec![create("/plain", b"")]));
        wait_until("both are in the follower's socket", || proxy.requests_forwarded() == forwarded + 2).await;
        // As the kernel does for a process killed by -9.
        proxy.refuse().await;
        proxy.cut(Close::Fin);
        assert_successor_sees_neither(other).await;

        follower.resume().expect("it can be resumed");
        let client = raw_client(other).await;
        wait_exists(&client, "/plain").await;
        // It was sent before the plain one, on the same session.
        assert_eq!(client.check_stat("/fenced").await.expect("the server answers"), None);
    }
}

/// Even `sync` does not bring what lies in another member's socket. Then the successor takes the ballot.
async fn assert_successor_sees_neither(address: SocketAddr) {
    let client = raw_client(address).await;
    client.sync("/").await.expect("the server answers");
    for path in ["/plain", "/fenced"] {
        assert_eq!(client.check_stat(path).await.expect("the server answers"), None, "{path}");
    }
    let successor = Rig::connected(address).await;
    assert_eq!(successor.multi([set("/ballot", b"successor", 0)]).await, done());
}

#[tokio::test]
async fn a_wiped_server_takes_clients_and_writes_without_any_error() {
    for installation in installations() {
        let mut server = server(&installation).await;
        let rig = Rig::connected(server.address()).await;
        for n in 0..10 {
            assert_eq!(rig.multi([create(&format!("/{n}"), b"")]).await, done());
        }
        let (_, before) = found(&rig.ask(get("/9")).await).expect("it exists");
        server.wipe().await.expect("it can be wiped");
        server.restart().await.expect("it comes back");
        // The session is unknown there; a new one sees an empty tree that has never been anything else.
        rig.wait_connected(2).await;
        let over = |event: &KeeperEvent| matches!(event, KeeperEvent::Expired { session } if session.0 == 1);
        rig.wait_count(1, "the end of session 1", over).await;
        assert_eq!(rig.ask(get("/9")).await, Outcome::Ok(Reply::Data(None)));
        assert_eq!(rig.multi([create("/9", b"")]).await, done());
        let (_, after) = found(&rig.ask(get("/9")).await).expect("it exists");
        // Only this tells: transaction numbers began anew.
        assert!(after.czxid < before.czxid, "before={}, after={}", before.czxid, after.czxid);
    }
}
