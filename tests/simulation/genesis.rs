//! The cluster and the group every run begins with, founded as an operator does it, once.

use bequest_recovery::genesis::{cluster_parents, cluster_record, found_group};
use bequest_recovery::keeper::{Op, Outcome, Request};
use bequest_recovery::model::ZooModel;
use bequest_recovery::record::{Limits, Uuid};

use crate::mix::Mix;

/// The group's name.
pub const GROUP: &str = "g";
/// The cluster's uuid.
pub const CLUSTER: Uuid = Uuid([0xc1; 16]);
/// The group's uuid.
pub const GROUP_UUID: Uuid = Uuid([0x61; 16]);

/// Founds cluster and group.
pub fn create(zoo: &mut ZooModel, mix: &Mix) {
    let limits = Limits { wal_bytes: mix.wal_bytes, wal_segments: mix.wal_segments, state_bytes: 1 << 20 };
    let voters: Vec<u64> = (1..=mix.nodes).collect();
    let mut cluster = vec![Op::Create { path: "/".to_owned(), data: cluster_record(CLUSTER), ephemeral: false }];
    cluster.extend(cluster_parents());
    let session = zoo.connect(0);
    for request in [Request::Multi(cluster), found_group(GROUP, GROUP_UUID, &voters, limits)] {
        let outcome = zoo.execute(session, &request);
        assert!(matches!(outcome, Outcome::Ok(_)), "founding was refused: {outcome:?}");
    }
    zoo.expire(session);
    for server in 0..zoo.servers() {
        zoo.catch_up(server);
    }
}
