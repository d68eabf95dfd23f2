//! Processes: birth, steps of the core, what becomes of its effects, death.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bequest::replica::event::{Config, Effect, Event, GroupNumber, Incarnation, NodeId, Token};
use bequest::replica::status::{GroupStatus, Role};
use bequest::replica::Core;
use bequest_recovery::keeper::KeeperEvent;
use bequest_recovery::record::Addresses;
use rand::Rng;

use crate::blows::Blow;
use crate::clock::Clock;
use crate::death::Death;
use crate::dice::{Life, Organ, Part, Roll};
use crate::disk::Write;
use crate::genesis;
use crate::host::{Host, Job};
use crate::keeper::Client;
use crate::mix::{Micros, MILLI, SECOND};
use crate::network::Ends;
use crate::pairs::strike::Verdict;
use crate::steps::Asked;
use crate::world::{Group, Happening, Pid, Place, World};

/// A group's number in every process.
pub fn number(group: usize) -> GroupNumber {
    GroupNumber(1 + group as u32)
}

fn group_of(number: GroupNumber) -> usize {
    number.0 as usize - 1
}

/// One process.
#[derive(Debug)]
pub struct Process {
    pub pid: Pid,
    pub place: Place,
    pub life: Life,
    pub nonce: u64,
    pub born: Micros,
    pub clock: Clock,
    pub core: Core,
    pub inbox: Vec<Event>,
    pub step_due: bool,
    pub wake_serial: u64,
    /// Stopped by a signal; what would happen to it is kept for later.
    pub paused: bool,
    pub frozen: Vec<Happening>,
    pub incarnation: Option<Incarnation>,
    pub keeper: Client,
    pub asked: Asked,
    pub ends: Ends,
    pub replicas: Vec<Replica>,
    pub shutting_down: bool,
}

/// What a process has of one group.
#[derive(Debug)]
pub struct Replica {
    pub joined: bool,
    pub host: Host,
    pub machine_busy: bool,
    /// Work for the group's disk thread.
    pub writes: VecDeque<DiskJob>,
    /// Tokens given to the core and not answered yet.
    pub tokens: BTreeSet<Token>,
    pub status: Option<Box<GroupStatus>>,
}

impl Replica {
    fn new(host: Host) -> Self {
        Self {
            joined: false,
            host,
            machine_busy: false,
            writes: VecDeque::new(),
            tokens: BTreeSet::new(),
            status: None,
        }
    }

    /// What it says it does.
    pub fn role(&self) -> Role {
        self.status.as_ref().map_or(Role::Birth, |status| status.role)
    }
}

/// Work for the disk's thread.
#[derive(Debug)]
pub enum DiskJob {
    Persist(Box<bequest::replica::event::Persist>),
    Fetch { low: u64, high: u64 },
}

impl World {
    pub fn give_birth(&mut self, place: Place) {
        if self.at(place).is_some() || (place.host != 0 && self.healing) {
            return;
        }
        if !self.open_disk(place) {
            return;
        }
        let pid = Pid(self.fresh());
        let disk = self.disks.entry(place).or_default().clone();
        let life = self.next_life(place);
        let mut roll = self.roll(Part::Births(place));
        let config = self.config(&mut roll, place, disk.written.identity);
        let nonce = config.nonce;
        let hosts = (0..self.groups.len()).map(|group| Host::new(self.durable, &disk.group(group).machine));
        let replicas: Vec<Replica> = hosts.map(Replica::new).collect();
        let window = [4, 16, 128][roll.random_range(0..3)];
        let process = Process {
            pid,
            place,
            life,
            nonce,
            born: self.now,
            clock: Clock::showing(roll.random_range(0..100 * SECOND), self.now),
            core: Core::new(config),
            inbox: Vec::new(),
            step_due: false,
            wake_serial: 0,
            paused: false,
            frozen: Vec::new(),
            incarnation: None,
            keeper: Client::new(window, self.mix.shared),
            asked: Asked::default(),
            ends: Ends::default(),
            replicas,
            shutting_down: false,
        };
        self.processes.insert(pid, process);
        if let Some(tale) = &mut self.tale {
            tale.born(pid, place, nonce);
        }
        self.counts.one("born");
        self.note(("birth", pid.0), || {
            format!(
                "{place:?} is born as {pid:?}, its disk {}",
                if disk.written.groups.is_empty() { "empty" } else { "used" }
            )
        });
        self.after_connection_lost(pid);
        for group in 0..self.groups.len() {
            let join = self.roll(Part::Process(life, Organ::Join(group))).random_range(0..30 * MILLI);
            self.after(join, Happening::Join(pid, group));
        }
        self.tell(pid, Event::Tick);
        let sync = self.roll(Part::Syncs(place)).random_range(MILLI..200 * MILLI);
        self.after(sync, Happening::DiskSync(place));
    }

