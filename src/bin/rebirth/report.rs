//! The report: one HTML file with everything in it.

use std::fmt::Write;

use bequest_harness::html_escaped;

use super::clock::Moment;
use super::journal::{Journal, Outage};
use super::summary::{ms, Row, Summary};

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 60.0;
const TIMELINE_HEIGHT: f64 = 200.0;
/// Slices of the timeline: about one per pixel.
const SLICES: usize = 1000;

/// The whole report.
pub(crate) fn html(summary: &Summary, journal: &Journal, acks: &[Moment]) -> String {
    let outages: Vec<&Outage> = journal.outages().collect();
    let verdict = if summary.succeeded() { "nothing lost" } else { "FAILED" };
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>rebirth: {verdict}</title>\n\
         <style>{STYLE}</style>\n<h1>rebirth: {verdict}</h1>\n<p><code>{}</code></p>\n\
         <p>Seed {}. Downtime is the longest time between two acknowledged writes around a fault, over all clients.</p>\n\
         {}{}{}<h2>Downtime by kind of death</h2>\n{}{}<h2>What happened</h2>\n{}</html>\n",
        html_escaped(&summary.last_line()),
        summary.seed,
        problems(summary),
        "<h2>Acknowledged writes over time</h2>\n",
        timeline(journal, &outages, acks),
        distribution(&summary.rows, &outages),
        table(&summary.rows),
        events(journal),
    )
}

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
 code,pre{font:13px ui-monospace,monospace}pre{white-space:pre-wrap}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}\
 td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto;overflow:visible}svg text{font:11px system-ui,sans-serif;fill:#555}\
 .acks{fill:#3b7dd8}.outage{fill:#d33;fill-opacity:.35}.fault{stroke:#d33}.grid{stroke:#ddd}.dot{fill:#3b7dd8;fill-opacity:.6}\
 .median{stroke:#222;stroke-width:2}.bad{color:#b00}";

fn problems(summary: &Summary) -> String {
    let failures = summary.failures.iter().cloned();
    let violations = summary.violations.iter().map(|found| format!("{:.2} s: {}", found.at.seconds(), found.what));
    let list: Vec<String> =
        failures.chain(violations).map(|text| format!("<li>{}</li>", html_escaped(&text))).collect();
    if list.is_empty() {
        return String::new();
    }
    format!("<h2 class=\"bad\">What must never happen</h2>\n<ul>{}</ul>\n", list.concat())
}

/// Acknowledged writes per slice of time, outages and faults.
fn timeline(journal: &Journal, outages: &[&Outage], acks: &[Moment]) -> String {
    let last_event = journal.events.last().map_or(Moment(0), |event| event.at);
    let end = acks.last().copied().unwrap_or_default().max(last_event).0.max(1) as f64;
    let x = |moment: Moment| LEFT + moment.0 as f64 / end * (WIDTH - LEFT);
    let mut slices = vec![0_u32; SLICES];
    for ack in acks {
        let slice = (ack.0 as f64 / end * SLICES as f64) as usize;
        slices[slice.min(SLICES - 1)] += 1;
    }
    let most = f64::from(slices.iter().copied().max().unwrap_or(0).max(1));
    let per_second = most * SLICES as f64 / (end / 1e9);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", TIMELINE_HEIGHT + 40.0);
    // Writing to a string cannot fail.
    let _ =
        write!(svg, "<text x=\"0\" y=\"12\">{per_second:.0}/s</text><text x=\"0\" y=\"{TIMELINE_HEIGHT}\">0/s</text>");
    let _ = write!(svg, "<path class=\"acks\" d=\"M{LEFT} {TIMELINE_HEIGHT}");
    let width = (WIDTH - LEFT) / SLICES as f64;
    for (slice, count) in slices.iter().enumerate() {
        let y = TIMELINE_HEIGHT * (1.0 - f64::from(*count) / most * 0.9);
        let _ = write!(svg, "L{:.1} {y:.1}H{:.1}", LEFT + slice as f64 * width, LEFT + (slice + 1) as f64 * width);
    }
    let _ = write!(svg, "V{TIMELINE_HEIGHT}Z\"/>");
    for outage in outages {
        let (from, to) = (x(outage.from), x(outage.to));
        let _ = write!(
            svg,
            "<rect class=\"outage\" x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{TIMELINE_HEIGHT}\"><title>{}: {:.1} ms</title></rect>\
             <line class=\"fault\" x1=\"{fault:.1}\" x2=\"{fault:.1}\" y1=\"{TIMELINE_HEIGHT}\" y2=\"{}\"/>\
             <text x=\"{fault:.1}\" y=\"{}\">{}</text>",
            (to - from).max(1.0),
            html_escaped(outage.kind),
            ms(outage.downtime()),
            TIMELINE_HEIGHT + 8.0,
            TIMELINE_HEIGHT + 20.0,
            html_escaped(outage.kind.get(..1).unwrap_or_default()),
            fault = x(outage.fault),
        );
    }
    let step = tick_seconds(end / 1e9);
    let mut seconds = 0.0;
    while seconds <= end / 1e9 {
        let place = LEFT + seconds * 1e9 / end * (WIDTH - LEFT);
        let _ = write!(svg, "<text x=\"{place:.1}\" y=\"{}\">{seconds} s</text>", TIMELINE_HEIGHT + 36.0);
        seconds += step;
    }
    svg + "</svg>\n"
}

/// Whole seconds between two marks of the time axis: round numbers, about ten marks.
fn tick_seconds(end: f64) -> f64 {
    let decades = std::iter::successors(Some(1.0), |decade| Some(decade * 10.0));
    let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * decade));
    steps.take(30).find(|step| end / step <= 12.0).unwrap_or(end)
}

/// One line per kind, one dot per outage, on a logarithmic scale.
fn distribution(rows: &[Row], outages: &[&Outage]) -> String {
    const ROW: f64 = 26.0;
    const NAMES: f64 = 260.0;
    const DECADES: f64 = 5.0;
    // From 1 ms to 100 s; what lies beyond is drawn at the edge.
    let x = |ms: f64| NAMES + (ms.max(1.0).log10() / DECADES).min(1.0) * (WIDTH - NAMES - 20.0);
    let height = rows.len() as f64 * ROW;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", height + 24.0);
    for (decade, label) in ["1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"].into_iter().enumerate() {
        let place = NAMES + decade as f64 / DECADES * (WIDTH - NAMES - 20.0);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"0\" y2=\"{height}\"/><text x=\"{:.1}\" y=\"{}\">{label}</text>",
            place - 10.0,
            height + 16.0
        );
    }
    for (number, row) in rows.iter().enumerate() {
        let y = number as f64 * ROW + ROW / 2.0;
        let _ = write!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + 4.0, html_escaped(&row.kind));
        for outage in outages.iter().filter(|outage| outage.kind == row.kind) {
            let place = x(ms(outage.downtime()));
            let _ = write!(
                svg,
                "<circle class=\"dot\" cx=\"{place:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{:.1} ms</title></circle>",
                ms(outage.downtime())
            );
        }
        let median = x(row.median_ms);
        let _ = write!(
            svg,
            "<line class=\"median\" x1=\"{median:.1}\" x2=\"{median:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            y - 9.0,
            y + 9.0
        );
    }
    svg + "</svg>\n"
}

