//! Rules of the WAL and the archive, held against the model of ZooKeeper.

mod archive;
mod buckets;
mod log;
mod world;
