//! The report: one HTML file with everything in it.

use std::collections::BTreeMap;
use std::fmt::Write;

use bequest_harness::html_escaped;

use super::fault::Kind;
use super::history::{Moment, Outcome, Record};
use super::nemesis::{Round, Span};
use super::verdict::Verdict;
use super::world::Event;

const WIDTH: f64 = 1100.0;
const LEFT: f64 = 70.0;
/// Slices of the timeline: about one per pixel.
const SLICES: usize = 1000;
const PANEL: f64 = 130.0;
const LANE: f64 = 16.0;
/// The latency axis ends here, in microseconds, and begins at a ten-thousandth of it.
const LATENCY_MAX_US: f64 = 10_000_000.0;

/// Everything there is to tell.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) seed: u64,
    pub(crate) last_line: &'a str,
    pub(crate) clean: bool,
    pub(crate) verdict: &'a Verdict,
    pub(crate) failures: &'a [String],
    pub(crate) left_out: &'a [(Kind, String)],
    pub(crate) zookeeper: &'a str,
    pub(crate) records: &'a [Record],
    pub(crate) spans: &'a [Span],
    pub(crate) rounds: &'a [Round],
    pub(crate) events: &'a [Event],
}

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
 code,pre{font:13px ui-monospace,monospace}pre{white-space:pre-wrap}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}\
 td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto;overflow:visible}svg text{font:11px system-ui,sans-serif;fill:#555}\
 .acks{fill:#3b7dd8}.p50{stroke:#3b7dd8;fill:none}.worst{fill:#d33;fill-opacity:.5}.grid{stroke:#ddd}\
 .fault{fill:#c60;fill-opacity:.55;stroke:#930;stroke-width:.4}.silent{fill:#d33;fill-opacity:.18}.bad{color:#b00}.good{color:#070}";

impl Report<'_> {
    /// The whole report.
    pub(crate) fn html(&self) -> String {
        let (class, word) = if self.clean { ("good", "all is well") } else { ("bad", "FAILED") };
        format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>torture: {word}</title>\n<style>{STYLE}</style>\n\
             <h1 class=\"{class}\">torture: {word}</h1>\n<p><code>{}</code></p>\n<p>Seed {}. ZooKeeper {}, three servers. {}</p>\n{}{}\
             <h2>Faults over latency and availability</h2>\n{}<h2>Faults</h2>\n{}{}<h2>What happened</h2>\n{}</html>\n",
            html_escaped(self.last_line),
            self.seed,
            html_escaped(self.zookeeper),
            self.served(),
            self.checks(),
            self.problems(),
            self.timeline(),
            self.table(),
            self.left_out(),
            self.log(),
        )
    }

    /// How long the group took to serve again.
    fn served(&self) -> String {
        let mut times: Vec<f64> = self.rounds.iter().map(|round| round.served.seconds_since(round.over)).collect();
        times.sort_by(f64::total_cmp);
        match (times.get(times.len() / 2), times.last()) {
            (Some(median), Some(worst)) => format!(
                "{} rounds; when the last fault of one was over, the group acknowledged again after {median:.1} s (median), {worst:.1} s at worst.",
                times.len()
            ),
            _ => "No round.".to_owned(),
        }
    }

    fn checks(&self) -> String {
        let Verdict { operations, acknowledged, unknown, keys, lost, twice, sums, refuted, .. } = self.verdict;
        format!(
            "<table><tr><th>checked</th><th></th></tr>\n\
             <tr><td>requests; writes acknowledged; of unknown outcome</td><td>{operations}; {acknowledged}; {unknown}</td></tr>\n\
             <tr><td>keys whose history was checked for linearizability; refuted</td><td>{keys}; {refuted}</td></tr>\n\
             <tr><td>acknowledged writes lost</td><td>{lost}</td></tr>\n\
             <tr><td>changes applied more than once</td><td>{twice}</td></tr>\n\
             <tr><td>sums not conserved</td><td>{sums}</td></tr></table>\n"
        )
    }

    fn problems(&self) -> String {
        let all: Vec<String> =
            self.failures.iter().chain(&self.verdict.violations).map(|text| html_escaped(text)).collect();
        if all.is_empty() {
            return String::new();
        }
        format!(
            "<h2 class=\"bad\">What must never happen</h2>\n<ul><li><pre>{}</pre></ul>\n",
            all.join("</pre><li><pre>")
        )
    }

    fn end(&self) -> f64 {
        let records = self.records.iter().map(|record| record.end);
        let spans = self.spans.iter().map(|span| span.to);
        records.chain(spans).max().unwrap_or_default().0.max(1) as f64
    }

    fn timeline(&self) -> String {
        let end = self.end();
        let x = |moment: Moment| LEFT + moment.0 as f64 / end * (WIDTH - LEFT);
        let mut slices: Vec<Vec<f64>> = vec![Vec::new(); SLICES];
        for record in self.records.iter().filter(|record| record.outcome == Outcome::Done) {
            let slice = (record.end.0 as f64 / end * SLICES as f64) as usize;
            slices[slice.min(SLICES - 1)].push(record.end.seconds_since(record.start) * 1e6);
        }
        let lanes = Lane::ALL.len() as f64 * LANE;
        let height = 2.0 * PANEL + lanes + 40.0;
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
        self.acknowledged(&mut svg, &slices, end);
        latency(&mut svg, &mut slices);
        for (at, lane) in Lane::ALL.iter().enumerate() {
            let y = 2.0 * PANEL + 10.0 + at as f64 * LANE;
            // Writing to a string cannot fail.
            let _ = write!(svg, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + 11.0, lane.name());
            for span in self.spans.iter().filter(|span| Lane::of(span.fault.kind) == *lane) {
                let (from, to) = (x(span.from), x(span.to));
                let _ = write!(
                    svg,
                    "<rect class=\"fault\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{:.1} s: {} for {:.1} s</title></rect>",
                    (to - from).max(1.0),
                    LANE - 3.0,
                    span.from.seconds(),
                    span.fault.describe(),
                    span.to.seconds_since(span.from)
                );
            }
        }
        for tick in 0..=10 {
            let at = Moment((end / 10.0 * f64::from(tick)) as u64);
            let (x, y) = (x(at), height - 22.0);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{y:.1}\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} s</text>",
                y + 14.0,
                at.seconds()
            );
        }
        svg + "</svg>\n<p>Above: writes acknowledged per second; where none were, red. Below it: the time they took, median \
               (line) and worst (bars), on a scale of powers of ten. Then the faults; their names show when pointed at.</p>\n"
    }

    fn acknowledged(&self, svg: &mut String, slices: &[Vec<f64>], end: f64) {
        let most = slices.iter().map(Vec::len).max().unwrap_or(0).max(1) as f64;
        let per_second = most * SLICES as f64 / (end / 1e9);
        let width = (WIDTH - LEFT) / SLICES as f64;
        let _ = write!(svg, "<text x=\"0\" y=\"12\">{per_second:.0}/s</text><text x=\"0\" y=\"{PANEL}\">0/s</text>");
        let _ = write!(svg, "<path class=\"acks\" d=\"M{LEFT} {PANEL}");
        for (at, slice) in slices.iter().enumerate() {
            let y = PANEL * (1.0 - slice.len() as f64 / most * 0.95);
            let _ = write!(svg, "L{:.1} {y:.1}H{:.1}", LEFT + at as f64 * width, LEFT + (at + 1) as f64 * width);
        }
        let _ = write!(svg, "V{PANEL}Z\"/>");
        for (at, _) in slices.iter().enumerate().filter(|(_, slice)| slice.is_empty()) {
            let x = LEFT + at as f64 * width;
            let _ =
                write!(svg, "<rect class=\"silent\" x=\"{x:.1}\" y=\"0\" width=\"{width:.2}\" height=\"{PANEL}\"/>");
        }
    }

    fn table(&self) -> String {
        let mut kinds: BTreeMap<Kind, (u64, f64)> = BTreeMap::new();
        for span in self.spans {
            let entry = kinds.entry(span.fault.kind).or_default();
            entry.0 += 1;
            entry.1 += span.to.seconds_since(span.from);
        }
        let mut table = "<table><tr><th>fault</th><th>count</th><th>seconds in sum</th></tr>\n".to_owned();
        for (kind, (count, seconds)) in kinds {
            let _ = writeln!(table, "<tr><td>{}</td><td>{count}</td><td>{seconds:.1}</td></tr>", kind.name());
        }
        table + "</table>\n"
    }

    fn left_out(&self) -> String {
        let items: Vec<String> = self
            .left_out
            .iter()
            .map(|(kind, why)| format!("<li>{}: left out here ({})</li>", kind.name(), html_escaped(why)))
            .collect();
        if items.is_empty() {
            "<p>No fault was left out.</p>\n".to_owned()
        } else {
            format!("<ul>{}</ul>\n", items.concat())
        }
    }

    fn log(&self) -> String {
        let mut list = "<pre>".to_owned();
        for event in self.events {
            let _ = writeln!(list, "{:>8.2} s  {}", event.at.seconds(), html_escaped(&event.what));
        }
        list + "</pre>\n"
    }
}

