//! What a leader leaves in ZooKeeper, and how an heir takes it.
pub mod entry;
pub mod keeper;
pub mod path;
pub mod record;
