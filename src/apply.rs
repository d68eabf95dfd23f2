//! A group's state: the user's machine and the client sessions beside it, moved by committed entries alone.
//!
//! An [`Applier`] belongs to one thread. What the user's code does wrong, panics included, ends in an error that names
//! the index; from then on the applier refuses everything, because to skip an entry would be to make a different state.

use std::panic::{catch_unwind, AssertUnwindSafe};

use bequest_recovery::planted;
use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{Command, SessionRequest};
use crate::error::{GroupError, ProposeError, ReadError};
use crate::machine::{MachineError, Restore, Snapshot, StateMachine};
use crate::replica::event::{Apply, Token};
use crate::sessions::{Admission, SessionTable};
use crate::CHUNK_BYTES_MAX;

/// What became of a committed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The machine's answer: this time's, or the first one's where a client session retried.
    Machine(Bytes),
    /// A client session was opened.
    Opened {
        /// Its id.
        session: u64,
    },
    /// Not applied: the client session is not, or no longer, known.
    SessionGone {
        /// The session asked for.
        session: u64,
    },
    /// Not applied: the client session has settled this sequence number.
    Superseded {
        /// The session.
        session: u64,
        /// The number.
        sequence: u64,
    },
    /// The entry carried nothing for the machine.
    Nothing,
}

impl Answer {
    /// The answer as a caller of propose sees it.
    ///
    /// # Errors
    /// If the command was not applied.
    pub fn into_result(self) -> Result<Bytes, ProposeError> {
        match self {
            Self::Machine(answer) => Ok(answer),
            Self::Opened { session } => Ok(Bytes::copy_from_slice(&session.to_be_bytes())),
            Self::Nothing => Ok(Bytes::new()),
            Self::SessionGone { session } => Err(ProposeError::SessionGone { session }),
            Self::Superseded { session, sequence } => Err(ProposeError::Superseded { session, sequence }),
        }
    }
}

/// A group's state on this node.
pub struct Applier {
    machine: Box<dyn StateMachine>,
    sessions: SessionTable,
    applied: u64,
    failed: Option<GroupError>,
}

