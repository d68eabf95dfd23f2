//! A replica of one group on this node, as its user sees it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch, Semaphore};

use crate::apply::Answer;
use crate::command::{Command, SessionRequest, COMMAND_OVERHEAD_BYTES_MAX};
use crate::driver::call::Call;
use crate::driver::gate::Gate;
use crate::driver::inbox::{Inbox, Input};
use crate::driver::machine::{Machine, MachineJob};

use crate::error::{GroupError, NodeError, ProposeError, ReadError};
use crate::replica::event::GroupNumber;
use crate::replica::status::{GroupStatus, Role};
use crate::sessions::OPEN_ANSWERS_MAX;

/// Bytes a command may have: with everything around it, half of what ZooKeeper takes at once.
pub const PROPOSAL_BYTES_MAX: usize = crate::replica::PROPOSAL_BYTES_MAX - COMMAND_OVERHEAD_BYTES_MAX;

// Stale reads that wait for the state machine at once.
const STALE_READS_MAX: usize = 4096;
// What a handover may take before it counts as refused.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);

/// A replica of one group on this node. Clones are the same replica; all of them may be used at once.
///
/// Dropping all clones does not stop the replica: it goes on following, and leading, until its node ends.
#[derive(Clone)]
pub struct Group {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) number: GroupNumber,
    pub(crate) inbox: Inbox,
    pub(crate) gate: Arc<Gate>,
    pub(crate) machine: Machine,
    pub(crate) stale_reads: Arc<Semaphore>,
    pub(crate) status: watch::Receiver<Option<GroupStatus>>,
}

/// Why a group was not joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The group is refused on this node; see the reason.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The node has ended.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node was shut down.
    #[error("node is shut down")]
    ShutDown,
    /// The group was joined before in this process. Use that handle.
    #[error("group was joined before: name={name}")]
    AlreadyJoined {
        /// The name.
        name: String,
    },
    /// The name cannot name a group.
    #[error("bad group name: name={name}; 1 to 64 letters, digits, _ - . and no dot first")]
    Name {
        /// The name.
        name: String,
    },
    /// The system refused a thread.
    #[error("cannot start a thread: {message}")]
    Thread {
        /// The system's words.
        message: String,
    },
}

