//! Servers and ensembles, on every ZooKeeper that is to be tested.

use bequest_harness::{Ensemble, Error, Installation, Mode, Process, ZooKeeperServer};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zookeeper_client::{Acls, Client, CreateMode};

async fn started(installation: Installation) -> ZooKeeperServer {
    ZooKeeperServer::builder().installation(installation).start().await.expect("the server starts")
}

async fn client(server: &ZooKeeperServer) -> Client {
    Client::connect(&server.address().to_string()).await.expect("the server accepts clients")
}

#[tokio::test]
async fn a_started_server_serves_as_the_version_asked_for() {
    for installation in Installation::every().expect("Java and ZooKeeper are installed") {
        let server = started(installation.clone()).await;
        let info = server.info().await.expect("it serves");
        assert_eq!(info.mode, Mode::Standalone);
        if installation == Installation::debian().expect("Debian's is installed") {
            assert_eq!(info.version, "3.8.0");
        }
    }
}

#[tokio::test]
async fn data_survives_kill_and_restart_and_not_a_wipe() {
    for installation in Installation::every().expect("Java and ZooKeeper are installed") {
        let mut server = started(installation).await;
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        client(&server).await.create("/kept", b"data", &options).await.expect("the server takes writes");
        server.kill().await.expect("it can be killed");
        server.restart().await.expect("it comes back");
        let (data, _) = client(&server).await.get_data("/kept").await.expect("the znode survived");
        assert_eq!(data, b"data");
        server.wipe().await.expect("it can be wiped");
        server.restart().await.expect("it comes back");
        let stat = client(&server).await.check_stat("/kept").await.expect("the server answers");
        assert_eq!(stat, None);
    }
}

#[tokio::test]
async fn a_paused_server_is_silent_until_resumed() {
    let installation = Installation::debian().expect("Java and ZooKeeper are installed");
    let server = started(installation).await;
    server.pause().await.expect("it can be paused");
    assert!(server.is_paused());
    let error = server.info().await.expect_err("no thread of it runs");
    assert!(matches!(&error, Error::Answer { answer, .. } if answer.contains("silence")), "{error}");
    server.resume().expect("it can be resumed");
    server.wait_until_serving().await.expect("it serves again");
    assert!(!server.is_paused());
}

#[tokio::test]
async fn a_server_that_cannot_start_is_reported_with_the_end_of_its_log() {
    let installation = Installation::debian().expect("Java and ZooKeeper are installed");
    let error = ZooKeeperServer::builder()
        .installation(installation)
        .setting("tickTime", "never")
        .start()
        .await
        .expect_err("the configuration is wrong");
    assert!(matches!(&error, Error::Ended { log_tail, .. } if log_tail.contains("never")), "{error}");
}

#[tokio::test]
async fn a_missing_home_is_reported_before_anything_starts() {
    let builder = ZooKeeperServer::builder().home(Some(PathBuf::from("/nowhere")));
    let error = builder.start().await.expect_err("there is no such folder");
    assert!(matches!(&error, Error::NoJars { home } if home.as_path() == Path::new("/nowhere")), "{error:?}");
}

#[tokio::test]
async fn an_ensemble_elects_another_leader_when_its_leader_is_killed() {
    for installation in Installation::every().expect("Java and ZooKeeper are installed") {
        let server = ZooKeeperServer::builder().installation(installation);
        let mut ensemble = Ensemble::builder(3).server(server).start().await.expect("the ensemble starts");
        let first = ensemble.wait_for_leader().await.expect("it elects");
        ensemble.servers_mut()[first].kill().await.expect("the leader can be killed");
        let second = ensemble.wait_for_leader().await.expect("the other two elect");
        assert_ne!(first, second);
        ensemble.restart_all().await.expect("the killed one comes back");
        assert_eq!(ensemble.modes().await[first], Some(Mode::Follower));
    }
}

#[tokio::test]
async fn children_die_with_a_parent_that_is_killed() {
    // The test program itself is the parent, run again for this one test with a variable that tells it so.
    let dir = std::env::temp_dir().join(format!("bequest-parent-{}", std::process::id()));
    let log = dir.join("log");
    if let Ok(pid_file) = std::env::var("BEQUEST_HARNESS_TEST_PARENT") {
        let child = Process::builder("sleep").arg("600").spawn().expect("sleep is there");
        std::fs::write(pid_file, child.pid().to_string()).expect("the file can be written");
        child.wait().await;
        return;
    }
    std::fs::create_dir_all(&dir).expect("temporary folders can be made");
    let pid_file = dir.join("pid");
    let parent = Process::builder(std::env::current_exe().expect("the test program has a path"))
        .args(["--exact", "children_die_with_a_parent_that_is_killed", "--nocapture"])
        .env("BEQUEST_HARNESS_TEST_PARENT", &pid_file)
        .log(&log)
        .spawn()
        .expect("the test program can be started");
    let grandchild = wait_for(|| std::fs::read_to_string(&pid_file).ok()?.parse::<u32>().ok()).await;
    parent.kill().await.expect("the parent can be killed");
    let stat = PathBuf::from(format!("/proc/{grandchild}/stat"));
    // Whoever inherits it may leave it a zombie.
    wait_for(|| std::fs::read_to_string(&stat).map_or(Some(()), |stat| stat.contains(") Z ").then_some(()))).await;
    std::fs::remove_dir_all(&dir).expect("the folder can be deleted");
}

async fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), poll).await.expect("the condition comes true in time")
}