impl std::fmt::Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").field("applied", &self.applied).field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Applier {
    /// Takes over a machine with whatever durable state it has.
    ///
    /// # Errors
    /// If the machine cannot tell, or keeps library rows that are none.
    pub fn recover(mut machine: Box<dyn StateMachine>) -> Result<Self, GroupError> {
        let recovered = guard("recover", || machine.recover())?.map_err(|error| failure(&error))?;
        let sessions = SessionTable::from_rows(&recovered.rows, recovered.applied).map_err(|error| failure(&error))?;
        let applied = if planted!(AppliedIndexLost) { 0 } else { recovered.applied };
        Ok(Self { machine, sessions, applied, failed: None })
    }

    /// Index of the last entry whose effect is in the state.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Applies committed entries, which follow each other and what was applied before without gaps, as one batch, which
    /// the machine commits. Returns the answers that somebody waits for, in order.
    ///
    /// # Errors
    /// If the machine fails or panics, or an entry is of a newer release. Nothing of the batch is committed then, nobody
    /// is answered, and every later call fails the same way.
    ///
    /// # Panics
    /// If an index is skipped or repeated.
    pub fn apply(&mut self, entries: Vec<Apply>) -> Result<Vec<(Token, Answer)>, GroupError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.apply_all(entries).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn apply_all(&mut self, entries: Vec<Apply>) -> Result<Vec<(Token, Answer)>, GroupError> {
        let mut answers = Vec::new();
        for Apply { entry, token } in entries {
            let expected = self.applied + 1;
            assert_eq!(entry.index, expected, "committed entries are applied in order, each once");
            // Membership changes are the core's own business, and entries without data are Raft's.
            let answer = if entry.kind == 0 && !entry.data.is_empty() {
                let command = Command::decode(&entry.data)
                    .map_err(|error| GroupError::UnknownEntry { index: entry.index, what: error.to_string() })?;
                self.apply_command(entry.index, command)?
            } else {
                Answer::Nothing
            };
            self.applied = entry.index;
            answers.extend(token.map(|token| (token, answer)));
        }
        let rows = self.sessions.take_changes();
        let applied = self.applied;
        guard("commit", || self.machine.commit(applied, &rows))?.map_err(|error| failure(&error))?;
        Ok(answers)
    }

    fn apply_command(&mut self, index: u64, command: Command) -> Result<Answer, GroupError> {
        match command {
            Command::Internal => Ok(Answer::Nothing),
            Command::OpenSession => {
                self.sessions.open(index);
                Ok(Answer::Opened { session: index })
            }
            Command::Plain(data) => self.apply_data(index, &data).map(Answer::Machine),
            Command::InSession(request, data) => self.apply_in_session(index, request, &data),
        }
    }

    fn apply_in_session(&mut self, index: u64, request: SessionRequest, data: &[u8]) -> Result<Answer, GroupError> {
        let SessionRequest { session, sequence, lowest_open: _ } = request;
        match self.sessions.admit(index, request) {
            Admission::Apply => {
                let answer = self.apply_data(index, data)?;
                self.sessions.record(request, answer.clone());
                Ok(Answer::Machine(answer))
            }
            Admission::Done(_) if planted!(RetriesAreAppliedAgain) => self.apply_data(index, data).map(Answer::Machine),
            Admission::Done(answer) => Ok(Answer::Machine(answer)),
            Admission::Superseded => Ok(Answer::Superseded { session, sequence }),
            Admission::Gone => Ok(Answer::SessionGone { session }),
        }
    }

    fn apply_data(&mut self, index: u64, data: &[u8]) -> Result<Bytes, GroupError> {
        guard(&format!("apply: index={index}"), || self.machine.apply(index, data))
    }

    /// Answers a question from the state as it is.
    ///
    /// # Errors
    /// If the machine refuses the question or panics over it, or the applier has failed.
    pub fn query(&self, query: &[u8]) -> Result<Bytes, ReadError> {
        if let Some(error) = &self.failed {
            return Err(ReadError::Stopped(error.clone()));
        }
        // A query cannot change the state, so one that panics says nothing about the entries to come.
        let answer = guard("query", || self.machine.query(query));
        answer.map_err(|error| ReadError::Query { message: error.to_string() })?.map_err(|error| {
            match (error.is_unreadable(), error.to_string()) {
                (true, message) => ReadError::Unreadable { message },
                (false, message) => ReadError::Query { message },
            }
        })
    }

    /// Whether the machine would lead now.
    pub fn ready_to_lead(&self) -> bool {
        self.failed.is_none() && guard("ready_to_lead", || self.machine.ready_to_lead()).unwrap_or(false)
    }

    /// Tells the machine that this node leads, or no longer does.
    pub fn leadership(&mut self, leading: bool) {
        if let Err(error) = guard("leadership", || self.machine.leadership(leading)) {
            self.failed.get_or_insert(error);
        }
    }

    /// Takes a view of the state as it is, sessions included, to be written out elsewhere.
    ///
    /// # Errors
    /// If no view can be taken; it may be tried again later.
    pub fn snapshot(&mut self) -> Result<SnapshotStream, MachineError> {
        if let Some(error) = &self.failed {
            return Err(MachineError::new(error.to_string()));
        }
        let machine =
            guard("snapshot", || self.machine.snapshot()).map_err(|error| MachineError::new(error.to_string()))??;
        let rows = if planted!(SnapshotWithoutSessions) { Vec::new() } else { self.sessions.rows() };
        Ok(SnapshotStream { applied: self.applied, rows: encode_rows(&rows), machine })
    }

    /// Begins to replace the state. The old one stays in force until [`Restoring::finish`].
    ///
    /// # Errors
    /// If the machine cannot begin.
    pub fn restore(&mut self) -> Result<Restoring<'_>, GroupError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Self { machine, sessions, applied, failed: _ } = self;
        let machine = guard("restore", || machine.restore())?.map_err(|error| failure(&error))?;
        Ok(Restoring { machine, sessions, applied, library: Library::Header })
    }
}