/// Why a leadership was not handed over. Nothing is lost either way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// This node does not lead.
    #[error("not leader: nothing to hand over")]
    NotLeader,
    /// It still leads; for instance because nobody else can.
    #[error("still leading after {0:?}")]
    StillLeading(Duration),
    /// The node has ended.
    #[error("node is shut down")]
    ShutDown,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl Group {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn stale_reads() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(STALE_READS_MAX))
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Replicates a command and returns the state machine's answer to it.
    ///
    /// When it returns an answer, the command is durable in ZooKeeper, applied here, and will never be lost. Proposals
    /// made at the same time may take effect in any order. If the future is dropped the command may still take effect.
    ///
    /// # Errors
    /// See [`ProposeError`]: each variant says whether something may have been done, and what to do. After `Unknown`
    /// a plain command that is proposed again may take effect twice; a [`Session`] prevents that.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Bytes, ProposeError> {
        self.submit(&Command::Plain(command.into())).await?.into_result()
    }

    /// Opens a client session: requests made through it take effect once, however often each is tried again.
    ///
    /// The session lives in the replicated state, not in this process. The group keeps a bounded number of them, and
    /// evicts the one that was used least recently.
    ///
    /// # Errors
    /// As for [`propose`](Self::propose). After `Unknown` just open another one; the first is evicted some day.
    pub async fn open_session(&self) -> Result<Session, ProposeError> {
        match self.submit(&Command::OpenSession).await? {
            Answer::Opened { session } => Ok(self.resume_session(session, 1)),
            // The applier answers an opening in no other way.
            _ => Err(ProposeError::Unknown),
        }
    }

    /// Takes up a session, opened through whatever node, whose sequence numbers below `next_sequence` are settled:
    /// answered, or given up.
    pub fn resume_session(&self, session: u64, next_sequence: u64) -> Session {
        let open = Open { next: next_sequence.max(1), open: BTreeSet::new() };
        Session { group: self.clone(), id: session, open: Arc::new(Mutex::new(open)) }
    }

    /// Makes one attempt of a request of a client session whose numbers the caller keeps. See [`Session`] for a
    /// client that keeps them itself.
    ///
    /// The same request may be tried again here or on any other node until it is answered.
    ///
    /// # Errors
    /// As for [`propose`](Self::propose), also `SessionGone` and `Superseded`: not applied *by this attempt*.
    ///
    /// # Panics
    /// If a number is 0, or `lowest_open` above `sequence`.
    pub async fn propose_in_session(
        &self,
        request: SessionRequest,
        command: impl Into<Bytes>,
    ) -> Result<Bytes, ProposeError> {
        // In the log it would stop every replica.
        assert_eq!(request.check(), Ok(()), "a session's numbers count from 1, lowest_open <= sequence: {request:?}");
        self.submit(&Command::InSession(request, command.into())).await?.into_result()
    }

    async fn submit(&self, command: &Command) -> Result<Answer, ProposeError> {
        let (size, limit) = (command.carried_bytes(), PROPOSAL_BYTES_MAX);
        if size > limit {
            return Err(ProposeError::ProposalTooLarge { size, limit });
        }
        let data = command.encode();
        let permits = self.shared.gate.enter(size).map_err(|reason| ProposeError::Busy { reason })?;
        let (answer, answered) = oneshot::channel();
        let call = Call::Propose { group: self.shared.number, data, answer, permits };
        if !self.shared.inbox.put(Input::Call(call)) {
            return Err(ProposeError::ShuttingDown);
        }
        // Dropped without an answer: the node ended, and whether it had passed the command on is not known.
        answered.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Asks the state machine a question, linearizably: the answer reflects every command that was acknowledged, to
    /// anybody anywhere, before this was called. Writes nothing to the log.
    ///
    /// # Errors
    /// See [`ReadError`]. Reads have no effect: any may be tried again.
    pub async fn read(&self, query: impl Into<Bytes>) -> Result<Bytes, ReadError> {
        let query = query.into();
        let permits = self.shared.gate.enter(query.len()).map_err(|reason| ReadError::Busy { reason })?;
        let (answer, answered) = oneshot::channel();
        let call = Call::Read { group: self.shared.number, query, answer, permits };
        if !self.shared.inbox.put(Input::Call(call)) {
            return Err(ReadError::ShuttingDown);
        }
        answered.await.unwrap_or_else(|_| Err(self.unread()))
    }

    /// Asks this node's own state a question, whatever its age: works on a follower and without ZooKeeper. Returns the
    /// index up to which the state had applied the log, and the answer.
    ///
    /// # Errors
    /// If the machine refuses the question, is being restored, or the replica is stopped.
    pub async fn read_stale(&self, query: impl Into<Bytes>) -> Result<(u64, Bytes), ReadError> {
        let reads = self.shared.stale_reads.clone();
        let permit = reads.try_acquire_owned().map_err(|_| ReadError::Busy { reason: "stale reads waiting" })?;
        let (answer, answered) = oneshot::channel();
        self.shared.machine.give(MachineJob::QueryStale { query: query.into(), answer, permit });
        answered.await.unwrap_or_else(|_| Err(self.unread()))
    }

    // Why a read was dropped without an answer.
    fn unread(&self) -> ReadError {
        match self.status().stopped {
            Some(error) => ReadError::Stopped(error),
            None => ReadError::ShuttingDown,
        }
    }

    /// What this replica does now, who leads, and how well the group is off.
    pub fn status(&self) -> GroupStatus {
        self.shared.status.borrow().clone().expect("a group is handed out after its first status")
    }

    /// A watch of [`status`](Self::status). Sees the newest value; those in between may be skipped. Ends with the node.
    pub fn watch_status(&self) -> StatusWatch {
        StatusWatch { status: self.shared.status.clone() }
    }

    /// Gives the leadership to a follower that has caught up, or just gives it up where there is none. Returns when
    /// this node no longer leads; who leads next is seen in the status.
    ///
    /// # Errors
    /// See [`HandOverError`].
    pub async fn hand_over(&self) -> Result<(), HandOverError> {
        let mut status = self.shared.status.clone();
        let leads = |status: &Option<GroupStatus>| status.as_ref().is_some_and(|status| status.role == Role::Leader);
        if !leads(&status.borrow_and_update()) {
            return Err(HandOverError::NotLeader);
        }
        if !self.shared.inbox.put(Input::Call(Call::HandOver { group: self.shared.number })) {
            return Err(HandOverError::ShutDown);
        }
        let followed = async { status.wait_for(|status| !leads(status)).await.is_ok() };
        match tokio::time::timeout(HAND_OVER_LIMIT, followed).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(HandOverError::ShutDown),
            Err(_) => Err(HandOverError::StillLeading(HAND_OVER_LIMIT)),
        }
    }
}

