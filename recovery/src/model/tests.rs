use bytes::Bytes;

use super::*;
use crate::keeper::Stat;

fn create(path: &str, data: &str) -> Op {
    Op::Create { path: path.to_owned(), data: Bytes::copy_from_slice(data.as_bytes()), ephemeral: false }
}

fn ephemeral(path: &str) -> Op {
    Op::Create { path: path.to_owned(), data: Bytes::new(), ephemeral: true }
}

fn set(path: &str, data: &str, version: i32) -> Op {
    Op::Set { path: path.to_owned(), data: Bytes::copy_from_slice(data.as_bytes()), version }
}

fn check(path: &str, version: i32) -> Op {
    Op::Check { path: path.to_owned(), version }
}

fn delete(path: &str, version: Option<i32>) -> Op {
    Op::Delete { path: path.to_owned(), version }
}

fn get(path: &str, watch: bool) -> Request {
    Request::Get { path: path.to_owned(), watch }
}

fn exists(path: &str, watch: bool) -> Request {
    Request::Exists { path: path.to_owned(), watch }
}

fn children(path: &str, watch: bool) -> Request {
    Request::Children { path: path.to_owned(), watch }
}

fn refused(op: usize, reason: Reason) -> Outcome {
    Outcome::Refused(Refusal { op, reason })
}

const DONE: Outcome = Outcome::Ok(Reply::Done);

fn ensemble(servers: usize) -> (ZooModel, SessionId) {
    let mut zoo = ZooModel::new(servers);
    let session = zoo.connect(0);
    assert_eq!(zoo.execute(session, &Request::Multi(vec![create("/", ""), create("/a", "one")])), DONE);
    (zoo, session)
}

fn multi(zoo: &mut ZooModel, session: SessionId, ops: &[Op]) -> Outcome {
    zoo.execute(session, &Request::Multi(ops.to_vec()))
}

fn data(zoo: &mut ZooModel, session: SessionId, path: &str) -> Option<(Bytes, Stat)> {
    match zoo.execute(session, &get(path, false)) {
        Outcome::Ok(Reply::Data(data)) => data,
        other => panic!("get {path}: {other:?}"),
    }
}

fn changes(zoo: &mut ZooModel, session: SessionId) -> Vec<String> {
    zoo.deliveries(session)
        .into_iter()
        .filter_map(|delivery| match delivery {
            Delivery::Changed { path } => Some(path),
            Delivery::Outcome { .. } => None,
        })
        .collect()
}

#[test]
fn a_multi_takes_effect_whole_or_not_at_all_and_names_the_operation_that_failed() {
    let (mut zoo, session) = ensemble(1);
    let before = zoo.head().clone();
    let outcome = multi(
        &mut zoo,
        session,
        &[set("/a", "two", 0), create("/a/b", ""), delete("/a/b", None), create("/a/c", ""), check("/a", 0)],
    );
    assert_eq!(outcome, refused(4, Reason::BadVersion));
    assert_eq!(zoo.head(), &before);
    assert_eq!(multi(&mut zoo, session, &[delete("/a", Some(0)), create("/a", "again"), check("/a", 0)]), DONE);
    assert_eq!(data(&mut zoo, session, "/a").map(|(data, _)| data), Some(Bytes::from("again")));
}

#[test]
fn a_failed_multi_puts_deleted_znodes_back_below_their_parents() {
    let (mut zoo, session) = ensemble(1);
    assert_eq!(multi(&mut zoo, session, &[create("/a/b", "")]), DONE);
    let before = zoo.head().clone();
    let outcome = multi(&mut zoo, session, &[delete("/a/b", None), delete("/a", None), check("/a", 0)]);
    assert_eq!(outcome, refused(2, Reason::NoNode));
    assert_eq!(zoo.head(), &before);
}

#[test]
fn later_operations_of_a_multi_see_the_earlier_ones() {
    let (mut zoo, session) = ensemble(1);
    assert_eq!(multi(&mut zoo, session, &[set("/a", "two", 0), check("/a", 1), create("/a/b", "")]), DONE);
}

