//! The whole demo against a world of our own that can be told to lie.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::extract::{Path, Query, State};
use axum::http::{header, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use clap::Parser;
use serde_json::json;

use super::Run;
use crate::clock::Clock;
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::load::{Manner, SLOTS};
use crate::options::Options;
use crate::summary::Summary;
use crate::world::{Address, World};

/// What the world does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    None,
    /// Acknowledges one client's register writes without doing them, once a disk was deleted.
    AcknowledgesForNothing,
    /// Forgets the newest unique key when the leader dies.
    LosesUniqueOnDeath,
    /// Answers every tenth read from the past.
    ReadsThePast,
    /// The follower's own state lacks a key.
    FollowerLacksKey,
    /// Never serves again after the leader died.
    StaysDown,
}

#[derive(Debug)]
struct Shared {
    lie: Lie,
    alive: [bool; 2],
    leader: usize,
    term: u64,
    index: u64,
    reads: u64,
    wiped: bool,
    keys: BTreeMap<String, String>,
    past: BTreeMap<String, String>,
}

type Fake = Arc<Mutex<Shared>>;

fn lock(fake: &Fake) -> MutexGuard<'_, Shared> {
    fake.lock().unwrap_or_else(PoisonError::into_inner)
}

struct FakeWorld {
    shared: Fake,
    addresses: [Address; 2],
}

impl FakeWorld {
    async fn start(lie: Lie) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            lie,
            alive: [true; 2],
            leader: 0,
            term: 1,
            index: 0,
            reads: 0,
            wiped: false,
            keys: BTreeMap::new(),
            past: BTreeMap::new(),
        }));
        let mut listeners = Vec::new();
        for _ in 0..2 {
            listeners.push(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port"));
        }
        let http: Vec<SocketAddr> = listeners.iter().map(|it| it.local_addr().expect("it is bound")).collect();
        let addresses = [Address { id: 1, http: http[0] }, Address { id: 2, http: http[1] }];
        for (node, listener) in listeners.into_iter().enumerate() {
            let state = FakeNode { node, shared: Arc::clone(&shared), addresses };
            let app = Router::new()
                .route("/kv", get(list))
                .route("/kv/{*key}", get(read).put(write).delete(remove))
                .route("/status", get(status))
                .with_state(state);
            tokio::spawn(async move { axum::serve(listener, app).await });
        }
        Self { shared, addresses }
    }

    fn take_over(&self) {
        let mut shared = lock(&self.shared);
        if let Some(heir) = (0..2).find(|node| shared.alive[*node]) {
            shared.leader = heir;
            shared.term += 1;
        }
    }
}

impl World for FakeWorld {
    fn addresses(&self) -> [Address; 2] {
        self.addresses
    }

    fn start(&mut self, node: usize) -> Result<()> {
        lock(&self.shared).alive[node] = true;
        self.take_over();
        Ok(())
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        let mut shared = lock(&self.shared);
        shared.alive[node] = false;
        if shared.lie == Lie::LosesUniqueOnDeath {
            let newest = shared.keys.keys().rfind(|key| key.starts_with("u/")).cloned();
            shared.keys.remove(&newest.unwrap_or_default());
        }
        if shared.lie == Lie::StaysDown {
            return Ok(());
        }
        drop(shared);
        self.take_over();
        Ok(())
    }

    async fn bury(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn wipe(&mut self, _: usize) -> Result<()> {
        lock(&self.shared).wiped = true;
        Ok(())
    }

    async fn freeze(&mut self, node: usize) -> Result<()> {
        self.kill(node)
    }

    fn thaw(&mut self, node: usize) -> Result<()> {
        lock(&self.shared).alive[node] = true;
        Ok(())
    }

    async fn shut_down(&mut self, node: usize) -> Result<()> {
        self.kill(node)
    }

    async fn kill_zookeeper(&mut self) -> Result<String> {
        Ok("nothing".to_owned())
    }

    async fn restart_zookeeper(&mut self) -> Result<()> {
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Clone)]
struct FakeNode {
    node: usize,
    shared: Fake,
    addresses: [Address; 2],
}

impl FakeNode {
    /// The shared state if this node leads, else what it answers instead.
    fn leading(&self, path: &str) -> Result<MutexGuard<'_, Shared>, Box<Response>> {
        let shared = lock(&self.shared);
        let leader = shared.leader;
        if !shared.alive[self.node] || !shared.alive[leader] {
            return Err(Box::new(StatusCode::SERVICE_UNAVAILABLE.into_response()));
        }
        if leader != self.node {
            let location = format!("http://{}{path}", self.addresses[leader].http);
            let redirect = (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]);
            return Err(Box::new(redirect.into_response()));
        }
        Ok(shared)
    }
}

async fn write(State(node): State<FakeNode>, Path(key): Path<String>, body: String) -> Response {
    let mut shared = match node.leading(&format!("/kv/{key}")) {
        Ok(shared) => shared,
        Err(response) => return *response,
    };
    shared.index += 1;
    let index = shared.index;
    if index % 50 == 0 {
        shared.past = shared.keys.clone();
    }
    let register = key.starts_with("r/");
    let drops = shared.lie == Lie::AcknowledgesForNothing && shared.wiped && key.starts_with("r/0000/");
    if !drops {
        shared.keys.insert(key, body);
    }
    // Now and then the answer is lost though the write took effect.
    if register && index % 97 == 0 {
        return StatusCode::GATEWAY_TIMEOUT.into_response();
    }
    Json(json!({ "index": index })).into_response()
}

