//! Faults: what is drawn, what it breaks, and when it ends.

use bequest::replica::event::{Event, MachineEvent};
use bequest_recovery::path::GroupPaths;
use rand::Rng;

use crate::blows::Blow;
use crate::death::Death;
use crate::dice::{Part, Roll};
use crate::genesis;
use crate::keeper::Silence;
use crate::mix::{self, Micros, MILLI, SECOND};
use crate::network::Block;
use crate::process::number;
use crate::world::{Happening, Pid, Place, World};

/// A fault that ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A process is stopped.
    Pause(Pid),
    /// A node reaches no ZooKeeper server.
    Isolate(u64),
    /// A node's way to ZooKeeper is slow.
    Drag(u64),
    /// No ZooKeeper server is up.
    Outage,
    /// A ZooKeeper server applies nothing new.
    Lag(usize),
    /// Packets from one node to another do not arrive.
    Block(u64, u64),
    /// Nothing can be created for a group.
    Quota,
    /// A state machine is not ready to lead.
    Veto(Pid),
    /// A disk is full.
    DiskFull(Place),
    /// A ZooKeeper server is down.
    Server(usize),
    /// ZooKeeper's servers have no leader.
    Election,
    /// Something is denied to everybody.
    Denied,
}

/// Where a fault hits, and for how long. All of it is drawn, however little of it a fault needs.
pub struct Aim {
    pub victim: Option<(Place, Pid)>,
    pub from: u64,
    pub to: u64,
    pub server: usize,
    pub group: usize,
    pub spell: Micros,
}

impl Aim {
    /// The same in words, for a fault.
    pub fn at(&self, fault: mix::Fault) -> String {
        use mix::Fault::*;
        let Self { from, to, server, group, .. } = self;
        match fault {
            KillAll | WipeAll | Outage | Election => "everybody".to_owned(),
            Lag | Member => format!("server {server}"),
            Quota | Deny => format!("group {group}"),
            OneWay => format!("n{from} to n{to}"),
            Partition | Reject | Unlink => format!("n{from} and n{to}"),
            Twin => format!("n{from}"),
            _ => self.victim.map_or_else(|| "nobody".to_owned(), |(place, pid)| format!("{place}, {pid:?}")),
        }
    }
}

