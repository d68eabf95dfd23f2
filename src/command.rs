//! What lies in the log's entries: the commands of this library, as bytes.
//!
//! An entry without data is Raft's own (a new leader's first entry) and carries no command. All other normal entries
//! hold one [`Command`]. A variant this release does not know is an error, never skipped: a newer release wrote it, and
//! leaving it out would let two replicas differ.

use bytes::Bytes;
use prost::Message;

/// Bytes by which an encoded command may be longer than the data it carries.
pub const COMMAND_OVERHEAD_BYTES_MAX: usize = 64;

/// What one entry asks of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Bytes for the state machine, applied as often as they are committed.
    Plain(Bytes),
    /// Opens a client session. Its id is the index of this very entry.
    OpenSession,
    /// Bytes for the state machine, applied at most once per session and sequence number.
    InSession(SessionRequest, Bytes),
    /// Moves the log on without effect on the state: the leader appends it for its own purposes.
    Internal,
}

/// Which request of which client session, and which ones of that session are settled.
///
/// Plain values: a client may carry them to another node and try the same request again there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRequest {
    /// The session: index of the entry that opened it.
    pub session: u64,
    /// Number of the request in the session, chosen by the client, counted from 1. A retry keeps the number.
    pub sequence: u64,
    /// The lowest number whose answer the client still wants: all below are settled and their answers may be
    /// forgotten. At most `sequence`.
    pub lowest_open: u64,
}

/// Why an entry's data is not a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Not a message of this kind at all.
    #[error("command malformed: bytes={bytes}")]
    Malformed {
        /// Length of the data.
        bytes: usize,
    },
    /// A variant of a newer release.
    #[error("command of unknown kind: bytes={bytes}")]
    UnknownKind {
        /// Length of the data.
        bytes: usize,
    },
    /// A field has a value no writer gives it.
    #[error("command malformed: field={field}")]
    Field {
        /// The field.
        field: &'static str,
    },
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(bytes = "bytes", tag = "1")]
    Plain(Bytes),
    #[prost(message, tag = "2")]
    OpenSession(Empty),
    #[prost(message, tag = "3")]
    InSession(InSession),
    #[prost(message, tag = "4")]
    Internal(Empty),
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct InSession {
    #[prost(uint64, tag = "1")]
    session: u64,
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(uint64, tag = "3")]
    lowest_open: u64,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
}

impl Command {
    /// Bytes of the data it carries for the machine.
    pub fn carried_bytes(&self) -> usize {
        match self {
            Self::Plain(data) | Self::InSession(_, data) => data.len(),
            Self::OpenSession | Self::Internal => 0,
        }
    }

    /// The bytes for an entry; never empty.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Plain(data) => Kind::Plain(data.clone()),
            Self::OpenSession => Kind::OpenSession(Empty {}),
            Self::InSession(request, data) => Kind::InSession(InSession {
                session: request.session,
                sequence: request.sequence,
                lowest_open: request.lowest_open,
                data: data.clone(),
            }),
            Self::Internal => Kind::Internal(Empty {}),
        };
        Envelope { kind: Some(kind) }.encode_to_vec().into()
    }

    /// Reads a command from an entry's data; the bytes it carries are shared with `data`, not copied.
    ///
    /// # Errors
    /// If this release does not understand the data. The replica must stop before it applies anything behind it.
    pub fn decode(data: &Bytes) -> Result<Self, CommandError> {
        let bytes = data.len();
        let envelope = Envelope::decode(data.clone()).map_err(|_| CommandError::Malformed { bytes })?;
        match envelope.kind.ok_or(CommandError::UnknownKind { bytes })? {
            Kind::Plain(data) => Ok(Self::Plain(data)),
            Kind::OpenSession(Empty {}) => Ok(Self::OpenSession),
            Kind::Internal(Empty {}) => Ok(Self::Internal),
            Kind::InSession(InSession { session, sequence, lowest_open, data }) => {
                let request = SessionRequest { session, sequence, lowest_open };
                request.check().map_err(|field| CommandError::Field { field })?;
                Ok(Self::InSession(request, data))
            }
        }
    }
}

impl SessionRequest {
    /// Names the field that cannot be, if there is one.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.session == 0 {
            return Err("session");
        }
        if self.sequence == 0 || self.sequence == u64::MAX {
            return Err("sequence");
        }
        if self.lowest_open == 0 || self.lowest_open > self.sequence {
            return Err("lowest_open");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_survives_encoding_within_the_overhead() {
        let request = SessionRequest { session: u64::MAX, sequence: u64::MAX - 1, lowest_open: u64::MAX - 1 };
        let data = Bytes::from(vec![7; 300_000]);
        for command in [
            Command::Plain(data.clone()),
            Command::Plain(Bytes::new()),
            Command::OpenSession,
            Command::InSession(request, data.clone()),
            Command::Internal,
        ] {
            let encoded = command.encode();
            assert!(!encoded.is_empty(), "empty data is Raft's own entry");
            assert!(encoded.len() <= data.len() + COMMAND_OVERHEAD_BYTES_MAX);
            assert_eq!(Command::decode(&encoded), Ok(command));
        }
    }

    #[test]
    fn a_kind_of_a_newer_release_is_an_error_and_never_skipped() {
        // Field 9, length-delimited, 3 bytes: what a newer release might write.
        let newer = Bytes::from_static(&[0x4a, 3, 1, 2, 3]);
        assert_eq!(Command::decode(&newer), Err(CommandError::UnknownKind { bytes: 5 }));
        let garbage = Bytes::from_static(&[0xff; 11]);
        assert_eq!(Command::decode(&garbage), Err(CommandError::Malformed { bytes: 11 }));
    }

    #[test]
    fn a_session_request_must_be_its_own_lowest_open_or_above() {
        for (request, field) in [
            (SessionRequest { session: 0, sequence: 1, lowest_open: 1 }, "session"),
            (SessionRequest { session: 1, sequence: 0, lowest_open: 0 }, "sequence"),
            (SessionRequest { session: 1, sequence: 3, lowest_open: 4 }, "lowest_open"),
            (SessionRequest { session: 1, sequence: 3, lowest_open: 0 }, "lowest_open"),
        ] {
            let encoded = Command::InSession(request, Bytes::new()).encode();
            assert_eq!(Command::decode(&encoded), Err(CommandError::Field { field }));
        }
    }
}
