//! When a follower should want to lead.
//!
//! Taking the ballot is always safe. These rules only decide when it is useful, and see to it that somebody does.

use std::time::Duration;

use bequest_recovery::planted;
use bequest_recovery::record::Ballot;

use super::agenda::Again;
use super::challenge::Verdict;
use super::context::{Context, Facts};
use super::event::{Incarnation, NodeId, Now};

/// Patience grows up to here where ballots end quickly one after the other.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// A ballot that ended within so many timeouts doubles the next one's.
const SHORT_LIVED: u32 = 10;

/// Challenges in a row that a leader out of sight may leave unanswered. Its answers are then its only signs of life, and
/// one of many being late on a busy machine must move nothing.
const MISSES_MAX: u32 = 2;

/// Backing off gives other nodes the first chance. There may be none, so it does not grow with patience.
const BACK_OFF_MAX: Duration = Duration::from_secs(4);

/// Why a node seals, or gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The ballot names an earlier life of this node.
    FormerSelf,
    /// Nobody holds it.
    Vacant,
    /// The holder's process was replaced by a newer one.
    HolderSuperseded,
    /// The link ended and a reconnect was refused: the process is gone.
    Refused,
    /// The holder's cores say that they do not lead.
    Denied,
    /// The holder did not answer a challenge.
    Silent,
    /// The leader asked for it.
    HandOver,
}

impl Cause {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::FormerSelf => "the ballot names an earlier life of this node",
            Self::Vacant => "nobody holds the ballot",
            Self::HolderSuperseded => "the leader's process was replaced",
            Self::Refused => "the leader's process is gone",
            Self::Denied => "the leader says it does not lead",
            Self::Silent => "the leader is silent and did not answer a challenge",
            Self::HandOver => "the leader handed over",
        }
    }
}

/// What a follower should do about its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Wait,
    /// Challenge the holder.
    Doubt(NodeId),
    Seal(Cause),
    /// The ballot names this very incarnation, which does not lead: give it back.
    Vacate,
}

#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// Last sign that the holder's core lives.
    heard: Now,
    /// When the current ballot was first seen.
    since: Now,
    /// How often in a row ballots were short-lived.
    flaps: u32,
    calm_at: Now,
    not_before: Now,
    refused: bool,
    verdict: Option<Verdict>,
    progress: Option<u64>,
    /// Challenges in a row that a holder out of sight left unanswered.
    misses: u32,
    /// This node, as the holder of this version of the ballot, asked to take over.
    asked_by: Option<(NodeId, i32)>,
    /// The ballot about to end is taken from a holder that may be alive.
    blamed: bool,
}

impl Suspicion {
    /// Silence that makes a leader doubted, and time an answer may take.
    pub(super) fn timeout(&self, config: &super::event::Config, facts: &Facts) -> Duration {
        facts.patience(config).saturating_mul(1 << self.flaps.min(16)).min(TIMEOUT_MAX)
    }

    /// Another ballot was seen.
    pub(super) fn ballot_changed(&mut self, cx: &Context<'_>) {
        let timeout = self.timeout(cx.config, cx.facts);
        let short = cx.now.since(self.since) < timeout * SHORT_LIVED;
        // Only what may have been a mistake calls for more patience: a leader that died, handed over or gave the ballot
        // back is no sign that ZooKeeper is slow.
        // Doublings beyond the longest timeout would only have to decay again.
        if short && std::mem::take(&mut self.blamed) && timeout < TIMEOUT_MAX {
            self.flaps += 1;
        }
        *self = Self {
            heard: cx.now,
            since: cx.now,
            flaps: self.flaps,
            calm_at: cx.now + timeout * SHORT_LIVED,
            not_before: self.not_before,
            // Whoever asked may have put the ballot down meanwhile.
            asked_by: self.asked_by,
            ..Self::default()
        };
    }

    /// The holder's core gave a sign of life under the current ballot.
    pub(super) fn heard(&mut self, now: Now) {
        self.heard = now;
        self.verdict = None;
        self.misses = 0;
        self.refused = false;
    }

    pub(super) fn last_heard(&self) -> Now {
        self.heard
    }

    /// Not before a while, somewhere within `duration` or [`BACK_OFF_MAX`].
    pub(super) fn back_off(&mut self, cx: &mut Context<'_>, duration: Duration) {
        let duration = duration.min(BACK_OFF_MAX);
        self.not_before = cx.now + duration / 4 + cx.random.up_to(duration);
    }

    /// The ballot is being taken from a holder that may be alive.
    pub(super) fn blame(&mut self) {
        self.blamed = true;
    }

    /// The link to the holder ended and a reconnect was refused.
    pub(super) fn refused(&mut self) {
        self.refused = true;
    }

    /// `peer`, as the holder of this version of the ballot, asks this node to take over.
    pub(super) fn asked(&mut self, peer: NodeId, version: i32) {
        self.asked_by = Some((peer, version));
    }

    /// Whether the holder wants this node to lead next: it still holds the ballot, or has put it down since.
    pub(super) fn is_asked(&self, version: i32, ballot: &Ballot) -> bool {
        let held_under = if ballot.vacant { version.wrapping_sub(1) } else { version };
        self.asked_by == Some((NodeId(ballot.node), held_under))
    }

