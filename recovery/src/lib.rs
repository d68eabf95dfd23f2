//! What a leader leaves in ZooKeeper, and how an heir takes it.
pub mod keeper;
