//! Brings faults about and ends them.

use std::time::{Duration, Instant};

use anyhow::Result;
use bequest_harness::{confine, Close, Process};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::fault::{Fault, Kind};
use super::history::{Clock, Moment};
use super::limits::{self, Group};
use super::load::Shared;
use super::network::{self, Cable};
use super::world::World;

/// How often nodes that have ended are looked for.
const SUPERVISE: Duration = Duration::from_millis(200);
/// Writes that must be acknowledged before a round counts as survived.
const SERVED_WRITES: u64 = 20;
/// How long a node may take to notice that its disk failed to sync.
const SYNC_ERROR_LIMIT: Duration = Duration::from_secs(10);

/// One fault as it was.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// Which.
    pub(crate) fault: Fault,
    /// When it began.
    pub(crate) from: Moment,
    /// When it was ended.
    pub(crate) to: Moment,
}

/// A round as it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// When its last fault was ended.
    pub(crate) over: Moment,
    /// When the group had served again.
    pub(crate) served: Moment,
}

/// The nemesis, and what it has done.
#[derive(Debug)]
pub(crate) struct Nemesis {
    clock: Clock,
    /// Who traces each node, and which of its lives.
    tracers: [Option<(Process, u32)>; 2],
    groups: [Option<Group>; 2],
    pub(crate) spans: Vec<Span>,
    pub(crate) rounds: Vec<Round>,
    /// Whether the group served again after the last round.
    pub(crate) served: bool,
}

/// A step of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Begin,
    /// Of faults that repeat something.
    Again(u32),
    End,
}

impl Nemesis {
    /// It has done nothing yet.
    pub(crate) fn new(clock: Clock) -> Self {
        let (tracers, groups) = ([None, None], [None, None]);
        Self { clock, tracers, groups, spans: Vec::new(), rounds: Vec::new(), served: false }
    }

