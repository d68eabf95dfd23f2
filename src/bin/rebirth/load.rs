//! The clients: they write and read without end, and note what they were told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use bequest_harness::kv::{Failure, Kv};

use super::ledger::Ledger;
use super::value::{filler_key, lasting_value, unique_key, FILLER_BYTES};

/// Registers each client overwrites.
pub(crate) const SLOTS: u32 = 4;
/// Unique keys a client keeps; beyond, it deletes its oldest.
const UNIQUES_KEPT: u64 = 500;
/// Before the next attempt after a refusal: short, because this is the resolution downtime is measured with.
const REFUSED_PAUSE_MS: u64 = 3;
/// Redirects followed in a row before pausing.
const REDIRECTS_MAX: u32 = 2;
/// Fillers written at once.
const FILL_WINDOW: u64 = 8;

/// How clients behave.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// The nodes' HTTP addresses.
    pub(crate) nodes: Vec<SocketAddr>,
    /// How many clients.
    pub(crate) clients: u32,
    /// Pause after an answered operation.
    pub(crate) pause: Duration,
    /// How long to wait for an answer.
    pub(crate) attempt_timeout: Duration,
    /// Seeds their choices.
    pub(crate) seed: u64,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Sets the clients to work.
    pub(crate) fn start(manner: &Manner, ledger: &Arc<Ledger>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for id in 0..manner.clients {
            let client = Client {
                id,
                kv: Kv::new(manner.attempt_timeout),
                nodes: manner.nodes.clone(),
                current: id as usize % manner.nodes.len(),
                random: StdRng::seed_from_u64(manner.seed ^ (u64::from(id) << 32)),
                pause: manner.pause,
                ledger: Arc::clone(ledger),
                stopped: stopped.clone(),
                uniques: 0,
                kept: std::collections::VecDeque::new(),
            };
            clients.spawn(client.work());
        }
        Self { stop, clients }
    }

    /// Lets every client end what it is at, and waits for that.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
    }

    /// Whether a client ended before it was told to, which is a defect of the demo itself.
    pub(crate) fn is_broken(&mut self) -> bool {
        self.clients.try_join_next().is_some()
    }
}

#[derive(Debug)]
struct Client {
    id: u32,
    kv: Kv,
    nodes: Vec<SocketAddr>,
    current: usize,
    random: StdRng,
    pause: Duration,
    ledger: Arc<Ledger>,
    stopped: watch::Receiver<bool>,
    uniques: u64,
    kept: std::collections::VecDeque<u64>,
}

impl Client {
    async fn work(mut self) {
        while !*self.stopped.borrow() {
            match self.random.random_range(0..100) {
                0..55 => self.overwrite().await,
                55..70 => self.write_unique().await,
                _ => self.read().await,
            }
            tokio::time::sleep(self.pause).await;
        }
    }

    async fn overwrite(&mut self) {
        let slot = self.random.random_range(0..SLOTS);
        let (number, value) = self.ledger.register_write_began(self.id, slot);
        let key = super::value::register_key(self.id, slot);
        if let Some(index) = self.write(&key, Some(value)).await {
            self.ledger.register_write_acknowledged(self.id, slot, number, index);
        }
    }

    async fn write_unique(&mut self) {
        if self.kept.len() as u64 >= UNIQUES_KEPT {
            let Some(oldest) = self.kept.pop_front() else { return };
            let key = unique_key(self.id, oldest);
            self.ledger.delete_began(&key);
            if let Some(index) = self.write(&key, None).await {
                self.ledger.delete_acknowledged(&key, index);
            }
            return;
        }
        self.uniques += 1;
        let count = self.uniques;
        let key = unique_key(self.id, count);
        self.ledger.lasting_write_began(&key);
        if let Some(index) = self.write(&key, Some(lasting_value(&key))).await {
            self.ledger.lasting_write_acknowledged(&key, index);
            self.kept.push_back(count);
        }
    }

    async fn read(&mut self) {
        let position = self.random.random_range(0..self.ledger.registers());
        let key = self.ledger.register_key(position);
        let start = self.ledger.clock().now();
        let mut redirects = 0;
        while !*self.stopped.borrow() {
            match self.kv.get(self.nodes[self.current], &key).await {
                Ok(value) => return self.ledger.register_read(position, start, value.as_deref()),
                // A read may always be tried again; it began when its first attempt did.
                Err(failure) => self.after(&failure, &mut redirects).await,
            }
        }
    }

    /// Writes (or, without a value, deletes) until that is acknowledged or its outcome unknown. Only a refused
    /// attempt is made again: repeating one of unknown outcome could apply an old value over a newer one.
    async fn write(&mut self, key: &str, value: Option<String>) -> Option<u64> {
        let mut redirects = 0;
        while !*self.stopped.borrow() {
            let node = self.nodes[self.current];
            let answer = match &value {
                Some(value) => self.kv.put(node, key, value.clone()).await,
                None => self.kv.delete(node, key).await,
            };
            match answer {
                Ok(index) => return Some(index),
                Err(failure @ Failure::Unknown(_)) => {
                    self.ledger.write_unknown();
                    self.after(&failure, &mut redirects).await;
                    return None;
                }
                Err(failure) => {
                    self.ledger.refused();
                    self.after(&failure, &mut redirects).await;
                }
            }
        }
        None
    }

    /// Chooses where the next attempt goes, and when.
    async fn after(&mut self, failure: &Failure, redirects: &mut u32) {
        let named = match failure {
            Failure::Elsewhere(leader) => self.nodes.iter().position(|node| node == leader),
            Failure::Refused | Failure::Unknown(_) => None,
        };
        self.current = named.unwrap_or((self.current + 1) % self.nodes.len());
        *redirects += 1;
        if named.is_none() || *redirects > REDIRECTS_MAX {
            *redirects = 0;
            let pause = self.random.random_range(1..=REFUSED_PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Writes fillers of `bytes` in sum, every one until it is acknowledged.
pub(crate) async fn fill(manner: &Manner, ledger: &Arc<Ledger>, bytes: u64) {
    let count = bytes.div_ceil(FILLER_BYTES as u64);
    let mut writers = JoinSet::new();
    for writer in 0..FILL_WINDOW.min(count) {
        let (kv, nodes, ledger) = (Kv::new(Duration::from_secs(5)), manner.nodes.clone(), Arc::clone(ledger));
        writers.spawn(async move {
            let mut current = 0;
            for filler in (writer..count).step_by(FILL_WINDOW as usize) {
                let key = filler_key(filler);
                ledger.lasting_write_began(&key);
                // The same value again is harmless here: the key is written by nobody else and never deleted.
                loop {
                    match kv.put(nodes[current], &key, lasting_value(&key)).await {
                        Ok(index) => break ledger.lasting_write_acknowledged(&key, index),
                        Err(Failure::Elsewhere(leader)) => {
                            current = nodes.iter().position(|node| *node == leader).unwrap_or(current);
                        }
                        Err(_) => {
                            current = (current + 1) % nodes.len();
                            tokio::time::sleep(Duration::from_millis(REFUSED_PAUSE_MS)).await;
                        }
                    }
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
}
