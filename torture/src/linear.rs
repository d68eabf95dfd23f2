//! Linearizability of one key: is there an order of its operations, each at some moment between its start and its end,
//! that explains everything clients were told?
//!
//! Wing and Gong's search with memory, in the form that works through the history event by event (Lowe, *Testing for
//! linearizability*, 2017): what is kept is the set of all configurations the key can be in, each a value and which of
//! the open operations have taken effect. An operation takes effect no earlier than some other's end needs it to.
//!
//! An operation of unknown outcome stays open for ever: it may take effect at any later time, or never. Three facts keep
//! the set small. An unknown write whose value nobody ever saw need not have happened. Equal ones stand for each other.
//! And of two configurations that differ only in that one has let more of them take effect, the other can do all it can.

use std::collections::{HashMap, HashSet};

use super::history::Moment;

#[cfg(test)]
mod tests;

/// Open operations that are told apart; more at once on one key cannot be decided.
const OPEN_MAX: u32 = u128::BITS;

/// A value's number; `None` is absence. Before the first operation a key is absent.
pub(crate) type Number = Option<u32>;

/// What an operation did, if it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Found this value.
    Read(Number),
    /// Set this value.
    Write(Number),
    /// Found the first, and set the second.
    Swap(Number, Number),
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// What it did.
    pub(crate) action: Action,
    /// When it began.
    pub(crate) start: Moment,
    /// When it ended; `None` if it may take effect at any later time, or never.
    pub(crate) end: Option<Moment>,
}

/// Why a history is not known to be linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refutation {
    /// No order explains this operation, given by its position.
    Contradiction {
        /// Its position.
        operation: usize,
        /// What the key may have held when it ended, had it not been for this operation.
        instead: Vec<Number>,
    },
    /// Too many operations were open at once to decide.
    Undecided,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    value: Number,
    /// Which open operations have taken effect, by their slots.
    done: u128,
}

/// Looks for an order that explains all `operations`, given in any order.
///
/// # Errors
/// The first operation, by its end, that no order explains.
pub(crate) fn check(operations: &[Operation]) -> Result<(), Refutation> {
    let needless = needless(operations);
    let mut events = Vec::with_capacity(2 * operations.len());
    for (position, operation) in operations.iter().enumerate().filter(|(position, _)| !needless[*position]) {
        events.push((operation.start, false, position));
        if let Some(end) = operation.end {
            events.push((end, true, position));
        }
    }
    // What ends at the moment another begins may be taken to overlap it: clocks are not finer than that.
    events.sort_unstable();
    let mut search = Search {
        operations,
        open: Vec::new(),
        unknown: 0,
        slots: HashMap::new(),
        configurations: vec![Configuration { value: None, done: 0 }],
    };
    for (_, ended, position) in events {
        if ended {
            search.ended(position)?;
        } else {
            search.began(position)?;
        }
    }
    Ok(())
}

/// Which operations of unknown outcome can be left out: those that set a value nobody was told of, or that could have
/// changed nothing but for such.
fn needless(operations: &[Operation]) -> Vec<bool> {
    let mut needless = vec![false; operations.len()];
    let mut seen: HashMap<Number, usize> = HashMap::new();
    for operation in operations {
        if let Action::Read(value) | Action::Swap(value, _) = operation.action {
            *seen.entry(value).or_default() += 1;
        }
    }
    loop {
        let mut changed = false;
        for (position, operation) in operations.iter().enumerate() {
            if needless[position] || operation.end.is_some() {
                continue;
            }
            let unseen = match operation.action {
                Action::Read(_) => true,
                Action::Write(value) | Action::Swap(_, value) => seen.get(&value).is_none_or(|count| *count == 0),
            };
            if unseen {
                needless[position] = true;
                changed = true;
                if let Action::Read(value) | Action::Swap(value, _) = operation.action {
                    // Counted above.
                    seen.entry(value).and_modify(|count| *count -= 1);
                }
            }
        }
        if !changed {
            return needless;
        }
    }
}

struct Search<'a> {
    operations: &'a [Operation],
    /// Slot and position of every open operation.
    open: Vec<(u32, usize)>,
    /// Slots of operations that never end.
    unknown: u128,
    slots: HashMap<usize, u32>,
    configurations: Vec<Configuration>,
}

