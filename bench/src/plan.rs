//! What is measured, of whom, and in which order.

use serde::{Deserialize, Serialize};

/// Bound on a value: with its key it fits into one proposal, and a znode.
pub(crate) const VALUE_BYTES_MAX: usize = 256 * 1024;
/// Bound on requests in flight: a node accepts twice as many by default.
pub(crate) const IN_FLIGHT_MAX: usize = 4096;
/// A whole segment, and how many of them are on their way at once.
const SEGMENT: (usize, usize) = (100 * 1024, 8);
/// Writers beside the readers, where there are any.
const WRITERS: usize = 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Writes.
    Append,
    /// Linearizable reads.
    Read,
}

impl Kind {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Read => "read",
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Two nodes, through the library, with the local log synced in the background.
    Bequest,
    /// The same with the local log synced before anything is acknowledged.
    BequestSynced,
    /// One transaction for each write or read, by the client library that bequest uses.
    #[value(name = "zookeeper")]
    #[serde(rename = "zookeeper")]
    ZooKeeper,
    /// Whole segments, by the same: as many bytes as go through ZooKeeper.
    Segments,
    /// Three members of etcd.
    Etcd,
}

impl Contender {
    /// Who takes part.
    pub(crate) fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Append => &[Self::Bequest, Self::BequestSynced, Self::ZooKeeper, Self::Segments, Self::Etcd],
            Kind::Read => &[Self::Bequest, Self::ZooKeeper, Self::Etcd],
        }
    }

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bequest => "bequest",
            Self::BequestSynced => "bequest-synced",
            Self::ZooKeeper => "zookeeper",
            Self::Segments => "segments",
            Self::Etcd => "etcd",
        }
    }
}

/// One measurement, whoever makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Case {
    /// What is measured.
    pub(crate) kind: Kind,
    /// Bytes of a value.
    pub(crate) bytes: usize,
    /// Requests in flight at any time.
    pub(crate) in_flight: usize,
    /// Writers beside the readers.
    pub(crate) writers: usize,
}

/// One measurement of one contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Entry {
    /// ZooKeeper servers.
    pub(crate) servers: u32,
    /// What.
    #[serde(flatten)]
    pub(crate) case: Case,
    /// Who.
    pub(crate) contender: Contender,
    /// Over how many connections.
    pub(crate) connections: usize,
}

/// All measurements of one kind, those with the same load side by side.
pub(crate) fn entries(
    kind: Kind,
    servers: u32,
    bytes: &[usize],
    in_flight: &[usize],
    contenders: &[Contender],
    connections: impl Fn(Contender) -> Vec<usize>,
) -> Vec<Vec<Entry>> {
    let mut all = Vec::new();
    let writers: &[usize] = if kind == Kind::Read { &[0, WRITERS] } else { &[0] };
    for &writers in writers {
        for &bytes in bytes {
            for &in_flight in in_flight {
                let case = Case { kind, bytes, in_flight, writers };
                let who = contenders.iter().filter(|contender| **contender != Contender::Segments);
                all.push(sides(servers, case, who, &connections));
            }
        }
    }
    let (bytes, in_flight) = SEGMENT;
    let case = Case { kind, bytes, in_flight, writers: 0 };
    all.push(sides(
        servers,
        case,
        contenders.iter().filter(|contender| **contender == Contender::Segments),
        &connections,
    ));
    all.retain(|side| !side.is_empty());
    all
}

fn sides<'a>(
    servers: u32,
    case: Case,
    contenders: impl Iterator<Item = &'a Contender>,
    connections: &impl Fn(Contender) -> Vec<usize>,
) -> Vec<Entry> {
    let entries = contenders.flat_map(|contender| {
        // More connections than requests are idle.
        let useful = connections(*contender).into_iter().filter(|connections| *connections <= case.in_flight);
        useful.map(|connections| Entry { servers, case, contender: *contender, connections })
    });
    entries.collect()
}

/// In which order `count` contenders take their turns in a round: nobody always comes first, nor always after the same.
pub(crate) fn turns(count: usize, round: u64) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..count).collect();
    if count > 0 {
        let by = round / 2 % count as u64;
        turns.rotate_left(usize::try_from(by).unwrap_or(0));
    }
    if !round.is_multiple_of(2) {
        turns.reverse();
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_every_round_everybody_has_one_turn() {
        for round in 0..20 {
            let mut turns = turns(7, round);
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2, 3, 4, 5, 6], "round={round}");
        }
        assert!(turns(0, 3).is_empty());
    }

    #[test]
    fn over_the_rounds_everybody_has_every_place_equally_often() {
        let mut places = [[0; 5]; 5];
        for round in 0..10 {
            for (place, who) in turns(5, round).into_iter().enumerate() {
                places[who][place] += 1;
            }
        }
        assert_eq!(places, [[2; 5]; 5]);
    }

    #[test]
    fn nobody_always_comes_after_the_same() {
        let before = |round| {
            let turns = turns(4, round);
            let place = turns.iter().position(|who| *who == 2).expect("has a turn");
            place.checked_sub(1).map(|before| turns[before])
        };
        let all: std::collections::BTreeSet<_> = (0..8).map(before).collect();
        assert_eq!(all, [None, Some(1), Some(3)].into());
    }

    #[test]
    fn segments_are_measured_once_and_as_a_ceiling_alone() {
        let all = entries(Kind::Append, 1, &[100, 1024], &[1, 16], Contender::of(Kind::Append), |_| vec![1, 4]);
        let segments: Vec<&Entry> = all.iter().flatten().filter(|one| one.contender == Contender::Segments).collect();
        assert_eq!(segments.iter().map(|one| one.connections).collect::<Vec<_>>(), [1, 4]);
        assert!(segments.iter().all(|one| (one.case.bytes, one.case.in_flight) == SEGMENT));
        assert_eq!(all.len(), 5, "four loads and the ceiling");
        assert!(all[0].iter().all(|one| one.connections == 1), "one request in flight needs one connection");
    }

    #[test]
    fn reads_are_measured_alone_and_with_writes() {
        let all = entries(Kind::Read, 3, &[100], &[1, 256], Contender::of(Kind::Read), |_| vec![1]);
        let loads: Vec<_> = all.iter().map(|side| (side[0].case.in_flight, side[0].case.writers)).collect();
        assert_eq!(loads, [(1, 0), (256, 0), (1, WRITERS), (256, WRITERS)]);
    }
}