#[test]
fn refusals_have_the_servers_precedence() {
    let (mut zoo, session) = ensemble(1);
    assert_eq!(multi(&mut zoo, session, &[ephemeral("/e"), create("/a/b", "")]), DONE);
    let cases = [
        (create("/none/x", ""), Reason::NoNode),
        (create("/a", ""), Reason::NodeExists),
        (create("/e/x", ""), Reason::NoChildrenForEphemerals),
        (set("/none", "", 0), Reason::NoNode),
        (set("/a", "", 1), Reason::BadVersion),
        (delete("/none", None), Reason::NoNode),
        (delete("/a", Some(1)), Reason::BadVersion),
        (delete("/a", Some(0)), Reason::NotEmpty),
        (delete("/a", None), Reason::NotEmpty),
        (check("/none", 0), Reason::NoNode),
        (check("/a", 1), Reason::BadVersion),
        (create("/a//b", ""), Reason::BadArguments),
        (create("a", ""), Reason::BadArguments),
    ];
    for (op, reason) in cases {
        assert_eq!(multi(&mut zoo, session, std::slice::from_ref(&op)), refused(0, reason), "{op:?}");
    }
    assert_eq!(multi(&mut zoo, session, &[check("/a", -1)]), DONE);
}

#[test]
fn an_acl_denies_reading_writing_checking_and_what_is_done_to_children() {
    let (mut zoo, session) = ensemble(1);
    assert_eq!(multi(&mut zoo, session, &[create("/a/b", "")]), DONE);
    zoo.deny("/a", true);
    for op in [set("/a", "", 9), check("/a", 9), create("/a/b", ""), delete("/a/b", None)] {
        assert_eq!(multi(&mut zoo, session, std::slice::from_ref(&op)), refused(0, Reason::NoAuth), "{op:?}");
    }
    for request in [get("/a", false), children("/a", false)] {
        assert_eq!(zoo.execute(session, &request), refused(0, Reason::NoAuth), "{request:?}");
    }
    zoo.deny("/a", false);
    assert_eq!(multi(&mut zoo, session, &[delete("/a/b", None)]), DONE);
}

#[test]
fn a_request_can_be_refused_by_a_quota_of_one_moment() {
    let (mut zoo, session) = ensemble(1);
    let write = [check("/a", 0), set("/a", "two", 0)];
    zoo.submit(session, RequestId(7), Request::Multi(write.to_vec()));
    assert_eq!(zoo.oldest(session), Some(RequestId(7)));
    zoo.refuse(session);
    let outcome = refused(1, Reason::QuotaExceeded);
    assert_eq!(zoo.deliveries(session), [Delivery::Outcome { id: RequestId(7), outcome }]);
    assert_eq!(data(&mut zoo, session, "/a").map(|(data, _)| data), Some(Bytes::from_static(b"one")));
    assert_eq!(multi(&mut zoo, session, &write), DONE, "the moment has passed");
    zoo.submit(session, RequestId(8), Request::Multi(vec![check("/a", 1)]));
    zoo.refuse(session);
    assert_eq!(zoo.oldest(session), Some(RequestId(8)), "nothing that grows");
}

#[test]
fn an_exhausted_quota_refuses_what_is_created_and_nothing_else() {
    let (mut zoo, session) = ensemble(1);
    assert_eq!(multi(&mut zoo, session, &[create("/a/b", "")]), DONE);
    zoo.exhaust_quota(Some("/a/"));
    assert_eq!(multi(&mut zoo, session, &[create("/a/c", "")]), refused(0, Reason::QuotaExceeded));
    assert_eq!(multi(&mut zoo, session, &[create("/a/b", "")]), refused(0, Reason::NodeExists));
    assert_eq!(multi(&mut zoo, session, &[create("/c", ""), set("/a", "", 0), delete("/a/b", None)]), DONE);
    zoo.exhaust_quota(None);
    assert_eq!(multi(&mut zoo, session, &[create("/a/c", "")]), DONE);
}

#[test]
fn versions_count_changes_and_transactions_are_named_by_their_numbers() {
    let (mut zoo, session) = ensemble(1);
    let (_, born) = data(&mut zoo, session, "/a").expect("exists");
    assert_eq!((born.version, born.czxid == born.mzxid), (0, true));
    assert_eq!(multi(&mut zoo, session, &[set("/a", "four", 0)]), DONE);
    let (content, changed) = data(&mut zoo, session, "/a").expect("exists");
    assert_eq!(content, Bytes::from("four"));
    assert_eq!((changed.version, changed.czxid, changed.data_length), (1, born.czxid, 4));
    assert!(changed.mzxid > born.mzxid);
    assert_eq!(multi(&mut zoo, session, &[delete("/a", None)]), DONE);
    assert_eq!(multi(&mut zoo, session, &[create("/a", "")]), DONE);
    let (_, reborn) = data(&mut zoo, session, "/a").expect("exists");
    assert!(reborn.czxid > changed.mzxid && reborn.version == 0);
}

