//! What the API asks of the raft thread, and how answers find their callers.

use bytes::Bytes;
use tokio::sync::{oneshot, watch, OwnedSemaphorePermit};

use super::machine::Machine;
use crate::apply::Answer;
use crate::error::{ProposeError, ReadError};
use crate::replica::event::{GroupNumber, LocalGroup};
use crate::replica::status::GroupStatus;

/// Where a proposal's answer goes. Dropped unanswered, the caller learns that the outcome is unknown.
pub(crate) type ProposeAnswer = oneshot::Sender<Result<Answer, ProposeError>>;
/// Where a read's answer goes. Dropped unanswered, the caller learns that the node ended.
pub(crate) type ReadAnswer = oneshot::Sender<Result<Bytes, ReadError>>;

/// A call of the API.
pub(crate) enum Call {
    Propose {
        group: GroupNumber,
        data: Bytes,
        answer: ProposeAnswer,
        permits: Permits,
    },
    Read {
        group: GroupNumber,
        query: Bytes,
        answer: ReadAnswer,
        permits: Permits,
    },
    Join(Box<Join>),
    HandOver {
        group: GroupNumber,
    },
    ShutDown,
    /// End without a word: the last handle is gone, or a shutdown took too long.
    Abort,
}

/// The bounds a call counts against until the core has taken it over.
pub(crate) type Permits = [OwnedSemaphorePermit; 2];

/// A group to be hosted.
pub(crate) struct Join {
    pub(crate) group: GroupNumber,
    pub(crate) name: String,
    pub(crate) local: Option<LocalGroup>,
    pub(crate) applied: u64,
    pub(crate) machine: Machine,
    pub(crate) status: watch::Sender<Option<GroupStatus>>,
}
