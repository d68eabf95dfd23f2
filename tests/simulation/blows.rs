//! How often each kind of fault struck in each step of the protocol.

use std::fmt;

use crate::mix::Fault;
use crate::steps::Step;
use crate::world::{Pid, World};

/// Something that hurts: drawn as a fault, or what befalls single messages, requests and effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blow {
    Drawn(Fault),
    MessageDropped,
    MessageTwice,
    MessageLate,
    /// A copy of it arrives long after, whoever is there then.
    MessageFromThePast,
    /// A request is given up early, though it may still be served.
    GivenUp,
    /// A process is killed between two effects of one step.
    BetweenEffects,
    /// A state machine gives no view of its state.
    NoView,
    /// ZooKeeper goes back to an older state.
    RolledBack,
}

const OTHERS: [Blow; 8] = [
    Blow::MessageDropped,
    Blow::MessageTwice,
    Blow::MessageLate,
    Blow::MessageFromThePast,
    Blow::GivenUp,
    Blow::BetweenEffects,
    Blow::NoView,
    Blow::RolledBack,
];
const ROWS: usize = Fault::ALL.len() + OTHERS.len();
const STEPS: usize = Step::ALL.len();

impl Blow {
    pub fn all() -> impl Iterator<Item = Self> {
        Fault::ALL.into_iter().map(Self::Drawn).chain(OTHERS)
    }

    /// In one word, as decisions are called.
    pub fn word(self) -> &'static str {
        match self {
            Self::Drawn(fault) => fault.word(),
            Self::MessageDropped => "dropped",
            Self::MessageTwice => "duplicated",
            Self::MessageLate => "reordered",
            Self::MessageFromThePast => "stale",
            Self::GivenUp => "given-up",
            Self::BetweenEffects => "killed",
            Self::NoView => "snapshot-fails",
            Self::RolledBack => "roll-back",
        }
    }

    fn row(self) -> usize {
        match self {
            Self::Drawn(fault) => fault as usize,
            other => Fault::ALL.len() + OTHERS.iter().position(|blow| *blow == other).expect("all are listed"),
        }
    }

    /// Why it cannot strike in a step, where it cannot.
    pub fn never(self, step: Step) -> Option<&'static str> {
        use Step::*;
        match (self, step) {
            (Self::Drawn(Fault::HandOver), Leading | Snapshotting | Trimming) => None,
            (Self::Drawn(Fault::HandOver), _) => Some("only a leader hands over"),
            (Self::NoView, Snapshotting) => None,
            (Self::NoView, _) => Some("only a leader that snapshots asks for a view"),
            _ => None,
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Drawn(fault) => fault.name(),
            Self::MessageDropped => "message dropped",
            Self::MessageTwice => "message doubled",
            Self::MessageLate => "message overtaken",
            Self::MessageFromThePast => "message from the past",
            Self::GivenUp => "request given up early",
            Self::BetweenEffects => "killed between two effects",
            Self::NoView => "snapshot fails",
            Self::RolledBack => "zookeeper goes back",
        })
    }
}

/// The counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blows {
    // How many there were of each kind, and how many replicas were hit in which step.
    total: [u64; ROWS],
    cells: [[u64; STEPS]; ROWS],
}

impl Default for Blows {
    fn default() -> Self {
        Self { total: [0; ROWS], cells: [[0; STEPS]; ROWS] }
    }
}

impl Blows {
    pub fn merge(&mut self, other: &Self) {
        let pairs = self.total.iter_mut().zip(&other.total);
        pairs.for_each(|(sum, count)| *sum += count);
        let pairs = self.cells.iter_mut().flatten().zip(other.cells.iter().flatten());
        pairs.for_each(|(sum, count)| *sum += count);
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.total.iter().sum()
    }

    /// What never struck in a step in which it can.
    pub fn missing(&self) -> Vec<String> {
        // Once at the end of few lives: `backwards.rs` sees to it for itself.
        let drawn = Blow::all().filter(|blow| *blow != Blow::RolledBack);
        let missing = drawn.flat_map(|blow| self.never_struck(blow).into_iter().map(move |step| (blow, step)));
        missing.map(|(blow, step)| format!("{blow} in {step}")).collect()
    }

    /// The steps in which something never struck, though it can.
    pub fn never_struck(&self, blow: Blow) -> Vec<Step> {
        let never = |step: &Step| self.cells[blow.row()][*step as usize] == 0 && blow.never(*step).is_none();
        Step::ALL.into_iter().filter(never).collect()
    }

    /// What struck in a step of which it is said that it cannot.
    pub fn impossible(&self) -> Vec<String> {
        let cells = Blow::all().flat_map(|blow| Step::ALL.map(|step| (blow, step)));
        cells
            .filter(|(blow, step)| self.cells[blow.row()][*step as usize] > 0 && blow.never(*step).is_some())
            .map(|(blow, step)| format!("{blow} in {step}"))
            .collect()
    }
}

impl fmt::Display for Blows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<27}{:>9}", "", "all")?;
        Step::ALL.iter().try_for_each(|step| write!(f, " {step:>9}"))?;
        writeln!(f)?;
        for blow in Blow::all() {
            write!(f, "{blow:<27}{:>9}", self.total[blow.row()])?;
            for step in Step::ALL {
                match (self.cells[blow.row()][step as usize], blow.never(step)) {
                    (0, Some(_)) => write!(f, " {:>9}", "-")?,
                    (count, _) => write!(f, " {count:>9}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl World {
    /// Something strikes one process.
    pub fn struck(&mut self, blow: Blow, pid: Pid) {
        self.struck_some(blow, &[pid]);
    }

    /// Something strikes one replica.
    pub fn struck_at(&mut self, blow: Blow, step: Step) {
        self.counts.blows.total[blow.row()] += 1;
        self.counts.blows.cells[blow.row()][step as usize] += 1;
    }

    /// Something strikes several at once.
    pub fn struck_some(&mut self, blow: Blow, pids: &[Pid]) {
        self.counts.blows.total[blow.row()] += 1;
        for pid in pids {
            for step in self.steps_of(*pid) {
                self.counts.blows.cells[blow.row()][step as usize] += 1;
            }
        }
    }

    /// Something strikes everybody.
    pub fn struck_all(&mut self, blow: Blow) {
        let pids = self.pids();
        self.struck_some(blow, &pids);
    }
}
