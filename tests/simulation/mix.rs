//! What a run is made of: how many nodes, how fast everything is, and how often it breaks. Data only.

mod fault;
mod kinds;

pub use fault::Fault;
pub use kinds::{MIXES, QUIET};

/// Microseconds of simulated time.
pub type Micros = u64;

pub const MILLI: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// A delay, drawn evenly, and now and then ten times as long.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    pub min: Micros,
    pub max: Micros,
}

pub const fn delay(min: Micros, max: Micros) -> Delay {
    Delay { min, max }
}

/// Whether a node's state machine survives its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machines {
    Volatile,
    Durable,
    /// Drawn per run.
    Any,
}

/// How often each fault is drawn, relative to each other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    /// kill -9 of one process, disk intact.
    pub kill: u32,
    /// Machine loses power: unsynced writes are lost, no connection is reset.
    pub power: u32,
    /// kill -9 and the disk is deleted.
    pub wipe: u32,
    /// kill -9 and an older copy of the disk is put back.
    pub older: u32,
    /// kill -9 of every process at once.
    pub kill_all: u32,
    /// The same, and every disk is deleted.
    pub wipe_all: u32,
    /// SIGSTOP, later SIGCONT.
    pub pause: u32,
    /// A connection to ZooKeeper breaks at once, requests drift.
    pub cut: u32,
    /// A connection to ZooKeeper goes silent, in one direction or both.
    pub mute: u32,
    /// A session expires by the ensemble's decision.
    pub expire: u32,
    /// A node reaches no ZooKeeper server for a while.
    pub isolate: u32,
    /// A node's way to ZooKeeper is slow for a while.
    pub drag: u32,
    /// The whole ensemble is down for a while.
    pub outage: u32,
    /// A ZooKeeper server applies nothing new for a while.
    pub lag: u32,
    /// Two nodes cannot reach each other.
    pub partition: u32,
    /// One of two nodes cannot reach the other.
    pub one_way: u32,
    /// Two nodes refuse each other's connections though both live.
    pub reject: u32,
    /// A link breaks.
    pub unlink: u32,
    /// A second process is started with the same node id.
    pub twin: u32,
    /// A leader is asked to hand over.
    pub hand_over: u32,
    /// A process is asked to shut down.
    pub shut_down: u32,
    /// A state machine is not ready to lead for a while.
    pub veto: u32,
    /// ZooKeeper refuses to create anything for a group for a while.
    pub quota: u32,
    /// A write to a disk fails.
    pub disk_write: u32,
    /// A sync of a disk fails.
    pub disk_sync: u32,
    /// A disk is full for a while.
    pub disk_full: u32,
    /// Bits of a disk flip.
    pub flip: u32,
    /// A clock leaps forward.
    pub leap: u32,
    /// A clock goes at another rate.
    pub drift: u32,
    /// A machine is suspended, its clock with it.
    pub suspend: u32,
    /// Nobody may use one of the group's znodes, or a node's, for a while.
    pub deny: u32,
    /// A ZooKeeper server is down for a while.
    pub member: u32,
    /// The ZooKeeper servers elect another leader.
    pub election: u32,
}

/// A kind of run.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub name: &'static str,
    /// Share of the seeds, relative to the other mixes.
    pub share: u32,
    pub nodes: u64,
    /// Groups, each of them on every node.
    pub groups: usize,
    pub servers: usize,
    pub machines: Machines,
    pub clients: u64,
    /// Pause of a client between two operations.
    pub think: Delay,
    /// From node to ZooKeeper, one way, the server's work included.
    pub keeper: Delay,
    /// After how long a ZooKeeper server applies what another committed.
    pub behind: Delay,
    /// Between nodes, one way.
    pub network: Delay,
    /// One write to the local disk.
    pub disk: Delay,
    /// One job of the state machine's thread.
    pub machine: Delay,
    /// From a death to the restart.
    pub downtime: Delay,
    /// How long a pause, partition, isolation or outage lasts.
    pub spell: Delay,
    /// From one fault to the next.
    pub calm: Delay,
    pub weights: Weights,
    /// ZooKeeper goes back to an older state in the end.
    pub backwards: bool,
    /// Per 10,000 messages between nodes: dropped, duplicated, delayed out of order, delivered once more long after.
    pub dropped: u32,
    pub duplicated: u32,
    pub reordered: u32,
    pub stale: u32,
    /// Per 10,000 steps of a core: killed after a part of the step's effects.
    pub killed_in_step: u32,
    /// Per 10,000 snapshots a state machine is asked for: failed.
    pub snapshot_fails: u32,
    /// Per 10,000 requests to ZooKeeper: given up early, though they may be served later.
    pub given_up: u32,
    /// The group's limits.
    pub wal_bytes: u64,
    pub wal_segments: u64,
    /// The core's bounds.
    pub segment_bytes: usize,
    pub segments_in_flight: usize,
    /// Transactions that requests share, on their way at once.
    pub shared: usize,
    pub log_cache_bytes: u64,
}

/// A mix by its name.
pub fn named(name: &str) -> Option<&'static Mix> {
    MIXES.iter().find(|mix| mix.name == name)
}

/// The mix of a seed: each gets its share of any run of consecutive seeds.
pub fn of_seed(seed: u64) -> &'static Mix {
    if let Some(mix) = std::env::var("BEQUEST_MIX").ok().and_then(|name| named(&name)) {
        return mix;
    }
    let total: u64 = MIXES.iter().map(|mix| u64::from(mix.share)).sum();
    let mut place = seed % total;
    for mix in MIXES {
        let share = u64::from(mix.share);
        if place < share {
            return mix;
        }
        place -= share;
    }
    &MIXES[0]
}
