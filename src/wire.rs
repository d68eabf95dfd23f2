//! What nodes send each other, as bytes: frames, and how two of them find out that they belong together.
//!
//! No sockets: those are the driver's. What strangers send is judged here, so it can be tried without a network.

pub(crate) mod frame;
pub(crate) mod handshake;
