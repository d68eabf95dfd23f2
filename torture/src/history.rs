//! What clients asked for, and what they were told.

use std::time::Instant;

/// A moment of the run: nanoseconds since it began. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    /// This moment in seconds.
    pub(crate) fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Seconds from `earlier` to this moment; zero if it is not earlier.
    pub(crate) fn seconds_since(self, earlier: Moment) -> f64 {
        Moment(self.0.saturating_sub(earlier.0)).seconds()
    }
}

/// Gives moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The moment it is.
    pub(crate) fn now(self) -> Moment {
        Moment(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A key's value; `None` where there is none.
pub(crate) type Value = Option<String>;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// The value of a key.
    Read,
    /// Sets a key, or deletes it.
    Write(Value),
    /// Sets or deletes a key if it has this value.
    Swap {
        /// What it must have.
        from: Value,
        /// What it has then.
        to: Value,
    },
    /// All keys that begin with the key.
    Scan,
}

/// What was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A write or swap was done.
    Done,
    /// The value read.
    Value(Value),
    /// Keys and values, in order.
    Page(Vec<(String, String)>),
    /// A swap was not done: the key had this value.
    Conflict(Value),
    /// Nothing was done.
    Refused,
    /// It was done, or will be, or never.
    Unknown,
}

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Who asked. A process whose request ended unknown asks for nothing more.
    pub(crate) process: u64,
    /// Of which key; of a scan, the prefix.
    pub(crate) key: String,
    /// For what.
    pub(crate) request: Request,
    /// When it was asked for.
    pub(crate) start: Moment,
    /// When the client was told, or gave up.
    pub(crate) end: Moment,
    /// What was told.
    pub(crate) outcome: Outcome,
}

impl Record {
    /// Whether it was a write that was acknowledged.
    pub(crate) fn is_acknowledged_write(&self) -> bool {
        self.outcome == Outcome::Done
    }
}
