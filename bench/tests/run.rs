//! A short run of the real thing, for each name.

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

/// Runs it and gives back what it printed, and its JSON.
async fn bench(name: &str, contenders: &[&str], more: &[&str]) -> (String, Value) {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let (json, report) = (dir.path().join("json"), dir.path().join("report.html"));
    let process = Process::builder(env!("CARGO_BIN_EXE_bench"))
        .args([name, "--quick", "--warm-up", "0.05", "--seed", "7", "--in-flight", "1,64"])
        .args(["--only", &contenders.join(",")])
        .args(more)
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
    let (output, json) = bench("append", &contenders, &["--bytes", "100,65536"]).await;
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
    let (_, json) = bench("read", &contenders, &["--servers", "3"]).await;
    for contender in &contenders {
        assert!(answered(&json, contender) > 0, "nothing was read by {contender}");
    }
    let rows = json["measurements"].as_array().expect("measurements");
    assert_eq!(rows.len(), contenders.len() * 4, "two loads, alone and with writes");
    assert_eq!(wrong_answers(&json), Vec::<String>::new());
}

#[tokio::test]
async fn names_that_are_not_there_are_refused_and_nodes_are_not_offered() {
    let run = |argument: &'static str| async move {
        let run = Process::builder(env!("CARGO_BIN_EXE_bench")).arg(argument).run(PATIENCE).await;
        let (status, said) = run.unwrap_or_else(|error| panic!("{error}"));
        (status.success(), said)
    };
    let (succeeded, said) = run("--help").await;
    assert!(succeeded && said.contains("append") && said.contains("read"), "{said}");
    assert!(!said.contains("lead") && !said.contains("follow"), "{said}");
    let (succeeded, said) = run("nonsense").await;
    assert!(!succeeded && said.contains("nonsense"), "{said}");
}
