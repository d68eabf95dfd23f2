//! What a leader leaves in ZooKeeper, and how an heir takes it.
pub mod address;
pub mod archive;
pub mod ballot;
pub mod bundle;
mod chain;
pub mod entry;
pub mod genesis;
pub mod keeper;
pub mod model;
pub mod path;
#[doc(hidden)]
pub mod planted;
pub mod queue;
pub mod reader;
pub mod record;
pub mod segment;
mod sweep;
pub mod writer;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;