fn table(rows: &[Row]) -> String {
    let mut table =
        "<table><tr><th>kind of death</th><th>count</th><th>median ms</th><th>worst ms</th></tr>\n".to_owned();
    for Row { kind, count, median_ms, worst_ms } in rows {
        let kind = html_escaped(kind);
        let _ =
            writeln!(table, "<tr><td>{kind}</td><td>{count}</td><td>{median_ms:.1}</td><td>{worst_ms:.1}</td></tr>");
    }
    table + "</table>\n"
}

fn events(journal: &Journal) -> String {
    let mut list = "<pre>".to_owned();
    for event in &journal.events {
        let _ = writeln!(list, "{:>8.2} s  {}", event.at.seconds(), html_escaped(&event.what));
    }
    list + "</pre>\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::ledger::Ledger;
    use crate::options::Step;

    #[test]
    fn the_report_needs_nothing_from_elsewhere_and_shows_every_outage() {
        let clock = Clock::start();
        let mut journal = Journal::new(clock, false);
        journal.begin(1, Step::F);
        let kind = "f: both <disks> deleted";
        let (from, to) = (Moment(1_000_000), Moment(51_000_000));
        journal.step().outages.push(Outage { kind, fault: from, from, to, succession: None });
        journal.end(None);
        let summary = Summary::new(&journal, &Ledger::new(clock, 1, 1), 1, 7);
        let html = html(&summary, &journal, &[from, to]);
        assert!(html.contains("f: both &lt;disks&gt; deleted: 50.0 ms"), "{html}");
        assert!(html.contains(&summary.last_line()), "{html}");
        for outside in ["http:", "https:", "src=", "<script", "@import"] {
            assert!(!html.contains(outside), "the report reaches outside by {outside}");
        }
    }
}
