//! What all deaths came to.

use std::fmt::Write;
use std::time::Duration;

use bequest_harness::kv::Succession;
use serde::Serialize;
use serde_json::{json, Value};

use super::plan::{Contender, Death};
use super::scene::Felt;
use crate::plot::{nines, plot, table, Line};
use crate::results::{Bound, Ratio};
use crate::stats::{percentile, Spread};

/// The parts of a succession, as a node tells them, and what is left of the downtime.
const PARTS: [&str; 6] = ["detect", "seal", "read", "replay", "stand", "rest"];

/// All deaths of one kind of one contender.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// How.
    pub(crate) death: Death,
    /// Who.
    pub(crate) contender: Contender,
    /// Milliseconds without a write, in the order of rounds.
    pub(crate) downtimes: Vec<f64>,
    /// What each succession took, by the heir's own account; its last figure is what the downtime is longer.
    pub(crate) successions: Vec<Option<[f64; PARTS.len()]>>,
}

impl Row {
    /// Nothing yet.
    pub(crate) fn new(death: Death, contender: Contender) -> Self {
        Self { death, contender, downtimes: Vec::new(), successions: Vec::new() }
    }

    /// Notes one.
    pub(crate) fn add(&mut self, felt: &Felt) {
        let downtime = millis(felt.downtime);
        self.downtimes.push(downtime);
        self.successions.push(felt.succession.map(|succession| parts(downtime, &succession)));
    }

    /// Milliseconds that this share of the deaths took at most.
    fn at(&self, share: f64) -> f64 {
        let mut micros: Vec<u32> = self.downtimes.iter().map(|millis| (millis * 1000.0) as u32).collect();
        micros.sort_unstable();
        percentile(&micros, share).map_or(f64::NAN, |micros| f64::from(micros) / 1000.0)
    }

    fn spread(&self) -> Option<Spread> {
        Spread::of(self.downtimes.iter().copied())
    }

    fn part(&self, part: usize) -> Vec<f64> {
        let mut part: Vec<f64> = self.successions.iter().flatten().map(|parts| parts[part]).collect();
        part.sort_by(f64::total_cmp);
        part
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn parts(downtime: f64, succession: &Succession) -> [f64; PARTS.len()] {
    let Succession { detect_us, seal_us, read_us, replay_us, stand_us, .. } = succession;
    let told = [detect_us, seal_us, read_us, replay_us, stand_us].map(|micros| *micros as f64 / 1000.0);
    let [detect, seal, read, replay, stand] = told;
    [detect, seal, read, replay, stand, downtime - told.iter().sum::<f64>()]
}

fn find(rows: &[Row], death: Death, contender: Contender) -> Option<&Row> {
    rows.iter().find(|row| row.death == death && row.contender == contender)
}

/// Goals, and rivals beside ours.
pub(crate) fn ratios(rows: &[Row]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for ours in rows.iter().filter(|row| row.contender == Contender::Bequest) {
        let goal = match ours.death {
            Death::Kill => Some(15.0),
            Death::Link | Death::Stop => Some(350.0),
            Death::HandOver => Some(10.0),
            Death::Keeper => None,
        };
        let name = |what: &str| format!("{}: {what}", ours.death.title());
        let bound = goal.map(Bound::AtMost);
        ratios.extend(ours.spread().map(|spread| Ratio { name: name("bequest, ms"), spread, bound }));
        if ours.death == Death::Kill {
            let p99 = ours.at(0.99);
            let spread = Spread { median: p99, min: p99, max: p99 };
            ratios.push(Ratio { name: name("bequest, p99 in ms"), spread, bound: Some(Bound::AtMost(60.0)) });
        }
        for (rival, bound) in [
            (Contender::Etcd, (ours.death == Death::Kill).then_some(Bound::AtLeast(50.0))),
            (Contender::EtcdFast, (ours.death == Death::Kill).then_some(Bound::AtLeast(10.0))),
        ] {
            let pairs = find(rows, ours.death, rival).map(|theirs| theirs.downtimes.iter().zip(&ours.downtimes));
            let spread = pairs.and_then(|pairs| Spread::of(pairs.map(|(theirs, ours)| theirs / ours)));
            let name = name(&format!("{} / bequest", rival.name()));
            ratios.extend(spread.map(|spread| Ratio { name, spread, bound }));
        }
        if let Some(bare) = find(rows, ours.death, Contender::ZooKeeper) {
            let pairs = ours.downtimes.iter().zip(&bare.downtimes);
            let spread = Spread::of(pairs.map(|(ours, bare)| ours / bare));
            let (name, bound) = (name("bequest / bare client"), Some(Bound::AtMost(1.1)));
            ratios.extend(spread.map(|spread| Ratio { name, spread, bound }));
        }
    }
    ratios
}

const HEAD: [&str; 6] = ["death", "who", "deaths", "median ms", "p99 ms", "max ms"];

fn cells(rows: &[Row]) -> Vec<Vec<String>> {
    let cells = rows.iter().map(|row| {
        let of = |share| format!("{:.1}", row.at(share));
        let median = row.spread().map_or_else(|| "-".to_owned(), |spread| format!("{:.1}", spread.median));
        let count = row.downtimes.len().to_string();
        vec![row.death.title().to_owned(), row.contender.name().to_owned(), count, median, of(0.99), of(1.0)]
    });
    cells.collect()
}

/// Rows with what successions came to: medians of their parts, and the 99th percentiles.
fn part_cells(rows: &[Row]) -> Vec<Vec<String>> {
    let told = rows.iter().filter(|row| row.successions.iter().any(Option::is_some));
    told.map(|row| {
        let parts = (0..PARTS.len()).map(|part| {
            let sorted = row.part(part);
            let at = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
            format!("{:.2} / {:.2}", at(0.5), at(0.99))
        });
        [row.death.title().to_owned()].into_iter().chain(parts).collect()
    })
    .collect()
}

/// The tables, to be printed.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    let line = |text: &mut String, cells: &[String]| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{:<38}", cells[0]);
        let rest: String = cells[1..].iter().map(|cell| format!("{cell:>18}")).collect();
        let _ = writeln!(text, "{rest}");
    };
    line(&mut text, &HEAD.map(str::to_owned));
    cells(rows).iter().for_each(|cells| line(&mut text, cells));
    let parts = part_cells(rows);
    if !parts.is_empty() {
        text.push_str("\nsuccessions of bequest, by the heir's own account: median / p99 in ms\n");
        line(&mut text, &part_head());
        parts.iter().for_each(|cells| line(&mut text, cells));
    }
    text
}

