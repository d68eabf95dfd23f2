//! The demo on real processes: every way to die once, on every ZooKeeper there is here.

use std::path::Path;
use std::time::Duration;

use bequest_harness::{Installation, Process};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(400);

/// Runs `rebirth` with `arguments` beside the usual ones; returns its results.
async fn rebirth(dir: &Path, arguments: &[&str]) -> Value {
    let json = dir.join("results.json");
    let process = Process::builder(env!("CARGO_BIN_EXE_rebirth"))
        .args(["--cycles", "1", "--clients", "4"])
        // Unless a folder is named, Debian's.
        .env("ZOOKEEPER_HOME", "")
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .arg("--report")
        .arg(dir.join("report.html"))
        .arg("--dir")
        .arg(dir.join("data"));
    let ran = process.run(PATIENCE).await;
    let (status, output) = ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}:\n{output}");
    let last = output.lines().last().unwrap_or_default();
    assert!(last.starts_with("rebirth: cycles=1 acked=") && last.contains(" lost=0 stale=0 "), "{last}");
    let report = std::fs::read_to_string(dir.join("report.html")).expect("the report is written");
    assert!(report.contains(last), "the report ends as the output does: {last}");
    let results = std::fs::read(&json).expect("the results are written");
    serde_json::from_slice(&results).expect("the results are JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_however_the_nodes_die() {
    for installation in Installation::every().expect("Java and ZooKeeper are installed") {
        let dir = tempfile::tempdir().expect("temporary folders can be made");
        let home = home_of(&installation);
        let arguments: Vec<&str> = home.iter().flat_map(|home| ["--zookeeper", home]).collect();
        let results = rebirth(dir.path(), &arguments).await;
        assert_eq!(results["succeeded"], true, "{installation:?}: {results}");
        let steps = results["steps"].as_array().map_or(0, Vec::len);
        assert_eq!(steps, 9, "every step ran: {results}");
        assert!(results["totals"]["acked"].as_u64() > Some(100), "{results}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_on_an_ensemble_whose_leader_dies() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let results = rebirth(dir.path(), &["--ensemble", "3", "--steps", "c,f,h"]).await;
    assert_eq!(results["succeeded"], true, "{results}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_snapshots_are_made_and_the_log_is_trimmed() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let small = ["--wal-segments", "300", "--wal-bytes", "1048576", "--state-bytes", "2097152"];
    let results = rebirth(dir.path(), &[&small[..], &["--steps", "e,c,f,a"]].concat()).await;
    assert_eq!(results["succeeded"], true, "{results}");
    assert!(results["snapshot"].as_u64() > Some(0), "snapshots were made: {results}");
}

/// What `--zookeeper` must name for this installation; `None` for Debian's.
fn home_of(installation: &Installation) -> Option<String> {
    let debian = Installation::debian().expect("Debian's ZooKeeper is installed");
    (*installation != debian).then(|| std::env::var("ZOOKEEPER_HOME").expect("it named this one"))
}
