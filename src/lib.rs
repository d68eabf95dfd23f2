//! Bequest: a two-node replicated state machine that survives repeated death.

pub mod apply;
pub mod command;
mod error;
mod machine;
pub mod replica;
pub mod sessions;

pub use error::{GroupError, Leader, NodeError, ProposeError, ReadError};
pub use machine::{MachineError, Recovered, Restore, RowChange, Snapshot, StateMachine};

/// Bytes a snapshot's chunk may have at most.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;