#[test]
fn children_are_listed_by_name_and_counted() {
    let (mut zoo, session) = ensemble(1);
    assert_eq!(multi(&mut zoo, session, &[create("/a/x", ""), create("/a/y", ""), create("/a/x/z", "")]), DONE);
    let names = Outcome::Ok(Reply::Children(Some(vec!["x".to_owned(), "y".to_owned()])));
    assert_eq!(zoo.execute(session, &children("/a", false)), names);
    assert_eq!(data(&mut zoo, session, "/a").map(|(_, stat)| stat.num_children), Some(2));
    assert_eq!(zoo.execute(session, &children("/none", false)), Outcome::Ok(Reply::Children(None)));
    let root = Outcome::Ok(Reply::Children(Some(vec!["a".to_owned()])));
    assert_eq!(zoo.execute(session, &children("/", false)), root);
}

#[test]
fn a_read_may_be_stale_until_the_session_writes() {
    let (mut zoo, writer) = ensemble(2);
    let reader = zoo.connect(1);
    assert_eq!(multi(&mut zoo, writer, &[set("/a", "two", 0)]), DONE);
    assert_eq!(data(&mut zoo, reader, "/a").map(|(data, _)| data), Some(Bytes::from("one")));
    assert_eq!(multi(&mut zoo, reader, &[check("/a", 1)]), DONE);
    assert_eq!(data(&mut zoo, reader, "/a").map(|(data, _)| data), Some(Bytes::from("two")));
}

#[test]
fn a_refused_write_also_brings_its_server_up_to_date() {
    let (mut zoo, writer) = ensemble(2);
    let reader = zoo.connect(1);
    assert_eq!(multi(&mut zoo, writer, &[set("/a", "two", 0)]), DONE);
    assert_eq!(multi(&mut zoo, reader, &[check("/a", 0)]), refused(0, Reason::BadVersion));
    assert_eq!(data(&mut zoo, reader, "/a").map(|(data, _)| data), Some(Bytes::from("two")));
}

#[test]
fn a_session_never_goes_back_in_time_by_moving() {
    let (mut zoo, session) = ensemble(2);
    assert_eq!(zoo.cut(session, 0), Lost::default());
    assert_eq!(zoo.attach(session, 1), Err(AttachError::Behind));
    zoo.catch_up(1);
    assert_eq!(zoo.attach(session, 1), Ok(()));
    assert_eq!(data(&mut zoo, session, "/a").map(|(data, _)| data), Some(Bytes::from("one")));
}

#[test]
fn a_connection_serves_its_requests_in_order() {
    let (mut zoo, session) = ensemble(1);
    zoo.submit(session, RequestId(1), Request::Multi(vec![set("/a", "two", 0)]));
    zoo.submit(session, RequestId(2), Request::Multi(vec![set("/a", "lost", 0)]));
    zoo.submit(session, RequestId(3), exists("/a", false));
    assert_eq!(zoo.waiting(session), 3);
    while zoo.serve(session) == Served::Answered {}
    let outcomes: Vec<_> = zoo.deliveries(session);
    assert!(
        matches!(
            &outcomes[..],
            [
                Delivery::Outcome { id: RequestId(1), outcome: Outcome::Ok(Reply::Done) },
                Delivery::Outcome { id: RequestId(2), outcome: Outcome::Refused(Refusal { op: 0, reason: Reason::BadVersion }) },
                Delivery::Outcome { id: RequestId(3), outcome: Outcome::Ok(Reply::Stat(Some(stat))) },
            ] if stat.version == 1
        ),
        "{outcomes:?}"
    );
}

