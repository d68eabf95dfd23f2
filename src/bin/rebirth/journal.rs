//! What happened, told as it happens and kept for the report.

use std::time::Duration;

use bequest_harness::kv::Succession;

use super::clock::{Clock, Moment};
use super::options::Step;

/// Something worth a line.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Event {
    /// When.
    pub(crate) at: Moment,
    /// What.
    pub(crate) what: String,
}

/// The time clients went without an acknowledged write because of one fault.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Outage {
    /// The kind of death, as in the table.
    pub(crate) kind: &'static str,
    /// The fault.
    pub(crate) fault: Moment,
    /// The last acknowledgement before.
    pub(crate) from: Moment,
    /// The first one after.
    pub(crate) to: Moment,
    /// What the succession took, where there was one.
    pub(crate) succession: Option<Succession>,
}

impl Outage {
    /// How long it was.
    pub(crate) fn downtime(&self) -> Duration {
        self.to.since(self.from)
    }
}

/// One step of one cycle.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct StepRecord {
    /// The cycle, counted from 1.
    pub(crate) cycle: u64,
    /// The step's letter.
    pub(crate) step: char,
    /// When it began.
    pub(crate) began: Moment,
    /// When it ended.
    pub(crate) ended: Moment,
    /// Its outages.
    pub(crate) outages: Vec<Outage>,
    /// Keys found where they must be, in sum of all verifications.
    pub(crate) verified: u64,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

/// Everything that happened.
#[derive(Debug)]
pub(crate) struct Journal {
    clock: Clock,
    aloud: bool,
    /// Lines, in their order.
    pub(crate) events: Vec<Event>,
    /// Steps, in their order.
    pub(crate) steps: Vec<StepRecord>,
    /// Index of the newest snapshot at the end; 0 if none was made.
    pub(crate) snapshot: u64,
}

impl Journal {
    /// An empty journal; `aloud` ones print what they are told.
    pub(crate) fn new(clock: Clock, aloud: bool) -> Self {
        Self { clock, aloud, events: Vec::new(), steps: Vec::new(), snapshot: 0 }
    }

    /// Notes an event now.
    pub(crate) fn tell(&mut self, what: impl Into<String>) {
        let (at, what) = (self.clock.now(), what.into());
        if self.aloud {
            println!("{:>7.2} s  {what}", at.seconds());
        }
        self.events.push(Event { at, what });
    }

    /// Begins a step.
    pub(crate) fn begin(&mut self, cycle: u64, step: Step) {
        let began = self.clock.now();
        if self.aloud {
            println!();
        }
        self.tell(format!("cycle {cycle}, step {}: {}", step.letter(), step.title()));
        let letter = step.letter();
        let record =
            StepRecord { cycle, step: letter, began, ended: began, outages: Vec::new(), verified: 0, failure: None };
        self.steps.push(record);
    }

    /// The step that was begun last.
    ///
    /// # Panics
    /// If none was.
    pub(crate) fn step(&mut self) -> &mut StepRecord {
        self.steps.last_mut().expect("a step has begun")
    }

    /// Ends the step that was begun last.
    pub(crate) fn end(&mut self, failure: Option<String>) {
        let ended = self.clock.now();
        let step = self.step();
        step.ended = ended;
        step.failure = failure;
    }

    /// All outages.
    pub(crate) fn outages(&self) -> impl Iterator<Item = &Outage> {
        self.steps.iter().flat_map(|step| &step.outages)
    }
}
