//! Real nodes in one process, on a real ZooKeeper.

mod groups;
mod lives;
mod refusals;
mod world;