#[test]
fn a_watch_fires_once_when_its_server_learns_of_the_change() {
    let (mut zoo, writer) = ensemble(2);
    let reader = zoo.connect(1);
    zoo.execute(reader, &get("/a", true));
    assert_eq!(multi(&mut zoo, writer, &[set("/a", "two", 0)]), DONE);
    assert_eq!(changes(&mut zoo, reader), Vec::<String>::new());
    zoo.catch_up(1);
    assert_eq!(changes(&mut zoo, reader), ["/a"]);
    assert_eq!(multi(&mut zoo, writer, &[set("/a", "three", 1)]), DONE);
    zoo.catch_up(1);
    assert_eq!(changes(&mut zoo, reader), Vec::<String>::new());
}

#[test]
fn watches_fire_for_what_they_watch_and_nothing_else() {
    let (mut zoo, session) = ensemble(1);
    let watch = |zoo: &mut ZooModel, request: Request| {
        zoo.execute(session, &request);
        zoo.deliveries(session);
    };
    let after = |zoo: &mut ZooModel, op: Op| {
        assert_eq!(multi(zoo, session, std::slice::from_ref(&op)), DONE, "{op:?}");
        changes(zoo, session)
    };
    watch(&mut zoo, get("/none", true));
    watch(&mut zoo, children("/none", true));
    assert_eq!(after(&mut zoo, create("/none", "")), Vec::<String>::new());
    watch(&mut zoo, exists("/later", true));
    assert_eq!(after(&mut zoo, create("/later", "")), ["/later"]);
    watch(&mut zoo, get("/a", true));
    assert_eq!(after(&mut zoo, create("/a/b", "")), Vec::<String>::new());
    watch(&mut zoo, children("/a", true));
    assert_eq!(after(&mut zoo, set("/a", "two", 0)), ["/a"]);
    assert_eq!(after(&mut zoo, set("/a/b", "two", 0)), Vec::<String>::new());
    assert_eq!(after(&mut zoo, delete("/a/b", None)), ["/a"]);
    watch(&mut zoo, exists("/a", true));
    watch(&mut zoo, children("/a", true));
    assert_eq!(after(&mut zoo, delete("/a", None)), ["/a"]);
}

#[test]
fn a_watchs_news_comes_before_the_answer_that_shows_the_change() {
    let (mut zoo, session) = ensemble(1);
    zoo.execute(session, &get("/a", true));
    zoo.submit(session, RequestId(1), Request::Multi(vec![set("/a", "two", 0)]));
    assert_eq!(zoo.serve(session), Served::Answered);
    let deliveries = zoo.deliveries(session);
    assert!(
        matches!(&deliveries[..], [Delivery::Changed { path }, Delivery::Outcome { .. }] if path == "/a"),
        "{deliveries:?}"
    );
}

#[test]
fn a_broken_connection_takes_unanswered_requests_and_watches_with_it() {
    let (mut zoo, session) = ensemble(1);
    zoo.submit(session, RequestId(1), exists("/a", true));
    zoo.submit(session, RequestId(2), Request::Multi(vec![set("/a", "two", 0)]));
    assert_eq!(zoo.serve(session), Served::Answered);
    let lost = zoo.cut(session, 0);
    assert_eq!(lost, Lost { unanswered: vec![RequestId(1), RequestId(2)], watches: vec!["/a".to_owned()] });
    assert_eq!((zoo.attached(session), zoo.adrift(), zoo.alive(session)), (None, 0, true));
    assert_eq!(zoo.attach(session, 0), Ok(()));
    assert_eq!(data(&mut zoo, session, "/a").map(|(_, stat)| stat.version), Some(0));
}

#[test]
fn a_request_left_in_a_servers_socket_takes_effect_later_while_its_session_lives() {
    let (mut zoo, session) = ensemble(1);
    zoo.submit(session, RequestId(1), Request::Multi(vec![set("/a", "late", 0)]));
    zoo.submit(session, RequestId(2), Request::Multi(vec![set("/a", "never", 1)]));
    assert_eq!(zoo.cut(session, 1).unanswered, [RequestId(1), RequestId(2)]);
    let other = zoo.connect(0);
    assert_eq!(data(&mut zoo, other, "/a").map(|(_, stat)| stat.version), Some(0));
    assert_eq!((zoo.adrift(), zoo.serve_adrift(0), zoo.adrift()), (1, Late::Applied, 0));
    zoo.catch_up(0);
    assert_eq!(data(&mut zoo, other, "/a").map(|(data, _)| data), Some(Bytes::from("late")));
}

