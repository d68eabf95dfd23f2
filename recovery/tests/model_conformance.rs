//! The in-memory model and a real server give the same answers to the same requests.
//!
//! Random scripts for two sessions; one seed, one script. `BEQUEST_SEED=n` runs that one alone.
#![cfg(feature = "zookeeper")]

mod rig;

use bequest_harness::{Installation, ZooKeeperServer};
use bequest_recovery::keeper::{KeeperEvent, Op, Outcome, Reply, Request, RequestId, Stat};
use bequest_recovery::model::{self, Delivery, SessionId, ZooModel};
use bequest_recovery::zookeeper::frame_bytes;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rig::*;
use std::collections::BTreeMap;
use zookeeper_client::{Acls, Client, CreateMode};

const SEEDS: u64 = 12;
const STEPS: usize = 150;
const HISTORY: usize = 40;
// Another user's, so that everything about it is denied.
const LOCKED: &str = "/locked";
const PATHS: [&str; 7] = ["/a", "/a/b", "/a/b/c", "/a/d", "/e", "/e/f", "/g"];
const RARE_PATHS: [&str; 3] = ["/none/h", LOCKED, "/locked/i"];
const BAD_PATHS: [&str; 4] = ["/a//b", "a", "/a/", "/a/./b"];

/// Which watches a script leaves. A deleted znode fires both kinds on it, and how often that is told is not promised;
/// so no script leaves both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watching {
    Content,
    Children,
}

struct Script {
    random: StdRng,
    watching: Watching,
    // Versions come from the model, so that many of them are right.
    versions: BTreeMap<String, i32>,
}

impl Script {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.random_range(0..from.len())]
    }

    fn path(&mut self) -> String {
        let rare = self.random.random_bool(0.05);
        if rare { self.pick(&RARE_PATHS) } else { self.pick(&PATHS) }.to_owned()
    }

    fn version(&mut self, path: &str) -> i32 {
        let right = self.versions.get(path).copied().unwrap_or_default();
        if self.random.random_bool(0.75) {
            right
        } else {
            right + self.random.random_range(1..3)
        }
    }

    fn op(&mut self) -> Op {
        let path = self.path();
        let version = self.version(&path);
        let data = Bytes::from(vec![b'x'; self.random.random_range(0..20)]);
        match self.random.random_range(0..10) {
            0..=1 => Op::Check { path, version },
            2..=5 => Op::Create { path, data, ephemeral: self.random.random_bool(0.2) },
            6..=7 => Op::Set { path, data, version },
            // Whoever may change the parent may delete it, and create it unlocked.
            _ if path == LOCKED => Op::Check { path, version },
            _ => Op::Delete { path, version: self.random.random_bool(0.7).then_some(version) },
        }
    }

    fn request(&mut self) -> Request {
        if self.random.random_bool(0.03) {
            // Alone, because the keeper does not even send it: what else a multi is refused for remains unsaid.
            let path = self.pick(&BAD_PATHS).to_owned();
            return Request::Multi(vec![Op::Check { path, version: 0 }]);
        }
        if self.random.random_bool(0.6) {
            let count = self.pick(&[1, 1, 1, 2, 2, 3, 4]);
            return Request::Multi((0..count).map(|_| self.op()).collect());
        }
        let path = self.path();
        let watch = self.random.random_bool(0.5);
        match self.random.random_range(0..3) {
            0 => Request::Get { path, watch: watch && self.watching == Watching::Content },
            // Older servers let everybody ask whether a znode exists, newer ones do not.
            1 if path != LOCKED => Request::Exists { path, watch: watch && self.watching == Watching::Content },
            _ => Request::Children { path, watch: watch && self.watching == Watching::Children },
        }
    }
}

/// A session of the model and its twin on the real server, with how often each path was reported as changed.
struct Twin {
    session: SessionId,
    rig: Rig,
    changed: BTreeMap<String, usize>,
}

impl Twin {
    async fn connect(zoo: &mut ZooModel, server: &ZooKeeperServer, chroot: &str) -> Self {
        let rig = Rig::start(below(server.address(), chroot));
        rig.wait_connected(1).await;
        Self { session: zoo.connect(0), rig, changed: BTreeMap::new() }
    }

    /// Waits until the real session was told of every change the model's was told of, and compares. Being told once
    /// more is allowed: a watch that was just replaced by a newer one may still fire with it.
    async fn compare_changes(&mut self, zoo: &mut ZooModel, context: &str, history: &[String]) {
        for delivery in zoo.deliveries(self.session) {
            if let Delivery::Changed { path } = delivery {
                *self.changed.entry(path).or_default() += 1;
            }
        }
        for (path, count) in &self.changed {
            self.rig.wait_changed(path, *count).await;
        }
        let told = self.rig.events().into_iter().filter_map(|event| match event {
            KeeperEvent::Changed { path } => Some(path),
            _ => None,
        });
        let untrue: Vec<String> = told.filter(|path| !self.changed.contains_key(path)).collect();
        assert!(untrue.is_empty(), "{context}: told of changes that were none, {untrue:?}, after {history:#?}");
    }
}