/// Runs the user's code; a panic in it becomes an error. Unwinding cannot leave *our* state half changed, and the
/// machine's own is never used again.
fn guard<T>(what: &str, run: impl FnOnce() -> T) -> Result<T, GroupError> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
        let message = payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        GroupError::Failed { message: format!("state machine panicked in {what}: {message}") }
    })
}

fn failure(error: &dyn std::error::Error) -> GroupError {
    GroupError::Failed { message: error.to_string() }
}

// A snapshot's stream is: one header chunk, the session table's rows in pieces, then the machine's own chunks.
// Each of the library's chunks ends with a CRC32C over what is before it. The archive checks every chunk's hash too;
// the CRC also covers what happens between this process' memory and there.
const HEADER_MAGIC: &[u8; 8] = b"bequest\x01";
const HEADER_BYTES: usize = HEADER_MAGIC.len() + 8 + 8 + CRC_BYTES;
const CRC_BYTES: usize = 4;
const PIECE_BYTES_MAX: usize = 256 * 1024;
const _: () = assert!(PIECE_BYTES_MAX + CRC_BYTES <= CHUNK_BYTES_MAX);

/// A consistent view of a group's state, to be written out on any thread.
pub struct SnapshotStream {
    applied: u64,
    rows: Bytes,
    machine: Box<dyn Snapshot>,
}

impl SnapshotStream {
    /// Index of the last entry whose effect is in it.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Writes it as chunks of 1 to [`CHUNK_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// Those of `chunk`; failures of the machine, panics and chunks of impossible size included.
    pub fn write_to(self, chunk: &mut dyn FnMut(Bytes) -> Result<(), MachineError>) -> Result<(), MachineError> {
        let mut header = BytesMut::with_capacity(HEADER_BYTES);
        header.put_slice(HEADER_MAGIC);
        header.put_u64_le(self.applied);
        header.put_u64_le(self.rows.len() as u64);
        chunk(seal(header))?;
        for piece in self.rows.chunks(PIECE_BYTES_MAX) {
            chunk(seal(BytesMut::from(piece)))?;
        }
        let mut checked = |bytes: Bytes| {
            if bytes.is_empty() || bytes.len() > CHUNK_BYTES_MAX {
                let bytes = bytes.len();
                return Err(MachineError::new(format!("snapshot chunk of bytes={bytes} limit={CHUNK_BYTES_MAX}")));
            }
            chunk(bytes)
        };
        let machine = self.machine;
        guard("snapshot", || machine.write_to(&mut checked)).map_err(|error| MachineError::new(error.to_string()))?
    }
}

/// A state being replaced. Dropping it leaves the old one in force.
pub struct Restoring<'a> {
    machine: Box<dyn Restore + 'a>,
    sessions: &'a mut SessionTable,
    applied: &'a mut u64,
    library: Library,
}

// How far the library's own part of the stream has been read.
enum Library {
    Header,
    Rows { applied: u64, missing: u64, bytes: BytesMut },
    Done { applied: u64, rows: Vec<(Bytes, Bytes)> },
}

