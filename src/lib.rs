//! A replicated state machine that goes on while one node of two lives, and is rebuilt when both lose everything: Raft
//! whose log is also in ZooKeeper.
//!
//! A [`Node`] hosts replicas of groups; a [`Group`] is one of them, moved by a [`StateMachine`] of yours or by the
//! library's key-value store. What [`Group::propose`] acknowledges is never lost while ZooKeeper keeps its data.
//!
//! ```no_run
//! # #[cfg(feature = "node")]
//! # async fn example(machine: impl bequest::StateMachine) -> Result<(), Box<dyn std::error::Error>> {
//! use bequest::{Node, Role};
//!
//! let node = Node::builder(1)
//!     .keeper("zk://zoo1:2181,zoo2:2181,zoo3:2181/shop")
//!     .listen("10.0.0.1:7001")
//!     .data_dir("/var/lib/shop")
//!     .open()
//!     .await?;
//! // Once for a group, by anybody; nothing else ever creates one.
//! node.bootstrap("orders", &[1, 2]).await?;
//! let group = node.join("orders", machine).await?;
//! group.watch_status().wait_for(|status| status.role == Role::Leader).await;
//! let answer = group.propose("a command").await?;
//! # drop(answer);
//! # Ok(())
//! # }
//! ```
//!
//! Each error says whether something may have been done, and what to do next; `Unknown` is never success and never
//! failure. To try again safely use a [`Session`]: its requests take effect once, also across failovers.
//!
//! Limits: 1 to [`VOTERS_MAX`] nodes in a group, commands of at most [`PROPOSAL_BYTES_MAX`] bytes, and states that fit
//! into ZooKeeper's memory ([`default_limits`]). All calls are async and want a tokio runtime; the node's own threads
//! and sockets do not depend on it.
//!
//! Without the feature `node` only the pure core remains: no threads, sockets, disk or clock.
#![forbid(unsafe_code)]

// Files of the tests that unit tests share call this crate by its name.
#[cfg(test)]
extern crate self as bequest;

pub mod apply;
#[cfg(feature = "node")]
mod bootstrap;
pub mod command;
#[cfg(feature = "node")]
mod config;
#[cfg(feature = "node")]
mod driver;
mod error;
// For fuzzers and the tests that replay their corpora: public, so that the fuzzers' own crate reaches it, and absent
// from every other build.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "node")]
mod group;
#[cfg(feature = "node")]
mod kv;
mod machine;
#[cfg(feature = "node")]
mod node;
pub mod replica;
pub mod sessions;
#[cfg(any(feature = "node", test, fuzzing))]
#[cfg_attr(not(feature = "node"), allow(dead_code, reason = "without sockets only what judges bytes is used"))]
mod wire;

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
