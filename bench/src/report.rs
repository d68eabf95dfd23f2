//! What `append` and `read` tell on the page.

use std::collections::BTreeMap;
use std::fmt::Write;

use bequest_harness::html_escaped;

use crate::load::Measured;
use crate::plan::{Contender, Entry};
use crate::plot::{nines, plot, Line};
use crate::results::{title, told, who, Results, Row};

/// The last share that a latency plot reaches.
const SHARE_MAX: f64 = 0.9999;

/// Tables and plots of a run.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) results: &'a Results,
}

impl Report<'_> {
    /// All of them.
    pub(crate) fn html(&self) -> String {
        format!(
            "<h2>Throughput</h2>\n<div class=\"plots\">{}</div>\n<h2>Latency</h2>\n\
             <p>How long a share of the requests took at most; medians over the repetitions.</p>\n\
             <div class=\"plots\">{}</div>\n<h2>All figures</h2>\n{}{}",
            self.throughput(),
            self.latency(),
            self.figures(),
            self.errors(),
        )
    }

    fn throughput(&self) -> String {
        let mut plots: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
        let rows = self.results.rows.iter().filter(|row| row.entry.contender != Contender::Segments);
        rows.for_each(|row| plots.entry(title(&row.entry)).or_default().push(row));
        let plots = plots.into_iter().map(|(title, rows)| {
            let lines = lines(&rows, |row| {
                let in_flight = row.entry.case.in_flight as f64;
                vec![(in_flight.log2(), row.per_second())]
            });
            let mut marks: Vec<(f64, String)> =
                rows.iter().map(|row| row.entry.case.in_flight).map(|n| ((n as f64).log2(), n.to_string())).collect();
            marks.dedup_by(|one, other| one.1 == other.1);
            plot(&title, "per second over requests in flight", &marks, &lines)
        });
        plots.collect()
    }

    fn latency(&self) -> String {
        let mut plots: BTreeMap<(String, usize), Vec<&Row>> = BTreeMap::new();
        for row in &self.results.rows {
            plots.entry((title(&row.entry), row.entry.case.in_flight)).or_default().push(row);
        }
        let marks = [0.5, 0.9, 0.99, 0.999, SHARE_MAX];
        let marks: Vec<(f64, String)> =
            marks.iter().map(|share| (nines(*share), format!("{} %", share * 100.0))).collect();
        let plots = plots.into_iter().map(|((title, in_flight), rows)| {
            let lines = lines(&rows, |row| {
                let shares = row.runs.iter().flat_map(|run| &run.latency).map(|(share, _)| *share);
                let mut shares: Vec<f64> = shares.filter(|share| *share <= SHARE_MAX).collect();
                shares.sort_by(f64::total_cmp);
                shares.dedup();
                let at = |share: f64| {
                    row.spread(|run: &Measured| run.millis(share)).map(|spread| (nines(share), spread.median))
                };
                shares.into_iter().filter_map(at).collect()
            });
            plot(&format!("{title}, {in_flight} in flight"), "milliseconds over share of requests", &marks, &lines)
        });
        plots.collect()
    }

    fn figures(&self) -> String {
        let mut table = "<table><tr><th>load</th><th>contender</th><th>in flight</th><th>per second</th><th>MB/s</th>\
                         <th>p50 ms</th><th>p99 ms</th><th>writes beside, per second</th><th>errors</th></tr>\n"
            .to_owned();
        for row in &self.results.rows {
            let Entry { case, contender, connections, .. } = row.entry;
            let beside = row.spread(|run| run.written_beside as f64 / run.seconds).filter(|_| case.writers > 0);
            let _ = writeln!(
                table,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td>{}</td></tr>",
                html_escaped(&title(&row.entry)),
                who(contender, connections),
                case.in_flight,
                told(row.spread(Measured::per_second), 0),
                row.per_second() * case.bytes as f64 / 1e6,
                told(row.spread(|run| run.millis(0.5)), 3),
                told(row.spread(|run| run.millis(0.99)), 3),
                told(beside, 0),
                row.runs.iter().map(Measured::failed).sum::<u64>(),
            );
        }
        table + "</table>\n"
    }

    fn errors(&self) -> String {
        let errors = self.results.errors();
        if errors.is_empty() {
            return "<p>Nothing was refused and nothing failed.</p>\n".to_owned();
        }
        format!("<h2>Errors</h2>\n<pre>{}</pre>\n", html_escaped(&errors.join("\n")))
    }
}

/// One line for each contender and number of connections, with the points of all its rows.
fn lines(rows: &[&Row], points: impl Fn(&Row) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut lines: BTreeMap<(Contender, usize), Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows {
        lines.entry((row.entry.contender, row.entry.connections)).or_default().extend(points(row));
    }
    lines.into_iter().map(|((contender, connections), points)| (who(contender, connections), points)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Case, Kind};

    #[test]
    fn the_report_needs_nothing_from_elsewhere_and_tells_everything() {
        let mut results = Results::default();
        for (contender, in_flight, answered) in
            [(Contender::Bequest, 1, 300), (Contender::Bequest, 4096, 90_000), (Contender::Etcd, 4096, 5_000)]
        {
            let case = Case { kind: Kind::Append, bytes: 100, in_flight, writers: 0 };
            let entry = Entry { servers: 3, case, contender, connections: 1 };
            let latency = vec![(0.5, 400), (0.99, 900)];
            let mut run = Measured { seconds: 1.0, answered, latency, ..Measured::default() };
            run.errors.insert("a <bad> thing".to_owned(), 2);
            results.add(entry, run);
        }
        let html = Report { results: &results }.html();
        for told in ["a &lt;bad&gt; thing", "etcd (1 conn.)", "3 ZooKeeper servers", "90000"] {
            assert!(html.contains(told), "{told}: {html}");
        }
        for outside in ["http:", "https:", "src=", "<script", "@import", "NaN", "inf\""] {
            assert!(!html.contains(outside), "the report has {outside}");
        }
    }
}