impl Restoring<'_> {
    /// Takes the next chunk, exactly as [`SnapshotStream::write_to`] wrote it.
    ///
    /// # Errors
    /// If it does not fit. The old state stays in force.
    pub fn write(&mut self, chunk: Bytes) -> Result<(), MachineError> {
        self.library = match std::mem::replace(&mut self.library, Library::Header) {
            Library::Header => {
                let header = open(&chunk)?;
                let fields = header
                    .strip_prefix(HEADER_MAGIC)
                    .and_then(|fields| Some((fields.get(..8)?.try_into().ok()?, fields.get(8..)?.try_into().ok()?)));
                let Some((applied, missing)) = fields else {
                    return Err(MachineError::new("snapshot header unknown; run a newer release here"));
                };
                let (applied, missing) = (u64::from_le_bytes(applied), u64::from_le_bytes(missing));
                rows_or_done(applied, missing, BytesMut::new())?
            }
            Library::Rows { applied, missing, mut bytes } => {
                let piece = open(&chunk)?;
                let Some(missing) = missing.checked_sub(piece.len() as u64) else {
                    return Err(MachineError::new("snapshot rows longer than the header says"));
                };
                bytes.extend_from_slice(piece);
                rows_or_done(applied, missing, bytes)?
            }
            done @ Library::Done { .. } => {
                self.library = done;
                let write = guard("restore", || self.machine.write(chunk));
                return write.map_err(|error| MachineError::new(error.to_string()))?;
            }
        };
        Ok(())
    }

    /// Puts the new state in force, at index `applied`.
    ///
    /// # Errors
    /// If the state is incomplete, of another index, or cannot be stored. The old state stays in force.
    pub fn finish(self, applied: u64) -> Result<(), MachineError> {
        let Library::Done { applied: found, rows } = self.library else {
            return Err(MachineError::new("snapshot ends before its rows do"));
        };
        if found != applied {
            return Err(MachineError::new(format!("snapshot of another index: found={found} expected={applied}")));
        }
        let table = SessionTable::from_rows(&rows, applied).map_err(|error| MachineError::new(error.to_string()))?;
        let machine = self.machine;
        guard("restore", || machine.finish(applied, &rows)).map_err(|error| MachineError::new(error.to_string()))??;
        *self.sessions = table;
        *self.applied = applied;
        Ok(())
    }
}

fn rows_or_done(applied: u64, missing: u64, bytes: BytesMut) -> Result<Library, MachineError> {
    if missing > 0 {
        return Ok(Library::Rows { applied, missing, bytes });
    }
    let rows = decode_rows(bytes.freeze()).ok_or_else(|| MachineError::new("snapshot rows cut short"))?;
    Ok(Library::Done { applied, rows })
}

fn seal(mut bytes: BytesMut) -> Bytes {
    let crc = crc32c::crc32c(&bytes);
    bytes.put_u32_le(crc);
    bytes.freeze()
}

fn open(chunk: &[u8]) -> Result<&[u8], MachineError> {
    let Some((bytes, crc)) = chunk.split_last_chunk::<CRC_BYTES>() else {
        return Err(MachineError::new(format!("snapshot chunk cut short: bytes={}", chunk.len())));
    };
    let (found, computed) = (u32::from_le_bytes(*crc), crc32c::crc32c(bytes));
    if found != computed {
        let message = format!("snapshot chunk damaged: crc found={found:08x} computed={computed:08x}");
        return Err(MachineError::new(message));
    }
    Ok(bytes)
}

fn encode_rows(rows: &[(Bytes, Bytes)]) -> Bytes {
    let length = |bytes: &Bytes| u32::try_from(bytes.len()).expect("rows are bounded by the session table");
    let mut encoded = BytesMut::with_capacity(rows.iter().map(|(key, value)| 8 + key.len() + value.len()).sum());
    for (key, value) in rows {
        encoded.put_u32_le(length(key));
        encoded.put_u32_le(length(value));
        encoded.put_slice(key);
        encoded.put_slice(value);
    }
    encoded.freeze()
}

fn decode_rows(mut bytes: Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let key = u32::from_le_bytes(*bytes.first_chunk::<4>()?) as usize;
        let value = u32::from_le_bytes(*bytes.get(4..)?.first_chunk::<4>()?) as usize;
        let end = 8usize.checked_add(key)?.checked_add(value)?;
        if bytes.len() < end {
            return None;
        }
        let row = bytes.split_to(end);
        rows.push((row.slice(8..8 + key), row.slice(8 + key..)));
    }
    Some(rows)
}

#[cfg(test)]
mod tests;