#[test]
fn a_late_request_is_refused_once_its_session_has_moved_or_ended() {
    for moved in [true, false] {
        let (mut zoo, session) = ensemble(2);
        zoo.submit(session, RequestId(1), Request::Multi(vec![set("/a", "late", 0)]));
        zoo.cut(session, 1);
        if moved {
            zoo.catch_up(1);
            assert_eq!(zoo.attach(session, 1), Ok(()));
            zoo.cut(session, 0);
        } else {
            zoo.expire(session);
        }
        assert_eq!(zoo.serve_adrift(0), Late::SessionGone, "moved={moved}");
        assert_eq!(zoo.head().get("/a").map(|znode| znode.version), Some(0));
    }
}

#[test]
fn a_late_request_is_judged_by_the_tree_it_meets() {
    let (mut zoo, session) = ensemble(1);
    zoo.submit(session, RequestId(1), Request::Multi(vec![check("/a", 0), create("/late", "")]));
    zoo.cut(session, 1);
    let sealer = zoo.connect(0);
    assert_eq!(multi(&mut zoo, sealer, &[set("/a", "sealed", 0)]), DONE);
    assert_eq!(zoo.serve_adrift(0), Late::Nothing);
    assert!(zoo.head().get("/late").is_none());
}

#[test]
fn the_end_of_a_session_deletes_its_ephemeral_znodes_on_every_server() {
    let (mut zoo, watcher) = ensemble(2);
    let holder = zoo.connect(1);
    assert_eq!(multi(&mut zoo, holder, &[ephemeral("/a/live")]), DONE);
    zoo.catch_up(0);
    zoo.execute(watcher, &exists("/a/live", true));
    zoo.cut(holder, 0);
    assert!(zoo.head().get("/a/live").is_some(), "a lost connection is not the end of a session");
    zoo.expire(holder);
    assert!(zoo.head().get("/a/live").is_none());
    zoo.catch_up(0);
    assert_eq!(changes(&mut zoo, watcher), ["/a/live"]);
    assert_eq!(zoo.attach(holder, 0), Err(AttachError::Expired));
}

#[test]
fn a_request_larger_than_the_servers_buffer_ends_the_connection() {
    let (mut zoo, session) = ensemble(1);
    let fitting = |bytes: usize| {
        let overhead = frame_bytes(&Request::Multi(vec![create("/a/b", "")]), 0);
        let data = Bytes::from(vec![0; bytes - overhead]);
        Request::Multi(vec![Op::Create { path: "/a/b".to_owned(), data, ephemeral: false }])
    };
    let outcome = zoo.execute(session, &fitting(JUTE_MAX_BUFFER + 1));
    assert_eq!(outcome, Outcome::Unknown("connection lost".to_owned()));
    assert_eq!(zoo.attached(session), None);
    assert_eq!(zoo.execute(session, &fitting(JUTE_MAX_BUFFER)), DONE);
}

#[test]
fn an_ensemble_that_goes_back_ends_every_session_and_forgets_what_came_after() {
    let (mut zoo, session) = ensemble(2);
    let backup = zoo.backup();
    let czxid = zoo.head().get("/a").map(|znode| znode.czxid);
    assert_eq!(multi(&mut zoo, session, &[set("/a", "two", 0)]), DONE);
    zoo.roll_back(&backup);
    assert_eq!((zoo.generation(), zoo.alive(session)), (1, false));
    let session = zoo.connect(1);
    assert_eq!(data(&mut zoo, session, "/a").map(|(_, stat)| (stat.version, Some(stat.czxid))), Some((0, czxid)));
    zoo.wipe();
    let session = zoo.connect(0);
    assert_eq!(data(&mut zoo, session, "/"), None);
    assert_eq!(multi(&mut zoo, session, &[create("/a", "")]), refused(0, Reason::NoNode));
}

#[test]
fn a_hand_in_the_tree_is_seen_by_every_server() {
    let (mut zoo, session) = ensemble(2);
    assert_eq!(multi(&mut zoo, session, &[create("/a/b", ""), create("/a/b/c", "")]), DONE);
    zoo.tamper("/a/b", None);
    assert_eq!(data(&mut zoo, session, "/a/b/c"), None);
    zoo.tamper("/a", Some(Bytes::from("foreign")));
    assert_eq!(
        data(&mut zoo, session, "/a").map(|(data, stat)| (data, stat.version, stat.num_children)),
        Some((Bytes::from("foreign"), 1, 0))
    );
}
