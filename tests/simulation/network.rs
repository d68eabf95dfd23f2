//! Links between processes: handshakes, messages, and the many ways in which they do not arrive.

use std::collections::BTreeMap;

use bequest::replica::event::{Event, Incarnation, LinkEvent, NodeId};
use bytes::Bytes;
use rand::Rng;

use crate::blows::Blow;
use crate::death::Death;
use crate::dice::{Organ, Part};
use crate::mix::{Micros, MILLI, SECOND};
use crate::world::{Happening, Pid, Place, World};

/// How one node fails to reach another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Block {
    /// Packets vanish.
    Silent,
    /// A firewall refuses connections.
    Reject,
}

/// What concerns the network as a whole.
#[derive(Debug, Default)]
pub struct Network {
    /// From one node to another.
    pub blocked: BTreeMap<(u64, u64), Block>,
    /// Hosts that lost power and answer nothing, not even with a refusal.
    pub dark: BTreeMap<Place, Micros>,
}

/// One process' side of its links.
#[derive(Debug, Default)]
pub struct Ends {
    orders: BTreeMap<NodeId, Order>,
    up: BTreeMap<NodeId, End>,
}

#[derive(Clone, Debug)]
struct Order {
    incarnation: Incarnation,
    address: String,
    serial: u64,
}

#[derive(Clone, Copy, Debug)]
struct End {
    link: u64,
    peer: Pid,
    arrive_at: Micros,
}

impl World {
    fn blocked(&self, from: u64, to: u64) -> Option<Block> {
        self.network.blocked.get(&(from, to)).copied()
    }

    fn listener(&self, address: &str) -> Option<Pid> {
        self.processes.values().find(|process| process.place.address() == address).map(|process| process.pid)
    }

    fn is_dark(&self, address: &str) -> bool {
        self.network.dark.iter().any(|(place, until)| place.address() == address && *until > self.now)
    }

    /// A core orders a link, for ever.
    pub fn order_link(&mut self, pid: Pid, peer: NodeId, incarnation: Incarnation, address: String) {
        let serial = self.fresh();
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.ends.orders.insert(peer, Order { incarnation, address, serial });
        self.after(1, Happening::Dial(pid, peer, serial));
    }

    fn dial_later(&mut self, pid: Pid, peer: NodeId, serial: u64) {
        let Some(mut roll) = self.roll_of(pid, Organ::Dial(peer.0)) else { return };
        let delay = roll.random_range(10 * MILLI..100 * MILLI);
        self.after(delay, Happening::Dial(pid, peer, serial));
    }