/// What both must agree on: all but the transactions' numbers and the order of children.
fn comparable(outcome: Outcome) -> Outcome {
    let plain = |stat: Stat| Stat { czxid: 0, mzxid: i64::from(stat.czxid != stat.mzxid), ..stat };
    match outcome {
        Outcome::Ok(Reply::Data(Some((data, stat)))) => Outcome::Ok(Reply::Data(Some((data, plain(stat))))),
        Outcome::Ok(Reply::Stat(Some(stat))) => Outcome::Ok(Reply::Stat(Some(plain(stat)))),
        Outcome::Ok(Reply::Children(Some(mut names))) => {
            names.sort_unstable();
            Outcome::Ok(Reply::Children(Some(names)))
        }
        other => other,
    }
}

async fn run_script(server: &ZooKeeperServer, owner: &Client, seed: u64, reached: &mut BTreeMap<String, usize>) {
    let chroot = format!("/{seed}");
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    owner.create(&chroot, b"", &options).await.expect("the server takes writes");
    let locked = CreateMode::Persistent.with_acls(Acls::creator_all());
    owner.create(&format!("{chroot}{LOCKED}"), b"", &locked).await.expect("the server takes writes");

    let mut zoo = ZooModel::new(1);
    let operator = zoo.connect(0);
    zoo.execute(operator, &Request::Multi(vec![create("/", b""), create(LOCKED, b"")]));
    zoo.deny(LOCKED, true);

    let mut twins = [Twin::connect(&mut zoo, server, &chroot).await, Twin::connect(&mut zoo, server, &chroot).await];
    let watching = if seed.is_multiple_of(2) { Watching::Content } else { Watching::Children };
    let mut script = Script { random: StdRng::seed_from_u64(seed), watching, versions: BTreeMap::new() };
    // What a failure shows.
    let mut history = Vec::new();
    for step in 0..STEPS {
        let context = format!("seed={seed}, step={step}");
        let at = script.random.random_range(0..2);
        script.versions = zoo.head().iter().map(|(path, znode)| (path.to_owned(), znode.version)).collect();
        let requests: Vec<Request> = (0..script.random.random_range(1..5)).map(|_| script.request()).collect();
        let twin = &twins[at];
        let ids: Vec<RequestId> = requests.iter().map(|request| twin.rig.submit(request.clone())).collect();
        let real = twin.rig.outcomes(&ids).await;
        for (request, real) in requests.into_iter().zip(real) {
            let (real, model) = (comparable(real), comparable(zoo.execute(twin.session, &request)));
            assert_eq!(real, model, "{context}: real and model differ on {request:?} after {history:#?}");
            history.push(format!("session {at}: {request:?}: {real:?}"));
            history.drain(..history.len().saturating_sub(HISTORY));
            *reached.entry(kind(&real)).or_default() += 1;
        }
        for twin in &mut twins {
            // Whatever was to be told to this session is told before this answer.
            twin.rig.ask(exists("/")).await;
            twin.compare_changes(&mut zoo, &context, &history).await;
        }
        if script.random.random_bool(0.03) {
            let fresh = Twin::connect(&mut zoo, server, &chroot).await;
            let mut old = std::mem::replace(&mut twins[at], fresh);
            old.rig.close().await;
            zoo.expire(old.session);
            // A single server is never behind.
            zoo.catch_up(0);
            history.push(format!("session {at} ended and another began"));
        }
    }
}

fn kind(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Ok(Reply::Done) => "done".to_owned(),
        Outcome::Ok(_) => "read".to_owned(),
        Outcome::Refused(refusal) => format!("{:?}", refusal.reason),
        Outcome::Unknown(cause) => panic!("unknown without a fault: {cause}"),
    }
}

async fn conform(installation: &Installation) {
    let server = server(installation).await;
    let address = server.address().to_string();
    let owner = Client::connector().with_auth("digest", b"owner:secret").connect(&address).await;
    let owner = owner.expect("the server accepts clients");
    let seeds = match std::env::var("BEQUEST_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    let every = seeds.clone().count() > 1;
    let mut reached = BTreeMap::new();
    for seed in seeds {
        run_script(&server, &owner, seed, &mut reached).await;
    }
    println!("reached: {reached:?}");
    let wanted = [
        "done",
        "read",
        "NoNode",
        "NodeExists",
        "BadVersion",
        "NotEmpty",
        "NoAuth",
        "NoChildrenForEphemerals",
        "BadArguments",
    ];
    let missed: Vec<_> = wanted.iter().filter(|kind| !reached.contains_key(**kind)).collect();
    assert!(!every || missed.is_empty(), "the scripts never reached {missed:?}, only {reached:?}");
}

#[tokio::test]
async fn model_and_server_agree_on_every_outcome_and_every_watch() {
    for installation in installations() {
        conform(&installation).await;
    }
}

#[test]
fn model_and_keeper_agree_on_the_size_of_requests() {
    let mut script =
        Script { random: StdRng::seed_from_u64(1), watching: Watching::Content, versions: BTreeMap::new() };
    for _ in 0..1000 {
        let chroot = script.random.random_range(0..30);
        let ops: Vec<Op> = (0..script.random.random_range(1..5)).map(|_| script.op()).collect();
        assert_eq!(frame_bytes(chroot, &ops), model::frame_bytes(&Request::Multi(ops.clone()), chroot), "{ops:?}");
    }
}