async fn remove(State(node): State<FakeNode>, Path(key): Path<String>) -> Response {
    let mut shared = match node.leading(&format!("/kv/{key}")) {
        Ok(shared) => shared,
        Err(response) => return *response,
    };
    shared.index += 1;
    shared.keys.remove(&key);
    Json(json!({ "index": shared.index })).into_response()
}

async fn read(State(node): State<FakeNode>, Path(key): Path<String>) -> Response {
    let mut shared = match node.leading(&format!("/kv/{key}")) {
        Ok(shared) => shared,
        Err(response) => return *response,
    };
    shared.reads += 1;
    let lies = shared.lie == Lie::ReadsThePast && shared.reads % 10 == 0;
    let keys = if lies { &shared.past } else { &shared.keys };
    keys.get(&key).cloned().map_or(StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}

async fn list(State(node): State<FakeNode>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let stale = query["stale"] == "true";
    let answer = if stale { Ok(lock(&node.shared)) } else { node.leading("/kv") };
    let shared = match answer {
        Ok(shared) => shared,
        Err(response) => return *response,
    };
    let limit: usize = query["limit"].parse().expect("a number");
    let hides = stale && shared.lie == Lie::FollowerLacksKey && shared.leader != node.node;
    let mut found: Vec<_> = shared
        .keys
        .iter()
        .filter(|(key, _)| key.starts_with(&query["prefix"]) && key.as_str() > query["after"].as_str())
        .skip(usize::from(hides))
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .take(limit + 1)
        .collect();
    let more = found.len() > limit;
    found.truncate(limit);
    Json(json!({ "entries": found, "more": more })).into_response()
}

async fn status(State(node): State<FakeNode>) -> Response {
    let shared = lock(&node.shared);
    if !shared.alive[node.node] {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let role = if shared.leader == node.node { "leader" } else { "follower" };
    Json(json!({ "role": role, "term": shared.term, "applied": shared.index })).into_response()
}

/// A short run of every step in a world with one defect.
async fn run(lie: Lie, steps: &str) -> Summary {
    let arguments = [
        "rebirth",
        "--cycles",
        "1",
        "--steps",
        steps,
        "--patience",
        "3s",
        "--session-timeout",
        "300ms",
        "--clients",
        "3",
    ];
    let options = Options::try_parse_from(arguments).expect("known options");
    let world = FakeWorld::start(lie).await;
    let clock = Clock::start();
    let ledger = Arc::new(Ledger::new(clock, options.clients, SLOTS));
    let manner = Manner {
        nodes: world.addresses.map(|address| address.http).to_vec(),
        clients: options.clients,
        pause: Duration::from_millis(1),
        attempt_timeout: Duration::from_secs(2),
        seed: 3,
    };
    let run = Run::new(world, Arc::clone(&ledger), Journal::new(clock, false), manner, &options, 3);
    let (journal, cycles) = run.all().await.expect("the fake world serves at first");
    Summary::new(&journal, &ledger, cycles, 3)
}

#[tokio::test]
async fn an_honest_world_passes_every_step() {
    let summary = run(Lie::None, "a,b,c,d,e,f,g,h,i").await;
    assert!(summary.succeeded(), "{:?} {:?}", summary.violations, summary.failures);
    assert_eq!(summary.cycles, 1);
    assert!(
        summary.totals.acked > 100 && summary.totals.unknown > 0 && summary.totals.reads > 0,
        "{:?}",
        summary.totals
    );
    let letters: String = summary.rows.iter().filter_map(|row| row.kind.chars().next()).collect();
    assert_eq!(letters, "abccdefgghi");
}

#[tokio::test]
async fn register_writes_lost_after_both_disks_were_are_found() {
    let summary = run(Lie::AcknowledgesForNothing, "f").await;
    assert!(summary.totals.lost > 0, "{}", summary.last_line());
    assert!(!summary.succeeded());
}

#[tokio::test]
async fn a_unique_key_lost_with_the_leader_is_found() {
    let summary = run(Lie::LosesUniqueOnDeath, "a").await;
    assert_eq!(summary.totals.lost, 1, "{:?}", summary.violations);
    assert!(!summary.succeeded());
}

#[tokio::test]
async fn a_read_of_the_past_is_found() {
    let summary = run(Lie::ReadsThePast, "b").await;
    assert!(summary.totals.stale > 0, "{}", summary.last_line());
    assert!(!summary.succeeded());
}

#[tokio::test]
async fn a_follower_that_lacks_a_key_is_found() {
    let summary = run(Lie::FollowerLacksKey, "b").await;
    assert!(summary.totals.lost > 0, "{:?}", summary.violations);
    assert!(summary.violations.iter().all(|found| found.what.contains("own state")), "{:?}", summary.violations);
}

#[tokio::test]
async fn a_world_that_stays_down_fails_the_step() {
    let summary = run(Lie::StaysDown, "a").await;
    assert!(!summary.succeeded());
    assert!(summary.failures[0].contains("not served within 3s"), "{:?}", summary.failures);
    assert_eq!(summary.cycles, 0);
}
