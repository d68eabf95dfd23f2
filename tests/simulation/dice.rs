//! Chance, or its absence: every part of the world draws from a stream of its own.
//!
//! What a part draws depends on the seed, on the part's name, and on how often it drew before, and on nothing else. So
//! what one part does, or is kept from doing, changes no other part's draws. Within a part every occasion has draws of
//! its own, however many: a fault that does not happen leaves the next one what it was.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use rand::{Rng, RngCore};

use crate::world::Place;

/// One life of a process: the how manieth at its place, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    pub place: Place,
    pub count: u64,
}

/// What of a process draws for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Organ {
    /// When it is stepped.
    Inbox,
    /// What becomes of a step.
    Core,
    /// When it joins a group, and what of the group's log it finds.
    Join(usize),
    /// A group's writes to the disk.
    Disk(usize),
    /// A group's state machine.
    Machine(usize),
    /// Its requests to ZooKeeper on their way.
    Requests,
    /// ZooKeeper's answers and notices on theirs.
    Replies,
    /// What it reports of requests whose outcome it does not know.
    Unknown,
    /// Its connection to ZooKeeper: how it is found and lost.
    Connection,
    /// What it sends to a node.
    Link(u64),
    /// How it looks for a node.
    Dial(u64),
    /// What its end leaves behind.
    Death,
}

/// A part of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    World,
    /// The mix of faults.
    Faults,
    /// Whoever drives a run from outside.
    Driver,
    /// The starts of a place's processes.
    Births(Place),
    /// The syncs of its disk.
    Syncs(Place),
    Process(Life, Organ),
    /// Who finds out that packets from one node to another stop.
    Path(u64, u64),
    /// A ZooKeeper server.
    Server(usize),
    /// The ensemble's clock for a session.
    Session(u64),
    /// What is left in the sockets of broken connections.
    Sockets,
    /// A group's client.
    Client(usize, u64),
    /// What the clients of a group write and read.
    Keys(usize),
    /// A fault that waits for its moment.
    Aim(usize),
    /// What goes wrong with a place's disk.
    Trouble(Place),
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.place, self.count)
    }
}

impl fmt::Display for Organ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbox => f.write_str("inbox"),
            Self::Core => f.write_str("core"),
            Self::Join(group) => write!(f, "join-g{group}"),
            Self::Disk(group) => write!(f, "disk-g{group}"),
            Self::Machine(group) => write!(f, "machine-g{group}"),
            Self::Requests => f.write_str("requests"),
            Self::Replies => f.write_str("replies"),
            Self::Unknown => f.write_str("unknown"),
            Self::Connection => f.write_str("connection"),
            Self::Link(node) => write!(f, "link-n{node}"),
            Self::Dial(node) => write!(f, "dial-n{node}"),
            Self::Death => f.write_str("death"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World => f.write_str("world"),
            Self::Faults => f.write_str("faults"),
            Self::Driver => f.write_str("driver"),
            Self::Births(place) => write!(f, "{place}/births"),
            Self::Syncs(place) => write!(f, "{place}/syncs"),
            Self::Process(life, organ) => write!(f, "{life}/{organ}"),
            Self::Path(from, to) => write!(f, "n{from}-n{to}"),
            Self::Server(server) => write!(f, "server{server}"),
            Self::Session(session) => write!(f, "session{session}"),
            Self::Sockets => f.write_str("sockets"),
            Self::Client(group, client) => write!(f, "g{group}/client{client}"),
            Self::Keys(group) => write!(f, "g{group}/keys"),
            Self::Aim(aim) => write!(f, "aim{aim}"),
            Self::Trouble(place) => write!(f, "{place}/trouble"),
        }
    }
}

/// Where every draw comes from.
#[derive(Debug)]
pub struct Dice {
    source: Source,
    streams: BTreeMap<Part, Stream>,
}

#[derive(Debug)]
enum Source {
    /// A seed's draws.
    Seeded(u64),
    /// The middle of every range, and nothing that is not more likely than not: a world without chance. Whole numbers
    /// still differ from each other, by their last bits.
    Even(Rc<Cell<u64>>),
}

