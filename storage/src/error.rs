//! What can go wrong on a node's disk, and what to do about it.

use std::path::PathBuf;

use crate::record::hex;
use crate::store::{GroupUuid, Identity};

/// Why an operation on the store failed. [`StorageError::remedy`] says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another process, or another part of this one, holds the directory.
    #[error("data directory is in use by another process: dir={}; stop that process or choose another directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds files that this crate did not write. Nothing was touched.
    #[error("data directory holds foreign files: dir={}, found={found}; choose an empty directory", dir.display())]
    ForeignDirectory {
        /// The directory.
        dir: PathBuf,
        /// The first foreign name found in it.
        found: String,
    },
    /// A newer version of the program wrote the directory. Nothing was read beyond its format.
    #[error("data directory has a newer format: found={found}, max={max}; run the newer version")]
    UnsupportedFormat {
        /// The format of the directory.
        found: u32,
        /// The newest format this version reads.
        max: u32,
    },
    /// The directory belongs to another node or another cluster.
    #[error("data directory belongs to another node: found={found}, given={given}; check the data directory and the node id")]
    IdentityMismatch {
        /// Who the directory belongs to.
        found: Identity,
        /// Who asked for it.
        given: Identity,
    },
    /// The group was never written here, or was forgotten.
    #[error("group is not on this disk: group={}", hex(group))]
    UnknownGroup {
        /// The group.
        group: GroupUuid,
    },
    /// The write would leave a hole in the log. Nothing was written.
    #[error("log would have a gap: group={}, expected={expected}, found={found}", hex(group))]
    Gap {
        /// The group.
        group: GroupUuid,
        /// The index that must come next.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// The write contradicts itself or the log. Nothing was written.
    #[error("log batch is invalid: group={}, index={index}, reason={reason}", hex(group))]
    InvalidBatch {
        /// The group.
        group: GroupUuid,
        /// The index at fault.
        index: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The entries asked for are not in the local log: compacted, or not yet written.
    #[error("entries are not on this disk: group={}, low={low}, high={high}, first={first}, last={last}", hex(group))]
    Unavailable {
        /// The group.
        group: GroupUuid,
        /// First index asked for.
        low: u64,
        /// The index behind the last one asked for.
        high: u64,
        /// First index that is there.
        first: u64,
        /// Last index that is there; below `first` if the log is empty.
        last: u64,
    },
    /// Bytes on this disk are not what was written.
    #[error("local data is damaged: what={what}, key={key}; it is rebuilt from zookeeper")]
    Damaged {
        /// What was found.
        what: String,
        /// Where.
        key: String,
    },
    /// A chunk of a snapshot is not what the writer of the snapshot produced. The old state is intact.
    #[error("snapshot chunk is damaged: ordinal={ordinal}, reason={reason}; fetch it again, or another snapshot")]
    ChunkDamaged {
        /// Place of the chunk in the order it came, from 0.
        ordinal: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A mark does not follow the one before it. Nothing was written.
    #[error("mark moves backwards: applied={applied}, given={given}")]
    MarkBackwards {
        /// The applied index of the state.
        applied: u64,
        /// The applied index of the mark.
        given: u64,
    },
    /// The disk has no space left. The write did not happen; the store refuses everything until it is opened again.
    #[error("disk is full: dir={}, cause={cause}; free space, then open the store again", dir.display())]
    DiskFull {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        cause: String,
    },
    /// The directory was removed or replaced while it was in use.
    #[error("data directory vanished while in use: dir={}; restart the node", dir.display())]
    Vanished {
        /// The directory.
        dir: PathBuf,
    },
    /// The system refused an operation on a file.
    #[error("cannot {what}: path={}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// RocksDB failed for a reason that is neither damage nor a full disk.
    #[error("database failed: dir={}, cause={cause}", dir.display())]
    Database {
        /// The directory.
        dir: PathBuf,
        /// RocksDB's words.
        cause: String,
    },
    /// An earlier write or sync failed. What is on disk is not known, so nothing is tried again on this handle.
    #[error("store stopped after a failure, open it again: cause={cause}")]
    Poisoned {
        /// The failure that stopped it.
        cause: String,
    },
}

/// What a caller does about a [`StorageError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The world must change first: tell the operator and end.
    Operator,
    /// Stop using this handle (step down, answer `Unknown`), drop it and open the directory again. If the disk holds
    /// damage, opening moves it aside.
    Reopen,
    /// Space is missing: stop as for [`Remedy::Reopen`], and open again when there is space.
    FreeSpace,
    /// The request was wrong, the store is well: correct the request, or fetch what is missing elsewhere.
    Request,
}

impl StorageError {
    /// What to do next. Exhaustive on purpose.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::InUse { .. }
            | Self::ForeignDirectory { .. }
            | Self::UnsupportedFormat { .. }
            | Self::IdentityMismatch { .. }
            | Self::Io { .. } => Remedy::Operator,
            Self::Damaged { .. } | Self::Vanished { .. } | Self::Database { .. } | Self::Poisoned { .. } => {
                Remedy::Reopen
            }
            Self::DiskFull { .. } => Remedy::FreeSpace,
            Self::UnknownGroup { .. }
            | Self::Gap { .. }
            | Self::InvalidBatch { .. }
            | Self::Unavailable { .. }
            | Self::ChunkDamaged { .. }
            | Self::MarkBackwards { .. } => Remedy::Request,
        }
    }
}
