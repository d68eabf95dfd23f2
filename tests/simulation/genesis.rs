//! The cluster and the group every run begins with.

use bequest_recovery::model::ZooModel;
use bequest_recovery::record::{Limits, Uuid};

use crate::mix::Mix;

/// The group's name.
pub const GROUP: &str = "g";
/// The cluster's uuid.
pub const CLUSTER: Uuid = Uuid([0xc1; 16]);
/// The group's uuid.
pub const GROUP_UUID: Uuid = Uuid([0x61; 16]);

/// What was created.
pub struct Created {
    pub uuid: Uuid,
}

/// Creates cluster and group, as an operator does once.
pub fn create(zoo: &mut ZooModel, mix: &Mix) -> Created {
    let limits = Limits { wal_bytes: mix.wal_bytes, wal_segments: mix.wal_segments, state_bytes: 1 << 20 };
    let voters: Vec<u64> = (1..=mix.nodes).collect();
    let session = zoo.connect(0);
    for request in requests(&voters, limits) {
        let outcome = zoo.execute(session, &request);
        assert!(matches!(outcome, bequest_recovery::keeper::Outcome::Ok(_)), "genesis refused: {outcome:?}");
    }
    zoo.expire(session);
    for server in 0..zoo.servers() {
        zoo.catch_up(server);
    }
    Created { uuid: GROUP_UUID }
}

fn requests(voters: &[u64], limits: Limits) -> Vec<bequest_recovery::keeper::Request> {
    use bequest_recovery::keeper::{Op, Request};
    use bequest_recovery::path::{GroupPaths, WalName, GROUPS, NODES};
    use bequest_recovery::record::{seal, Ballot, Cluster, Genesis, Pointer, WalHeader, FORMAT};
    let create = |path: &str, data: bytes::Bytes| Op::Create { path: path.to_owned(), data, ephemeral: false };
    let empty = bytes::Bytes::new;
    let paths = GroupPaths::new(GROUP);
    let uuid = GROUP_UUID.to_bytes();
    let cluster = Cluster { format: FORMAT, uuid: CLUSTER.to_bytes() };
    let genesis = Genesis { format: FORMAT, uuid: uuid.clone(), voters: voters.to_vec(), limits: Some(limits) };
    let ballot = Ballot { format: FORMAT, uuid: uuid.clone(), vacant: true, ..Ballot::default() };
    let header = WalHeader { format: FORMAT, uuid: uuid.clone(), ..WalHeader::default() };
    let pointer = Pointer { format: FORMAT, uuid, ..Pointer::default() };
    let root = WalName::ROOT;
    vec![
        Request::Multi(vec![create("/", seal(&cluster)), create(NODES, empty()), create(GROUPS, empty())]),
        Request::Multi(vec![
            create(paths.genesis(), seal(&genesis)),
            create(&paths.ballot(), seal(&ballot)),
            create(&paths.wals(), empty()),
            create(&paths.wal(root), seal(&header)),
            create(&paths.chunks(), empty()),
            create(&paths.manifests(), empty()),
            create(&paths.pointer(), seal(&pointer)),
            create(&paths.pins(), empty()),
        ]),
    ]
}
