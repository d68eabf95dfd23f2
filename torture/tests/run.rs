//! A short run of the real thing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bequest_harness::Process;

/// Faults go on for 40 s; what else may take long is a busy machine.
const PATIENCE: Duration = Duration::from_secs(500);

/// The node program: beside the program under test.
fn node_program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_torture")).with_file_name("bequest");
    assert!(program.is_file(), "no {}: build it with `cargo build --release`", program.display());
    program
}

/// The fields of the last line.
fn fields(line: &str) -> HashMap<&str, &str> {
    let fields = line.strip_prefix("torture: ").unwrap_or_else(|| panic!("not a verdict: {line}"));
    fields.split(' ').filter_map(|field| field.split_once('=')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_real_nodes_stay_linearizable_and_lose_nothing_under_a_nemesis() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let (edn, report) = (dir.path().join("edn"), dir.path().join("report.html"));
    let process = Process::builder(env!("CARGO_BIN_EXE_torture"))
        .args(["--minutes", "0.65", "--patience", "240"])
        .arg("--program")
        .arg(node_program())
        .arg("--edn")
        .arg(&edn)
        .arg("--report")
        .arg(&report);
    let ran = process.run(PATIENCE).await;
    let (status, output) = ran.unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}:\n{output}");
    for line in output.lines().filter(|line| line.starts_with("left out here:")) {
        println!("{line}");
    }

    let last = output.lines().last().unwrap_or_default();
    println!("{last}");
    let fields = fields(last);
    let number = |name: &str| fields[name].parse::<u64>().unwrap_or_else(|error| panic!("{name}: {error}: {last}"));
    assert_eq!((number("lost"), number("twice"), number("failures")), (0, 0, 0), "{last}");
    assert_eq!((fields["linearizable"], fields["served"], fields["sums"]), ("true", "true", "kept"), "{last}");
    assert!(number("faults") >= 10 && number("acked") >= 100, "too little happened: {last}");
    let report = std::fs::read_to_string(&report).expect("the report is written");
    assert!(report.contains(last), "the report tells the verdict: {last}");

    // Every request is a line when it begins and one when it ends.
    let edn = std::fs::read_to_string(&edn).expect("the history is written");
    let count = |kind: &str| edn.lines().filter(|line| line.contains(&format!(":type :{kind},"))).count() as u64;
    assert_eq!(count("invoke"), number("ops"), "{last}");
    assert_eq!(count("ok") + count("fail") + count("info"), number("ops"), "{last}");
    assert_eq!(count("info"), number("unknown"), "{last}");
}
