//! The cluster and the groups every run begins with, founded as an operator does it, once.

use bequest_recovery::genesis::{cluster_parents, cluster_record, found_group};
use bequest_recovery::keeper::{Op, Outcome, Request};
use bequest_recovery::model::ZooModel;
use bequest_recovery::record::{Limits, Uuid};

use crate::mix::Mix;

/// The cluster's uuid.
pub const CLUSTER: Uuid = Uuid([0xc1; 16]);

/// A group's name.
pub fn name(group: usize) -> String {
    format!("g{group}")
}

/// A group's uuid.
pub fn uuid(group: usize) -> Uuid {
    Uuid([0x60 + group as u8; 16])
}

/// Founds cluster and groups.
pub fn create(zoo: &mut ZooModel, mix: &Mix) {
    create_as(zoo, mix, uuid);
}

/// Founds cluster and groups, which get these uuids.
pub fn create_as(zoo: &mut ZooModel, mix: &Mix, uuid: impl Fn(usize) -> Uuid) {
    let limits = Limits { wal_bytes: mix.wal_bytes, wal_segments: mix.wal_segments, state_bytes: 1 << 20 };
    let voters: Vec<u64> = (1..=mix.nodes).collect();
    let mut cluster = vec![Op::Create { path: "/".to_owned(), data: cluster_record(CLUSTER), ephemeral: false }];
    cluster.extend(cluster_parents());
    let session = zoo.connect(0);
    let groups = (0..mix.groups).map(|group| found_group(&name(group), uuid(group), &voters, limits.clone()));
    for request in std::iter::once(Request::Multi(cluster)).chain(groups) {
        let outcome = zoo.execute(session, &request);
        assert!(matches!(outcome, Outcome::Ok(_)), "founding was refused: {outcome:?}");
    }
    zoo.expire(session);
    for server in 0..zoo.servers() {
        zoo.catch_up(server);
    }
}
