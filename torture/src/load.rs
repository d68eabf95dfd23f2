//! Clients that write and read through the public HTTP interface, and note what they were told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::chain;
use super::history::{Clock, Outcome, Record, Request, Value};
use super::http::{Failure, Http};

/// Keys that are read, written, swapped and deleted.
pub(crate) const REGISTERS: &str = "r/";
/// Keys that count.
pub(crate) const COUNTERS: &str = "c/";
/// Keys that hold balances.
pub(crate) const ACCOUNTS: &str = "a/";
/// Keys that are written once and deleted once, and listed.
pub(crate) const SETS: &str = "s/";
/// What the balances of an account sum up to.
pub(crate) const ACCOUNTS_SUM: i64 = 1000;
/// The process that reads every key when all is over.
pub(crate) const LAST_PROCESS: u64 = 1_000_000_000;

const REGISTERS_COUNT: usize = 6;
const COUNTERS_COUNT: u64 = 3;
const BALANCES: usize = 10;
/// After so many requests, or so many of unknown outcome, a register gets a new key: every unknown deletion doubles
/// what a checker must think of.
const REGISTER_REQUESTS_MAX: u64 = 3000;
const REGISTER_UNKNOWN_MAX: u64 = 6;
/// Keys of one set. A scan is a read of each.
const SET_KEYS_MAX: u64 = 24;
/// How long a client goes on trying what was refused, before it counts as refused.
const REFUSED_LIMIT: Duration = Duration::from_secs(2);
const REFUSED_PAUSE_MS: u64 = 40;
const REDIRECTS_MAX: u32 = 3;

/// How clients behave.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// Where the nodes are.
    pub(crate) nodes: Vec<SocketAddr>,
    /// How many clients there are.
    pub(crate) clients: u64,
    /// How long a client pauses after a request.
    pub(crate) pause: Duration,
    /// How long a client waits for an answer before the outcome counts as unknown.
    pub(crate) timeout: Duration,
    /// Seeds their choices.
    pub(crate) seed: u64,
}

/// What clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    clock: Clock,
    acknowledged: AtomicU64,
    /// Every value is used once.
    values: AtomicU64,
    processes: AtomicU64,
    registers: Mutex<Vec<Register>>,
    set: Mutex<Set>,
    wrong: Mutex<Vec<String>>,
}

#[derive(Clone, Debug, Default)]
struct Register {
    generation: u64,
    requests: u64,
    unknown: u64,
    /// What it is believed to hold, so that swaps succeed now and then.
    belief: Value,
}

#[derive(Clone, Debug, Default)]
struct Set {
    generation: u64,
    keys: u64,
    /// Keys whose writing was acknowledged and whose deletion nobody asked for.
    present: Vec<String>,
}

