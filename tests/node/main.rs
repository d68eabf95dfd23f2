//! Real nodes in one process, on a real ZooKeeper.

mod lives;
mod refusals;
mod world;