impl Search<'_> {
    fn began(&mut self, position: usize) -> Result<(), Refutation> {
        let used = self.open.iter().fold(0_u128, |used, (slot, _)| used | 1 << slot);
        let slot = used.trailing_ones();
        if slot == OPEN_MAX {
            return Err(Refutation::Undecided);
        }
        self.open.push((slot, position));
        self.slots.insert(position, slot);
        if self.operations[position].end.is_none() {
            self.unknown |= 1 << slot;
        }
        Ok(())
    }

    /// From here on the operation has taken effect: in every configuration, it has already or does so now, perhaps
    /// after others that are open.
    fn ended(&mut self, position: usize) -> Result<(), Refutation> {
        let slot = self.slots.remove(&position).expect("it began before it ended");
        let bit = 1_u128 << slot;
        let mut seen: HashSet<Configuration> = self.configurations.iter().copied().collect();
        let mut next = self.configurations.clone();
        let mut survivors = Survivors::default();
        while let Some(configuration) = next.pop() {
            if configuration.done & bit != 0 {
                survivors.insert(configuration, bit, self.unknown);
                continue;
            }
            for (slot, position) in &self.open {
                if configuration.done & 1 << slot != 0 || self.an_equal_one_is_first(configuration, *slot, *position) {
                    continue;
                }
                let Some(value) = effect(self.operations[*position].action, configuration.value) else { continue };
                let after = Configuration { value, done: configuration.done | 1 << slot };
                if seen.insert(after) {
                    next.push(after);
                }
            }
        }
        if survivors.kept.is_empty() {
            let mut instead: Vec<Number> = seen.iter().map(|configuration| configuration.value).collect();
            instead.sort_unstable();
            instead.dedup();
            return Err(Refutation::Contradiction { operation: position, instead });
        }
        self.open.retain(|(open, _)| *open != slot);
        self.configurations = survivors.configurations();
        self.close_what_is_done_everywhere();
        Ok(())
    }

    /// Equal operations of unknown outcome stand for each other: they take effect in the order in which they began.
    fn an_equal_one_is_first(&self, configuration: Configuration, slot: u32, position: usize) -> bool {
        let waits = |(other, _): &&(u32, usize)| self.unknown & !configuration.done & 1 << other != 0;
        let equal = |(_, other): &(u32, usize)| self.operations[*other].action == self.operations[position].action;
        let earlier = self.open.iter().take_while(|(other, _)| *other != slot);
        self.unknown & 1 << slot != 0 && earlier.filter(waits).any(equal)
    }

    /// An operation of unknown outcome that has taken effect in every configuration is open no longer.
    fn close_what_is_done_everywhere(&mut self) {
        let everywhere = self.configurations.iter().fold(self.unknown, |all, each| all & each.done);
        if everywhere == 0 {
            return;
        }
        self.unknown &= !everywhere;
        self.open.retain(|(slot, _)| everywhere & 1 << slot == 0);
        self.configurations.iter_mut().for_each(|configuration| configuration.done &= !everywhere);
    }
}

/// What an action makes of a value; `None` if it cannot take effect on it.
fn effect(action: Action, value: Number) -> Option<Number> {
    match action {
        Action::Read(found) => (found == value).then_some(value),
        Action::Write(new) => Some(new),
        Action::Swap(from, to) => (from == value).then_some(to),
    }
}

/// Configurations none of which can do everything another can: by value and what else is done, the smallest sets of
/// unknown operations that took effect.
#[derive(Default)]
struct Survivors {
    kept: HashMap<(Number, u128), Vec<u128>>,
}

impl Survivors {
    fn insert(&mut self, configuration: Configuration, ended: u128, unknown: u128) {
        let done = configuration.done & !ended;
        let sets = self.kept.entry((configuration.value, done & !unknown)).or_default();
        let set = done & unknown;
        if sets.iter().any(|other| other & !set == 0) {
            return;
        }
        sets.retain(|other| set & !other != 0);
        sets.push(set);
    }

    fn configurations(self) -> Vec<Configuration> {
        let mut configurations = Vec::new();
        for ((value, done), sets) in self.kept {
            configurations.extend(sets.into_iter().map(|set| Configuration { value, done: done | set }));
        }
        configurations
    }
}
