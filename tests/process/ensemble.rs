//! Servers of ZooKeeper that elect another leader under the nodes.

use bequest_harness::{Ensemble, ZooKeeperServer};

use crate::world::{init, no_defect, settled, Member, Written, CHROOT};

#[tokio::test(flavor = "multi_thread")]
async fn a_leadership_outlives_elections_within_zookeeper() {
    // Sessions, and patience with a leader, that outlive an election also where the machine is busy.
    let server = ZooKeeperServer::builder().tick_ms(2000);
    let mut ensemble = Ensemble::builder(3).server(server).start().await.expect("ZooKeeper starts");
    let zk = format!("zk://{}{CHROOT}", ensemble.addresses());
    init(&zk, "1,2", &[]).await;
    let dir = tempfile::tempdir().expect("temporary folders can be made");
    let mut nodes = [1, 2].map(|id| Member::new(id, &zk, dir.path()));
    for node in &mut nodes {
        node.options = ["--session-timeout", "40s", "--election-timeout", "5s"].map(str::to_owned).to_vec();
        node.start();
    }
    let (leader, follower) = settled(&nodes).await;
    let term = nodes[leader].status().await["term"].clone();
    let mut written = Written::default();
    for election in 1..=2 {
        written.write(&nodes, 3, 10).await;
        let elected = ensemble.wait_for_leader().await.expect("an ensemble");
        ensemble.servers_mut()[elected].kill().await.expect("it runs");
        ensemble.wait_for_leader().await.expect("two of three elect");
        // Followers without a leader hang up on their clients, too.
        for node in &nodes {
            node.wrote("connected to ZooKeeper", 1 + election).await;
        }
        written.write(&nodes, 3, 10).await;
        assert_eq!(settled(&nodes).await, (leader, follower), "{}\n{}", nodes[0].log(), nodes[1].log());
        assert_eq!(nodes[leader].status().await["term"], term, "{}", nodes[leader].log());
        ensemble.restart_all().await.expect("it starts");
    }
    written.is_served_by(&nodes[leader]).await;
    written.is_held_by(&nodes[follower]).await;
    for node in &nodes {
        no_defect(&node.log());
        assert!(!node.log().contains("session over"), "{}", node.log());
    }
}