impl Shared {
    /// Nothing was asked yet.
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            acknowledged: AtomicU64::new(0),
            values: AtomicU64::new(1),
            processes: AtomicU64::new(0),
            registers: Mutex::new(vec![Register::default(); REGISTERS_COUNT]),
            set: Mutex::new(Set::default()),
            wrong: Mutex::new(Vec::new()),
        })
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Answers that no node must ever give.
    pub(crate) fn wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    fn process(&self) -> u64 {
        self.processes.fetch_add(1, Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<Vec<Record>>,
}

impl Load {
    /// Sets clients to work.
    pub(crate) fn start(manner: &Manner, shared: &Arc<Shared>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for id in 0..manner.clients {
            let seed = manner.seed ^ (id + 1).rotate_left(32);
            clients.spawn(Client::new(manner, shared, seed).work(stopped.clone()));
        }
        Self { stop, clients }
    }

    /// Lets every client end what it is at; returns what all of them noted.
    pub(crate) async fn stop(mut self) -> Vec<Record> {
        self.stop.send_replace(true);
        let mut records = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            match ended {
                Ok(noted) => records.extend(noted),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        records
    }
}

/// One client. It asks for one thing at a time.
#[derive(Debug)]
pub(crate) struct Client {
    process: u64,
    http: Http,
    nodes: Vec<SocketAddr>,
    current: usize,
    random: StdRng,
    pause: Duration,
    shared: Arc<Shared>,
    records: Vec<Record>,
}

impl Client {
    /// A client that has asked for nothing.
    pub(crate) fn new(manner: &Manner, shared: &Arc<Shared>, seed: u64) -> Self {
        Self {
            process: shared.process(),
            http: Http::new(manner.timeout),
            nodes: manner.nodes.clone(),
            current: 0,
            random: StdRng::seed_from_u64(seed),
            pause: manner.pause,
            shared: Arc::clone(shared),
            records: Vec::new(),
        }
    }

    async fn work(mut self, stopped: watch::Receiver<bool>) -> Vec<Record> {
        while !*stopped.borrow() {
            match self.random.random_range(0..100) {
                0..40 => self.register().await,
                40..60 => self.count().await,
                60..75 => self.transfer().await,
                75..90 => self.set().await,
                _ => self.scan().await,
            }
            tokio::time::sleep(self.pause).await;
        }
        self.records
    }

    async fn register(&mut self) {
        let slot = self.random.random_range(0..REGISTERS_COUNT);
        let (key, belief) = {
            let mut registers = lock(&self.shared.registers);
            let register = &mut registers[slot];
            if register.requests >= REGISTER_REQUESTS_MAX || register.unknown >= REGISTER_UNKNOWN_MAX {
                *register = Register { generation: register.generation + 1, ..Register::default() };
            }
            register.requests += 1;
            (format!("{REGISTERS}{slot}/{}", register.generation), register.belief.clone())
        };
        let value = Some(self.shared.value().to_string());
        let request = match self.random.random_range(0..100) {
            0..40 => Request::Read,
            40..70 => Request::Write(value),
            70..82 => Request::Swap { from: belief, to: value },
            82..90 => Request::Swap { from: belief, to: None },
            _ => Request::Write(None),
        };
        let outcome = self.ask(&key, &request).await;
        let mut registers = lock(&self.shared.registers);
        let register = &mut registers[slot];
        match (outcome, request) {
            (Outcome::Unknown, _) => register.unknown += 1,
            (Outcome::Value(value) | Outcome::Conflict(value), _) => register.belief = value,
            (Outcome::Done, Request::Write(to) | Request::Swap { to, .. }) => register.belief = to,
            _ => {}
        }
    }

    /// Adds one to a counter: reads it, and swaps what was read for one more.
    async fn count(&mut self) {
        let key = format!("{COUNTERS}{}", self.random.random_range(0..COUNTERS_COUNT));
        let Outcome::Value(from) = self.ask(&key, &Request::Read).await else { return };
        let Some(count) = chain::count(from.as_deref()) else { return self.wrong(&key, &from) };
        let to = Some(format!("{} {}", count + 1, self.shared.value()));
        self.ask(&key, &Request::Swap { from, to }).await;
    }

    /// Moves something from one balance to another.
    async fn transfer(&mut self) {
        let key = format!("{ACCOUNTS}0");
        let Outcome::Value(from) = self.ask(&key, &Request::Read).await else { return };
        let balances = match &from {
            None => Some(vec![ACCOUNTS_SUM / BALANCES as i64; BALANCES]),
            Some(value) => chain::balances(value).filter(|balances| balances.len() == BALANCES),
        };
        let Some(mut balances) = balances else { return self.wrong(&key, &from) };
        let (payer, payee) = (self.random.random_range(0..BALANCES), self.random.random_range(0..BALANCES));
        let amount = self.random.random_range(1..=20).min(balances[payer]);
        balances[payer] -= amount;
        balances[payee] += amount;
        let to = Some(chain::account(&balances, self.shared.value()));
        self.ask(&key, &Request::Swap { from, to }).await;
    }

    /// Writes a key of its own, or deletes one.
    async fn set(&mut self) {
        let number = self.shared.value();
        let (key, request) = {
            let mut set = lock(&self.shared.set);
            let delete = self.random.random_bool(0.4) && !set.present.is_empty();
            if delete {
                let place = self.random.random_range(0..set.present.len());
                (set.present.swap_remove(place), Request::Write(None))
            } else {
                if set.keys >= SET_KEYS_MAX {
                    *set = Set { generation: set.generation + 1, ..Set::default() };
                }
                set.keys += 1;
                (format!("{SETS}{}/{number}", set.generation), Request::Write(Some(number.to_string())))
            }
        };
        let outcome = self.ask(&key, &request).await;
        let mut set = lock(&self.shared.set);
        let current = key.starts_with(&format!("{SETS}{}/", set.generation));
        if outcome == Outcome::Done && request != Request::Write(None) && current {
            set.present.push(key);
        }
    }

    async fn scan(&mut self) {
        let prefix = format!("{SETS}{}/", lock(&self.shared.set).generation);
        self.ask(&prefix, &Request::Scan).await;
    }

    fn wrong(&self, key: &str, value: &Value) {
        lock(&self.shared.wrong).push(format!("{key} holds what nobody wrote: {value:?}"));
    }

    /// Asks until there is an answer, or the outcome is unknown, and notes it. Only what was refused is asked again:
    /// repeating what may have been done could do it twice.
    async fn ask(&mut self, key: &str, request: &Request) -> Outcome {
        let start = self.shared.clock.now();
        let changes = matches!(request, Request::Write(_) | Request::Swap { .. });
        let began = std::time::Instant::now();
        let mut redirects = 0;
        let outcome = loop {
            let failure = match self.http.ask(self.nodes[self.current], key, request).await {
                Ok(outcome) => break outcome,
                Err(failure) => failure,
            };
            self.turn(&failure, &mut redirects).await;
            if let Failure::Wrong(text) = &failure {
                lock(&self.shared.wrong).push(text.clone());
            }
            if changes && matches!(failure, Failure::Unknown | Failure::Wrong(_)) {
                break Outcome::Unknown;
            }
            if began.elapsed() > REFUSED_LIMIT {
                break Outcome::Refused;
            }
        };
        let end = self.shared.clock.now();
        if outcome == Outcome::Done {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        let record = Record {
            process: self.process,
            key: key.to_owned(),
            request: request.clone(),
            start,
            end,
            outcome: outcome.clone(),
        };
        self.records.push(record);
        if outcome == Outcome::Unknown && self.process != LAST_PROCESS {
            self.process = self.shared.process();
        }
        outcome
    }

    /// Chooses where the next attempt goes, and when.
    async fn turn(&mut self, failure: &Failure, redirects: &mut u32) {
        let named = match failure {
            Failure::Elsewhere(leader) => self.nodes.iter().position(|node| node == leader),
            Failure::Refused | Failure::Unknown | Failure::Wrong(_) => None,
        };
        self.current = named.unwrap_or((self.current + 1) % self.nodes.len());
        *redirects += 1;
        if named.is_none() || *redirects > REDIRECTS_MAX {
            *redirects = 0;
            let pause = self.random.random_range(1..=REFUSED_PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Asks for each of `keys`, and of prefixes, which end with `/`, for all keys below; however long that takes, up to
    /// `patience` each. Returns what was found, up to the first that nobody answered, and what was noted.
    pub(crate) async fn read_all(
        mut self,
        keys: impl IntoIterator<Item = String>,
        patience: Duration,
    ) -> (Vec<(String, Option<Outcome>)>, Vec<Record>) {
        self.process = LAST_PROCESS;
        let mut found = Vec::new();
        for key in keys {
            let request = if key.ends_with('/') { Request::Scan } else { Request::Read };
            let began = std::time::Instant::now();
            let answer = loop {
                match self.ask(&key, &request).await {
                    outcome @ (Outcome::Value(_) | Outcome::Page(_)) => break Some(outcome),
                    _ if began.elapsed() > patience => break None,
                    _ => {}
                }
            };
            let nobody = answer.is_none();
            found.push((key, answer));
            if nobody {
                break;
            }
        }
        (found, self.records)
    }
}
