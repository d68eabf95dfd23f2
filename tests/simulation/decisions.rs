//! Decisions to hurt: each has a name, and a run can be told which of them are allowed.
//!
//! A name is a part, its occasion, and what would happen: `faults/17/kill`, `n1.3/link-n2/40/dropped`. It says the same
//! in every run of a seed whatever else is allowed, as far as the parts do the same.

use std::collections::BTreeSet;
use std::fmt;

use rand::Rng;

use crate::dice::{Life, Organ, Part, Roll};
use crate::mix::{Delay, Micros};
use crate::world::{Pid, World};

/// A decision's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    part: Part,
    ordinal: u64,
    /// What happens.
    pub what: &'static str,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.part, self.ordinal, self.what)
    }
}

/// Which decisions may come true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    #[default]
    All,
    /// All but these.
    Without(BTreeSet<String>),
    /// None but these.
    Only(BTreeSet<String>),
}

impl Allowed {
    fn allows(&self, name: Name) -> bool {
        match self {
            Self::All => true,
            Self::Without(names) => !names.contains(&name.to_string()),
            Self::Only(names) => names.contains(&name.to_string()),
        }
    }
}

/// A decision that came true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    pub at: Micros,
    pub name: Name,
    /// Whom it hurt, where the name does not tell.
    pub whom: String,
}

/// What was decided in a run.
#[derive(Debug, Default)]
pub struct Decisions {
    pub allowed: Allowed,
    /// In order.
    pub came: Vec<Came>,
}

// Of so many delays, one is ten times as long.
const SLOW: (u32, u32) = (1, 50);

impl World {
    /// A part's next occasion to draw.
    pub fn roll(&mut self, part: Part) -> Roll {
        self.dice.roll(part)
    }

    /// The same for a part of a process, if it lives.
    pub fn roll_of(&mut self, pid: Pid, organ: Organ) -> Option<Roll> {
        let life = self.processes.get(&pid)?.life;
        Some(self.dice.roll(Part::Process(life, organ)))
    }

    /// The next life at a place.
    pub fn next_life(&mut self, place: crate::world::Place) -> Life {
        let count = self.lives.entry(place).or_default();
        *count += 1;
        Life { place, count: *count }
    }

    /// Whether what was drawn comes true: it may have been ruled out.
    pub fn comes_true(&mut self, roll: &Roll, what: &'static str, whom: impl FnOnce() -> String) -> bool {
        let name = Name { part: roll.part, ordinal: roll.ordinal, what };
        let allowed = self.decisions.allowed.allows(name);
        if allowed {
            self.decisions.came.push(Came { at: self.now, name, whom: whom() });
        }
        allowed
    }

    /// Decides whether something happens that happens so many times in 10,000. Nothing bad does once the faults are over.
    pub fn hurts(&mut self, roll: &mut Roll, what: &'static str, in_10_000: u32) -> bool {
        let drawn = !self.healing && roll.random_ratio(in_10_000, 10_000);
        drawn && self.comes_true(roll, what, String::new)
    }

    /// How long something of the world takes.
    pub fn takes(&mut self, roll: &mut Roll, delay: Delay) -> Micros {
        let drawn = roll.random_range(delay.min..=delay.max);
        let slow = !self.healing && roll.random_ratio(SLOW.0, SLOW.1);
        if slow && self.comes_true(roll, "slow", String::new) {
            drawn * 10
        } else {
            drawn
        }
    }

    /// How long something takes that nobody is hurt by: a pause between two operations, or between two faults.
    pub fn lasts(&self, roll: &mut Roll, delay: Delay) -> Micros {
        let drawn = roll.random_range(delay.min..=delay.max);
        if !self.healing && roll.random_ratio(SLOW.0, SLOW.1) {
            drawn * 10
        } else {
            drawn
        }
    }
}
