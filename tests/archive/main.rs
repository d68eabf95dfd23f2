//! Snapshots and trimming, on a real ZooKeeper: state comes back from nothing, and ZooKeeper does not fill up.

mod limits;
mod replaced;
mod restoring;
mod trimming;
mod world;
mod znodes;
