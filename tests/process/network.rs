//! Cut, flapping and dead networks, between real namespaces.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bequest_harness::ZooKeeperServer;
use tempfile::TempDir;

use crate::namespaces::{Cable, Hosts};
use crate::operator::Operator;
use crate::world::{eventually, init, no_defect, settled, Member, Written, CHROOT};

/// Silence after which a leader is doubted, where nothing may move. The default is shorter than a busy machine that
/// runs tests may be silent altogether.
const PATIENT: Duration = Duration::from_millis(500);

/// Two nodes and a ZooKeeper on hosts of their own.
struct Net {
    // Dropped in this order: processes before the namespaces they run in.
    nodes: [Member; 2],
    operator: Operator,
    _zookeeper: ZooKeeperServer,
    hosts: Hosts,
    written: Written,
    _dir: TempDir,
}

fn parsed(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("an address"), port)
}

impl Net {
    /// Starts everything with default settings; `None` where namespaces cannot be made.
    async fn start() -> Option<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Net::start`], with an election timeout of [`PATIENT`].
    async fn start_patient() -> Option<Self> {
        Self::start_with(&["--election-timeout", "500ms"]).await
    }

    async fn start_with(options: &[&str]) -> Option<Self> {
        let hosts = Hosts::make()?;
        let ip = hosts.keeper_address(Hosts::KEEPER);
        let zookeeper = ZooKeeperServer::builder()
            .ip(ip.parse().expect("an address"))
            .port(2181)
            .prefix(hosts.prefix(Hosts::KEEPER))
            .start()
            .await
            .expect("ZooKeeper starts");
        let zk = format!("zk://{ip}:2181{CHROOT}");
        init(&zk, "1,2", &[]).await;
        let dir = tempfile::tempdir().expect("temporary folders can be made");
        let member = |at: usize, id: u64| {
            let mut member = Member::new(id, &zk, dir.path());
            member.http = parsed(&hosts.test_address(at), 8080);
            member.http_listen = member.http;
            member.listen = parsed(&hosts.peer_address(at), 7070);
            member.prefix = hosts.prefix(at);
            member.options = options.iter().map(ToString::to_string).collect();
            member
        };
        let nodes = [member(0, 1), member(1, 2)];
        let operator = Operator::connect(&zookeeper, CHROOT).await;
        let mut net = Self { nodes, operator, _zookeeper: zookeeper, hosts, written: Written::default(), _dir: dir };
        let [first, second] = &mut net.nodes;
        first.start();
        first.says("role", "leader").await;
        second.start();
        net.settled().await;
        net.write(20).await;
        Some(net)
    }

    async fn settled(&self) -> (usize, usize) {
        settled(&self.nodes).await
    }

    async fn write(&mut self, count: usize) {
        self.written.write(&self.nodes, count, 20).await;
    }

    /// Changes of the ballot so far.
    async fn ballots(&self) -> i32 {
        self.operator.version("/ballot").await
    }

    async fn nothing_is_lost(&self) {
        let (leader, follower) = self.settled().await;
        self.written.is_served_by(&self.nodes[leader]).await;
        self.written.is_held_by(&self.nodes[follower]).await;
        self.nodes.iter().for_each(|node| no_defect(&node.log()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_between_the_nodes_alone_moves_no_leadership_and_stops_no_write() {
    let Some(mut net) = Net::start_patient().await else { return };
    let (leader, follower) = net.settled().await;
    let before = net.ballots().await;
    net.hosts.cut(Cable::Peers);
    net.nodes[leader].says("mode", "solo").await;
    // For as long as the follower would have needed to take over many times.
    let cut = Instant::now();
    let mut writes = 0;
    while cut.elapsed() < PATIENT * 12 {
        net.write(1).await;
        writes += 1;
    }
    assert_eq!(net.nodes[leader].status().await["role"], "leader");
    // Through ZooKeeper. Whether what it has is committed, it will hear when it hears the leader again.
    let last = net.nodes[leader].status().await["last"].as_u64();
    let kept_up = eventually("the follower to keep up", || async {
        let status = net.nodes[follower].status().await;
        if status["last"].as_u64() >= last {
            Ok(status)
        } else {
            Err(format!("{status} of {last:?}"))
        }
    })
    .await;
    assert_eq!(kept_up["role"], "follower", "{kept_up}");
    assert_eq!(net.ballots().await, before, "leadership moved: {}", net.nodes[follower].log());

    net.hosts.heal(Cable::Peers);
    net.write(10).await;
    assert_eq!(net.settled().await, (leader, follower), "nothing moved when it healed");
    assert_eq!(net.ballots().await, before, "{}", net.nodes[follower].log());
    net.nothing_is_lost().await;
    println!("cut for {:?}: writes acknowledged={writes}, ballot unchanged at {before}", cut.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_vanishes_without_a_word_is_replaced_and_follows_when_it_is_back() {
    let Some(mut net) = Net::start().await else { return };
    for round in 1..=3 {
        let (leader, follower) = net.settled().await;
        let before = net.ballots().await;
        net.write(5).await;
        net.hosts.cut_off(leader);
        let cut = Instant::now();
        net.written.write(&net.nodes[follower..=follower], 1, 20).await;
        println!("dead host, round {round}: downtime_ms={}", cut.elapsed().as_millis());
        net.written.write(&net.nodes[follower..=follower], 10, 20).await;

        net.hosts.plug_in(leader);
        let old = net.nodes[leader].says("role", "follower").await;
        assert_eq!(old["term"], net.nodes[follower].status().await["term"], "{old}");
        assert!(net.ballots().await > before, "the ballot tells");
        net.nothing_is_lost().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_from_zookeeper_alone_acknowledges_nothing_and_the_other_takes_over() {
    let Some(mut net) = Net::start().await else { return };
    let (leader, follower) = net.settled().await;
    let before = net.ballots().await;
    net.hosts.cut(Cable::Keeper(leader));
    let cut = Instant::now();
    // What a client sends it then is in its log, and nowhere else.
    let unheard = tokio::spawn(crate::exchange::ask(net.nodes[leader].http, "PUT", "/kv/unheard", b"1"));
    net.written.write(&net.nodes[follower..=follower], 1, 20).await;
    println!("leader cut from zookeeper: downtime_ms={}", cut.elapsed().as_millis());
    let old = eventually("the old leader to step down", || async {
        let status = net.nodes[leader].status().await;
        if status["role"] == "leader" {
            Err(status.to_string())
        } else {
            Ok(status)
        }
    })
    .await;
    assert_ne!(old["role"], "leader", "{old}");
    let unheard = unheard.await.expect("it does not panic");
    assert!(unheard.as_ref().is_none_or(|answer| answer.status != 200), "{unheard:?}");
    net.written.write(&net.nodes[follower..=follower], 10, 20).await;

    net.hosts.heal(Cable::Keeper(leader));
    net.nothing_is_lost().await;
    assert!(net.ballots().await > before, "the ballot tells");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_link_between_the_nodes_moves_no_leadership() {
    let Some(mut net) = Net::start_patient().await else { return };
    let (leader, follower) = net.settled().await;
    let before = net.ballots().await;
    for flap in 0..8 {
        net.hosts.cut(Cable::Peers);
        tokio::time::sleep(PATIENT / 2 * (1 + flap % 3)).await;
        net.write(2).await;
        net.hosts.heal(Cable::Peers);
        tokio::time::sleep(PATIENT / 4 * (1 + flap % 4)).await;
        net.write(2).await;
    }
    assert_eq!(net.settled().await, (leader, follower));
    assert_eq!(net.ballots().await, before, "{}", net.nodes[follower].log());
    net.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_link_to_zookeeper_moves_leadership_no_more_often_than_it_flaps() {
    let Some(mut net) = Net::start().await else { return };
    let before = net.ballots().await;
    let (first, _) = net.settled().await;
    const FLAPS: i32 = 6;
    for _ in 0..FLAPS {
        net.hosts.cut(Cable::Keeper(first));
        tokio::time::sleep(PATIENT).await;
        net.hosts.heal(Cable::Keeper(first));
        net.write(2).await;
    }
    net.nothing_is_lost().await;
    let changes = net.ballots().await - before;
    println!("flaps={FLAPS} ballot changes={changes}");
    assert!(changes <= 2 * FLAPS, "changes={changes}: {}\n{}", net.nodes[0].log(), net.nodes[1].log());
}