#[derive(Debug)]
struct Stream {
    key: u64,
    occasions: u64,
}

/// One occasion of a part to draw, numbered from 1.
#[derive(Debug)]
pub struct Roll {
    pub part: Part,
    pub ordinal: u64,
    draws: Draws,
}

#[derive(Debug)]
enum Draws {
    Seeded(u64),
    Even(Rc<Cell<u64>>),
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finalizer (Steele et al. 2014): the same on every machine and in every release of every crate.
fn mixed(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl Dice {
    pub fn seeded(seed: u64) -> Self {
        Self { source: Source::Seeded(mixed(seed.wrapping_add(GOLDEN))), streams: BTreeMap::new() }
    }

    /// No chance.
    pub fn even() -> Self {
        Self { source: Source::Even(Rc::default()), streams: BTreeMap::new() }
    }

    /// A part's next occasion.
    pub fn roll(&mut self, part: Part) -> Roll {
        let seed = match &self.source {
            Source::Seeded(seed) => *seed,
            Source::Even(_) => 0,
        };
        let named =
            || part.to_string().bytes().fold(seed, |key, byte| mixed(key.wrapping_add(GOLDEN) ^ u64::from(byte)));
        let stream = self.streams.entry(part).or_insert_with(|| Stream { key: named(), occasions: 0 });
        stream.occasions += 1;
        let draws = match &self.source {
            Source::Seeded(_) => Draws::Seeded(mixed(stream.key ^ mixed(stream.occasions))),
            Source::Even(drawn) => Draws::Even(Rc::clone(drawn)),
        };
        Roll { part, ordinal: stream.occasions, draws }
    }
}

impl Roll {
    /// One of some.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.random_range(0..from.len())])
    }

    /// One of some: the others' coming and going changes little about which.
    pub fn favourite<T: Copy>(&mut self, from: impl IntoIterator<Item = (Place, T)>) -> Option<T> {
        let salt: u64 = self.random();
        let liking = |place: &Place| mixed(salt ^ mixed(place.node << 8 | u64::from(place.host)));
        from.into_iter().max_by_key(|(place, _)| liking(place)).map(|(_, one)| one)
    }
}

impl RngCore for Roll {
    fn next_u32(&mut self) -> u32 {
        match self.draws {
            Draws::Seeded(_) => (self.next_u64() >> 32) as u32,
            Draws::Even(_) => 1 << 31,
        }
    }

    fn next_u64(&mut self) -> u64 {
        match &mut self.draws {
            Draws::Seeded(state) => {
                *state = state.wrapping_add(GOLDEN);
                mixed(*state)
            }
            Draws::Even(drawn) => {
                drawn.set(drawn.get() + 1);
                1 << 63 | drawn.get()
            }
        }
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let drawn = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&drawn[..chunk.len()]);
        }
    }
}

#[cfg_attr(not(planted), test)]
fn what_a_part_draws_depends_on_no_other_part() {
    let place = Place { node: 1, host: 0 };
    let parts = [Part::Faults, Part::Driver, Part::Births(place), Part::Server(1), Part::Path(1, 2), Part::Path(2, 1)];
    let alone = parts.map(|part| {
        let mut dice = Dice::seeded(7);
        [(); 3].map(|()| dice.roll(part).next_u64())
    });
    let mut dice = Dice::seeded(7);
    let mut together = parts.map(|_| Vec::new());
    for _ in 0..3 {
        for (place, part) in parts.into_iter().enumerate() {
            let mut roll = dice.roll(part);
            together[place].push(roll.next_u64());
            // However much an occasion draws, the next one is not moved by it.
            let more: Vec<u64> = (0..place).map(|_| roll.next_u64()).collect();
            assert!(together[place].iter().all(|drawn| !more.contains(drawn)), "{part}: {more:?}");
        }
    }
    assert_eq!(together, alone.map(Vec::from));
    let mut all: Vec<u64> = alone.into_iter().flatten().collect();
    all.extend(parts.map(|part| Dice::seeded(8).roll(part).next_u64()));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "no two of them draw alike");
}