    /// Brings about a round of faults, and ends it.
    pub(crate) async fn torment(&mut self, world: &mut World, round: &[Fault]) -> Result<()> {
        let began = Instant::now();
        let mut steps: Vec<(Duration, Step, usize)> = Vec::new();
        for (at, fault) in round.iter().enumerate() {
            steps.push((fault.begin, Step::Begin, at));
            steps.extend(repetitions(fault).into_iter().map(|(when, count)| (when, Step::Again(count), at)));
            steps.push((fault.end(), Step::End, at));
        }
        steps.sort();
        let mut from = vec![Moment(0); round.len()];
        for (when, step, at) in steps {
            loop {
                world.supervise()?;
                let left = when.saturating_sub(began.elapsed());
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(SUPERVISE)).await;
            }
            let fault = &round[at];
            match step {
                Step::Begin => {
                    world.note(format!("{} for {:.1} s", fault.describe(), fault.length.as_secs_f64()));
                    from[at] = self.clock.now();
                    self.begin(world, fault).await?;
                }
                Step::Again(count) => again(world, fault, count)?,
                Step::End => {
                    self.end(world, fault).await?;
                    world.note(format!("{} is over", fault.describe()));
                    self.spans.push(Span { fault: *fault, from: from[at], to: self.clock.now() });
                }
            }
        }
        Ok(())
    }

    /// Waits until the group serves again and both nodes are settled; a failure after `patience`.
    pub(crate) async fn wait_until_served(
        &mut self,
        world: &mut World,
        load: &Shared,
        patience: Duration,
    ) -> Result<()> {
        let (began, over) = (Instant::now(), self.clock.now());
        let before = load.acknowledged();
        self.served = false;
        let mut round = Round { over, served: over };
        loop {
            world.supervise()?;
            world.start_what_stopped().await?;
            let served = load.acknowledged() - before >= SERVED_WRITES;
            if served && round.served == over {
                round.served = self.clock.now();
            }
            let settled = world.is_settled().await;
            match settled {
                Ok(()) if served => break self.served = true,
                Ok(()) if began.elapsed() > patience => {
                    world.fail(format!("nothing was acknowledged for {patience:?} though both nodes are settled"));
                    break;
                }
                Err(found) if began.elapsed() > patience => {
                    world.fail(format!("not settled {patience:?} after the last fault (served={served}): {found}"));
                    break;
                }
                _ => tokio::time::sleep(SUPERVISE).await,
            }
        }
        self.rounds.push(round);
        Ok(())
    }

    async fn begin(&mut self, world: &mut World, fault: &Fault) -> Result<()> {
        let target = fault.target % 2;
        if fault.kind.excuses_an_end() {
            world.nodes[target].excuse(fault.kind);
        }
        let mut random = StdRng::seed_from_u64(fault.draw);
        match fault.kind {
            Kind::Kill => world.nodes[target].kill().await?,
            Kind::Wipe => {
                world.nodes[target].kill().await?;
                world.nodes[target].wipe()?;
            }
            Kind::KillBoth | Kind::WipeBoth => {
                for node in &mut world.nodes {
                    node.kill_now()?;
                }
                for node in &mut world.nodes {
                    node.kill().await?;
                    if fault.kind == Kind::WipeBoth {
                        node.wipe()?;
                    }
                }
            }
            // It may make new files meanwhile: then some are left, and most are gone.
            Kind::DiskGone => drop(world.nodes[target].wipe()),
            Kind::Pause => pause(world, target).await,
            Kind::PauseBoth => {
                pause(world, 0).await;
                pause(world, 1).await;
            }
            Kind::Stop => world.nodes[target].terminate(),
            Kind::StopBoth => world.nodes.iter_mut().for_each(super::world::Node::terminate),
            Kind::DiskFull => {
                limits::fill(&world.nodes[target].disk)?;
                // Its log's file was given room in advance. Started anew, it needs files for which there is none.
                if random.random_bool(0.5) {
                    world.nodes[target].kill().await?;
                    world.nodes[target].start()?;
                    world.note(format!("node {} is started anew on its full disk", target + 1));
                }
            }
            Kind::SyncError => {
                if let Some(process) = world.nodes[target].process() {
                    let log = trace_log(world, target);
                    let _ = std::fs::remove_file(&log);
                    let tracer = limits::fail_sync(process.pid(), random.random_range(1..=3), &log)?;
                    self.tracers[target] = Some((tracer, world.nodes[target].life));
                }
            }
            Kind::MemoryGroup => {
                if let Some(process) = world.nodes[target].process() {
                    let group = Group::make(&format!("node{}", target + 1)).map_err(anyhow::Error::msg)?;
                    // It may have ended by itself a moment ago, and that is told elsewhere.
                    let _ = group.take(process.pid(), random.random_range(64..=512) << 10);
                    self.groups[target] = Some(group);
                }
            }
            Kind::MemoryLimit => {
                if let Some(process) = world.nodes[target].process() {
                    let _ = limits::limit_memory(process.pid(), random.random_range(0..=128) << 10);
                }
            }
            Kind::LinkKeeper => cut(&[Cable::Keeper(target)])?,
            Kind::LinkPeers => cut(&[Cable::Peers(target)])?,
            Kind::LinkClients => cut(&[Cable::Clients(target)])?,
            Kind::Unplug | Kind::FlapAll => cut(&network::cables(target))?,
            Kind::FlapKeeper => cut(&[Cable::Keeper(target)])?,
            Kind::FlapPeers => cut(&[Cable::Peers(target)])?,
            Kind::LinkMember => cut(&[Cable::Member(fault.target)])?,
            Kind::MemberKill => kill_member(world, fault.target).await?,
            Kind::MemberLeaderKill => {
                // Where none leads, any will do.
                let leader = world.ensemble.leader().await.unwrap_or(fault.target);
                kill_member(world, leader).await?;
            }
            // It may have ended by itself a moment ago.
            Kind::MemberPause => drop(world.ensemble.servers()[fault.target].pause().await),
            Kind::KeeperDown => {
                world.down = [true; 3];
                world.ensemble.kill_all().await?;
            }
            _ => proxies(world, fault, &mut random).await,
        }
        Ok(())
    }

    async fn end(&mut self, world: &mut World, fault: &Fault) -> Result<()> {
        let target = fault.target % 2;
        match fault.kind {
            Kind::Kill | Kind::Wipe => world.nodes[target].start()?,
            Kind::KillBoth | Kind::WipeBoth => {
                for node in &mut world.nodes {
                    node.start()?;
                }
            }
            // It would be without a disk for as long as it does not look for it.
            Kind::DiskGone => {
                world.nodes[target].kill().await?;
                world.nodes[target].wipe()?;
            }
            Kind::Pause => resume(world, target),
            Kind::PauseBoth => (0..2).for_each(|node| resume(world, node)),
            Kind::Stop => stopped(world, target).await?,
            Kind::StopBoth => {
                stopped(world, 0).await?;
                stopped(world, 1).await?;
            }
            Kind::DiskFull => limits::drain(&world.nodes[target].disk),
            Kind::SyncError => self.end_sync_error(world, target).await?,
            Kind::MemoryGroup | Kind::MemoryLimit => {
                world.nodes[target].kill().await?;
                self.groups[target] = None;
            }
            Kind::LinkKeeper | Kind::FlapKeeper => join(&[Cable::Keeper(target)])?,
            Kind::LinkPeers | Kind::FlapPeers => join(&[Cable::Peers(target)])?,
            Kind::LinkClients => join(&[Cable::Clients(target)])?,
            Kind::Unplug | Kind::FlapAll => join(&network::cables(target))?,
            Kind::LinkMember => join(&[Cable::Member(fault.target)])?,
            Kind::MemberPause => drop(world.ensemble.servers()[fault.target].resume()),
            Kind::MemberKill | Kind::MemberLeaderKill | Kind::KeeperDown => {
                world.down = [false; 3];
                world.supervise()?;
            }
            _ => mend(world, fault).await,
        }
        if fault.kind.excuses_an_end() {
            let node = &mut world.nodes[target];
            node.excuse = None;
            if node.process().is_none() {
                node.start()?;
            }
        }
        Ok(())
    }

    /// A node one of whose syncs failed may not go on.
    async fn end_sync_error(&mut self, world: &mut World, target: usize) -> Result<()> {
        let Some((tracer, life)) = self.tracers[target].take() else { return Ok(()) };
        let log = trace_log(world, target);
        if !limits::trace_no_more(tracer, &log).await? {
            world.note(format!("node {} did not sync meanwhile", target + 1));
            return Ok(());
        }
        let began = Instant::now();
        while world.nodes[target].life == life && world.nodes[target].process().is_some() {
            let stopped = world.status(target).await.is_some_and(|status| status.stopped.is_some());
            if stopped {
                break;
            }
            if began.elapsed() > SYNC_ERROR_LIMIT {
                world.fail(format!("node {} goes on though a sync of its disk failed", target + 1));
                break;
            }
            world.supervise()?;
            tokio::time::sleep(SUPERVISE).await;
        }
        Ok(())
    }
}

