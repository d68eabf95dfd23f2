//! The report: one HTML file with everything in it.

use std::collections::BTreeMap;
use std::fmt::Write;

use bequest_harness::html_escaped;

use crate::load::Measured;
use crate::machine::Machine;
use crate::plan::{Contender, Entry};
use crate::results::{title, told, who, Results, Row};

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const BOTTOM: f64 = 34.0;
const RIGHT: f64 = 130.0;
/// The last share that a latency plot reaches.
const SHARE_MAX: f64 = 0.9999;
const COLOURS: [&str; 8] = ["#1b62c4", "#c2410c", "#15803d", "#7c3aed", "#0e7490", "#b91c1c", "#a16207", "#475569"];

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}\
 pre{font:13px ui-monospace,monospace;white-space:pre-wrap}table{border-collapse:collapse;margin:.6em 0}\
 td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
 .plots{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;width:540px}figcaption{font-weight:600}\
 svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#555}.grid{stroke:#e5e5e5}\
 .line{fill:none;stroke-width:1.8}.met{color:#070}.missed{color:#b00}";

/// Everything there is to tell.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) name: &'a str,
    /// What was measured, how, and with which releases: a line each.
    pub(crate) about: &'a [String],
    pub(crate) machine: &'a Machine,
    pub(crate) results: &'a Results,
}

impl Report<'_> {
    /// The whole report.
    pub(crate) fn html(&self) -> String {
        let about: Vec<String> = self.about.iter().map(|line| format!("<li>{}</li>", html_escaped(line))).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>bench {0}</title>\n\
             <style>{STYLE}</style>\n<h1>bench {0}</h1>\n<ul>{1}<li>{2}</li></ul>\n<h2>Ratios</h2>\n{3}\
             <h2>Throughput</h2>\n<div class=\"plots\">{4}</div>\n<h2>Latency</h2>\n\
             <p>How long a share of the requests took at most; medians over the repetitions.</p>\n\
             <div class=\"plots\">{5}</div>\n<h2>All figures</h2>\n{6}{7}</html>\n",
            html_escaped(self.name),
            about.concat(),
            html_escaped(&self.machine.in_words()),
            self.ratios(),
            self.throughput(),
            self.latency(),
            self.figures(),
            self.errors(),
        )
    }

    fn ratios(&self) -> String {
        let mut table = "<table><tr><th>ratio</th><th>median (least..most)</th><th></th></tr>\n".to_owned();
        for ratio in self.results.ratios() {
            let verdict = ratio.verdict();
            let class = verdict.split(':').next().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "<tr><td>{}</td><td>{}</td><td class=\"{class}\">{verdict}</td></tr>",
                html_escaped(&ratio.name),
                told(Some(ratio.spread), 2),
            );
        }
        table + "</table>\n"
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

/// A name and its points, ascending.
type Line = (String, Vec<(f64, f64)>);

/// One line for each contender and number of connections, with the points of all its rows.
fn lines(rows: &[&Row], points: impl Fn(&Row) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut lines: BTreeMap<(Contender, usize), Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows {
        lines.entry((row.entry.contender, row.entry.connections)).or_default().extend(points(row));
    }
    lines.into_iter().map(|((contender, connections), points)| (who(contender, connections), points)).collect()
}

/// Where a share lies on an axis that gives each further nine the same room.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// A plot with powers of ten upwards.
fn plot(title: &str, axes: &str, marks: &[(f64, String)], lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points).filter(|(_, y)| *y > 0.0);
    let range = |numbers: &mut dyn Iterator<Item = f64>| {
        numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), number| (least.min(number), most.max(number)))
    };
    let (y_min, y_max) = range(&mut points().map(|(_, y)| y.log10()));
    let (x_min, x_max) = range(&mut points().map(|(x, _)| *x).chain(marks.iter().map(|(x, _)| *x)));
    if !y_min.is_finite() {
        return format!(
            "<figure><figcaption>{}</figcaption><p>Nothing was answered.</p></figure>\n",
            html_escaped(title)
        );
    }
    let (y_min, y_max) = (y_min.floor(), y_max.ceil().max(y_min.floor() + 1.0));
    let x = |value: f64| LEFT + (value - x_min) / (x_max - x_min).max(1e-9) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let share = (value.max(1e-9).log10() - y_min) / (y_max - y_min);
        8.0 + (1.0 - share.clamp(0.0, 1.0)) * (HEIGHT - BOTTOM - 8.0)
    };
    let mut svg = format!(
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
        html_escaped(title)
    );
    let (top, bottom, right) = (8.0, HEIGHT - BOTTOM, WIDTH - RIGHT);
    let mut power = y_min;
    while power <= y_max {
        let (value, at) = (10_f64.powf(power), y(10_f64.powf(power)));
        let _ = write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        svg += &label(LEFT - 5.0, at + 4.0, "end", &value.to_string());
        power += 1.0;
    }
    for (value, name) in marks {
        let at = x(*value);
        let _ = write!(svg, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>");
        svg += &label(at, bottom + 14.0, "middle", name);
    }
    svg += &label(LEFT, HEIGHT - 5.0, "start", axes);
    for (at, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let mut path = String::new();
        for (value, height) in points.iter().filter(|(_, height)| *height > 0.0) {
            let _ = write!(path, "{}{:.1} {:.1}", if path.is_empty() { "M" } else { "L" }, x(*value), y(*height));
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.2\" fill=\"{colour}\"><title>{}: {height:.3}</title></circle>",
                x(*value),
                y(*height),
                html_escaped(name)
            );
        }
        let _ = write!(svg, "<path class=\"line\" stroke=\"{colour}\" d=\"{path}\"/>");
        let place = 18.0 + at as f64 * 15.0;
        let (left, top) = (right + 8.0, place - 9.0);
        let _ = write!(svg, "<rect x=\"{left}\" y=\"{top}\" width=\"9\" height=\"9\" fill=\"{colour}\"/>");
        svg += &label(right + 21.0, place, "start", name);
    }
    svg + "</svg></figure>\n"
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", html_escaped(text))
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
        let machine = Machine {
            cores: 2,
            memory_mib: 4096,
            kernel: "6.1".to_owned(),
            sync_p50_us: 150,
            sync_p99_us: 240,
            load_before: 0.1,
        };
        let about = ["seed 7".to_owned()];
        let html = Report { name: "append", about: &about, machine: &machine, results: &results }.html();
        for told in [
            "a &lt;bad&gt; thing",
            "seed 7",
            "18.00",
            "met: at least 10",
            "etcd (1 conn.)",
            "3 ZooKeeper servers",
            "150 us",
        ] {
            assert!(html.contains(told), "{told}: {html}");
        }
        for outside in ["http:", "https:", "src=", "<script", "@import", "NaN", "inf\""] {
            assert!(!html.contains(outside), "the report has {outside}");
        }
    }

    #[test]
    fn a_plot_without_an_answer_says_so() {
        assert!(plot("x", "y", &[], &[("etcd".to_owned(), Vec::new())]).contains("Nothing was answered"));
    }
}
