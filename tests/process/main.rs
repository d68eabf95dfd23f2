//! Bad inputs and broken networks, as real node processes on a real ZooKeeper meet them.
//!
//! Every test says what must be refused, by which name, and then looks whether anything acknowledged was lost.

mod acl;
mod backwards;
mod disk;
mod ensemble;
#[allow(dead_code, reason = "shared with the tests of the interface, which need all of it")]
#[path = "../cli/exchange.rs"]
mod exchange;
mod identity;
mod missing;
mod namespaces;
mod network;
mod operator;
mod peer_port;
mod proposal;
mod shortage;
mod snapshots;
mod wal;
mod world;
mod zookeeper_disk;
