//! The raft thread's inbox: everything that happens, from all sides, in one queue.
//!
//! The queue itself has no bound, so nobody who reports something ever waits for the raft thread, and no circle of
//! waiting threads can close. Its *content* is bounded, because every kind of input is:
//! - calls carry permits of [`Gate`](super::gate::Gate), refused as busy when used up;
//! - peer messages carry permits of their link; a link without any leaves its bytes in the socket;
//! - outcomes of ZooKeeper requests: one for each request the core has outstanding, which it bounds; its other events
//!   are a few for each session, and one for each watch the core left;
//! - answers of disk and machine: one for each effect the core emitted; entries in flight are bounded by the core,
//!   snapshot chunks by the credit it gave;
//! - link events: two for each handshake, and there is one link per peer.

use tokio::sync::OwnedSemaphorePermit;

use super::call::Call;
use crate::error::{GroupError, NodeError};
use crate::replica::event::{Event, GroupNumber, NodeId};

/// What the raft thread is told.
pub(crate) enum Input {
    /// For the core.
    Event(Event),
    /// From a peer. The permit is the link's, given back when the core has taken the message.
    Message { peer: NodeId, message: bytes::Bytes, permit: OwnedSemaphorePermit },
    /// From the API.
    Call(Call),
    /// A group's machine failed, in the terms its operator is told.
    MachineFailed(GroupNumber, GroupError),
    /// The node cannot go on, for a reason the core does not know.
    Fatal(NodeError),
}

/// The way into the raft thread.
#[derive(Clone)]
pub(crate) struct Inbox {
    sender: crossbeam_channel::Sender<Input>,
}

/// A new inbox and where it is read.
pub(crate) fn inbox() -> (Inbox, crossbeam_channel::Receiver<Input>) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    (Inbox { sender }, receiver)
}

impl Inbox {
    /// Puts an input; `false` if the raft thread has ended. The input is dropped then, and with it whatever waits for
    /// its answer.
    pub(crate) fn put(&self, input: Input) -> bool {
        self.sender.send(input).is_ok()
    }

    /// Puts an event for the core.
    pub(crate) fn event(&self, event: Event) {
        // After the end of the raft thread nobody is interested.
        let _ = self.put(Input::Event(event));
    }
}
