//! What came of a run, printed, as a page and as JSON.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bequest_harness::{data_folder, html_escaped, interruption};
use serde_json::{json, Value};

use crate::machine::Machine;
use crate::options::Common;
use crate::results::{told, Ratio};

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}\
 pre{font:13px ui-monospace,monospace;white-space:pre-wrap}table{border-collapse:collapse;margin:.6em 0}\
 td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
 .plots{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;width:540px}figcaption{font-weight:600}\
 svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#555}.grid{stroke:#e5e5e5}\
 .line{fill:none;stroke-width:1.8}.met{color:#070}.missed{color:#b00}";

/// What one measurement came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// What was measured.
    pub(crate) name: &'static str,
    /// What was measured, how, and with which releases: a line each.
    pub(crate) about: Vec<String>,
    /// Tables, to be printed.
    pub(crate) text: String,
    /// Tables and plots of the page.
    pub(crate) html: String,
    /// What is held against what.
    pub(crate) ratios: Vec<Ratio>,
    /// Every figure.
    pub(crate) json: Value,
}

impl Outcome {
    fn printed(&self) -> String {
        let mut text: String = self.about.iter().map(|line| format!("{line}\n")).collect();
        text += &self.text;
        text.push_str("\nratios and goals: median (least..most)\n");
        for ratio in &self.ratios {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<88}{:>24}  {}", ratio.name, told(Some(ratio.spread), 2), ratio.verdict());
        }
        text
    }

    fn section(&self) -> String {
        let about: String = self.about.iter().map(|line| format!("<li>{}</li>", html_escaped(line))).collect();
        let mut ratios = "<table><tr><th>ratio or goal</th><th>median (least..most)</th><th></th></tr>\n".to_owned();
        for ratio in &self.ratios {
            let verdict = ratio.verdict();
            let class = verdict.split(':').next().unwrap_or_default();
            let _ = writeln!(
                ratios,
                "<tr><td>{}</td><td>{}</td><td class=\"{class}\">{verdict}</td></tr>",
                html_escaped(&ratio.name),
                told(Some(ratio.spread), 2),
            );
        }
        let name = html_escaped(self.name);
        format!("<h1>bench {name}</h1>\n<ul>{about}</ul>\n<h2>Ratios</h2>\n{ratios}</table>\n{}", self.html)
    }
}

/// A page with everything in it.
fn page(title: &str, head: &[String], outcomes: &[Outcome]) -> String {
    let head: String = head.iter().map(|line| format!("<li>{}</li>", html_escaped(line))).collect();
    let sections: String = outcomes.iter().map(Outcome::section).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>bench {0}</title>\n\
         <style>{STYLE}</style>\n<ul>{head}</ul>\n{sections}</html>\n",
        html_escaped(title)
    )
}

/// Gives `run` a folder and a seed, and tells what came of it. `run` hands over each outcome as soon as it is known.
pub(crate) async fn told_of(
    name: &str,
    common: &Common,
    run: impl AsyncFnOnce(&Path, u64, &mut Vec<Outcome>) -> Result<()>,
) -> Result<()> {
    let seed = common.seed.unwrap_or_else(|| rand::random::<u32>().into());
    let (dir, temporary) = data_folder("bench", common.dir.as_deref())?;
    println!("bench {name}: seed={seed}; data and logs are in {}", dir.display());
    let machine = Machine::look(&dir)?;
    println!("{}", machine.in_words());
    let mut outcomes = Vec::new();
    // Whatever ends this block, an interruption too, drops the processes, which kills and waits for them.
    let ended = tokio::select! {
        ended = run(&dir, seed, &mut outcomes) => ended,
        () = interruption() => Err(anyhow::anyhow!("interrupted; all processes are ended")),
    };
    if temporary && !common.keep && ended.is_ok() {
        let _ = std::fs::remove_dir_all(&dir);
    } else if ended.is_err() && std::fs::remove_dir(&dir).is_err() {
        // Only an empty folder can be removed so: what failed left something to look at.
        eprintln!("bench: data and logs are kept in {}", dir.display());
    }
    if outcomes.is_empty() {
        return ended;
    }
    // What was measured before something failed took its time, and is told.
    outcomes.iter().for_each(|outcome| println!("\n{}", outcome.printed()));
    let head = [format!("commit: {}; seed {seed}", common.commit), machine.in_words()];
    let report = common.report.clone().unwrap_or_else(|| PathBuf::from(format!("bench-{name}.html")));
    write(&report, &page(name, &head, &outcomes), "--report")?;
    println!("report: {}", report.display());
    if let Some(path) = &common.json {
        let told = |outcome: &Outcome| {
            let Outcome { name, about, ratios, json, .. } = outcome;
            let head = json!({
                "name": name, "commit": common.commit, "seed": seed, "about": about, "machine": machine,
                "ratios": ratios,
            });
            let (Value::Object(mut all), Value::Object(more)) = (head, json.clone()) else { unreachable!("objects") };
            all.extend(more);
            Value::Object(all)
        };
        let all = match outcomes.as_slice() {
            [only] if only.name == name => told(only),
            several => several.iter().map(told).collect(),
        };
        write(path, &serde_json::to_string_pretty(&all)?, "--json")?;
    }
    ended
}

fn write(path: &Path, text: &str, option: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}: check {option}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Bound;
    use crate::stats::Spread;

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_tells_everything() {
        let spread = Spread { median: 18.0, min: 17.0, max: 19.0 };
        let ratios = vec![Ratio { name: "ours < theirs".to_owned(), spread, bound: Some(Bound::AtLeast(10.0)) }];
        let (about, html) = (vec!["seed <7>".to_owned()], "<p>plots</p>".to_owned());
        let outcome = Outcome { name: "append", about, text: String::new(), html, ratios, json: Value::Null };
        let page = page("all", &["a machine".to_owned()], &[outcome]);
        for told in ["seed &lt;7&gt;", "ours &lt; theirs", "18.00", "met: at least 10", "<p>plots</p>", "a machine"] {
            assert!(page.contains(told), "{told}: {page}");
        }
        for outside in ["http:", "https:", "src=", "<script", "@import"] {
            assert!(!page.contains(outside), "the page has {outside}");
        }
    }
}
