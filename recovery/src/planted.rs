//! Bugs that tests plant, to see that the tests find them.
//!
//! Only the unpublished packages in `planted/` compile this, by a cfg of their own. Everywhere else `planted!` is
//! `false`, and nothing of this exists.

/// Whether this bug, or one of these, is planted: `false` in everything but the packages that exist to plant bugs.
#[doc(hidden)]
#[macro_export]
macro_rules! planted {
    ($($bug:ident)|+) => {{
        #[cfg(planted)]
        {
            $($crate::planted::is_chosen($crate::planted::Bug::$bug))||+
        }
        #[cfg(not(planted))]
        {
            false
        }
    }};
}

#[cfg(planted)]
pub use chosen::{choose, is_chosen, Bug};

#[cfg(planted)]
mod chosen {
    use std::cell::Cell;

    macro_rules! bugs {
        ($($bug:ident: $words:literal,)*) => {
            /// What can be broken. Each is a rule of the protocol left out.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub enum Bug {
                $(#[doc = $words] $bug,)*
            }

            impl Bug {
                /// All of them.
                pub const ALL: &[Self] = &[$(Self::$bug,)*];

                /// What it does.
                pub fn words(self) -> &'static str {
                    match self {
                        $(Self::$bug => $words,)*
                    }
                }
            }
        };
    }

    bugs! {
        AppendWithoutFence: "an append does not check the ballot",
        AppendWithoutPredecessor: "an append does not check the segment before it",
        CreateIsTheFence: "an append checks nothing, as if creating a name that must not exist were a fence",
        PreviousWalLeftOpen: "the first append leaves no mark at the previous WAL's end",
        AcknowledgedBeforeZooKeeper: "what was proposed counts as acknowledged when its append is issued",
        UnknownAppendIsDone: "an append of unknown outcome counts as done",
        UnrefusedIsDone: "what shares a transaction with a refused request counts as done",
        UnknownAppendIsFailed: "clients are told that nothing was done when an append's outcome is unknown",
        DeposedAnswersDone: "a deposed leader answers its clients `done`",
        SealWithoutCompare: "a seal takes the ballot whatever its version is",
        SealBySupersededProcess: "a seal does not check that its process is still the registered one",
        AnyBallotIsOwn: "a seal of unknown outcome is taken for won if the ballot moved at all",
        LateSealForgotten: "a ballot that names this very process, which does not lead, is not given back",
        ReadBeforeSeal: "a successor reads first and seals then",
        PassWithoutOpening: "a read pass begins without a fenced transaction on its session",
        PassOverTwoSessions: "a read pass goes on over a change of session",
        PassBehindWhatIsCommitted: "a read pass begins behind what raft-rs has committed but not handed over yet",
        MissingSegmentIsTheEnd: "a segment that cannot be found ends the log",
        OlderWalSkipped: "only the last two WALs are read",
        ClosingCheckIgnored: "what a read pass found is believed though the ballot moved meanwhile",
        NoReplay: "a node joins or stands on its own log, without what it read",
        LocalLogIsToldByIndex: "a local entry is kept because the WAL has one of the same index",
        RestoreKeepsTheOldLog: "a restore keeps the log that the snapshot replaces",
        ApplyInTheMiddleOfARestore: "entries are applied while a snapshot is being restored",
        AppliedIndexLost: "a durable machine's applied index is lost",
        ReadWithoutFence: "a local read is answered as a linearizable one",
        ReadByAnEarlierFence: "a read is confirmed by a transaction issued before it arrived",
        ReadBeforeOwnTerm: "a read waits neither for an entry of the leader's own term nor for what was committed",
        AnyIncarnationIsHeard: "messages of, and to, earlier lives of a node are stepped",
        OldMessagesToANewLife: "what raft-rs has to say to a node's former life is sent to its new one",
        StaleProgress: "a leader goes on believing what a node's former life acknowledged",
        TermsFromPeers: "terms are believed from peers, not from the ballot alone",
        TokenOfAnotherTerm: "a client is told of another entry at the index of its own",
        TrimByAppliedIndex: "a trim deletes what this leader has applied, whether a snapshot covers it or not",
        TrimmedFirstSegmentMayReturn: "a late copy of a trimmed first segment still fits behind the header",
        SweepWithoutFence: "a sweep deletes without checking the ballot",
        CollectionForgetsTheNewest: "a collection takes what only the newest snapshot needs",
        PointerBeforeChunks: "the snapshot pointer moves before every chunk is there",
        SnapshotWithoutSessions: "a snapshot lacks the client sessions",
        RetriesAreAppliedAgain: "a retried request of a client session is applied again",
        SuccessorKnowsNoCommit: "a successor does not know that what it replayed is committed",
        TokensOutliveLeadership: "clients of a leadership are not answered when it ends",
        TimeBeforeEvents: "a core lets its time pass before it looks at what happened",
    }

    thread_local! {
        // A bit for each.
        static CHOSEN: Cell<u64> = const { Cell::new(0) };
    }

    const _: () = assert!(Bug::ALL.len() <= u64::BITS as usize, "a bit for each");

    /// Plants these bugs in everything this thread does from now on, and no other.
    pub fn choose(bugs: &[Bug]) {
        CHOSEN.set(bugs.iter().fold(0, |chosen, bug| chosen | 1 << *bug as u64));
    }

    /// Whether it is planted on this thread.
    pub fn is_chosen(bug: Bug) -> bool {
        CHOSEN.get() & 1 << bug as u64 != 0
    }
}
