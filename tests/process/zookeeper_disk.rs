//! A ZooKeeper server whose disk is slow, or full.

use std::fs;
use std::path::{Path, PathBuf};

use bequest_harness::{Process, ZooKeeperServer};
use tokio::task::JoinSet;

use crate::exchange::ask;
use crate::world::{eventually, World, PATIENCE};

/// Why something cannot be tried here, if it cannot.
async fn refusal(program: &str, args: &[&str]) -> Option<String> {
    match Process::builder(program).args(args).run(PATIENCE).await {
        Ok((status, _)) if status.success() => None,
        Ok((status, written)) => Some(format!("{program}: {status} {written}")),
        Err(error) => Some(error.to_string()),
    }
}

/// Every sync of a server takes a second longer, until this is dropped.
struct SlowDisk {
    _tracer: Process,
    log: PathBuf,
}

impl SlowDisk {
    async fn of(server: &ZooKeeperServer, dir: &Path) -> Self {
        let pid = server.pid().expect("it runs").to_string();
        let log = dir.join("syncs");
        let tracer = Process::builder("strace")
            .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_enter=1000000"])
            .args(["-p", &pid, "-o"])
            .arg(&log)
            .spawn()
            .expect("it can be traced");
        Self { _tracer: tracer, log }
    }

    fn was_felt(&self) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|text| text.contains("DELAYED"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_with_a_slow_disk_makes_writers_wait_or_come_again_and_loses_nothing() {
    let probe = ["-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:delay_enter=1", "true"];
    if let Some(refusal) = refusal("strace", &probe).await {
        println!("skipped: syncs cannot be made slow here: {refusal}");
        return;
    }
    let mut world = World::start().await;
    world.write(3, 10).await;
    let slow = SlowDisk::of(&world.zookeeper, world.dir()).await;
    eventually("a slow sync", || async {
        // Whatever becomes of it: the next one is another.
        for node in &world.nodes {
            let _ = node.ask("PUT", "/kv/felt", b"1").await;
        }
        slow.was_felt().then_some(()).ok_or_else(|| "none yet".to_owned())
    })
    .await;
    // More than a leader holds for a ZooKeeper that does not keep up, all at once.
    let value = vec![b'x'; 400 * 1024];
    let mut writes = JoinSet::new();
    for number in 0..120 {
        for node in &world.nodes {
            let (http, value) = (node.http, value.clone());
            writes.spawn(async move {
                let key = format!("/kv/burst/{number}");
                (ask(http, "PUT", &key, &value).await, key)
            });
        }
    }
    let answers = writes.join_all().await;
    let mut busy = 0;
    let mut acknowledged = Vec::new();
    for (answer, key) in answers {
        match answer.map(|answer| (answer.status, answer.json()["error"].as_str().map(str::to_owned))) {
            Some((200, _)) => acknowledged.push(key),
            Some((503, Some(error))) if error == "busy" => busy += 1,
            // Its ballot may be taken by a node that is not answered either.
            Some((307 | 503 | 504, Some(_))) | None => {}
            Some(other) => panic!("{key}: {other:?}"),
        }
    }
    assert!(busy > 0, "acknowledged={}", acknowledged.len());
    drop(slow);
    world.write(3, 10).await;
    world.nothing_is_lost().await;
    let (leader, _) = world.settled().await;
    for key in acknowledged {
        eventually(&key, || async {
            let read = world.nodes[leader].ask("GET", &key, b"").await;
            let held = read.as_ref().is_some_and(|read| read.status == 200 && read.body == value);
            held.then_some(()).ok_or_else(|| format!("{:?}", read.map(|read| (read.status, read.body.len()))))
        })
        .await;
    }
}

/// A folder that is a small disk of its own, for those who are let in by [`SmallDisk::prefix`]. It lasts as long as this.
struct SmallDisk {
    holder: Process,
    dir: PathBuf,
}

impl SmallDisk {
    const MEGABYTES: u32 = 8;

    async fn at(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("it can be made");
        let script =
            format!("mount -t tmpfs -o size={}m tmpfs \"$0\" && echo mounted && exec sleep inf", Self::MEGABYTES);
        let holder = Process::builder("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(dir)
            .log(dir.with_extension("mount"))
            .spawn()
            .expect("it can be started");
        holder.wait_for_log("mounted", PATIENCE).await.expect("a disk can be mounted");
        Self { holder, dir: dir.to_owned() }
    }

    fn prefix(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.holder.pid()), "--".to_owned()]
    }

    async fn run(&self, script: &str) -> (bool, String) {
        let command = Process::builder("sh").prefix(self.prefix()).args(["-c", script]).arg(&self.dir);
        let (status, written) = command.run(PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
        (status.success(), written)
    }

    /// Leaves no byte free.
    async fn fill(&self) {
        let (done, written) = self.run("cat /dev/zero > \"$0/filler\"").await;
        assert!(!done && written.contains("No space left"), "{written}");
    }

    async fn drain(&self) {
        let (done, written) = self.run("rm \"$0/filler\"").await;
        assert!(done, "{written}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zookeeper_with_a_full_disk_ends_acknowledges_nothing_and_loses_nothing() {
    let probe = ["--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    if let Some(refusal) = refusal("unshare", &probe).await {
        println!("skipped: no disk can be mounted here: {refusal}");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let disk = SmallDisk::at(&dir.path().join("transactions")).await;
    let server = ZooKeeperServer::builder().dir(dir.path()).prefix(disk.prefix());
    let mut world = World::on(server.start().await.expect("ZooKeeper starts"), &[]).await;
    world.start_nodes().await;
    world.write(5, 100).await;
    disk.fill().await;
    // What fits into the rest of a block may still be taken.
    eventually("the server to end", || async {
        for node in &world.nodes {
            let answer = node.ask("PUT", "/kv/large", &[b'x'; 100_000]).await;
            assert!(answer.as_ref().is_none_or(|answer| answer.status != 200), "{answer:?}");
        }
        world.zookeeper.info().await.err().map(drop).ok_or_else(|| world.zookeeper.log_tail())
    })
    .await;
    for node in &world.nodes {
        node.says("mode", "no-keeper").await;
    }
    disk.drain().await;
    world.zookeeper.restart().await.expect("it starts");
    world.write(5, 100).await;
    world.nothing_is_lost().await;
}