/// A watch of a group's status.
#[derive(Clone, Debug)]
pub struct StatusWatch {
    status: watch::Receiver<Option<GroupStatus>>,
}

impl StatusWatch {
    /// The newest status.
    pub fn get(&mut self) -> GroupStatus {
        self.status.borrow_and_update().clone().expect("a group is handed out after its first status")
    }

    /// Waits until the status differs from the one seen last; `None` if the node has ended. Dropping the future loses
    /// nothing.
    pub async fn changed(&mut self) -> Option<GroupStatus> {
        self.status.changed().await.ok()?;
        Some(self.get())
    }

    /// Waits for a status that satisfies `wanted`; `None` if the node has ended.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&GroupStatus) -> bool) -> Option<GroupStatus> {
        let found = self.status.wait_for(|status| status.as_ref().is_some_and(&mut wanted)).await.ok()?;
        found.clone()
    }
}

/// A client session of a group: each of its requests takes effect once, however often it is tried.
///
/// The session is replicated state; this is its client's side, which numbers the requests. Use one client at a time
/// for a session. Clones share the numbers.
#[derive(Clone, Debug)]
pub struct Session {
    group: Group,
    id: u64,
    open: Arc<Mutex<Open>>,
}

// The client's numbers: what comes next, and what is neither answered nor given up.
#[derive(Debug)]
struct Open {
    next: u64,
    open: BTreeSet<u64>,
}

impl Session {
    /// The session's id: the index of the entry that opened it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The number the next request will get. All numbers below that are not open in a [`Request`] are settled.
    pub fn next_sequence(&self) -> u64 {
        self.numbers().next
    }

    /// Makes one attempt of a new request. To try again after an error, use [`request`](Self::request), which keeps
    /// its number; after an error here the request is given up, and what became of it stays unknown.
    ///
    /// # Errors
    /// As for [`Group::propose_in_session`].
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Bytes, ProposeError> {
        self.request(command)?.send().await
    }

    /// Numbers a request, to be sent as often as needed.
    ///
    /// # Errors
    /// `Busy` if too many requests of the session are open.
    pub fn request(&self, command: impl Into<Bytes>) -> Result<Request, ProposeError> {
        let mut numbers = self.numbers();
        if numbers.open.len() >= OPEN_ANSWERS_MAX {
            return Err(ProposeError::Busy { reason: "open requests of the client session" });
        }
        let sequence = numbers.next;
        numbers.next += 1;
        numbers.open.insert(sequence);
        drop(numbers);
        Ok(Request { session: self.clone(), sequence, command: command.into() })
    }

    fn numbers(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A numbered request of a [`Session`]. Dropping it settles its number: it is answered, or given up.
#[derive(Debug)]
pub struct Request {
    session: Session,
    sequence: u64,
    command: Bytes,
}

impl Request {
    /// Makes an attempt. May be called again after any error but `SessionGone` and `Superseded`, for instance when
    /// there is a leader again: the command takes effect once, and every successful attempt returns the same answer.
    ///
    /// # Errors
    /// As for [`Group::propose_in_session`].
    pub async fn send(&self) -> Result<Bytes, ProposeError> {
        self.send_to(&self.session.group).await
    }

    /// Makes an attempt through another replica of the same group.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub async fn send_to(&self, group: &Group) -> Result<Bytes, ProposeError> {
        group.propose_in_session(self.numbers(), self.command.clone()).await
    }

    /// The request's numbers as they are now, to be carried to a node of another process.
    pub fn numbers(&self) -> SessionRequest {
        let lowest_open = self.session.numbers().open.first().copied().unwrap_or(self.sequence);
        SessionRequest { session: self.session.id, sequence: self.sequence, lowest_open }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.session.numbers().open.remove(&self.sequence);
    }
}
