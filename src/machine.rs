//! What a service implements to be replicated.

use bytes::Bytes;

/// Why a state machine could not do what it must. Where nothing else is said, the node stops this group, with the message,
/// and loses nothing.
#[derive(Debug, thiserror::Error)]
#[error("state machine failed: {message}")]
pub struct MachineError {
    message: String,
    unreadable: bool,
}

impl MachineError {
    /// An error with a message for the operator.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), unreadable: false }
    }

    /// The error of a [query](StateMachine::query) that is not at fault: the state cannot be read. Whoever asked is told
    /// [`ReadError::Unreadable`](crate::ReadError::Unreadable), and may ask another node.
    pub fn unreadable(message: impl Into<String>) -> Self {
        Self { message: message.into(), unreadable: true }
    }

    pub(crate) fn is_unreadable(&self) -> bool {
        self.unreadable
    }
}

/// A row the library keeps beside the state: opaque key, and value or `None` to delete it.
pub type RowChange = (Bytes, Option<Bytes>);

/// How far a state machine's durable state reaches when it is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Index of the last entry whose effect is in the state; 0 for an empty or volatile machine.
    pub applied: u64,
    /// The library's rows, as of that index.
    pub rows: Vec<(Bytes, Bytes)>,
}

/// A replicated state machine.
///
/// All methods are called in the order of the log and one at a time, though not always on the same thread. `apply` must
/// be deterministic: same entries, same state and answers, on every node and at every repetition.
///
/// A *volatile* machine (state in memory) implements only [`apply`](Self::apply), [`query`](Self::query),
/// [`snapshot`](Self::snapshot) and [`restore`](Self::restore); it is rebuilt from the archive's snapshot and the log
/// whenever its node starts. A *durable* machine also implements [`recover`](Self::recover) and
/// [`commit`](Self::commit), and then only replays what is missing.
pub trait StateMachine: Send + 'static {
    /// How far the durable state reaches. Called once, first.
    ///
    /// # Errors
    /// If the state cannot be read. The group is refused on this node.
    fn recover(&mut self) -> Result<Recovered, MachineError> {
        Ok(Recovered::default())
    }

    /// Applies one committed command and returns its answer. `index` ascends; not every index carries a command.
    fn apply(&mut self, index: u64, command: &[u8]) -> Bytes;

    /// Ends a batch: everything applied since the last one, `applied`, and the changed rows are kept together, or are lost
    /// together in a crash. None of it need be on disk when this returns: a crash may take any number of whole batches, if
    /// they are the last ones, and never one before another that stays. What it takes is applied again, from the index
    /// that [`recover`](Self::recover) then gives.
    ///
    /// # Errors
    /// If the state cannot be written. The node stops this group.
    fn commit(&mut self, applied: u64, rows: &[RowChange]) -> Result<(), MachineError> {
        let _ = (applied, rows);
        Ok(())
    }

    /// Answers a question from the current state without changing it.
    ///
    /// # Errors
    /// If the question makes no sense, or the state cannot be read ([`MachineError::unreadable`]).
    fn query(&self, query: &[u8]) -> Result<Bytes, MachineError>;

    /// Takes a consistent view of the current state. Must be quick; it is written out on another thread while
    /// commands go on being applied.
    ///
    /// # Errors
    /// If no view can be taken; it is tried again later.
    fn snapshot(&mut self) -> Result<Box<dyn Snapshot>, MachineError>;

    /// Begins to replace the whole state. The old one stays in force until [`Restore::finish`].
    ///
    /// # Errors
    /// If the new state cannot be begun. The node stops this group.
    fn restore(&mut self) -> Result<Box<dyn Restore + '_>, MachineError>;

    /// Whether this node may lead now; asked before it seals. A node that says `false` follows.
    fn ready_to_lead(&self) -> bool {
        true
    }

    /// Tells that this node began (`true`) or ceased to lead. For the service's own use; nothing depends on it.
    fn leadership(&mut self, leading: bool) {
        let _ = leading;
    }
}

/// A consistent view of a state machine's state, on its way to the archive.
pub trait Snapshot: Send {
    /// Writes the state as chunks of 1 byte to [`CHUNK_BYTES_MAX`](crate::CHUNK_BYTES_MAX). Equal chunks of different
    /// snapshots are stored once: cut so that what did not change gives the same bytes again.
    ///
    /// # Errors
    /// Those of `chunk`, which must be passed on at once, and failures to read the state.
    fn write_to(self: Box<Self>, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError>;
}

/// A state being replaced by a snapshot's.
pub trait Restore {
    /// Takes the next chunk, exactly as [`Snapshot::write_to`] wrote it.
    ///
    /// # Errors
    /// If the chunk does not fit or cannot be stored; the old state stays in force.
    fn write(&mut self, chunk: Bytes) -> Result<(), MachineError>;

    /// Puts the new state in force, at index `applied` and with exactly these library rows.
    ///
    /// # Errors
    /// If the state is incomplete or cannot be stored; the old state stays in force.
    fn finish(self: Box<Self>, applied: u64, rows: &[(Bytes, Bytes)]) -> Result<(), MachineError>;
}