    fn config(&self, roll: &mut Roll, place: Place, cluster: Option<bequest_recovery::record::Uuid>) -> Config {
        Config {
            node: NodeId(place.node),
            addresses: Addresses { peer: place.address(), client: format!("http://node{}", place.node) },
            nonce: roll.random(),
            seed: roll.random(),
            cluster,
            beat: Duration::from_millis(30),
            election_timeout: Duration::from_millis(150),
            poll: Duration::from_millis(1_000),
            segment_bytes: self.mix.segment_bytes,
            segments_in_flight: self.mix.segments_in_flight,
            proposal_bytes_in_flight: 2 * 1024,
            proposals_in_flight: 16,
            reads_in_flight: 8,
            log_cache_bytes: self.mix.log_cache_bytes,
        }
    }

    pub fn join(&mut self, pid: Pid, group: usize) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::Join(pid, group));
            return;
        }
        let mut roll = self.dice.roll(Part::Process(process.life, Organ::Join(group)));
        let replica = &mut process.replicas[group];
        let applied = replica.host.applied();
        let mut local = self.disks.entry(process.place).or_default().group(group).log;
        replica.joined = true;
        // Payloads of what is applied may have been left on disk.
        if let Some(local) = &mut local {
            if roll.random_bool(0.5) {
                local
                    .slots
                    .iter_mut()
                    .filter(|slot| slot.position.index <= applied.min(local.commit))
                    .for_each(|slot| slot.entry = None);
            }
        }
        self.note(("join", pid.0, applied), || {
            let log = local
                .as_ref()
                .map(|log| (log.base.index, log.slots.last().map(|slot| slot.position.index), log.term, log.commit));
            format!("{pid:?} joins with applied={applied} log (base, last, term, commit)={log:?}")
        });
        self.tell(pid, Event::Join { group: number(group), name: genesis::name(group), local, applied });
    }

    /// Puts something into a process' inbox; its core is stepped soon.
    pub fn tell(&mut self, pid: Pid, event: Event) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if let Event::Keeper(KeeperEvent::Outcome { id, .. }) = &event {
            process.asked.answered(*id);
        }
        process.inbox.push(event);
        if !process.step_due {
            process.step_due = true;
            let delay = self.dice.roll(Part::Process(process.life, Organ::Inbox)).random_range(1..200);
            self.after(delay, Happening::Step(pid));
        }
    }

    pub fn wake(&mut self, pid: Pid, serial: u64) {
        if self.processes.get(&pid).is_some_and(|process| process.wake_serial == serial) {
            self.tell(pid, Event::Tick);
        }
    }

    pub fn step(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::Step(pid));
            return;
        }
        let mut roll = self.dice.roll(Part::Process(process.life, Organ::Core));
        process.step_due = false;
        process.wake_serial += 1;
        let serial = process.wake_serial;
        let events = std::mem::take(&mut process.inbox);
        let now = bequest::replica::event::Now(Duration::from_micros(process.clock.reading(self.now)));
        if self.trace.keeps() {
            for event in &events {
                let text = crate::words::event(event);
                self.trace.say(self.now, || format!("{pid:?} <- {text}"));
            }
        }
        if let Some(tale) = &mut self.tale {
            tale.told(self.now, pid, &events);
        }
        let process = self.processes.get_mut(&pid).expect("still there");
        let effects = process.core.step(now, events);
        if let Some(tale) = &mut self.tale {
            tale.wants(&effects.list);
        }
        let wake_in = effects.wake_at.map(|at| process.clock.until(at.since(now).as_micros() as Micros));
        assert!(effects.wake_at.is_none_or(|at| at > now), "liveness: {pid:?} wants to be woken at once, and spins");
        self.steps += 1;
        self.note(("step", pid.0, effects.list.len(), wake_in), String::new);
        if let Some(wake_in) = wake_in {
            self.after(wake_in.max(1), Happening::Wake(pid, serial));
        }
        let killed = self.befalls(pid, &mut roll, Blow::BetweenEffects, self.mix.killed_in_step);
        let killed_at = killed.then(|| roll.random_range(0..=effects.list.len()));
        for (place, effect) in effects.list.into_iter().enumerate() {
            if killed_at == Some(place) {
                self.counts.one("killed between two effects");
                self.struck(Blow::BetweenEffects, pid);
                break;
            }
            if !self.processes.contains_key(&pid) {
                return;
            }
            match self.number_effect(pid, &effect) {
                Verdict::Goes => {}
                Verdict::Withheld => continue,
                Verdict::Dead => return,
            }
            if self.trace.keeps() {
                let text = crate::words::effect(&effect);
                self.trace.say(self.now, || format!("{pid:?} -> {text}"));
            }
            self.carry_out(pid, effect);
        }
        if killed_at.is_some() {
            self.die(pid, Death::Process);
            self.come_back(pid);
        }
        self.strike_aimed(pid);
    }

    fn carry_out(&mut self, pid: Pid, effect: Effect) {
        if matches!(&effect, Effect::StopGroup(_, bequest::GroupError::Denied { .. })) && self.was_denied(pid) {
            self.started_again(pid);
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else { return };
        match effect {
            Effect::Keeper { id, urgency, request } => {
                process.asked.asks(id, &request, self.now);
                self.submit(pid, id, urgency, request);
            }
            Effect::Dial { peer, incarnation, address } => self.order_link(pid, peer, incarnation, address),
            Effect::Probe { address } => self.probe(pid, &address),
            Effect::Send { peer, message } => self.send(pid, peer, message),
            Effect::PersistIdentity { cluster } => self.disks.entry(process.place).or_default().identify(cluster),
            Effect::Persist(group, persist) => self.push_disk(pid, group, DiskJob::Persist(Box::new(persist))),
            Effect::FetchLog { group, low, high } => self.push_disk(pid, group, DiskJob::Fetch { low, high }),
            Effect::Apply(group, entries) => self.push_machine(pid, group, Job::Apply(entries)),
            Effect::Query(group, token) => self.push_machine(pid, group, Job::Query(token)),
            Effect::SnapshotTake { group, upload, credit } => {
                self.push_machine(pid, group, Job::Take { upload, credit });
            }
            Effect::SnapshotCredit { group, upload, credit } => {
                let group = group_of(group);
                let output = process.replicas[group].host.grant(upload, credit);
                self.machine_output(pid, group, output);
            }
            Effect::SnapshotAbandon { group, upload } => process.replicas[group_of(group)].host.drop_upload(upload),
            Effect::RestoreBegin { group, restore } => self.push_machine(pid, group, Job::Begin(restore)),
            Effect::RestoreChunk { group, restore, chunk } => self.push_machine(pid, group, Job::Chunk(restore, chunk)),
            Effect::RestoreFinish { group, restore, applied } => {
                self.push_machine(pid, group, Job::Finish { restore, applied });
            }
            Effect::RestoreAbandon { group, restore } => self.push_machine(pid, group, Job::Abandon(restore)),
            Effect::Leadership(group, leading) => self.push_machine(pid, group, Job::Leadership(leading)),
            Effect::RefuseProposal(token, error) => self.proposal_refused(pid, token, &error),
            Effect::RefuseRead(token, error) => self.read_refused(pid, token, &error),
            Effect::Status(group, status) => self.status(pid, group_of(group), status),
            Effect::StopGroup(_, error) => {
                assert!(self.hostile, "{pid:?} stops the group for no fault that justifies it: {error}");
                self.stops.push((pid, error));
            }
            Effect::StopNode(error) => self.node_stops(pid, &error),
            Effect::Registered { cluster: _, incarnation } => {
                process.incarnation = Some(incarnation);
                self.note(("registered", pid.0, incarnation.0), || format!("{pid:?} registered as {incarnation:?}"));
            }
            Effect::ShutDown => {
                assert!(process.shutting_down, "{pid:?} shuts down unasked");
                self.counts.one("shut down cleanly");
                self.die(pid, Death::Exit);
                self.come_back(pid);
            }
        }
    }

    fn push_disk(&mut self, pid: Pid, group: GroupNumber, job: DiskJob) {
        let group = group_of(group);
        let Some(mut roll) = self.roll_of(pid, Organ::Disk(group)) else { return };
        let delay = self.takes(&mut roll, self.mix.disk);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let writes = &mut process.replicas[group].writes;
        writes.push_back(job);
        if writes.len() == 1 {
            self.after(delay, Happening::DiskWrite(pid, group));
        }
    }

    pub fn disk_write(&mut self, pid: Pid, group: usize) {
        if self.disk_broken(pid) {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::DiskWrite(pid, group));
            return;
        }
        // Writes that wait may be carried out and reported together.
        let mut roll = self.dice.roll(Part::Process(process.life, Organ::Disk(group)));
        let count = roll.random_range(1..=process.replicas[group].writes.len().max(1));
        for _ in 0..count {
            let Some(process) = self.processes.get_mut(&pid) else { return };
            let Some(job) = process.replicas[group].writes.pop_front() else { break };
            let place = process.place;
            let event = match job {
                DiskJob::Persist(persist) => {
                    let failed = self.write_fails(pid);
                    let disk = self.disks.entry(place).or_default();
                    if let Some(there) = failed {
                        if there {
                            disk.write(Write::Log(group, persist));
                        }
                        return;
                    }
                    let number = persist.number;
                    if let Some(tale) = &mut self.tale {
                        tale.wrote(self.now, pid, number);
                    }
                    disk.write(Write::Log(group, persist));
                    if self.write_struck(pid, number) {
                        return;
                    }
                    Event::Persisted { group: self::number(group), number }
                }
                DiskJob::Fetch { low, high } => {
                    if self.read_fails(pid) {
                        return;
                    }
                    self.counts.one("log fetched from disk");
                    let disk = self.disks.entry(place).or_default();
                    let mut entries = disk.entries(group, low, high);
                    assert!(
                        entries.first().is_some_and(|entry| entry.index == low),
                        "fetches entry {low}, which it dropped"
                    );
                    let most = roll.random_range(1..=entries.len());
                    entries.truncate(most);
                    Event::LogFetched { group: number(group), entries }
                }
            };
            self.tell(pid, event);
        }
        let delay = self.takes(&mut roll, self.mix.disk);
        if self.processes.get(&pid).is_some_and(|process| !process.replicas[group].writes.is_empty()) {
            self.after(delay, Happening::DiskWrite(pid, group));
        }
    }

    pub fn disk_sync(&mut self, place: Place) {
        if self.sync_fails(place) {
            return;
        }
        if self.at(place).is_some() {
            self.disks.entry(place).or_default().sync();
            let mut roll = self.roll(Part::Syncs(place));
            let delay = roll.random_range(MILLI..200 * MILLI);
            self.disk_copies(&mut roll, place);
            self.after(delay, Happening::DiskSync(place));
        }
    }

    fn push_machine(&mut self, pid: Pid, group: GroupNumber, job: Job) {
        let group = group_of(group);
        let Some(mut roll) = self.roll_of(pid, Organ::Machine(group)) else { return };
        let delay = self.takes(&mut roll, self.mix.machine);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let replica = &mut process.replicas[group];
        replica.host.push(job);
        if !replica.machine_busy {
            replica.machine_busy = true;
            self.after(delay, Happening::MachineJob(pid, group));
        }
    }

    fn status(&mut self, pid: Pid, group: usize, status: Box<GroupStatus>) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let replica = &mut process.replicas[group];
        let before = replica.status.as_ref().map(|before| before.role);
        if before != Some(status.role) {
            self.counts.one(&format!("role: {:?}", status.role));
            match status.role {
                Role::Successor if before == Some(Role::Follower) => {
                    self.counts.one(&format!("succession: {}", status.reason));
                }
                Role::Resigning => {
                    // The mark is the last line of defence. Where nobody meddles, nothing may ever get that far.
                    let short = status.reason.starts_with("the previous WAL is longer than it was read");
                    assert!(self.hostile || !short, "A8: {pid:?} read short: {}", status.reason);
                    // Which place it was about tells nothing.
                    let reason = status.reason.split(": path=").next().unwrap_or_default();
                    self.counts.one(&format!("resignation: {reason}"));
                }
                _ => {}
            }
        }
        if status.role == Role::Leader && self.fork.is_none() {
            let Group { history, mirror, .. } = &mut self.groups[group];
            history.leads(process.place.node, pid, &status, mirror.ballot.0.term);
        }
        replica.status = Some(status);
    }

    /// Who says that it leads a group, and its term.
    pub fn leaders(&self, group: usize) -> BTreeMap<Pid, u64> {
        self.processes
            .values()
            .filter_map(|process| {
                let status = process.replicas[group].status.as_ref().filter(|status| status.role == Role::Leader)?;
                Some((process.pid, status.term))
            })
            .collect()
    }
}
