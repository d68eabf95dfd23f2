//! The run in numbers: the table, the last line, the JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::journal::{Journal, StepRecord};
use super::ledger::{Ledger, Totals, Violation};

/// Downtimes of one kind of death.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Row {
    /// The kind.
    pub(crate) kind: String,
    /// How often it was brought about.
    pub(crate) count: usize,
    /// Median, in milliseconds.
    pub(crate) median_ms: f64,
    /// Worst, in milliseconds.
    pub(crate) worst_ms: f64,
}

/// What came of it all.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// Completed cycles.
    pub(crate) cycles: u64,
    /// The seed.
    pub(crate) seed: u64,
    /// Counts.
    pub(crate) totals: Totals,
    /// One row per kind of death.
    pub(crate) rows: Vec<Row>,
    /// Median of all downtimes, in milliseconds.
    pub(crate) downtime_p50_ms: f64,
    /// Worst of all downtimes, in milliseconds.
    pub(crate) downtime_max_ms: f64,
    /// Steps that were not served again, or could not be checked.
    pub(crate) failures: Vec<String>,
    /// What must never happen and did.
    pub(crate) violations: Vec<Violation>,
}

impl Summary {
    /// Sums up.
    pub(crate) fn new(journal: &Journal, ledger: &Ledger, cycles: u64, seed: u64) -> Self {
        let mut kinds: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for outage in journal.outages() {
            kinds.entry(outage.kind).or_default().push(outage.downtime());
        }
        let rows = kinds.iter().map(|(kind, downtimes)| Row {
            kind: (*kind).to_owned(),
            count: downtimes.len(),
            median_ms: median_ms(downtimes),
            worst_ms: worst_ms(downtimes),
        });
        let all: Vec<Duration> = kinds.values().flatten().copied().collect();
        Self {
            cycles,
            seed,
            totals: ledger.totals(),
            rows: rows.collect(),
            downtime_p50_ms: median_ms(&all),
            downtime_max_ms: worst_ms(&all),
            failures: journal.steps.iter().filter_map(|step| step.failure.clone()).collect(),
            violations: ledger.violations(),
        }
    }

    /// Whether nothing was lost, nothing stale, and every step was served again.
    pub(crate) fn succeeded(&self) -> bool {
        self.totals.lost == 0 && self.totals.stale == 0 && self.failures.is_empty()
    }

    /// The line that says it all.
    pub(crate) fn last_line(&self) -> String {
        let Totals { acked, unknown, lost, stale, .. } = self.totals;
        format!(
            "rebirth: cycles={} acked={acked} unknown={unknown} lost={lost} stale={stale} downtime_p50_ms={:.1} downtime_max_ms={:.1}",
            self.cycles, self.downtime_p50_ms, self.downtime_max_ms
        )
    }

    /// Downtimes per kind of death.
    pub(crate) fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.kind.len()).max().unwrap_or(0).max("kind of death".len());
        let mut table = format!("{:width$}  count  median ms   worst ms\n", "kind of death");
        for Row { kind, count, median_ms, worst_ms } in &self.rows {
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{kind:width$}  {count:>5}  {median_ms:>9.1}  {worst_ms:>9.1}");
        }
        table
    }

    /// Everything, for machines.
    pub(crate) fn json(&self, journal: &Journal) -> serde_json::Value {
        #[derive(serde::Serialize)]
        struct Step<'a> {
            #[serde(flatten)]
            step: &'a StepRecord,
            downtimes_ms: Vec<f64>,
        }
        let steps: Vec<Step> = journal
            .steps
            .iter()
            .map(|step| Step { step, downtimes_ms: step.outages.iter().map(|outage| ms(outage.downtime())).collect() })
            .collect();
        serde_json::json!({
            "seed": self.seed,
            "cycles": self.cycles,
            "succeeded": self.succeeded(),
            "totals": self.totals,
            "downtime_p50_ms": self.downtime_p50_ms,
            "downtime_max_ms": self.downtime_max_ms,
            "table": self.rows,
            "snapshot": journal.snapshot,
            "failures": self.failures,
            "violations": self.violations,
            "steps": steps,
            "events": journal.events,
        })
    }
}

/// The middle one; the mean of the two in the middle where their number is even; 0 of none.
pub(crate) fn median_ms(downtimes: &[Duration]) -> f64 {
    let mut sorted: Vec<f64> = downtimes.iter().copied().map(ms).collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn worst_ms(downtimes: &[Duration]) -> f64 {
    downtimes.iter().max().copied().map_or(0.0, ms)
}

/// In milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A number of bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Moment};
    use crate::journal::Outage;
    use crate::options::Step;

    #[test]
    fn the_last_line_has_exactly_the_promised_form() {
        let clock = Clock::start();
        let ledger = Ledger::new(clock, 1, 1);
        let (number, _) = ledger.register_write_began(0, 0);
        ledger.register_write_acknowledged(0, 0, number, 1);
        ledger.write_unknown();
        let mut journal = Journal::new(clock, false);
        journal.begin(1, Step::A);
        for ms in [10, 40, 20] {
            let (from, to) = (Moment(0), Moment(ms * 1_000_000));
            journal.step().outages.push(Outage { kind: "a", fault: from, from, to, succession: None });
        }
        journal.end(None);
        let summary = Summary::new(&journal, &ledger, 1, 7);
        assert_eq!(
            summary.last_line(),
            "rebirth: cycles=1 acked=1 unknown=1 lost=0 stale=0 downtime_p50_ms=20.0 downtime_max_ms=40.0"
        );
        assert!(summary.succeeded());
        assert_eq!(summary.rows, [Row { kind: "a".to_owned(), count: 3, median_ms: 20.0, worst_ms: 40.0 }]);
    }

    #[test]
    fn a_failed_step_is_a_failure_though_nothing_was_lost() {
        let clock = Clock::start();
        let mut journal = Journal::new(clock, false);
        journal.begin(1, Step::F);
        journal.end(Some("not served".to_owned()));
        let summary = Summary::new(&journal, &Ledger::new(clock, 1, 1), 0, 7);
        assert!(!summary.succeeded());
        assert_eq!(summary.failures, ["not served"]);
    }
}