impl World {
    /// Draws the next fault and lets it happen.
    pub fn strike(&mut self) {
        if self.healing {
            return;
        }
        let mut roll = self.roll(Part::Faults);
        let calm = self.lasts(&mut roll, self.mix.calm);
        self.after(calm, Happening::Fault);
        let weights = self.mix.weights.list();
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return;
        }
        let mut drawn = roll.random_range(0..total);
        for (fault, weight) in weights {
            if drawn < weight {
                let aim = self.aim(&mut roll);
                if self.comes_true(&roll, fault.word(), || aim.at(fault)) {
                    self.note(("fault", fault), || format!("fault: {fault:?}"));
                    self.inflict(&mut roll, fault, aim);
                }
                break;
            }
            drawn -= weight;
        }
        self.wait_for_moments();
    }

    pub fn aim(&self, roll: &mut Roll) -> Aim {
        let nodes = self.mix.nodes;
        let from = roll.random_range(1..=nodes);
        Aim {
            from,
            to: 1 + (from - 1 + roll.random_range(1..nodes.max(2))) % nodes,
            victim: roll
                .favourite(self.processes.values().map(|process| (process.place, (process.place, process.pid)))),
            server: roll.random_range(0..self.zoo.servers()),
            group: roll.random_range(0..self.groups.len()),
            spell: self.lasts(roll, self.mix.spell),
        }
    }

    pub fn inflict(&mut self, roll: &mut Roll, fault: mix::Fault, aim: Aim) {
        use mix::Fault::*;
        let blow = Blow::Drawn(fault);
        let Aim { victim, server, group, spell, .. } = aim;
        match (fault, victim) {
            (KillAll | WipeAll, _) => self.kill_all(roll, fault == WipeAll),
            (Outage, _) => self.outage(spell),
            (Lag, _) => {
                self.keepers.lagging.insert(server);
                self.struck_all(blow);
                self.after(spell, Happening::End(Fault::Lag(server)));
            }
            (Quota, _) => {
                self.zoo.exhaust_quota(Some(&format!("{}/", GroupPaths::new(&genesis::name(group)).genesis())));
                self.counts.one("quota exhausted");
                self.struck_all(blow);
                self.after(spell, Happening::End(Fault::Quota));
            }
            (Partition | OneWay | Reject | Unlink, _) => self.between_nodes(fault, &aim),
            (Twin, _) => {
                if let (Some((_, pid)), None) = (victim, self.at(Place { node: aim.from, host: 1 })) {
                    self.struck(blow, pid);
                }
                self.start_twin_of(aim.from);
            }
            (Member, _) => self.server_dies(roll, &aim),
            (Election, _) => self.servers_elect(roll),
            (Deny, _) => self.deny(roll, &aim),
            (_, None) => {}
            (DiskWrite | DiskSync | DiskFull | Flip, Some((place, pid))) => {
                self.trouble_disk(roll, fault, (place, pid), spell);
            }
            (Leap | Drift | Suspend, Some((_, pid))) => self.trouble_clock(roll, fault, pid, spell),
            (Older, Some((_, pid))) => self.kill_and_put_back(roll, pid),
            (HandOver, Some((_, pid))) => self.hand_over(pid, group),
            (_, Some((place, pid))) => {
                self.struck(blow, pid);
                self.inflict_one(roll, fault, (place, pid), spell);
            }
        }
    }

    /// What concerns one process alone.
    fn inflict_one(&mut self, roll: &mut Roll, fault: mix::Fault, victim: (Place, Pid), spell: Micros) {
        use mix::Fault::*;
        match (fault, Some(victim)) {
            (Kill, Some((_, pid))) => self.kill(pid, Death::Process),
            (Power, Some((_, pid))) => self.kill(pid, Death::Power),
            (Wipe, Some((_, pid))) => self.kill_and_wipe(pid),
            (Pause, Some((_, pid))) => {
                self.pause(pid);
                // Half of the pauses outlive the session.
                let spell = if roll.random_bool(0.5) { spell } else { spell + crate::keeper::SESSION_TIMEOUT };
                self.after(spell, Happening::End(Fault::Pause(pid)));
            }
            (Cut, Some((_, pid))) => {
                let adrift = roll.random_range(0..=self.in_socket(pid));
                self.break_connection(pid, adrift);
            }
            (Mute, Some((_, pid))) => {
                let mute = if roll.random_bool(0.5) { Silence::Answers } else { Silence::Both };
                let notice = roll.random_range(1..SECOND * 2 / 5);
                self.mute(pid, mute, notice);
            }
            (Expire, Some((_, pid))) => {
                if let Some(session) = self.processes.get(&pid).and_then(|process| process.keeper.session) {
                    self.expire_session(session);
                }
            }
            (Isolate, Some((Place { node, .. }, pid))) => {
                self.keepers.isolated.insert(node);
                let notice = roll.random_range(1..SECOND * 2 / 5);
                self.mute(pid, Silence::Both, notice);
                self.after(spell * 2, Happening::End(Fault::Isolate(node)));
            }
            (Drag, Some((Place { node, .. }, _))) => {
                self.keepers.dragged.insert(node);
                self.counts.one("zookeeper slow for a node");
                self.after(spell, Happening::End(Fault::Drag(node)));
            }
            (ShutDown, Some((_, pid))) => self.shut_down(pid),
            (Veto, Some((_, pid))) => {
                self.set_ready(pid, false);
                self.after(spell, Happening::End(Fault::Veto(pid)));
            }
            _ => unreachable!("inflicted elsewhere: {fault:?}"),
        }
    }

    /// Asks a leader to hand over.
    fn hand_over(&mut self, pid: Pid, group: usize) {
        if self.leaders(group).contains_key(&pid) {
            if let Some(step) = self.processes[&pid].step_of(group, self.now) {
                self.struck_at(Blow::Drawn(mix::Fault::HandOver), step);
            }
        }
        self.tell(pid, Event::HandOver { group: number(group) });
    }

    /// Kills a process, with or without its disk; it comes back.
    pub fn kill_now(&mut self, pid: Pid, wipe: bool) {
        if wipe {
            self.kill_and_wipe(pid);
        } else {
            self.kill(pid, Death::Process);
        }
    }

    pub fn kill(&mut self, pid: Pid, death: Death) {
        self.die(pid, death);
        self.come_back(pid);
    }

    fn kill_and_wipe(&mut self, pid: Pid) {
        let Some(place) = self.processes.get(&pid).map(|process| process.place) else { return };
        self.kill(pid, Death::Process);
        self.counts.one("disk: wiped");
        self.disks.remove(&place);
    }

    fn kill_and_put_back(&mut self, roll: &mut Roll, pid: Pid) {
        let Some(place) = self.processes.get(&pid).map(|process| process.place) else { return };
        let copies = self.disks.entry(place).or_default().copies();
        if copies == 0 {
            return;
        }
        self.struck(Blow::Drawn(mix::Fault::Older), pid);
        self.kill(pid, Death::Process);
        let copy = roll.random_range(0..copies);
        self.disks.entry(place).or_default().put_back(copy);
        self.counts.one("disk: older");
    }

    fn kill_all(&mut self, roll: &mut Roll, wipe: bool) {
        self.struck_all(Blow::Drawn(if wipe { mix::Fault::WipeAll } else { mix::Fault::KillAll }));
        for pid in self.pids() {
            if wipe {
                self.kill_and_wipe(pid);
            } else {
                let death = if roll.random_bool(0.5) { Death::Process } else { Death::Power };
                self.kill(pid, death);
            }
        }
    }

    fn outage(&mut self, spell: Micros) {
        if self.keepers.down {
            return;
        }
        self.keepers.down = true;
        self.counts.one("zookeeper down");
        self.struck_all(Blow::Drawn(mix::Fault::Outage));
        for pid in self.pids() {
            self.break_connection(pid, 0);
        }
        self.after(spell, Happening::End(Fault::Outage));
    }

    fn between_nodes(&mut self, fault: mix::Fault, aim: &Aim) {
        if self.mix.nodes < 2 {
            return;
        }
        let Aim { from: one, to: other, spell, .. } = *aim;
        let hit = [one, other].map(|node| self.at(Place { node, host: 0 }));
        self.struck_some(Blow::Drawn(fault), &hit.into_iter().flatten().collect::<Vec<Pid>>());
        let block = if fault == mix::Fault::Reject { Block::Reject } else { Block::Silent };
        match fault {
            mix::Fault::Unlink => self.unlink(one, other),
            mix::Fault::OneWay => {
                self.block(one, other, block);
                self.after(spell, Happening::End(Fault::Block(one, other)));
            }
            _ => {
                for (from, to) in [(one, other), (other, one)] {
                    self.block(from, to, block);
                    self.after(spell, Happening::End(Fault::Block(from, to)));
                }
            }
        }
    }

    /// Starts a second process of a node on another host.
    pub fn start_twin_of(&mut self, node: u64) {
        let place = Place { node, host: 1 };
        if self.at(place).is_some() {
            return;
        }
        // Half of them find what an earlier one left there.
        if self.roll(Part::Births(place)).random_bool(0.5) {
            self.disks.remove(&place);
        }
        self.counts.one("twin started");
        self.give_birth(place);
        if let Some(pid) = self.at(place) {
            self.twins.insert(node, pid);
        }
    }

    pub fn shut_down(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if !std::mem::replace(&mut process.shutting_down, true) {
            self.tell(pid, Event::ShutDown);
            self.after(10 * SECOND, Happening::Overdue(pid));
        }
    }

    /// Whether a process' machines want to lead.
    pub fn set_ready(&mut self, pid: Pid, ready: bool) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let mut events = Vec::new();
        for (group, replica) in process.replicas.iter_mut().enumerate() {
            replica.host.set_ready(ready);
            let event = MachineEvent::Applied { index: replica.host.applied(), ready_to_lead: ready };
            events.extend(replica.joined.then_some(Event::Machine(number(group), event)));
        }
        for event in events {
            self.tell(pid, event);
        }
    }

    pub fn overdue(&mut self, pid: Pid) {
        let Some(process) = self.processes.get(&pid) else { return };
        assert!(
            process.paused || process.keeper.connection.is_none(),
            "liveness: {pid:?} was asked to shut down ten seconds ago and has not"
        );
        self.kill(pid, Death::Exit);
    }

    pub fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Pause(pid) => self.resume(pid),
            Fault::Isolate(node) => {
                self.keepers.isolated.remove(&node);
            }
            Fault::Drag(node) => {
                self.keepers.dragged.remove(&node);
            }
            Fault::Outage | Fault::Election => self.keepers.down = false,
            Fault::DiskFull(place) => {
                self.troubles.full.remove(&place);
            }
            Fault::Denied => self.allow(),
            Fault::Server(server) => {
                self.troubles.servers.remove(&server);
                self.keepers.lagging.remove(&server);
                self.pump();
            }
            Fault::Veto(pid) => self.set_ready(pid, true),
            Fault::Quota => self.zoo.exhaust_quota(None),
            Fault::Lag(server) => {
                self.keepers.lagging.remove(&server);
                self.pump();
            }
            Fault::Block(from, to) => {
                self.network.blocked.remove(&(from, to));
            }
        }
    }

    /// Ends every fault at once.
    pub fn heal(&mut self) {
        self.healing = true;
        self.healed_at = Some(self.now);
        self.note("heal", || "all faults end".to_owned());
        self.network.blocked.clear();
        self.network.dark.clear();
        self.keepers.isolated.clear();
        self.keepers.dragged.clear();
        self.keepers.lagging.clear();
        self.keepers.down = false;
        self.zoo.exhaust_quota(None);
        self.untroubled();
        for pid in self.pids() {
            let Some(process) = self.processes.get(&pid) else { continue };
            if process.place.host != 0 || process.shutting_down {
                self.die(pid, Death::Process);
                continue;
            }
            self.resume(pid);
            self.set_ready(pid, true);
        }
        for place in self.places() {
            self.after(MILLI, Happening::Birth(place));
        }
        self.pump();
    }
}
