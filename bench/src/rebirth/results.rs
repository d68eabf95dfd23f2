//! What `rebirth` tells.

use bequest_harness::kv::Succession;
use serde::Serialize;

use super::{Load, FIXED_MS};
use crate::plot::{plot, table, Line};
use crate::results::{told, Bound, Ratio};
use crate::stats::Spread;
use crate::steady::Steady;

/// One rebirth, and one bare reader.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Reborn {
    /// Milliseconds from the start of both processes to the first acknowledged write.
    pub(super) ours: f64,
    /// Milliseconds that the bare reader took.
    pub(super) bare: f64,
    /// Bytes that the reader fetched, and znodes.
    pub(super) bytes: u64,
    pub(super) znodes: usize,
    /// By the leader's own account.
    pub(super) succession: Succession,
}

/// All rebirths from the same.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) load: Load,
    pub(super) reborn: Vec<Reborn>,
}

impl Row {
    fn spread(&self, figure: impl Fn(&Reborn) -> f64) -> Option<Spread> {
        Spread::of(self.reborn.iter().map(figure))
    }

    fn median(&self, figure: impl Fn(&Reborn) -> f64) -> f64 {
        self.spread(figure).map_or(f64::NAN, |spread| spread.median)
    }

    fn mebibytes(&self) -> f64 {
        self.median(|one| one.bytes as f64) / f64::from(1 << 20)
    }
}

pub(super) fn ratios(rows: &[Row], steadies: &[Steady]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for row in rows {
        let spread = row.spread(|one| (one.ours - FIXED_MS).max(0.0) / one.bare);
        let name = format!("{}: (bequest - {FIXED_MS} ms) / bare reader", row.load.title());
        ratios.extend(spread.map(|spread| Ratio { name, spread, bound: Some(Bound::AtMost(1.3)) }));
        let name = format!("{}: bequest / bare reader", row.load.title());
        ratios.extend(row.spread(|one| one.ours / one.bare).map(|spread| Ratio { name, spread, bound: None }));
    }
    for steady in steadies {
        let name = format!("steady, {} MiB of state: busy, percent of attempts", steady.state >> 20);
        let busy = steady.busy_attempts;
        let spread = Spread { median: busy, min: busy, max: busy };
        ratios.push(Ratio { name, spread, bound: Some(Bound::AtMost(1.0)) });
    }
    ratios
}

const HEAD: [&str; 9] = [
    "reborn from",
    "MiB fetched",
    "znodes",
    "bequest ms",
    "bare reader ms",
    "seal ms",
    "read ms",
    "replay ms",
    "stand ms",
];

fn cells(row: &Row) -> Vec<String> {
    let part = |part: fn(&Succession) -> u64| format!("{:.1}", row.median(|one| part(&one.succession) as f64 / 1e3));
    vec![
        row.load.title(),
        format!("{:.2}", row.mebibytes()),
        format!("{:.0}", row.median(|one| one.znodes as f64)),
        told(row.spread(|one| one.ours), 1),
        told(row.spread(|one| one.bare), 1),
        part(|succession| succession.seal_us),
        part(|succession| succession.read_us),
        part(|succession| succession.replay_us),
        part(|succession| succession.stand_us),
    ]
}

/// A line for each figure, with a column for each state.
fn steady_cells(steadies: &[Steady]) -> Vec<Vec<String>> {
    let columns: Vec<_> = steadies.iter().map(Steady::lines).collect();
    let lines = columns.first().map_or(0, Vec::len);
    let line = |at: usize| {
        let name = columns[0][at].0.to_owned();
        [name].into_iter().chain(columns.iter().map(|column| column[at].1.clone())).collect()
    };
    (0..lines).map(line).collect()
}

pub(super) fn text(rows: &[Row], steadies: &[Steady]) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String], widths: &[usize]| {
        for (at, cell) in cells.iter().enumerate() {
            let width = widths[at.min(widths.len() - 1)];
            text += &if at == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text.push('\n');
    };
    let widths = [24, 11, 8, 26, 26, 9];
    if !rows.is_empty() {
        line(&HEAD.map(str::to_owned), &widths);
        rows.iter().for_each(|row| line(&cells(row), &widths));
    }
    if !steadies.is_empty() {
        line(&[String::new()], &[0]);
        steady_cells(steadies).iter().for_each(|cells| line(cells, &[44, 30]));
        steadies.iter().flat_map(Steady::refusals).for_each(|refused| line(&[refused], &[0]));
    }
    text
}

pub(super) fn html(rows: &[Row], steadies: &[Steady]) -> String {
    let mut html = String::new();
    if !rows.is_empty() {
        html += "<h2>Rebirth</h2>\n<p>Median (least..most); the parts by the leader's own account, medians.</p>\n";
        html += &table(&HEAD, rows.iter().map(cells));
        html += "<div class=\"plots\">";
        for (title, of_tails) in [("from the log", true), ("from a snapshot", false)] {
            let mut rows: Vec<&Row> = rows.iter().filter(|row| matches!(row.load, Load::Tail(_)) == of_tails).collect();
            rows.sort_by(|one, other| one.mebibytes().total_cmp(&other.mebibytes()));
            let line = |name: &str, figure: fn(&Reborn) -> f64| -> Line {
                (name.to_owned(), rows.iter().map(|row| (row.mebibytes().log2(), row.median(figure))).collect())
            };
            let lines = [line("bequest", |one| one.ours), line("bare reader", |one| one.bare)];
            let marks: Vec<(f64, String)> =
                rows.iter().map(|row| (row.mebibytes().log2(), format!("{:.2}", row.mebibytes()))).collect();
            if !rows.is_empty() {
                html += &plot(&format!("rebirth {title}"), "milliseconds over MiB fetched", &marks, &lines);
            }
        }
        html += "</div>\n";
    }
    if !steadies.is_empty() {
        html += "<h2>Steady state</h2>\n<p>Small writes at full speed, snapshots included.</p>\n";
        let head: Vec<String> = steadies.iter().map(|steady| format!("{} MiB", steady.state >> 20)).collect();
        let head: Vec<&str> = ["state"].into_iter().chain(head.iter().map(String::as_str)).collect();
        html += &table(&head, steady_cells(steadies));
        html += &table(&["refused"], steadies.iter().flat_map(Steady::refusals).map(|line| vec![line]));
    }
    html
}

#[cfg(test)]
mod tests {
    use super::super::Tail;
    use super::*;

    #[test]
    fn the_reader_is_left_behind_by_a_fixed_time_at_most() {
        let one = Reborn { ours: 280.0, bare: 100.0, bytes: 1 << 20, znodes: 4, succession: Succession::default() };
        let rows = [Row { load: Load::Tail(Tail::Entries(1)), reborn: vec![one] }];
        let ratios = ratios(&rows, &[]);
        assert_eq!(ratios[0].spread.median, 1.3);
        assert_eq!(ratios[0].verdict(), "met: at most 1.3");
        let html = html(&rows, &[]);
        assert!(html.contains("tail of 1 entries") && html.contains("280.0"), "{html}");
    }
}
