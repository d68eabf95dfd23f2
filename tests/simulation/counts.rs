//! What the runs reached: a rule that no run ever got near is not shown to hold.

use std::collections::BTreeMap;

use crate::blows::Blows;

/// How often each thing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    things: BTreeMap<String, u64>,
    /// Faults, by what they hit.
    pub blows: Blows,
}

/// Without these the runs show nothing: at least once in a suite of full size.
pub const IMPORTANT: &[&str] = &[
    "acknowledged",
    "applied by a twin attempt once",
    "busy",
    "challenge answered",
    "challenge written",
    "dead: power",
    "dead: process",
    "dead: while leading",
    "dead: while succeeding",
    "dead: while being born",
    "disk: damage was read",
    "disk: damaged and moved aside",
    "disk: full",
    "disk: group damaged and removed",
    "disk: log damaged",
    "disk: older",
    "disk: sync failed",
    "disk: too full to start",
    "disk: wiped",
    "disk: write failed",
    "all dead at once",
    "killed between two effects",
    "late application",
    "message delivered long after",
    "lost reply of an applied write",
    "log fetched from disk",
    "outcome unknown to a client",
    "pause outlived the session",
    "read",
    "read refused",
    "restore finished",
    "scan",
    "several requests sent as one transaction",
    "sent again because another request was refused",
    "seal refused",
    "seal won",
    "session expired",
    "snapshot pointer moved",
    "stopped: denied",
    "stale read by a lagging server",
    "transfer acknowledged",
    "trimmed segment",
    "vacated",
    "suffix adopted",
    "zookeeper elects",
    "zookeeper server down",
];

impl Counts {
    pub fn add(&mut self, what: &str, count: u64) {
        match self.things.get_mut(what) {
            Some(sum) => *sum += count,
            None => {
                self.things.insert(what.to_owned(), count);
            }
        }
    }

    pub fn one(&mut self, what: &str) {
        self.add(what, 1);
    }

    pub fn get(&self, what: &str) -> u64 {
        self.things.get(what).copied().unwrap_or(0)
    }

    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.things {
            self.add(what, *count);
        }
        self.blows.merge(&other.blows);
    }

    /// The important things that never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        IMPORTANT.iter().copied().filter(|what| self.get(what) == 0).collect()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.things.iter().try_for_each(|(what, count)| writeln!(f, "{count:>12}  {what}"))
    }
}
