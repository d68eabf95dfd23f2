//! Faults: what is drawn, what it breaks, and when it ends.

use bequest::replica::event::{Event, MachineEvent};
use bequest_recovery::path::GroupPaths;
use rand::Rng;

use crate::death::Death;
use crate::genesis;
use crate::keeper::Silence;
use crate::mix::{self, MILLI, SECOND};
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
}

impl World {
    /// Draws the next fault and lets it happen.
    pub fn strike(&mut self) {
        if self.healing {
            return;
        }
        let calm = self.draw(self.mix.calm);
        self.after(calm, Happening::Fault);
        let weights = self.mix.weights.list();
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return;
        }
        let mut drawn = self.rng.random_range(0..total);
        for (fault, weight) in weights {
            if drawn < weight {
                self.note(("fault", fault), || format!("fault: {fault:?}"));
                self.inflict(fault);
                return;
            }
            drawn -= weight;
        }
    }

    fn inflict(&mut self, fault: mix::Fault) {
        use mix::Fault::*;
        let victims = self.pids();
        let victim = self.pick(&victims);
        let spell = self.draw(self.mix.spell);
        match (fault, victim) {
            (KillAll | WipeAll, _) => self.kill_all(fault == WipeAll),
            (Outage, _) => self.outage(spell),
            (Lag, _) => {
                let server = self.rng.random_range(0..self.zoo.servers());
                self.keepers.lagging.insert(server);
                self.after(spell, Happening::End(Fault::Lag(server)));
            }
            (Quota, _) => {
                let group = self.rng.random_range(0..self.groups.len());
                self.zoo.exhaust_quota(Some(&format!("{}/", GroupPaths::new(&genesis::name(group)).genesis())));
                self.counts.one("quota exhausted");
                self.after(spell, Happening::End(Fault::Quota));
            }
            (Partition | OneWay | Reject | Unlink, _) => self.between_nodes(fault, spell),
            (Twin, _) => self.start_twin(),
            (_, None) => {}
            (Kill, Some(pid)) => self.kill(pid, Death::Process),
            (Power, Some(pid)) => self.kill(pid, Death::Power),
            (Wipe, Some(pid)) => self.kill_and_wipe(pid),
            (Older, Some(pid)) => self.kill_and_put_back(pid),
            (Pause, Some(pid)) => {
                self.pause(pid);
                // Half of the pauses outlive the session.
                let spell = if self.rng.random_bool(0.5) { spell } else { spell + crate::keeper::SESSION_TIMEOUT };
                self.after(spell, Happening::End(Fault::Pause(pid)));
            }
            (Cut, Some(pid)) => {
                let adrift = self.rng.random_range(0..=self.in_socket(pid));
                self.break_connection(pid, adrift);
            }
            (Mute, Some(pid)) => {
                let mute = if self.rng.random_bool(0.5) { Silence::Answers } else { Silence::Both };
                let notice = self.rng.random_range(1..SECOND * 2 / 5);
                self.mute(pid, mute, notice);
            }
            (Expire, Some(pid)) => {
                if let Some(session) = self.processes.get(&pid).and_then(|process| process.keeper.session) {
                    self.expire_session(session);
                }
            }
            (Isolate, Some(pid)) => {
                let node = self.processes.get(&pid).map_or(0, |process| process.place.node);
                self.keepers.isolated.insert(node);
                let notice = self.rng.random_range(1..SECOND * 2 / 5);
                self.mute(pid, Silence::Both, notice);
                self.after(spell * 2, Happening::End(Fault::Isolate(node)));
            }
            (Drag, Some(pid)) => {
                let node = self.processes.get(&pid).map_or(0, |process| process.place.node);
                self.keepers.dragged.insert(node);
                self.counts.one("zookeeper slow for a node");
                self.after(spell, Happening::End(Fault::Drag(node)));
            }
            (HandOver, Some(pid)) => {
                let group = number(self.rng.random_range(0..self.groups.len()));
                self.tell(pid, Event::HandOver { group });
            }
            (ShutDown, Some(pid)) => self.shut_down(pid),
            (Veto, Some(pid)) => {
                self.set_ready(pid, false);
                self.after(spell, Happening::End(Fault::Veto(pid)));
            }
        }
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

    fn kill_and_put_back(&mut self, pid: Pid) {
        let Some(place) = self.processes.get(&pid).map(|process| process.place) else { return };
        self.kill(pid, Death::Process);
        if self.disks.entry(place).or_default().put_back() {
            self.counts.one("disk: older");
        }
        // The next copy is taken some time from now.
        let delay = self.rng.random_range(100 * MILLI..2 * SECOND);
        self.after(delay, Happening::DiskCopy(place));
    }

    fn kill_all(&mut self, wipe: bool) {
        for pid in self.pids() {
            if wipe {
                self.kill_and_wipe(pid);
            } else {
                let death = if self.rng.random_bool(0.5) { Death::Process } else { Death::Power };
                self.kill(pid, death);
            }
        }
    }

    fn outage(&mut self, spell: mix::Micros) {
        if self.keepers.down {
            return;
        }
        self.keepers.down = true;
        self.counts.one("zookeeper down");
        for pid in self.pids() {
            self.break_connection(pid, 0);
        }
        self.after(spell, Happening::End(Fault::Outage));
    }

    fn between_nodes(&mut self, fault: mix::Fault, spell: mix::Micros) {
        if self.mix.nodes < 2 {
            return;
        }
        let one = self.rng.random_range(1..=self.mix.nodes);
        let other = 1 + (one + self.rng.random_range(0..self.mix.nodes - 1)) % self.mix.nodes;
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

    fn start_twin(&mut self) {
        let node = self.rng.random_range(1..=self.mix.nodes);
        self.start_twin_of(node);
    }

    /// Starts a second process of a node on another host.
    pub fn start_twin_of(&mut self, node: u64) {
        let place = Place { node, host: 1 };
        if self.at(place).is_some() {
            return;
        }
        if self.rng.random_bool(0.5) {
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
            Fault::Outage => self.keepers.down = false,
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
        self.note("heal", || "all faults end".to_owned());
        self.network.blocked.clear();
        self.network.dark.clear();
        self.keepers.isolated.clear();
        self.keepers.dragged.clear();
        self.keepers.lagging.clear();
        self.keepers.down = false;
        self.zoo.exhaust_quota(None);
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
