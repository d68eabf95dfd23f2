//! Tables and plots that need nothing from elsewhere.

use std::fmt::Write;

use bequest_harness::html_escaped;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const BOTTOM: f64 = 34.0;
const RIGHT: f64 = 130.0;
const COLOURS: [&str; 8] = ["#1b62c4", "#c2410c", "#15803d", "#7c3aed", "#0e7490", "#b91c1c", "#a16207", "#475569"];

/// A name and its points, ascending.
pub(crate) type Line = (String, Vec<(f64, f64)>);

/// Where a share lies on an axis that gives each further nine the same room.
pub(crate) fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// A plot with powers of ten upwards.
pub(crate) fn plot(title: &str, axes: &str, marks: &[(f64, String)], lines: &[Line]) -> String {
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

/// A table; every cell is escaped here.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &mut dyn Iterator<Item = &str>, tag: &str| {
        let cells: String = cells.map(|cell| format!("<{tag}>{}</{tag}>", html_escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let mut text = format!("<table>{}", line(&mut head.iter().copied(), "th"));
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str), "td");
    }
    text + "</table>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_without_an_answer_says_so() {
        assert!(plot("x", "y", &[], &[("etcd".to_owned(), Vec::new())]).contains("Nothing was answered"));
    }
}
