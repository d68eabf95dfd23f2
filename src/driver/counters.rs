//! What is counted on the peer port.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of what peers and strangers did to this node's peer port since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCounters {
    /// Connections that sent bytes no node sends: closed at once.
    pub bad_frames: u64,
    /// Links refused: another cluster, node or protocol version, or an incarnation that has ended.
    pub handshakes_refused: u64,
    /// Connections closed because too many others had not said who they are.
    pub turned_away: u64,
    /// Messages not sent because there was no link or its queue was full. Raft sends again what matters.
    pub messages_dropped: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    bad_frames: AtomicU64,
    handshakes_refused: AtomicU64,
    turned_away: AtomicU64,
    messages_dropped: AtomicU64,
}

impl Counters {
    pub(crate) fn count_bad_frame(&self) {
        self.bad_frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_handshake_refused(&self) {
        self.handshakes_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_message_dropped(&self) {
        self.messages_dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> PeerCounters {
        PeerCounters {
            bad_frames: self.bad_frames.load(Ordering::Relaxed),
            handshakes_refused: self.handshakes_refused.load(Ordering::Relaxed),
            turned_away: self.turned_away.load(Ordering::Relaxed),
            messages_dropped: self.messages_dropped.load(Ordering::Relaxed),
        }
    }
}
