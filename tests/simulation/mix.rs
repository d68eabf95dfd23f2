//! What a run is made of: how many nodes, how fast everything is, and how often it breaks. Data only.

mod fault;

pub use fault::Fault;

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
    pub log_cache_bytes: u64,
}

const ROUGH: Weights = Weights {
    kill: 10,
    power: 4,
    wipe: 5,
    older: 3,
    kill_all: 3,
    wipe_all: 3,
    pause: 6,
    cut: 8,
    mute: 6,
    expire: 5,
    isolate: 4,
    drag: 3,
    outage: 1,
    lag: 4,
    partition: 4,
    one_way: 3,
    reject: 2,
    unlink: 4,
    twin: 2,
    hand_over: 3,
    shut_down: 2,
    veto: 4,
    quota: 2,
    disk_write: 3,
    disk_sync: 3,
    disk_full: 2,
    flip: 3,
    leap: 3,
    drift: 2,
    suspend: 3,
    deny: 2,
    member: 3,
    election: 2,
};

const NOTHING: Weights = Weights {
    kill: 0,
    power: 0,
    wipe: 0,
    older: 0,
    kill_all: 0,
    wipe_all: 0,
    pause: 0,
    cut: 0,
    mute: 0,
    expire: 0,
    isolate: 0,
    drag: 0,
    outage: 0,
    lag: 0,
    partition: 0,
    one_way: 0,
    reject: 0,
    unlink: 0,
    twin: 0,
    hand_over: 0,
    shut_down: 0,
    veto: 0,
    quota: 0,
    disk_write: 0,
    disk_sync: 0,
    disk_full: 0,
    flip: 0,
    leap: 0,
    drift: 0,
    suspend: 0,
    deny: 0,
    member: 0,
    election: 0,
};

const TWO: Mix = Mix {
    name: "two",
    share: 8,
    nodes: 2,
    groups: 1,
    servers: 3,
    machines: Machines::Any,
    clients: 3,
    think: delay(0, 50 * MILLI),
    keeper: delay(200, 2 * MILLI),
    behind: delay(100, 30 * MILLI),
    network: delay(50, 2 * MILLI),
    disk: delay(50, 3 * MILLI),
    machine: delay(10, MILLI),
    downtime: delay(MILLI, 400 * MILLI),
    spell: delay(20 * MILLI, 900 * MILLI),
    calm: delay(5 * MILLI, 600 * MILLI),
    weights: ROUGH,
    backwards: false,
    dropped: 50,
    duplicated: 50,
    reordered: 100,
    stale: 300,
    killed_in_step: 20,
    snapshot_fails: 200,
    given_up: 50,
    wal_bytes: 8 * 1024,
    wal_segments: 40,
    segment_bytes: 512,
    segments_in_flight: 8,
    log_cache_bytes: 2 * 1024,
};

