//! Every kind of run there is.

use super::{delay, Machines, Mix, Weights, MILLI, SECOND};

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
    shared: 8,
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
    // Much to write in several groups and few transactions at once: requests of different groups share them.
    Mix {
        name: "shared",
        share: 2,
        groups: 3,
        shared: 1,
        clients: 6,
        think: delay(0, 5 * MILLI),
        weights: Weights { quota: 10, cut: 12, deny: 6, ..ROUGH },
        given_up: 300,
        wal_bytes: 64 << 10,
        wal_segments: 200,
        ..TWO
    },
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