/// When a fault that repeats something does so.
fn repetitions(fault: &Fault) -> Vec<(Duration, u32)> {
    let repeats = matches!(
        fault.kind,
        Kind::KeeperFin
            | Kind::KeeperReset
            | Kind::PeerFin
            | Kind::PeerReset
            | Kind::FlapKeeper
            | Kind::FlapPeers
            | Kind::FlapAll
    );
    let mut random = StdRng::seed_from_u64(!fault.draw);
    let mut when = fault.begin;
    let mut all = Vec::new();
    loop {
        when += Duration::from_millis(random.random_range(50..800));
        if !repeats || when >= fault.end() {
            return all;
        }
        all.push((when, all.len() as u32));
    }
}

fn again(world: &mut World, fault: &Fault, count: u32) -> Result<()> {
    let target = fault.target % 2;
    let flap = |cables: &[Cable]| if count.is_multiple_of(2) { join(cables) } else { cut(cables) };
    match fault.kind {
        Kind::FlapKeeper => flap(&[Cable::Keeper(target)])?,
        Kind::FlapPeers => flap(&[Cable::Peers(target)])?,
        Kind::FlapAll => flap(&network::cables(target))?,
        Kind::KeeperFin => world.keepers[target].iter().for_each(|proxy| proxy.cut(Close::Fin)),
        Kind::KeeperReset => world.keepers[target].iter().for_each(|proxy| proxy.cut(Close::Reset)),
        Kind::PeerFin => world.peers[target].cut(Close::Fin),
        Kind::PeerReset => world.peers[target].cut(Close::Reset),
        _ => {}
    }
    Ok(())
}