fn latency(svg: &mut String, slices: &mut [Vec<f64>]) {
    let top = PANEL + 8.0;
    let height = PANEL - 8.0;
    let decades = 4.0;
    let y = |us: f64| {
        let place = (us.max(1.0) / LATENCY_MAX_US).log10() / decades + 1.0;
        top + height * (1.0 - place.clamp(0.0, 1.0))
    };
    for (us, name) in [(1e7, "10 s"), (1e6, "1 s"), (1e5, "100 ms"), (1e4, "10 ms"), (1e3, "1 ms")] {
        let y = y(us);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"0\" y=\"{:.1}\">{name}</text>",
            y + 4.0
        );
    }
    let width = (WIDTH - LEFT) / SLICES as f64;
    let mut line = String::new();
    for (at, slice) in slices.iter_mut().enumerate() {
        slice.sort_by(f64::total_cmp);
        let (Some(median), Some(worst)) = (slice.get(slice.len() / 2), slice.last()) else {
            continue;
        };
        let (x, from, to) = (LEFT + at as f64 * width, y(*worst), y(*median));
        let _ = write!(
            svg,
            "<rect class=\"worst\" x=\"{x:.1}\" y=\"{from:.1}\" width=\"{width:.2}\" height=\"{:.1}\"/>",
            (to - from).max(0.3)
        );
        let _ = write!(line, "{}{x:.1} {to:.1}", if line.is_empty() { "M" } else { "L" });
    }
    let _ = write!(svg, "<path class=\"p50\" d=\"{line}\"/>");
}