/// Every kind of run there is.
pub const MIXES: &[Mix] = &[
    TWO,
    // Deaths of whole machines and disks, one after the other, and little else.
    Mix {
        name: "rebirth",
        share: 4,
        weights: Weights { kill: 10, power: 10, wipe: 10, older: 5, kill_all: 10, wipe_all: 10, flip: 4, ..NOTHING },
        calm: delay(2 * MILLI, 150 * MILLI),
        downtime: delay(MILLI, 150 * MILLI),
        killed_in_step: 60,
        ..TWO
    },
    // Nothing dies; only the connections to ZooKeeper do.
    Mix {
        name: "connections",
        share: 3,
        weights: Weights {
            cut: 10,
            mute: 8,
            expire: 8,
            isolate: 6,
            outage: 2,
            lag: 6,
            pause: 6,
            member: 4,
            election: 3,
            ..NOTHING
        },
        calm: delay(2 * MILLI, 150 * MILLI),
        given_up: 300,
        killed_in_step: 0,
        ..TWO
    },
    // One node's way to ZooKeeper is much slower than the other's: while one still reads, the other leads and trims.
    Mix {
        name: "dragged",
        share: 2,
        think: delay(0, 10 * MILLI),
        weights: Weights {
            drag: 20,
            partition: 12,
            one_way: 6,
            cut: 4,
            pause: 4,
            wipe: 2,
            kill: 4,
            hand_over: 6,
            ..NOTHING
        },
        calm: delay(2 * MILLI, 150 * MILLI),
        spell: delay(200 * MILLI, 2 * SECOND),
        killed_in_step: 0,
        wal_bytes: 3 * 1024,
        wal_segments: 12,
        ..TWO
    },
    // The same node is started twice, again and again, while the first of the two is out of sight.
    Mix {
        name: "twins",
        share: 1,
        weights: Weights { twin: 20, pause: 20, isolate: 4, partition: 4, kill: 2, cut: 4, ..NOTHING },
        calm: delay(2 * MILLI, 100 * MILLI),
        killed_in_step: 0,
        ..TWO
    },
    // One node alone, whose requests come late or are refused: nobody but itself can put it right.
    Mix {
        name: "alone",
        share: 1,
        nodes: 1,
        weights: Weights { quota: 20, cut: 20, mute: 10, expire: 4, ..NOTHING },
        calm: delay(2 * MILLI, 60 * MILLI),
        spell: delay(10 * MILLI, 200 * MILLI),
        given_up: 1_000,
        killed_in_step: 0,
        ..TWO
    },
    // One server, so that a session never moves and what drifts in its sockets is always served, late.
    Mix {
        name: "late",
        share: 2,
        servers: 1,
        weights: Weights { cut: 10, mute: 6, pause: 1, kill: 1, ..NOTHING },
        calm: delay(2 * MILLI, 80 * MILLI),
        given_up: 500,
        killed_in_step: 0,
        wal_bytes: 3 * 1024,
        wal_segments: 16,
        ..TWO
    },
    // Nothing dies; only the nodes cannot reach each other.
    Mix {
        name: "partitions",
        share: 2,
        weights: Weights { partition: 10, one_way: 8, reject: 6, unlink: 8, hand_over: 4, pause: 3, ..NOTHING },
        dropped: 500,
        duplicated: 500,
        reordered: 1_000,
        stale: 1_000,
        killed_in_step: 0,
        ..TWO
    },
    // Disks fail, fill up, are damaged and put back to what they were.
    Mix {
        name: "disks",
        share: 2,
        weights: Weights {
            disk_write: 10,
            disk_sync: 10,
            disk_full: 6,
            flip: 10,
            older: 6,
            power: 6,
            wipe: 2,
            hand_over: 4,
            pause: 4,
            partition: 4,
            quota: 2,
            veto: 4,
            ..NOTHING
        },
        calm: delay(2 * MILLI, 200 * MILLI),
        downtime: delay(MILLI, 150 * MILLI),
        ..TWO
    },
    // Clocks leap, drift and stand still.
    Mix {
        name: "clocks",
        share: 2,
        weights: Weights { leap: 10, drift: 6, suspend: 10, pause: 4, isolate: 3, kill: 2, partition: 4, ..NOTHING },
        calm: delay(2 * MILLI, 150 * MILLI),
        killed_in_step: 0,
        ..TWO
    },
    // ZooKeeper goes back to an older state, after what is usual before it.
    Mix {
        name: "backwards",
        share: 1,
        weights: Weights {
            kill: 6,
            power: 2,
            wipe: 1,
            pause: 4,
            cut: 6,
            expire: 2,
            isolate: 2,
            partition: 6,
            hand_over: 4,
            veto: 4,
            quota: 2,
            ..NOTHING
        },
        backwards: true,
        ..TWO
    },
    // ZooKeeper is slower than the election timeout.
    Mix {
        name: "slow",
        share: 1,
        keeper: delay(20 * MILLI, 120 * MILLI),
        calm: delay(100 * MILLI, 1_500 * MILLI),
        ..TWO
    },
    // Hardly any fault: the paths without them, snapshots and trimming at full speed.
    Mix {
        name: "calm",
        share: 1,
        machines: Machines::Durable,
        clients: 6,
        think: delay(0, 3 * MILLI),
        weights: Weights { kill: 2, wipe: 2, hand_over: 2, ..NOTHING },
        calm: delay(300 * MILLI, 2 * SECOND),
        dropped: 0,
        duplicated: 0,
        reordered: 0,
        stale: 0,
        killed_in_step: 0,
        given_up: 0,
        wal_bytes: 4 * 1024,
        wal_segments: 24,
        ..TWO
    },
    // Room for one entry and one segment at a time.
    Mix {
        name: "narrow",
        share: 1,
        machines: Machines::Volatile,
        segment_bytes: 1,
        segments_in_flight: 1,
        log_cache_bytes: 0,
        wal_segments: 20,
        ..TWO
    },
    // A log too long to be snapshotted within a run: long replays.
    Mix { name: "deep", share: 2, wal_bytes: 4 << 20, wal_segments: 100_000, ..TWO },
    // Several groups share a session, a registration and the links.
    Mix { name: "groups", share: 3, groups: 3, clients: 2, ..TWO },
    Mix { name: "one", share: 2, nodes: 1, ..TWO },
    Mix { name: "three", share: 2, nodes: 3, ..TWO },
    Mix { name: "five", share: 1, nodes: 5, clients: 4, ..TWO },
];

/// Two nodes, no fault and no client: what happens is what a scenario does.
pub const QUIET: Mix = Mix {
    name: "quiet",
    share: 0,
    machines: Machines::Durable,
    clients: 0,
    weights: NOTHING,
    calm: delay(SECOND, SECOND),
    dropped: 0,
    duplicated: 0,
    reordered: 0,
    stale: 0,
    killed_in_step: 0,
    snapshot_fails: 0,
    given_up: 0,
    ..TWO
};

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
