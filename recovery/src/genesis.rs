//! What the explicit acts of founding create: a cluster once, a group once. Joining never does.

use bytes::Bytes;

use crate::keeper::{Op, Request};
use crate::path::{self, GroupPaths, WalName};
use crate::record::{self, Ballot, Genesis, Limits, Pointer, Uuid, WalHeader, FORMAT};

fn create(path: impl Into<String>, data: Bytes) -> Op {
    Op::Create { path: path.into(), data, ephemeral: false }
}

/// Content of the cluster's own znode, the chroot.
pub fn cluster_record(uuid: Uuid) -> Bytes {
    record::seal(&record::Cluster { format: FORMAT, uuid: uuid.to_bytes() })
}

/// The parents of everything else, to be created together with the cluster's record.
pub fn cluster_parents() -> Vec<Op> {
    vec![create(path::NODES, Bytes::new()), create(path::GROUPS, Bytes::new())]
}

/// The transaction that founds a group: genesis, a vacant ballot at term 0, an empty root WAL, an empty archive.
///
/// All or nothing, so a crash leaves no half-founded group. `voters` ascend.
pub fn found_group(name: &str, uuid: Uuid, voters: &[u64], limits: Limits) -> Request {
    let paths = GroupPaths::new(name);
    let owner = uuid.to_bytes();
    let genesis = Genesis { format: FORMAT, uuid: owner.clone(), voters: voters.to_vec(), limits: Some(limits) };
    let ballot = Ballot { format: FORMAT, uuid: owner.clone(), vacant: true, ..Ballot::default() };
    let header = WalHeader { format: FORMAT, uuid: owner.clone(), ..WalHeader::default() };
    let pointer = Pointer { format: FORMAT, uuid: owner, ..Pointer::default() };
    Request::Multi(vec![
        create(paths.genesis(), record::seal(&genesis)),
        create(paths.ballot(), record::seal(&ballot)),
        create(paths.wals(), Bytes::new()),
        create(paths.wal(WalName::ROOT), record::seal(&header)),
        create(paths.chunks(), Bytes::new()),
        create(paths.manifests(), Bytes::new()),
        create(paths.pointer(), record::seal(&pointer)),
        create(paths.pins(), Bytes::new()),
    ])
}
