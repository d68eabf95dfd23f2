//! The faults, one by one, and what is checked after each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use bequest_harness::kv::{Kv, Status, Succession};

use super::clock::Moment;
use super::journal::{Journal, Outage};
use super::ledger::Ledger;
use super::load::{fill, Load, Manner};
use super::options::{Options, Step};
use super::summary::bytes;
use super::verify::Verifier;
use super::world::{Address, World};

const POLL: Duration = Duration::from_millis(5);
/// How long clients are watched after they are served again, so that a second outage of the same fault counts too.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a node may take to answer about itself.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// Of the session timeout, how long a leader stays stopped.
const FREEZE_PERCENT: u32 = 160;
/// Acknowledged writes that a node alone must bring about before it dies too.
const ALONE_ACKS: usize = 100;

/// A run of the schedule on a world.
pub(crate) struct Run<W> {
    world: W,
    kv: Kv,
    verifier: Verifier,
    ledger: Arc<Ledger>,
    journal: Journal,
    manner: Manner,
    cycles: u64,
    steps: Vec<Step>,
    session_timeout: Duration,
    patience: Duration,
    state_bytes: u64,
    random: StdRng,
}

impl<W: World> Run<W> {
    /// A run on `world`, whose nodes have been started.
    pub(crate) fn new(
        world: W,
        ledger: Arc<Ledger>,
        journal: Journal,
        manner: Manner,
        options: &Options,
        seed: u64,
    ) -> Self {
        Self {
            world,
            kv: Kv::new(STATUS_TIMEOUT),
            verifier: Verifier::new(options.patience),
            ledger,
            journal,
            manner,
            cycles: options.cycles,
            steps: options.steps.clone(),
            session_timeout: options.session_timeout,
            patience: options.patience,
            state_bytes: options.state_bytes,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Runs all cycles; returns what happened and how many cycles were completed. Ends early at a step that failed.
    ///
    /// # Errors
    /// If the clients are not served even before the first fault.
    pub(crate) async fn all(mut self) -> Result<(Journal, u64)> {
        let began = self.ledger.clock().now();
        if self.state_bytes > 0 {
            self.journal.tell(format!("writing {} of state first", bytes(self.state_bytes)));
            fill(&self.manner, &self.ledger, self.state_bytes).await;
        }
        let mut load = Load::start(&self.manner, &self.ledger);
        self.served_since(began, self.patience).await?;
        let leader = self.leader().await?;
        self.journal.tell(format!("{} clients are served; node {} leads", self.manner.clients, self.id(leader)));
        self.both_verified().await?;
        let mut cycles = 0;
        'cycles: for cycle in 1..=self.cycles {
            for step in self.steps.clone() {
                self.journal.begin(cycle, step);
                let mut result = self.step(step).await;
                if load.is_broken() {
                    result = Err(anyhow::anyhow!("a client of the demo itself ended"));
                }
                let failure = result.err().map(|error| format!("cycle {cycle}, step {}: {error:#}", step.letter()));
                self.journal.end(failure.clone());
                if let Some(failure) = failure {
                    self.journal.tell(format!("FAILED: {failure}"));
                    break 'cycles;
                }
            }
            cycles += 1;
        }
        load.stop().await;
        if cycles == self.cycles {
            self.journal.tell("clients are stopped; checking everything once more");
            self.both_verified().await?;
            self.archive_told().await;
        }
        Ok((self.journal, cycles))
    }

    /// Tells what ZooKeeper holds for the group in the end, as far as the leader knows it.
    async fn archive_told(&mut self) {
        let Ok(leader) = self.leader().await else { return };
        let Some(status) = self.status(leader).await else { return };
        self.journal.snapshot = status.snapshot;
        self.journal.tell(format!(
            "in ZooKeeper: a snapshot at index {}, and a log of {} in {} segments; the leader refused {} proposals as busy",
            status.snapshot,
            bytes(status.wal.bytes),
            status.wal.segments,
            status.busy
        ));
    }

    async fn step(&mut self, step: Step) -> Result<()> {
        self.linger(200, 800).await;
        match step {
            Step::A => self.leader_killed().await?,
            Step::B => self.follower_killed().await?,
            Step::C => self.one_after_the_other().await?,
            Step::D => self.both_killed(false).await?,
            Step::E => self.follower_wiped().await?,
            Step::F => self.both_killed(true).await?,
            Step::G => self.leader_frozen().await?,
            Step::H => self.zookeeper_killed().await?,
            Step::I => self.leader_shut_down().await?,
        }
        self.both_verified().await
    }

    async fn leader_killed(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        let fault = self.kill(leader, "the leader").await?;
        self.succeeded("a: leader killed", fault).await?;
        self.leader_verified().await?;
        self.give_back(leader)
    }

    async fn follower_killed(&mut self) -> Result<()> {
        let follower = 1 - self.leader().await?;
        let fault = self.kill(follower, "the follower").await?;
        self.undisturbed("b: follower killed", fault).await?;
        self.leader_verified().await?;
        self.give_back(follower)
    }

    async fn one_after_the_other(&mut self) -> Result<()> {
        let first = self.leader().await?;
        let second = 1 - first;
        let fault = self.kill(first, "the leader, A").await?;
        self.succeeded("c: A killed, B takes over", fault).await?;
        let alone = self.ledger.clock().now();
        self.acknowledged_since(alone, ALONE_ACKS, self.patience).await?;
        let fault = self.kill(second, "B, which committed alone").await?;
        self.give_back(first)?;
        self.succeeded("c: B killed, A returns alone", fault).await?;
        self.leader_verified().await?;
        self.give_back(second)
    }

    async fn both_killed(&mut self, wiped: bool) -> Result<()> {
        let fault = self.ledger.clock().now();
        // Both signals are sent before either death is waited for.
        self.world.kill(0)?;
        self.world.kill(1)?;
        self.world.bury(0).await?;
        self.world.bury(1).await?;
        if wiped {
            self.world.wipe(0)?;
            self.world.wipe(1)?;
        }
        self.journal.tell(if wiped { "killed both nodes and deleted both disks" } else { "killed both nodes" });
        self.give_back(0)?;
        self.give_back(1)?;
        let kind = if wiped { "f: both killed, both disks deleted" } else { "d: both killed" };
        self.succeeded(kind, fault).await?;
        self.leader_verified().await
    }

    async fn follower_wiped(&mut self) -> Result<()> {
        let follower = 1 - self.leader().await?;
        let fault = self.kill(follower, "the follower").await?;
        self.world.wipe(follower)?;
        self.journal.tell(format!("deleted the disk of node {}", self.id(follower)));
        self.undisturbed("e: follower killed, disk deleted", fault).await?;
        self.leader_verified().await?;
        self.give_back(follower)
    }

    async fn leader_frozen(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        let fault = self.ledger.clock().now();
        self.world.freeze(leader).await?;
        self.journal.tell(format!("stopped node {}, the leader (SIGSTOP)", self.id(leader)));
        self.succeeded("g: leader stopped", fault).await?;
        self.leader_verified().await?;
        let frozen = self.session_timeout * FREEZE_PERCENT / 100;
        tokio::time::sleep(frozen.saturating_sub(self.ledger.clock().now().since(fault))).await;
        let fault = self.ledger.clock().now();
        self.world.thaw(leader)?;
        self.journal.tell(format!("continued node {} (SIGCONT)", self.id(leader)));
        self.interrogated(leader).await;
        self.undisturbed("g: former leader continued", fault).await
    }

    /// Asks the node that was continued, and nobody else, for what it would have known as leader.
    async fn interrogated(&mut self, node: usize) {
        let http = self.address(node).http;
        for position in 0..self.ledger.registers() {
            let start = self.ledger.clock().now();
            if let Ok(value) = self.kv.get(http, &self.ledger.register_key(position)).await {
                self.ledger.register_read(position, start, value.as_deref());
            }
        }
    }

    async fn zookeeper_killed(&mut self) -> Result<()> {
        let fault = self.ledger.clock().now();
        let which = self.world.kill_zookeeper().await?;
        self.journal.tell(format!("killed {which}"));
        self.linger(100, 700).await;
        self.world.restart_zookeeper().await?;
        self.journal.tell("restarted it");
        self.succeeded("h: ZooKeeper killed and restarted", fault).await?;
        self.leader_verified().await
    }

    async fn leader_shut_down(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        let fault = self.ledger.clock().now();
        self.world.shut_down(leader).await?;
        let took = self.ledger.clock().now().since(fault);
        self.journal.tell(format!("node {}, the leader, shut down in {} ms", self.id(leader), took.as_millis()));
        self.succeeded("i: leader shut down", fault).await?;
        self.leader_verified().await?;
        self.give_back(leader)
    }

    /// Kills a node; returns the moment before.
    async fn kill(&mut self, node: usize, who: &str) -> Result<Moment> {
        let fault = self.ledger.clock().now();
        self.world.kill(node)?;
        self.journal.tell(format!("killed node {}, {who}", self.id(node)));
        self.world.bury(node).await?;
        Ok(fault)
    }

    fn give_back(&mut self, node: usize) -> Result<()> {
        self.world.start(node)?;
        self.journal.tell(format!("started node {}", self.id(node)));
        Ok(())
    }

    /// Waits until clients are served again after a fault that ended a leadership, and records what it took.
    async fn succeeded(&mut self, kind: &'static str, fault: Moment) -> Result<()> {
        self.observed(kind, fault, true).await
    }

    /// Waits until clients are served after a fault that need not have ended a leadership.
    async fn undisturbed(&mut self, kind: &'static str, fault: Moment) -> Result<()> {
        self.observed(kind, fault, false).await
    }

    async fn observed(&mut self, kind: &'static str, fault: Moment, succession: bool) -> Result<()> {
        self.served_since(fault, self.patience).await?;
        tokio::time::sleep(SETTLE).await;
        let (downtime, from, to) = self.ledger.longest_gap(fault, self.ledger.clock().now());
        let leader = self.leader().await?;
        let id = self.id(leader);
        let mut told =
            format!("served: {:.1} ms without an acknowledged write; node {id} leads", downtime.as_secs_f64() * 1e3);
        let succession = if succession { self.status(leader).await.map(|status| status.succession) } else { None };
        if let Some(Succession { entries, bytes: replayed, detect_us, seal_us, read_us, replay_us, stand_us }) =
            succession
        {
            told += &format!(", replayed {entries} entries, {}", bytes(replayed));
            let [detect, seal, read, replay, stand] =
                [detect_us, seal_us, read_us, replay_us, stand_us].map(|us| us as f64 / 1e3);
            told += &format!(
                " (detect {detect:.1}, seal {seal:.1}, read {read:.1}, replay {replay:.1}, stand {stand:.1} ms)"
            );
        }
        self.journal.tell(told);
        self.journal.step().outages.push(Outage { kind, fault, from, to, succession });
        Ok(())
    }

    /// Waits until a write that began after `moment` was acknowledged.
    async fn served_since(&self, moment: Moment, patience: Duration) -> Result<()> {
        // Every client has at most one write under way, so of one more than there are clients one began later.
        self.acknowledged_since(moment, self.manner.clients as usize + 1, patience).await
    }

    async fn acknowledged_since(&self, moment: Moment, count: usize, patience: Duration) -> Result<()> {
        let started = Instant::now();
        while self.ledger.acks_after(moment) < count {
            self.world.check()?;
            if started.elapsed() > patience {
                bail!("not served within {patience:?}: {}", self.all_statuses().await);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Checks every acknowledged write on the leader.
    async fn leader_verified(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        let verified = self.verifier.leader(&self.ledger, self.address(leader)).await?;
        self.verified(verified, &format!("on the leader, node {}", self.id(leader)))
    }

    /// Checks every acknowledged write on the leader, and on both nodes' own state once they have caught up.
    async fn both_verified(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        let mut verified = self.verifier.leader(&self.ledger, self.address(leader)).await?;
        for node in 0..2 {
            verified += self.verifier.own_state(&self.ledger, self.address(node)).await?;
            self.world.check()?;
        }
        self.verified(verified, "on the leader and in both nodes' own state")
    }

    fn verified(&mut self, verified: u64, place: &str) -> Result<()> {
        let totals = self.ledger.totals();
        if let Some(step) = self.journal.steps.last_mut() {
            step.verified += verified;
        }
        self.journal.tell(format!(
            "checked {verified} keys {place}: acked={} lost={} stale={}",
            totals.acked, totals.lost, totals.stale
        ));
        Ok(())
    }

    /// The position of the node that leads; waits for one.
    async fn leader(&self) -> Result<usize> {
        let started = Instant::now();
        loop {
            let statuses = [self.status(0).await, self.status(1).await];
            let leading = |node: &usize| statuses[*node].as_ref().is_some_and(|status| status.role == "leader");
            let term = |node: &usize| statuses[*node].as_ref().map_or(0, |status| status.term);
            // A deposed leader may not know it yet; the higher term tells.
            if let Some(leader) = [0, 1].into_iter().filter(leading).max_by_key(term) {
                return Ok(leader);
            }
            ensure!(
                started.elapsed() < self.patience,
                "nobody leads after {:?}: {}",
                self.patience,
                self.all_statuses().await
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn status(&self, node: usize) -> Option<Status> {
        self.kv.status(self.address(node).http).await.ok()
    }

    async fn all_statuses(&self) -> String {
        let mut told = Vec::new();
        for node in 0..2 {
            let id = self.id(node);
            told.push(match self.kv.status(self.address(node).http).await {
                Ok(Status { role, term, mode, reason, incarnation, applied, busy, .. }) => format!(
                    "node {id}: role={role} term={term} mode={mode} reason={reason:?} incarnation={incarnation} \
                     applied={applied} busy={busy}"
                ),
                Err(failure) => format!("node {id}: {failure:?}"),
            });
        }
        told.join("; ")
    }

    async fn linger(&mut self, min_ms: u64, max_ms: u64) {
        let pause = self.random.random_range(min_ms..=max_ms);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn address(&self, node: usize) -> Address {
        self.world.addresses()[node]
    }

    fn id(&self, node: usize) -> u64 {
        self.address(node).id
    }
}

#[cfg(test)]
mod tests;