fn part_head() -> Vec<String> {
    ["death"].iter().chain(&PARTS).map(|word| (*word).to_owned()).collect()
}

/// Tables and plots of the page.
pub(crate) fn html(rows: &[Row]) -> String {
    let head = part_head();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let marks: Vec<(f64, String)> =
        [0.5, 0.9, 0.99].iter().map(|share| (nines(*share), format!("{} %", share * 100.0))).collect();
    let axes = "milliseconds over share of deaths";
    let mut plots = String::new();
    for death in Death::ALL {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.death == death).collect();
        if rows.is_empty() {
            continue;
        }
        let lines: Vec<Line> =
            rows.iter().map(|row| (row.contender.name().to_owned(), distribution(&row.downtimes))).collect();
        plots += &plot(death.title(), axes, &marks, &lines);
        if let Some(ours) = rows.iter().find(|row| row.successions.iter().any(Option::is_some)) {
            let parts = PARTS.iter().enumerate().map(|(at, part)| ((*part).to_owned(), distribution(&ours.part(at))));
            plots += &plot(&format!("{}: parts", death.title()), axes, &marks, &parts.collect::<Vec<_>>());
        }
    }
    format!(
        "<h2>Downtime</h2>\n<p>The longest time between two acknowledged writes around a death.</p>\n{}\
         <div class=\"plots\">{plots}</div>\n<h2>Parts of a succession</h2>\n\
         <p>By the heir's own account, median / p99 in milliseconds: from the old leader's last sign to the decision, \
         until the seal was won, until all was read, until it was in the local log, until the first entry of the term \
         was committed; and what the downtime is longer than all of that.</p>\n{}",
        table(&HEAD, cells(rows)),
        table(&head, part_cells(rows)),
    )
}

/// Each figure over the share of figures that do not exceed it; the largest stands where the next one would have been.
fn distribution(figures: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64 + 1.0;
    sorted.into_iter().enumerate().map(|(at, figure)| (nines((at as f64 + 1.0) / count), figure)).collect()
}

/// Every figure.
pub(crate) fn json(rows: &[Row]) -> Value {
    let told = |row: &Row| {
        let spread = row.spread();
        json!({
            "death": row.death, "contender": row.contender, "deaths": row.downtimes.len(),
            "median_ms": spread.map(|spread| spread.median), "p99_ms": row.at(0.99), "max_ms": row.at(1.0),
            "downtimes_ms": row.downtimes, "parts": PARTS, "parts_ms": row.successions,
        })
    };
    rows.iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(death: Death, contender: Contender, downtimes: &[f64]) -> Row {
        Row { downtimes: downtimes.to_vec(), ..Row::new(death, contender) }
    }

    #[test]
    fn rivals_are_compared_round_by_round() {
        let rows = [
            row(Death::Kill, Contender::Bequest, &[10.0, 20.0]),
            row(Death::Kill, Contender::Etcd, &[1000.0, 1400.0]),
            row(Death::Keeper, Contender::Bequest, &[500.0]),
            row(Death::Keeper, Contender::ZooKeeper, &[250.0]),
        ];
        let ratios = ratios(&rows);
        let told = |word: &str| {
            let found = ratios.iter().find(|ratio| ratio.name.contains(word));
            found.map(|ratio| (ratio.spread.median, ratio.verdict())).unwrap_or_else(|| panic!("{word}: {ratios:?}"))
        };
        assert_eq!(told("etcd / bequest"), (85.0, "met: at least 50".to_owned()));
        assert_eq!(told("bequest / bare client"), (2.0, "missed: at most 1.1".to_owned()));
        assert_eq!(told("p99").0, 20.0);
    }

    #[test]
    fn the_parts_of_a_succession_and_the_rest_make_up_the_downtime() {
        let succession = Succession { detect_us: 1000, seal_us: 2000, read_us: 500, ..Succession::default() };
        let felt = Felt { downtime: Duration::from_millis(9), succession: Some(succession) };
        let mut row = Row::new(Death::Kill, Contender::Bequest);
        row.add(&felt);
        assert_eq!(row.successions, [Some([1.0, 2.0, 0.5, 0.0, 0.0, 5.5])]);
        let html = html(&[row]);
        assert!(html.contains("5.50") && html.contains("<svg") && !html.contains("NaN"), "{html}");
    }

    #[test]
    fn a_distribution_has_every_figure_and_ends_within_the_plot() {
        let points = distribution(&[3.0, 1.0, 2.0]);
        assert_eq!(points.iter().map(|(_, figure)| *figure).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        assert!(points.iter().all(|(share, _)| share.is_finite()), "{points:?}");
    }
}
