//! Child processes: signals, logs and ends.

use bequest_harness::{Error, Process};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

fn shell(script: &str) -> bequest_harness::ProcessBuilder {
    Process::builder("sh").name("script").args(["-c", script])
}

#[tokio::test]
async fn a_killed_process_is_gone_when_kill_returns() {
    let process = Process::builder("sleep").arg("600").spawn().expect("sleep is there");
    let status = process.kill().await.expect("it can be killed");
    assert_eq!(status.signal(), Some(9));
    assert!(!process.is_running());
    assert!(matches!(process.terminate(), Err(Error::NotRunning { .. })), "a signal went to a reused process id");
}

#[tokio::test]
async fn a_paused_process_writes_nothing_until_resumed() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let log = dir.path().join("log");
    let process = shell("while :; do echo line; sleep 0.01; done").log(&log).spawn().expect("sh is there");
    process.wait_for_log("line", LIMIT).await.expect("it writes");
    process.pause().await.expect("it can be paused");
    // The sleep it started may be alive still; what it writes itself must not change.
    let before = std::fs::metadata(&log).expect("the log exists").len();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(std::fs::metadata(&log).expect("the log exists").len(), before);
    std::fs::write(&log, "").expect("the log can be emptied");
    process.resume().expect("it can be resumed");
    process.wait_for_log("line", LIMIT).await.expect("it writes again");
}

#[tokio::test]
async fn an_early_end_is_reported_with_the_end_of_the_log() {
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let process = shell("echo the reason >&2; exit 3").log(dir.path().join("log")).spawn().expect("sh is there");
    let error = process.wait_for_log("ready", LIMIT).await.expect_err("it ends before that");
    let reported = matches!(&error, Error::Ended { name, status, log_tail }
        if name == "script" && status.code() == Some(3) && log_tail == "the reason");
    assert!(reported, "{error}");
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let error = Process::builder("no-such-program").spawn().expect_err("there is none");
    assert!(matches!(&error, Error::Spawn { program, .. } if program == "no-such-program"), "{error}");
}

#[tokio::test]
async fn a_dropped_process_is_killed() {
    let process = Process::builder("sleep").arg("600").spawn().expect("sleep is there");
    let stat = format!("/proc/{}/stat", process.pid());
    assert!(std::fs::read_to_string(&stat).is_ok());
    drop(process);
    assert!(std::fs::read_to_string(&stat).is_err(), "it is still there");
}
