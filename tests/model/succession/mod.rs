//! A model of succession: two nodes and ZooKeeper, step by step, as the protocol has it.
//!
//! What is left out is what safety does not rest on: time, links, challenges, vacating. What is coarser than the code: a
//! segment holds one entry, the first of a leadership everything it begins with; birth is one step; the entries of a
//! leader reach the other node all at once; the pieces of a snapshot are one with the pointer that names them.

mod action;
mod events;
mod keeper;
mod log;
mod rules;
pub mod state;
mod step;

use std::sync::Arc;

use stateright::{Model, Property};

pub use action::Action;
pub use events::{Occurrence, Occurrences};
use rules::Rules;
pub use rules::{Bounds, Broken};
pub use state::{Answer, State};
use step::Step;

/// What is explored, and what was reached.
#[derive(Clone, Debug)]
pub struct Succession {
    pub rules: Rules,
    pub occurrences: Arc<Occurrences>,
    /// The one occurrence that a path is looked for to.
    pub wanted: Option<Occurrence>,
}

impl Succession {
    pub fn new(bounds: Bounds, broken: &'static [Broken]) -> Self {
        Self { rules: Rules { bounds, broken }, occurrences: Arc::default(), wanted: None }
    }
}

fn nothing_acknowledged_is_forgotten(_: &Succession, state: &State) -> bool {
    let kept = state.keeper.tree.recoverable().is_none_or(|log| state.acknowledged.is_within(log));
    kept && !state.verdict.forgotten
}

fn a_failed_proposal_has_no_effect(_: &Succession, state: &State) -> bool {
    let log = state.keeper.tree.recoverable().unwrap_or_default();
    (1..).zip(state.answers).all(|(proposal, answer)| {
        let there = |log: log::Log| log.entries().any(|(_, entry)| entry.proposal == proposal);
        match answer {
            Answer::Failed => !there(state.applied) && !there(log),
            Answer::Done => there(state.acknowledged),
            _ => true,
        }
    })
}

impl Model for Succession {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::genesis(&self.rules.bounds)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(&self.rules, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let seen = std::cell::Cell::new(false);
        let note = |occurrence| {
            self.occurrences.note(occurrence);
            seen.set(seen.get() || self.wanted == Some(occurrence));
        };
        let mut next = Step { state: *state, rules: &self.rules, note: &note }.take(action)?;
        next.seen |= seen.get();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("I1", nothing_acknowledged_is_forgotten),
            Property::always("I2", |_, state: &State| !state.keeper.fence_broken),
            Property::always("I3", |_, state: &State| {
                state.keeper.tree.recoverable().is_some() && !state.verdict.damaged && !state.verdict.conflict
            }),
            Property::always("I4", |_, state: &State| !state.verdict.diverged),
            Property::always("I7", a_failed_proposal_has_no_effect),
        ];
        if self.wanted.is_some() {
            properties.push(Property::sometimes("wanted", |_, state: &State| state.seen));
        }
        properties
    }
}