/// Where a fault is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Nodes,
    Keeper,
    Peers,
    Clients,
    Members,
}

impl Lane {
    const ALL: [Self; 5] = [Self::Nodes, Self::Keeper, Self::Peers, Self::Clients, Self::Members];

    fn of(kind: Kind) -> Self {
        let parts = kind.parts(0);
        let about = |other: Kind| parts == other.parts(0);
        if about(Kind::MemberKill) {
            Self::Members
        } else if about(Kind::LinkKeeper) {
            Self::Keeper
        } else if about(Kind::LinkPeers) {
            Self::Peers
        } else if about(Kind::Kill) || about(Kind::KillBoth) {
            Self::Nodes
        } else {
            Self::Clients
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Keeper => "to ZooKeeper",
            Self::Peers => "peers",
            Self::Clients => "clients, all",
            Self::Members => "ZooKeeper",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::history::Request;
    use std::time::Duration;

    #[test]
    fn the_report_needs_nothing_from_elsewhere_and_tells_everything() {
        let (begin, length) = (Duration::ZERO, Duration::from_secs(1));
        let fault = Fault { kind: Kind::WipeBoth, target: 0, begin, length, draw: 0 };
        let spans = [Span { fault, from: Moment(1_000_000_000), to: Moment(2_000_000_000) }];
        let record = Record {
            process: 0,
            key: "k".to_owned(),
            request: Request::Write(None),
            start: Moment(5),
            end: Moment(2_500_000_000),
            outcome: Outcome::Done,
        };
        let verdict = Verdict { violations: vec!["a <lost> write".to_owned()], ..Verdict::default() };
        let html = Report {
            seed: 7,
            last_line: "torture: lost=1",
            clean: false,
            verdict: &verdict,
            failures: &["node 1 ended".to_owned()],
            left_out: &[(Kind::DiskFull, "not permitted".to_owned())],
            zookeeper: "3.9.5",
            records: &[record],
            spans: &spans,
            rounds: &[Round { over: Moment(2_000_000_000), served: Moment(2_500_000_000) }],
            events: &[Event { at: Moment(1), what: "it began".to_owned() }],
        }
        .html();
        for told in [
            "a &lt;lost&gt; write",
            "node 1 ended",
            "disk-full: left out here (not permitted)",
            "1.0 s: wipe-both for 1.0 s",
            "after 0.5 s (median)",
            "torture: lost=1",
            "it began",
        ] {
            assert!(html.contains(told), "{told}: {html}");
        }
        for outside in ["http:", "https:", "src=", "<script", "@import"] {
            assert!(!html.contains(outside), "the report reaches outside by {outside}");
        }
    }
}
