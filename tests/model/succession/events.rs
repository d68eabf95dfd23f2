//! What must come about in a complete run, or the run proves little.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! occurrences {
    ($($name:ident $text:literal),* $(,)?) => {
        /// Something worth to be reached.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Occurrence { $($name),* }

        impl Occurrence {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

occurrences! {
    SealWon "a seal is won",
    SealLost "a seal is lost to another one",
    SealByNonce "a seal whose answer was lost is recognised by its nonce",
    SealAbandoned "the ballot names an incarnation that is gone",
    PassOpened "a read pass is opened anew, as its session is another one",
    LaggardCaughtUp "a server that was behind has to catch up to open a pass",
    PassLost "a reader finds that its ballot was taken",
    GapOfATrim "what a reader misses was trimmed meanwhile",
    SuffixKept "a local suffix is adopted",
    SuffixDropped "a local suffix gives way to the WAL",
    Acknowledged "a proposal is acknowledged",
    AppendFenced "an append is refused by the fence",
    LateAppendFenced "a late append is refused by the fence",
    LateAppendApplied "a late append is applied",
    LateSealApplied "a late seal is applied",
    LateTrimFenced "a late trim is refused by the fence",
    LateRefused "a late append is refused for want of the segment before it",
    AppliedBefore "an append whose answer was lost turns out to have been applied",
    UnknownAdopted "a proposal of unknown outcome is adopted",
    UnknownDropped "a proposal of unknown outcome is gone",
    Restored "a leader begins with a snapshot",
    Published "a snapshot is published",
    Trimmed "segments are trimmed",
    FirstTrimmed "the first segment of the leader's own WAL is trimmed",
    Forgotten "a WAL is deleted",
    BothDisksLost "a node is born after both disks were lost, and something had been acknowledged",
    TwinFenced "an append of a superseded incarnation is refused",
    TwinSealRefused "a seal of a superseded incarnation is refused",
    Deposed "a leader hears of a later one",
    LastTermServes "the leader of the last term acknowledges the last proposal",
}

/// How often each was reached.
#[derive(Debug, Default)]
pub struct Occurrences([AtomicU64; Occurrence::ALL.len()]);

impl Occurrences {
    pub fn note(&self, occurrence: Occurrence) {
        self.0[occurrence as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn count(&self, occurrence: Occurrence) -> u64 {
        self.0[occurrence as usize].load(Ordering::Relaxed)
    }
}
