//! A short run of the real thing, for each name.

use std::path::Path;
use std::time::Duration;

use bequest_harness::{Etcd, Process};
use serde_json::Value;

/// It takes half a minute; what else may take long is a busy machine.
const PATIENCE: Duration = Duration::from_secs(400);

/// Who can take part here, of all that may.
fn contenders(all: &[&'static str]) -> Vec<&'static str> {
    let installed = Etcd::is_installed();
    if !installed {
        println!("left out here: etcd is not installed (`scripts/install bench` installs it)");
    }
    all.iter().copied().filter(|name| installed || *name != "etcd").collect()
}

/// Runs `append` or `read` and gives back what it printed, and its JSON.
async fn load(name: &str, contenders: &[&str], more: &[&str]) -> (String, Value) {
    let only = contenders.join(",");
    let usual = [name, "--warm-up", "0.05", "--in-flight", "1,64", "--only", &only];
    bench(&[&usual, more].concat()).await
}

/// Runs it and gives back what it printed, and its JSON.
async fn bench(arguments: &[&str]) -> (String, Value) {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let (json, report) = (dir.path().join("json"), dir.path().join("report.html"));
    let process = Process::builder(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .args(["--quick", "--seed", "7"])
        .arg("--json")
        .arg(&json)
        .arg("--report")
        .arg(&report)
        .arg("--dir")
        .arg(dir.path().join("data"));
    let ran = process.run(PATIENCE).await;
    let (status, output) = ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}:\n{output}");
    println!("{output}");
    let report = std::fs::read_to_string(&report).expect("the report is written");
    assert!(report.contains("<svg"), "the report has plots");
    for outside in ["http:", "https:", "<script"] {
        assert!(!report.contains(outside), "the report reaches outside by {outside}");
    }
    let json = std::fs::read_to_string(&json).expect("the results are written");
    (output, serde_json::from_str(&json).expect("valid JSON"))
}

/// Requests a contender was answered, in all measurements together.
fn answered(json: &Value, contender: &str) -> u64 {
    let rows = json["measurements"].as_array().expect("measurements");
    let rows = rows.iter().filter(|row| row["contender"] == contender);
    let runs = rows.flat_map(|row| row["runs"].as_array().expect("runs"));
    runs.map(|run| run["answered_ever"].as_u64().expect("a number")).sum()
}

/// Answers that nobody may give. On a busy machine refusals are in order: leaders may change, sessions may end.
fn wrong_answers(json: &Value) -> Vec<String> {
    let rows = json["measurements"].as_array().expect("measurements").iter();
    let runs = rows.flat_map(|row| row["runs"].as_array().expect("runs"));
    let errors = runs.flat_map(|run| run["errors"].as_object().expect("errors").keys().cloned());
    errors.filter(|error| ["not found", "not done", "cut short"].iter().any(|wrong| error.contains(wrong))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn append_measures_everybody_who_takes_part_and_compares_them() {
    let contenders = contenders(&["bequest", "bequest-synced", "zookeeper", "segments", "etcd"]);
    let (output, json) = load("append", &contenders, &["--bytes", "100,65536"]).await;
    for contender in &contenders {
        assert!(answered(&json, contender) > 0, "nothing was acknowledged to {contender}");
        assert!(output.contains(contender), "{contender} is not in the table");
    }
    // Two sizes by two loads for everybody, and the ceiling.
    let rows = json["measurements"].as_array().expect("measurements").len();
    assert_eq!(rows, (contenders.len() - 1) * 4 + 1);
    let ratios = json["ratios"].as_array().expect("ratios");
    assert!(ratios.iter().any(|ratio| ratio["bound"]["at_most"] == 1.25), "{ratios:?}");
    assert_eq!(wrong_answers(&json), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn read_measures_alone_and_with_writes_on_an_ensemble_too() {
    let contenders = contenders(&["bequest", "zookeeper", "etcd"]);
    let (_, json) = load("read", &contenders, &["--servers", "3"]).await;
    for contender in &contenders {
        assert!(answered(&json, contender) > 0, "nothing was read by {contender}");
    }
    let rows = json["measurements"].as_array().expect("measurements");
    assert_eq!(rows.len(), contenders.len() * 4, "two loads, alone and with writes");
    assert_eq!(wrong_answers(&json), Vec::<String>::new());
}

/// The node program: beside the program under test.
fn node_program() -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_bench")).with_file_name("bequest");
    assert!(program.is_file(), "no {}: build it with `cargo build --release`", program.display());
    program.display().to_string()
}

/// The measurements, each named by these fields.
fn measured(json: &Value, names: [&str; 2]) -> Vec<[String; 2]> {
    let rows = json["measurements"].as_array().expect("measurements").iter();
    rows.map(|row| names.map(|name| row[name].as_str().unwrap_or_default().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_death_is_survived_by_everybody_and_ours_is_told_in_parts() {
    let contenders = contenders(&["bequest", "etcd", "etcd-fast", "zookeeper"]);
    let (output, json) = bench(&["failover", "--only", &contenders.join(","), "--program", &node_program()]).await;
    let rows = measured(&json, ["death", "contender"]);
    for death in ["kill", "stop", "hand-over", "keeper"] {
        assert!(rows.contains(&[death.to_owned(), "bequest".to_owned()]), "{death}: {rows:?}");
    }
    // Where the system permits no networks, that is said.
    let links = rows.iter().any(|[death, _]| death == "link");
    assert_ne!(links, output.contains("left out here: the leader's host loses its network"), "{output}");
    for row in json["measurements"].as_array().expect("measurements") {
        assert_eq!(row["deaths"], 1, "{row}");
        assert!(row["median_ms"].as_f64().is_some_and(|millis| millis > 0.0), "{row}");
        let told = row["parts_ms"].as_array().expect("parts").iter().any(|parts| parts.is_array());
        assert!(!told || row["contender"] == "bequest", "{row}");
    }
    if contenders.contains(&"etcd") {
        assert!(rows.contains(&["stop".to_owned(), "etcd-fast".to_owned()]), "{rows:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rebirth_is_measured_from_log_and_snapshot_and_beside_writers_that_never_pause() {
    let (output, json) = bench(&["rebirth", "--program", &node_program()]).await;
    for told in ["tail of 1 entries", "tail of 1 MiB", "snapshot of 1 MiB", "busy: share of attempts"] {
        assert!(output.contains(told), "{told}: {output}");
    }
    let fetched = |at: usize| json["measurements"][at]["reborn"][0]["bytes"].as_u64().expect("bytes");
    // Keys and values of that size, and little beside.
    assert!(fetched(0) < 64 << 10, "{json}");
    assert!((1 << 20..3 << 19).contains(&fetched(1)), "{json}");
    assert!(fetched(2) > 1 << 20, "{json}");
    assert!(json["steady"][0]["written"].as_u64().is_some_and(|written| written > 0), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_groups_serve_again_after_a_death_and_write_nothing_while_idle() {
    let (_, json) = bench(&["groups"]).await;
    for (at, groups) in [1, 10].into_iter().enumerate() {
        let row = &json["measurements"][at];
        assert_eq!(row["groups"], groups);
        let run = &row["runs"][0];
        assert!(run["load"]["answered_ever"].as_u64().is_some_and(|answered| answered > 0), "{run}");
        assert_eq!(run["served"].as_array().map(Vec::len), Some(groups), "{run}");
        assert!(run["idle_writes"].as_f64().is_some(), "{run}");
    }
}

#[tokio::test]
async fn bad_arguments_are_refused_with_the_value_and_what_is_expected() {
    for (words, told) in [
        (&["failover", "--deaths", "0"][..], "0"),
        (&["failover", "--kinds", "earthquake"], "earthquake"),
        (&["rebirth", "--tails", "600MiB"], "expected a number of entries up to 1000000"),
        (&["rebirth", "--snapshots", "9GiB"], "expected 1B to 400 MiB"),
        (&["groups", "--groups", "100000"], "expected 1 to 4096"),
        (&["all", "--only", "mysql"], "mysql"),
        (&["failover", "--kinds", "keeper", "--servers", "1"], "nobody is left to die: check --kinds"),
    ] {
        let run = Process::builder(env!("CARGO_BIN_EXE_bench")).args(words).run(PATIENCE).await;
        let (status, said) = run.unwrap_or_else(|error| panic!("{error}"));
        assert!(!status.success() && said.contains(told), "{words:?}: {said}");
    }
}

#[tokio::test]
async fn names_that_are_not_there_are_refused_and_nodes_are_not_offered() {
    let run = |argument: &'static str| async move {
        let run = Process::builder(env!("CARGO_BIN_EXE_bench")).arg(argument).run(PATIENCE).await;
        let (status, said) = run.unwrap_or_else(|error| panic!("{error}"));
        (status.success(), said)
    };
    let (succeeded, said) = run("--help").await;
    for name in ["append", "read", "failover", "rebirth", "groups", "all"] {
        assert!(succeeded && said.lines().any(|line| line.trim().starts_with(name)), "{name}: {said}");
    }
    let hidden =
        |line: &str| ["lead", "follow", "host"].iter().any(|name| line.trim().starts_with(&format!("{name} ")));
    assert!(!said.lines().any(hidden), "{said}");
    let (succeeded, said) = run("nonsense").await;
    assert!(!succeeded && said.contains("nonsense"), "{said}");
}
