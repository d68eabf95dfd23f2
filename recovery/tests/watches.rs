//! Watches of the keeper on real servers: each fires once, none is lost without a word.
#![cfg(feature = "zookeeper")]

mod rig;

use bequest_harness::Close;
use bequest_recovery::keeper::{KeeperEvent, Outcome, Reply, Request};
use rig::*;

#[tokio::test]
async fn a_watch_fires_once_for_what_it_watches() {
    for installation in installations() {
        let server = server(&installation).await;
        let rig = Rig::connected(server.address()).await;
        assert_eq!(rig.multi([create("/a", b""), create("/b", b"")]).await, done());
        let watch = |path: &str| (path.to_owned(), true);
        let (path, on) = watch("/a");
        rig.ask(Request::Get { path, watch: on }).await;
        let (path, on) = watch("/later");
        assert_eq!(rig.ask(Request::Exists { path, watch: on }).await, Outcome::Ok(Reply::Stat(None)));
        let (path, on) = watch("/b");
        rig.ask(Request::Children { path, watch: on }).await;
        let raw = raw_client(server.address()).await;
        raw.set_data("/a", b"1", None).await.expect("it exists");
        rig.wait_changed("/a", 1).await;
        raw.create("/later", b"", &anyone()).await.expect("it does not exist");
        rig.wait_changed("/later", 1).await;
        raw.create("/b/c", b"", &anyone()).await.expect("it does not exist");
        rig.wait_changed("/b", 1).await;
        // Once fired, they are gone.
        raw.set_data("/a", b"2", None).await.expect("it exists");
        raw.delete("/b/c", None).await.expect("it exists");
        rig.ask(get("/a")).await;
        let fired = rig.events().iter().filter(|event| matches!(event, KeeperEvent::Changed { .. })).count();
        assert_eq!(fired, 3, "{:?}", rig.events());
    }
}

#[tokio::test]
async fn a_change_while_disconnected_fires_the_watch_on_reconnection() {
    for installation in installations() {
        let server = server(&installation).await;
        let proxy = proxy(&server).await;
        let rig = Rig::connected(proxy.address()).await;
        assert_eq!(rig.multi([create("/a", b""), create("/b", b"")]).await, done());
        rig.ask(Request::Get { path: "/a".to_owned(), watch: true }).await;
        rig.ask(Request::Exists { path: "/later".to_owned(), watch: true }).await;
        rig.ask(Request::Children { path: "/b".to_owned(), watch: true }).await;
        proxy.refuse().await;
        proxy.cut(Close::Reset);
        rig.wait_count(1, "a lost connection", |event| matches!(event, KeeperEvent::Disconnected { .. })).await;
        let raw = raw_client(server.address()).await;
        raw.set_data("/a", b"1", None).await.expect("it exists");
        raw.create("/later", b"", &anyone()).await.expect("it does not exist");
        raw.create("/b/c", b"", &anyone()).await.expect("it does not exist");
        proxy.resume().await;
        for path in ["/a", "/later", "/b"] {
            rig.wait_changed(path, 1).await;
        }
    }
}

#[tokio::test]
async fn a_renewed_watch_replaces_the_older_one() {
    let server = server(&installations()[0]).await;
    let rig = Rig::connected(server.address()).await;
    assert_eq!(rig.multi([create("/a", b"")]).await, done());
    for _ in 0..50 {
        rig.ask(Request::Get { path: "/a".to_owned(), watch: true }).await;
        rig.ask(Request::Exists { path: "/a".to_owned(), watch: true }).await;
    }
    assert_eq!(rig.multi([set("/a", b"1", 0)]).await, done());
    rig.wait_changed("/a", 1).await;
    rig.ask(get("/a")).await;
    let fired = rig.events().iter().filter(|event| matches!(event, KeeperEvent::Changed { .. })).count();
    // The one before the newest may not have heard yet that it was replaced.
    assert!((1..=2).contains(&fired), "{fired} of 100 watches fired");
}

#[tokio::test]
async fn no_watch_is_heard_of_before_the_answer_that_left_it() {
    let server = server(&installations()[0]).await;
    let rig = Rig::connected(server.address()).await;
    assert_eq!(rig.multi([create("/a", b"")]).await, done());
    for version in 0..200 {
        let read = rig.submit(Request::Get { path: "/a".to_owned(), watch: true });
        let write = rig.submit(Request::Multi(vec![set("/a", b"", version)]));
        assert_eq!(rig.outcome(write).await, done());
        rig.wait_changed("/a", usize::try_from(version).expect("positive") + 1).await;
        let events = rig.events();
        let at = |wanted: &dyn Fn(&KeeperEvent) -> bool| events.iter().rposition(wanted).expect("it happened");
        let answered = at(&|event| matches!(event, KeeperEvent::Outcome { id, .. } if *id == read));
        let changed = at(&|event| matches!(event, KeeperEvent::Changed { .. }));
        assert!(answered < changed, "version={version}");
    }
}
