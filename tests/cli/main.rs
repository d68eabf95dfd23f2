//! The programs, as a user meets them: real processes on a real ZooKeeper.

mod exchange;
mod interface;
mod pair;
mod refusals;
