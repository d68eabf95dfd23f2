//! What carries the core's effects out: the raft thread, the disk thread, the threads of the state
//! machines, and links to the peers.
//!
//! Nothing in here decides anything about the protocol. One thread owns the core and never waits for anything but its
//! inbox; disk, machines and sockets each have their own, and answer into that inbox.

pub(crate) mod call;
pub(crate) mod counters;
pub(crate) mod disk;
mod frame;
pub(crate) mod gate;
mod handshake;
pub(crate) mod inbox;
pub(crate) mod io;
mod link;
mod listener;
pub(crate) mod machine;
pub(crate) mod peers;
pub(crate) mod pool;
pub(crate) mod raft;
pub(crate) mod requester;