    /// A challenge was answered, or not.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        if verdict == Verdict::Silent && self.verdict == Some(Verdict::Leading) && self.misses < MISSES_MAX {
            self.misses += 1;
            return;
        }
        self.misses = 0;
        self.verdict = match verdict {
            // A successor that does not get on does not count as alive.
            Verdict::Succeeding(progress) if self.progress == Some(progress) => Some(Verdict::No),
            verdict => Some(verdict),
        };
        if let Verdict::Succeeding(progress) = verdict {
            self.progress = Some(progress);
        }
    }

    /// Whether the holder is alive but out of sight: the follower should keep up through ZooKeeper.
    pub(super) fn out_of_sight(&self, cx: &Context<'_>) -> bool {
        self.verdict == Some(Verdict::Leading) && cx.now.since(self.heard) >= self.timeout(cx.config, cx.facts)
    }

    pub(super) fn decide(&mut self, cx: &Context<'_>, version: i32, ballot: &Ballot, own: Incarnation) -> Decision {
        let timeout = self.timeout(cx.config, cx.facts);
        if self.flaps > 0 && cx.now >= self.calm_at {
            self.flaps -= 1;
            self.calm_at = cx.now + timeout * SHORT_LIVED;
        }
        let (holder, holder_incarnation) = (NodeId(ballot.node), Incarnation(ballot.incarnation));
        if holder == cx.config.node && holder_incarnation == own && !ballot.vacant && !planted!(LateSealForgotten) {
            return Decision::Vacate;
        }
        // Nobody competes for what is handed over.
        let asked = self.is_asked(version, ballot);
        if cx.now < self.not_before && !asked {
            return Decision::Wait;
        }
        if ballot.vacant {
            // One that never served may be of somebody who cannot: give others a chance, and time.
            let wait = if ballot.served { Duration::ZERO } else { timeout * 2 };
            let due = cx.now.since(self.since) >= wait || asked;
            return if due { Decision::Seal(Cause::Vacant) } else { Decision::Wait };
        }
        if holder == cx.config.node && planted!(LateSealForgotten) && holder_incarnation == own {
            return Decision::Wait;
        }
        if holder == cx.config.node {
            return Decision::Seal(Cause::FormerSelf);
        }
        if asked {
            return Decision::Seal(Cause::HandOver);
        }
        let peer = cx.facts.peers.get(&holder);
        if peer.and_then(|peer| peer.known).is_some_and(|known| known > holder_incarnation) {
            return Decision::Seal(Cause::HolderSuperseded);
        }
        if self.refused {
            return Decision::Seal(Cause::Refused);
        }
        if cx.now.since(self.heard) < timeout {
            return Decision::Wait;
        }
        match self.verdict {
            Some(Verdict::No) => Decision::Seal(Cause::Denied),
            Some(Verdict::Silent) => Decision::Seal(Cause::Silent),
            Some(Verdict::Leading | Verdict::Succeeding(_)) | None => Decision::Doubt(holder),
        }
    }

    /// When to decide again, if nothing happens before.
    pub(super) fn wake_at(&self, config: &super::event::Config, facts: &Facts, ballot: &Ballot, now: Now) -> Again {
        // A leader may have been found gone meanwhile, and nothing else need happen that would have it looked at again.
        if self.not_before > now {
            return Again::At(self.not_before);
        }
        let timeout = self.timeout(config, facts);
        let silent = if ballot.vacant { self.since + timeout * 2 } else { self.heard + timeout };
        // What is overdue waits for a verdict or for ZooKeeper; look again now and then all the same.
        if silent > now {
            Again::At(silent)
        } else {
            Again::Idle(timeout)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::event::Config;

    fn config() -> Config {
        Config {
            node: NodeId(2),
            addresses: Default::default(),
            nonce: 1,
            seed: 1,
            cluster: None,
            beat: Duration::from_millis(30),
            election_timeout: Duration::from_millis(150),
            poll: Duration::from_secs(1),
            segment_bytes: 1,
            segments_in_flight: 1,
            proposal_bytes_in_flight: 1,
            proposals_in_flight: 1,
            reads_in_flight: 1,
            log_cache_bytes: 1,
        }
    }

    #[test]
    fn a_leader_found_gone_during_a_back_off_is_looked_at_when_that_is_over() {
        let at = |millis| Now(Duration::from_millis(millis));
        let (config, facts, ballot) = (config(), Facts::default(), Ballot { node: 1, ..Ballot::default() });
        let mut suspicion = Suspicion { heard: at(100), not_before: at(120), ..Suspicion::default() };
        suspicion.refused();
        assert_eq!(suspicion.wake_at(&config, &facts, &ballot, at(110)), Again::At(at(120)));
        // One that is heard of is doubted after as much silence as ever.
        suspicion.heard(at(115));
        assert_eq!(suspicion.wake_at(&config, &facts, &ballot, at(120)), Again::At(at(265)));
    }

    #[test]
    fn a_leader_out_of_sight_may_be_late_with_an_answer_but_not_with_three() {
        let mut suspicion = Suspicion::default();
        suspicion.judged(Verdict::Leading);
        for _ in 0..2 {
            suspicion.judged(Verdict::Silent);
            assert_eq!(suspicion.verdict, Some(Verdict::Leading));
        }
        suspicion.judged(Verdict::Leading);
        for verdict in [Verdict::Leading, Verdict::Leading, Verdict::Silent] {
            suspicion.judged(Verdict::Silent);
            assert_eq!(suspicion.verdict, Some(verdict));
        }
    }

    #[test]
    fn one_unanswered_challenge_is_enough_where_none_was_answered_since_the_last_sign_of_life() {
        let mut suspicion = Suspicion::default();
        suspicion.judged(Verdict::Leading);
        suspicion.heard(Now::default());
        suspicion.judged(Verdict::Silent);
        assert_eq!(suspicion.verdict, Some(Verdict::Silent));
    }
}