    pub fn dial(&mut self, pid: Pid, peer: NodeId, serial: u64) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::Dial(pid, peer, serial));
            return;
        }
        let node = process.place.node;
        let Some(order) = process.ends.orders.get(&peer).filter(|order| order.serial == serial).cloned() else {
            return;
        };
        let Some(own) = process.incarnation else {
            self.dial_later(pid, peer, serial);
            return;
        };
        let linked = process.ends.up.get(&peer).map(|end| end.peer);
        let there = self.listener(&order.address);
        if linked.is_some() && linked == there {
            self.dial_later(pid, peer, serial);
            return;
        }
        let to = self.blocked(node, peer.0);
        let back = self.blocked(peer.0, node);
        let refused = to == Some(Block::Reject)
            || (to.is_none() && back.is_none() && there.is_none() && !self.is_dark(&order.address));
        if refused {
            if linked.is_none() {
                self.counts.one("connection refused");
                self.tell(pid, Event::Link(peer, LinkEvent::Refused));
            }
            self.dial_later(pid, peer, serial);
            return;
        }
        let handshake = there.filter(|_| to.is_none() && back.is_none()).filter(|there| {
            self.processes.get(there).is_some_and(|process| {
                !process.paused && process.incarnation.is_some_and(|incarnation| incarnation >= order.incarnation)
            })
        });
        if let Some(there) = handshake {
            let link = self.fresh();
            let first = self.travels(pid, peer);
            let second = self.travels(there, NodeId(node));
            self.note(("link", pid.0, there.0), || format!("{pid:?} ({own:?}) links to {there:?}"));
            let end = End { link, peer: there, arrive_at: 0 };
            self.replace_end(pid, peer, end);
            self.replace_end(there, NodeId(node), End { link, peer: pid, arrive_at: 0 });
            self.after(first, Happening::LinkUp(pid, peer, link));
            self.after(second, Happening::LinkUp(there, NodeId(node), link));
        }
        self.dial_later(pid, peer, serial);
    }

    /// How long something takes from a process to a node.
    fn travels(&mut self, pid: Pid, to: NodeId) -> Micros {
        let Some(mut roll) = self.roll_of(pid, Organ::Link(to.0)) else { return self.mix.network.max };
        self.takes(&mut roll, self.mix.network)
    }

    fn replace_end(&mut self, pid: Pid, peer: NodeId, end: End) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.ends.up.insert(peer, end).is_some() {
            self.tell(pid, Event::Link(peer, LinkEvent::Down));
        }
    }

    pub fn link_up(&mut self, pid: Pid, peer: NodeId, link: u64) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::LinkUp(pid, peer, link));
            return;
        }
        let Some(end) = process.ends.up.get(&peer).filter(|end| end.link == link).copied() else { return };
        let incarnation = self.processes.get(&end.peer).and_then(|process| process.incarnation);
        match incarnation {
            Some(incarnation) => self.tell(pid, Event::Link(peer, LinkEvent::Up { incarnation })),
            // It died in the middle of the handshake.
            None => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.ends.up.remove(&peer);
                }
            }
        }
    }

    pub fn link_down(&mut self, pid: Pid, peer: NodeId, link: u64) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::LinkDown(pid, peer, link));
            return;
        }
        let node = process.place.node;
        let Some(end) = process.ends.up.get(&peer).filter(|end| end.link == link).copied() else { return };
        process.ends.up.remove(&peer);
        self.note(("link down", pid.0, peer.0), || format!("{pid:?} finds its link to {peer:?} ended"));
        self.tell(pid, Event::Link(peer, LinkEvent::Down));
        if let Some(order) = self.processes.get(&pid).and_then(|process| process.ends.orders.get(&peer)) {
            let serial = order.serial;
            let Some(mut roll) = self.roll_of(pid, Organ::Dial(peer.0)) else { return };
            let delay = roll.random_range(1..5 * MILLI);
            self.after(delay, Happening::Dial(pid, peer, serial));
        }
        // The other side is told, unless its packets vanish.
        if self.blocked(node, peer.0).is_none() {
            let delay = self.travels(pid, peer);
            self.after(delay, Happening::LinkDown(end.peer, NodeId(node), link));
        }
    }

    /// A core sends a message.
    pub fn send(&mut self, pid: Pid, peer: NodeId, bytes: Bytes) {
        if !self.processes.get(&pid).is_some_and(|process| process.ends.up.contains_key(&peer)) {
            return;
        }
        let Some(mut roll) = self.roll_of(pid, Organ::Link(peer.0)) else { return };
        let delay = self.takes(&mut roll, self.mix.network);
        let dropped = self.befalls(pid, &mut roll, Blow::MessageDropped, self.mix.dropped);
        let reordered = self.befalls(pid, &mut roll, Blow::MessageLate, self.mix.reordered);
        let duplicated = self.befalls(pid, &mut roll, Blow::MessageTwice, self.mix.duplicated);
        let stale = self.befalls(pid, &mut roll, Blow::MessageFromThePast, self.mix.stale);
        let extra = roll.random_range(0..50 * MILLI);
        let now = self.now;
        let Some(process) = self.processes.get(&pid) else { return };
        let from = NodeId(process.place.node);
        let befalls = [
            (dropped, Blow::MessageDropped),
            (reordered, Blow::MessageLate),
            (duplicated, Blow::MessageTwice),
            (stale, Blow::MessageFromThePast),
        ];
        // A message that is dropped is not also doubled.
        for (_, blow) in befalls.into_iter().filter(|(befalls, _)| *befalls).take(if dropped { 1 } else { 4 }) {
            self.struck(blow, pid);
        }
        let Some(end) = self.processes.get_mut(&pid).and_then(|process| process.ends.up.get_mut(&peer)) else { return };
        if dropped {
            self.counts.one("message dropped");
            return;
        }
        let at = if reordered {
            now + delay + extra
        } else {
            end.arrive_at = end.arrive_at.max(now + delay);
            end.arrive_at
        };
        let (to, link) = (end.peer, end.link);
        self.after(at - now, Happening::Message { to, from, link, bytes: bytes.clone() });
        if stale {
            // A copy that a router kept, for whoever has that address then.
            let delay = roll.random_range(MILLI..SECOND);
            self.after(delay, Happening::Stale { to: peer, from, bytes: bytes.clone() });
        }
        if duplicated {
            self.counts.one("message duplicated");
            self.after(at - now + extra, Happening::Message { to, from, link, bytes });
        }
    }

    pub fn message(&mut self, to: Pid, from: NodeId, link: u64, bytes: Bytes) {
        let Some(process) = self.processes.get_mut(&to) else { return };
        if process.paused {
            process.frozen.push(Happening::Message { to, from, link, bytes });
            return;
        }
        let current = process.ends.up.get(&from).is_some_and(|end| end.link == link);
        let node = process.place.node;
        if self.blocked(from.0, node).is_some() {
            self.counts.one("message lost in a partition");
            return;
        }
        if current {
            self.tell(to, Event::Link(from, LinkEvent::Message(bytes)));
        }
    }

    /// A message of some earlier time arrives, whatever became of its link and of the processes at both ends.
    pub fn stale_message(&mut self, to: NodeId, from: NodeId, bytes: Bytes) {
        let there = self.at(Place { node: to.0, host: 0 });
        if let Some(pid) = there.filter(|_| !self.healing && self.blocked(from.0, to.0).is_none()) {
            self.counts.one("message delivered long after");
            self.tell(pid, Event::Link(from, LinkEvent::Message(bytes)));
        }
    }

    /// A core wants to know who answers at an address.
    pub fn probe(&mut self, pid: Pid, address: &str) {
        let Some(node) = self.processes.get(&pid).map(|process| process.place.node) else { return };
        let answer = self
            .listener(address)
            .and_then(|there| self.processes.get(&there))
            .filter(|there| !there.paused)
            .filter(|there| self.blocked(node, there.place.node).is_none())
            .map(|there| there.nonce);
        let Some(mut roll) = self.roll_of(pid, Organ::Dial(node)) else { return };
        let delay = match answer {
            Some(_) => self.takes(&mut roll, self.mix.network) * 2,
            None => roll.random_range(MILLI..SECOND),
        };
        self.after(delay, Happening::Tell(pid, Event::Probed { nonce: answer }));
    }

    /// What a death does to a process' links.
    pub fn hang_up(&mut self, pid: Pid, death: Death) {
        let Some(process) = self.processes.get(&pid) else { return };
        let (place, node, life) = (process.place, process.place.node, process.life);
        let ends: Vec<(NodeId, End)> = process.ends.up.iter().map(|(peer, end)| (*peer, *end)).collect();
        if death == Death::Power {
            let until = self.now + self.roll(Part::Process(life, Organ::Death)).random_range(0..SECOND);
            self.network.dark.insert(place, until);
        }
        for (peer, end) in ends {
            let told = death != Death::Power && self.blocked(node, peer.0).is_none();
            let mut roll = self.roll(Part::Process(life, Organ::Link(peer.0)));
            let delay = match told {
                true => self.takes(&mut roll, self.mix.network),
                false => roll.random_range(200 * MILLI..3 * SECOND),
            };
            self.after(delay, Happening::LinkDown(end.peer, NodeId(node), end.link));
        }
    }

    /// Packets between two nodes stop: each side finds out for itself, if at all before they flow again.
    pub fn block(&mut self, from: u64, to: u64, block: Block) {
        self.network.blocked.insert((from, to), block);
        for (pid, peer, end) in self.ends_between(from, to) {
            let mut roll = self.roll(Part::Path(from, to));
            if block == Block::Reject || roll.random_bool(0.5) {
                let most = if block == Block::Reject { 50 * MILLI } else { 2 * SECOND };
                let delay = roll.random_range(1..most);
                self.after(delay, Happening::LinkDown(pid, peer, end.link));
            }
        }
    }

    /// Breaks the links between two nodes.
    pub fn unlink(&mut self, one: u64, other: u64) {
        for (pid, peer, end) in self.ends_between(one, other) {
            let delay = self.roll(Part::Path(one, other)).random_range(1..5 * MILLI);
            self.after(delay, Happening::LinkDown(pid, peer, end.link));
        }
    }

    /// Whether a process has a link to anybody.
    pub fn is_linked(&self, pid: Pid) -> bool {
        self.processes.get(&pid).is_some_and(|process| !process.ends.up.is_empty())
    }

    fn ends_between(&self, one: u64, other: u64) -> Vec<(Pid, NodeId, End)> {
        let both = [(one, other), (other, one)];
        self.processes
            .values()
            .flat_map(|process| process.ends.up.iter().map(move |(peer, end)| (process, *peer, *end)))
            .filter(|(process, peer, _)| both.contains(&(process.place.node, peer.0)))
            .map(|(process, peer, end)| (process.pid, peer, end))
            .collect()
    }
}