/// Faults between a node and ZooKeeper, or towards a node.
async fn proxies(world: &World, fault: &Fault, random: &mut StdRng) {
    let target = fault.target % 2;
    let (keepers, peer) = (&world.keepers[target], &world.peers[target]);
    let requests = random.random_range(0..=6);
    for proxy in keepers {
        match fault.kind {
            Kind::KeeperFin => proxy.cut(Close::Fin),
            Kind::KeeperReset => proxy.cut(Close::Reset),
            Kind::KeeperHalfOpen => proxy.cut_client(Close::Reset),
            Kind::KeeperSilence => proxy.silence(),
            Kind::KeeperSwallow => proxy.swallow_replies(),
            Kind::KeeperRequests => proxy.let_requests_through(requests),
            Kind::KeeperRefuse => {
                proxy.refuse().await;
                proxy.cut(Close::Reset);
            }
            _ => {}
        }
    }
    match fault.kind {
        Kind::PeerFin => peer.cut(Close::Fin),
        Kind::PeerReset => peer.cut(Close::Reset),
        Kind::PeerSilence => peer.silence(),
        Kind::PeerSwallow => peer.swallow_replies(),
        Kind::PeerRefuse => {
            peer.refuse().await;
            peer.cut(Close::Reset);
        }
        _ => {}
    }
}

/// Everything is carried again. Connections that missed something are closed: a stream has no holes.
async fn mend(world: &World, fault: &Fault) {
    let target = fault.target % 2;
    let lossy = matches!(fault.kind, Kind::KeeperSwallow | Kind::KeeperRequests | Kind::PeerSwallow);
    let of_keeper = fault.kind.parts(0) == Kind::LinkKeeper.parts(0);
    let proxies = if of_keeper { &world.keepers[target][..] } else { std::slice::from_ref(&world.peers[target]) };
    for proxy in proxies {
        if lossy || fault.kind == Kind::KeeperHalfOpen {
            proxy.cut(Close::Reset);
        }
        proxy.resume().await;
    }
}

async fn pause(world: &World, node: usize) {
    if let Some(process) = world.nodes[node].process() {
        // It may have ended by itself a moment ago, and that is told elsewhere.
        let _ = process.pause().await;
    }
}

fn resume(world: &World, node: usize) {
    if let Some(process) = world.nodes[node].process() {
        let _ = process.resume();
    }
}

/// Whoever was asked to end has ended by now, and well.
async fn stopped(world: &mut World, node: usize) -> Result<()> {
    if let Err(found) = world.nodes[node].has_ended_cleanly().await {
        world.fail(format!("node {} did not end as asked: {found}", node + 1));
    }
    world.nodes[node].kill().await?;
    world.nodes[node].start()
}

async fn kill_member(world: &mut World, member: usize) -> Result<()> {
    world.down[member] = true;
    Ok(world.ensemble.servers_mut()[member].kill().await?)
}

fn trace_log(world: &World, target: usize) -> std::path::PathBuf {
    world.nodes[target].disk.with_extension("trace")
}

fn cut(cables: &[Cable]) -> Result<()> {
    cables.iter().try_for_each(|cable| cable.cut()).map_err(anyhow::Error::msg)
}

fn join(cables: &[Cable]) -> Result<()> {
    cables.iter().try_for_each(|cable| cable.join()).map_err(anyhow::Error::msg)
}

/// Which kinds can be brought about here, and which not and why.
pub(crate) fn available(
    kinds: &[Kind],
    links: &Result<(), String>,
    disks: &Result<(), String>,
) -> (Vec<Kind>, Vec<(Kind, String)>) {
    use super::fault::Need;
    let trace = limits::can_trace();
    let group = Group::make("probe").map(drop);
    let mut left_out = Vec::new();
    let mut here = Vec::new();
    for kind in kinds {
        let permitted = match kind.need() {
            Need::Nothing => &Ok(()),
            Need::Links => links,
            Need::Disk => disks,
            Need::Trace => &trace,
            Need::Group => &group,
        };
        match permitted {
            Ok(()) => here.push(*kind),
            Err(refusal) => left_out.push((*kind, refusal.clone())),
        }
    }
    (here, left_out)
}

/// Whether a disk can be made for each node.
pub(crate) fn disks_permitted(inside: bool, dir: &std::path::Path) -> Result<(), String> {
    if !inside {
        return Err("mounts of this program's own cannot be made".to_owned());
    }
    let probe = dir.join("probe");
    std::fs::create_dir(&probe).map_err(|error| error.to_string())?;
    limits::mount(&probe, 1)?;
    confine::run("umount", &[&probe.display().to_string()])?;
    std::fs::remove_dir(&probe).map_err(|error| error.to_string())
}
