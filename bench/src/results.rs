//! What came of all repetitions: medians, their spread, and the ratios that matter.

use std::fmt::Write;

use serde::Serialize;

use crate::load::Measured;
use crate::plan::{Contender, Entry, Kind};
use crate::stats::Spread;

/// All repetitions of one measurement of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) entry: Entry,
    /// In the order of repetitions.
    pub(crate) runs: Vec<Measured>,
}

impl Row {
    /// Of one number over all repetitions.
    pub(crate) fn spread(&self, number: impl Fn(&Measured) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().map(number))
    }

    /// The median of requests answered per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.spread(Measured::per_second).map_or(0.0, |spread| spread.median)
    }

    fn failed(&self) -> u64 {
        self.runs.iter().map(Measured::failed).sum()
    }
}

/// Which way a bound points.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Bound {
    fn holds(self, number: f64) -> bool {
        match self {
            Self::AtMost(bound) => number <= bound,
            Self::AtLeast(bound) => number >= bound,
        }
    }
}

/// Two contenders compared, repetition by repetition.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    /// What is divided by what.
    pub(crate) name: String,
    /// What it came to.
    pub(crate) spread: Spread,
    /// What it should be, where that was said.
    pub(crate) bound: Option<Bound>,
}

impl Ratio {
    /// In words.
    pub(crate) fn verdict(&self) -> String {
        match self.bound {
            None => "-".to_owned(),
            Some(bound) => {
                let word = if bound.holds(self.spread.median) { "met" } else { "missed" };
                match bound {
                    Bound::AtMost(number) => format!("{word}: at most {number}"),
                    Bound::AtLeast(number) => format!("{word}: at least {number}"),
                }
            }
        }
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Results {
    /// In the order in which they were planned.
    pub(crate) rows: Vec<Row>,
}

impl Results {
    /// Notes one repetition.
    pub(crate) fn add(&mut self, entry: Entry, measured: Measured) {
        match self.rows.iter_mut().find(|row| row.entry == entry) {
            Some(row) => row.runs.push(measured),
            None => self.rows.push(Row { entry, runs: vec![measured] }),
        }
    }

    /// The row with the most requests per second among those that `wanted` picks.
    fn best(&self, wanted: impl Fn(&Entry) -> bool) -> Option<&Row> {
        let rows = self.rows.iter().filter(|row| wanted(&row.entry));
        rows.max_by(|one, other| one.per_second().total_cmp(&other.per_second()))
    }

    /// The ratios of a run.
    pub(crate) fn ratios(&self) -> Vec<Ratio> {
        let ours =
            self.rows.iter().filter(|row| matches!(row.entry.contender, Contender::Bequest | Contender::BequestSynced));
        ours.flat_map(|row| match row.entry.case.kind {
            Kind::Append => self.append_ratios(row),
            Kind::Read => self.read_ratios(row),
        })
        .collect()
    }

    fn append_ratios(&self, ours: &Row) -> Vec<Ratio> {
        let Entry { servers, case, .. } = ours.entry;
        let of = |contender: Contender| {
            move |one: &Entry| {
                one.servers == servers
                    && one.contender == contender
                    && (one.case.bytes == case.bytes || contender == Contender::Segments)
            }
        };
        let alone = |one: &Entry| of(Contender::ZooKeeper)(one) && one.case.in_flight == 1;
        let mut ratios = Vec::new();
        if case.in_flight == 1 {
            let small = case.bytes <= 100;
            let bare = self.best(alone);
            ratios.extend(ratio(ours, bare, "p50", |one| one.millis(0.5), small.then_some(Bound::AtMost(1.25))));
            ratios.extend(ratio(ours, bare, "p99", |one| one.millis(0.99), small.then_some(Bound::AtMost(2.0))));
            return ratios;
        }
        let goal = |bound: f64| (case.bytes <= 100 && case.in_flight == 4096).then_some(Bound::AtLeast(bound));
        let rate = Measured::per_second;
        ratios.extend(ratio(ours, self.best(of(Contender::Etcd)), "writes/s", rate, goal(10.0)));
        ratios.extend(ratio(ours, self.best(of(Contender::ZooKeeper)), "writes/s", rate, goal(6.0)));
        if case.bytes >= 64 * 1024 {
            let goal = (case.in_flight == 4096).then_some(Bound::AtLeast(0.7));
            let segments = self.best(of(Contender::Segments));
            let bytes = segments.map_or(1, |row| row.entry.case.bytes) as f64;
            let scale = case.bytes as f64 / bytes;
            ratios.extend(ratio(ours, segments, "bytes/s", rate, goal).map(|ratio| ratio.scaled(scale)));
        }
        ratios
    }

    fn read_ratios(&self, ours: &Row) -> Vec<Ratio> {
        let Entry { servers, case, .. } = ours.entry;
        let of = |contender: Contender| {
            move |one: &Entry| one.servers == servers && one.contender == contender && one.case.writers == case.writers
        };
        let mut ratios = Vec::new();
        if case.in_flight == 1 {
            let bare = self.best(|one| of(Contender::ZooKeeper)(one) && one.case.in_flight == 1);
            ratios.extend(ratio(ours, bare, "p50", |one| one.millis(0.5), Some(Bound::AtMost(1.25))));
            ratios.extend(ratio(ours, bare, "p99", |one| one.millis(0.99), None));
            return ratios;
        }
        let goal = (case.in_flight == 4096).then_some(Bound::AtLeast(10.0));
        ratios.extend(ratio(ours, self.best(of(Contender::Etcd)), "reads/s", Measured::per_second, goal));
        ratios.extend(ratio(ours, self.best(of(Contender::ZooKeeper)), "reads/s", Measured::per_second, None));
        ratios
    }

    /// The table, to be printed.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut heading = None;
        for row in &self.rows {
            let Entry { servers, case, contender, connections } = row.entry;
            let now = (servers, case.bytes, case.writers, contender == Contender::Segments);
            if heading != Some(now) {
                heading = Some(now);
                // Writing to a string cannot fail.
                let _ = writeln!(text, "\n{}", title(&row.entry));
                let _ = writeln!(
                    text,
                    "{:<22}{:>9}  {:>28}  {:>8}  {:>26}  {:>26}  {:>6}",
                    "", "in flight", "per second (least..most)", "MB/s", "p50 ms", "p99 ms", "errors"
                );
            }
            let millis = |share: f64| told(row.spread(|run| run.millis(share)), 3);
            let _ = writeln!(
                text,
                "{:<22}{:>9}  {:>28}  {:>8.1}  {:>26}  {:>26}  {:>6}",
                who(contender, connections),
                case.in_flight,
                told(row.spread(Measured::per_second), 0),
                row.per_second() * case.bytes as f64 / 1e6,
                millis(0.5),
                millis(0.99),
                row.failed(),
            );
            if case.writers > 0 {
                let beside = row.spread(|run| run.written_beside as f64 / run.seconds);
                let _ = writeln!(text, "{:<22}{:>9}  {:>28}", "  writes beside", case.writers, told(beside, 0));
            }
        }
        for line in self.errors() {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// What was refused or failed, in words.
    pub(crate) fn errors(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            for (at, run) in row.runs.iter().enumerate() {
                let of = format!("{}, {}", title(&row.entry), who(row.entry.contender, row.entry.connections));
                let in_flight = row.entry.case.in_flight;
                let errors = run.errors.iter();
                lines.extend(errors.map(|(error, times)| {
                    format!("error: {of}, {in_flight} in flight, repetition {}: {times} times: {error}", at + 1)
                }));
            }
        }
        lines
    }
}

impl Ratio {
    fn scaled(self, by: f64) -> Self {
        let Spread { median, min, max } = self.spread;
        Self { spread: Spread { median: median * by, min: min * by, max: max * by }, ..self }
    }
}

fn ratio(
    ours: &Row,
    theirs: Option<&Row>,
    what: &str,
    number: impl Fn(&Measured) -> f64,
    bound: Option<Bound>,
) -> Option<Ratio> {
    let theirs = theirs?;
    let pairs = ours.runs.iter().zip(&theirs.runs);
    let spread = Spread::of(pairs.map(|(ours, theirs)| number(ours) / number(theirs)))?;
    let Entry { case, contender, connections, .. } = theirs.entry;
    let name = format!(
        "{}, {} in flight: {what} of {} / {} at its best ({} in flight)",
        title(&ours.entry),
        ours.entry.case.in_flight,
        ours.entry.contender.name(),
        who(contender, connections),
        case.in_flight,
    );
    Some(Ratio { name, spread, bound })
}

/// The load, without the number of requests in flight.
pub(crate) fn title(entry: &Entry) -> String {
    let Entry { servers, case, .. } = entry;
    let plural = if *servers == 1 { "" } else { "s" };
    let beside = if case.writers > 0 { format!(" with {} writers", case.writers) } else { String::new() };
    format!("{} {} B{beside}, {servers} ZooKeeper server{plural}", case.kind.name(), case.bytes)
}

/// A contender and its connections.
pub(crate) fn who(contender: Contender, connections: usize) -> String {
    match contender {
        Contender::Bequest | Contender::BequestSynced => contender.name().to_owned(),
        _ => format!("{} ({connections} conn.)", contender.name()),
    }
}

/// A spread in words.
pub(crate) fn told(spread: Option<Spread>, digits: usize) -> String {
    let text = |Spread { median, min, max }| format!("{median:.digits$} ({min:.digits$}..{max:.digits$})");
    spread.map_or_else(|| "-".to_owned(), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Case;

    fn measured(answered: u64, p50: u32, p99: u32) -> Measured {
        Measured { seconds: 2.0, answered, latency: vec![(0.5, p50), (0.99, p99)], ..Measured::default() }
    }

    fn results(rows: &[(Contender, usize, usize, &[Measured])]) -> Results {
        let mut results = Results::default();
        for (contender, bytes, in_flight, runs) in rows {
            let case = Case { kind: Kind::Append, bytes: *bytes, in_flight: *in_flight, writers: 0 };
            let entry = Entry { servers: 1, case, contender: *contender, connections: 1 };
            runs.iter().for_each(|run| results.add(entry, run.clone()));
        }
        results
    }

    #[test]
    fn ratios_are_formed_within_a_repetition() {
        // The machine was twice as slow in the second repetition, for both.
        let results = results(&[
            (Contender::Bequest, 100, 1, &[measured(10, 128, 512), measured(5, 256, 1024)]),
            (Contender::ZooKeeper, 100, 1, &[measured(12, 128, 256), measured(6, 256, 512)]),
        ]);
        let ratios = results.ratios();
        let medians: Vec<Spread> = ratios.iter().map(|ratio| ratio.spread).collect();
        assert_eq!(medians[0], Spread { median: 1.0, min: 1.0, max: 1.0 });
        assert_eq!(medians[1], Spread { median: 2.0, min: 2.0, max: 2.0 });
        assert!(ratios.iter().all(|ratio| ratio.verdict().starts_with("met: at most")), "{ratios:?}");
    }

    #[test]
    fn a_rival_is_taken_at_its_best_whatever_load_that_is() {
        let results = results(&[
            (Contender::Bequest, 100, 4096, &[measured(100, 1, 1)]),
            (Contender::Etcd, 100, 256, &[measured(20, 1, 1)]),
            (Contender::Etcd, 100, 4096, &[measured(5, 1, 1)]),
        ]);
        let ratios = results.ratios();
        assert_eq!(ratios.len(), 1);
        assert_eq!(ratios[0].spread.median, 5.0);
        assert!(ratios[0].verdict().starts_with("missed: at least 10"), "{ratios:?}");
    }

    #[test]
    fn large_writes_are_compared_with_the_ceiling_in_bytes() {
        let results = results(&[
            (Contender::Bequest, 65536, 4096, &[measured(100, 1, 1)]),
            (Contender::Segments, 102_400, 8, &[measured(128, 1, 1)]),
        ]);
        let ratios = results.ratios();
        assert_eq!(ratios.len(), 1);
        assert_eq!(ratios[0].spread.median, 0.5);
        assert!(ratios[0].name.contains("bytes/s"), "{ratios:?}");
    }

    #[test]
    fn errors_are_told_with_their_number() {
        let mut refused = measured(1, 1, 1);
        refused.errors.insert("busy".to_owned(), 7);
        let results = results(&[(Contender::Etcd, 100, 16, &[refused])]);
        assert!(results.table().contains("repetition 1: 7 times: busy"), "{}", results.table());
    }
}
