//! Bequest: a two-node replicated state machine that survives repeated death.
#![forbid(unsafe_code)]

pub mod apply;
#[cfg(feature = "node")]
mod bootstrap;
pub mod command;
#[cfg(feature = "node")]
mod config;
#[cfg(feature = "node")]
mod driver;
mod error;
#[cfg(feature = "node")]
mod group;
#[cfg(feature = "node")]
mod kv;
mod machine;
#[cfg(feature = "node")]
mod node;
pub mod replica;
pub mod sessions;

pub use command::SessionRequest;
pub use error::{GroupError, Leader, NodeError, ProposeError, ReadError};
pub use machine::{MachineError, Recovered, Restore, RowChange, Snapshot, StateMachine};
pub use replica::status::{GroupStatus, Mode, Role, SuccessionReport};

#[cfg(feature = "node")]
pub use bequest_recovery::record::{Addresses, Limits};
#[cfg(feature = "node")]
pub use {
    bootstrap::{bootstrap, BootstrapError, Bootstrapped, VOTERS_MAX},
    config::{ConfigError, DiskSync, NodeConfig},
    driver::counters::PeerCounters,
    group::{Group, HandOverError, JoinError, Request, Session, StatusWatch, PROPOSAL_BYTES_MAX},
    node::{Node, NodeBuilder, OpenError},
    replica::event::default_limits,
};

/// Bytes a snapshot's chunk may have at most.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;
