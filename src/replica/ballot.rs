//! The ballot as this replica sees it: read, compared with what was seen before, and learned.

use bequest_recovery::keeper::{Op, Outcome, Reason, Reply, Request, Urgency};
use bequest_recovery::record::{self, Ballot};

use super::context::Context;
use super::event::NodeId;
use super::replica::{Ask, Phase, Replica, Seen, RETRY};
use crate::error::{GroupError, Leader};

impl Replica {
    /// Reads the ballot and leaves a watch on it.
    pub(super) fn look(&mut self, cx: &mut Context<'_>) {
        if !self.ballot_asked && cx.facts.usable() && self.identity.is_some() {
            self.ballot_asked = true;
            let request = Request::Get { path: self.paths.ballot(), watch: true };
            self.call(cx, Urgency::Normal, Ask::Ballot, request);
        }
    }

    pub(super) fn took_ballot(&mut self, cx: &mut Context<'_>, outcome: Outcome) {
        let Outcome::Ok(Reply::Data(data)) = outcome else {
            let denied = matches!(&outcome, Outcome::Refused(refusal) if refusal.reason == Reason::NoAuth);
            if let Phase::Genesis { retry_at } = &mut self.phase {
                if denied {
                    // At start it is a mistake in the configuration, and fails at once.
                    return self.stop(cx, GroupError::Denied { path: self.paths.ballot() });
                }
                *retry_at = Some(cx.now + RETRY);
            } else if denied {
                self.trouble = Some(format!("access denied by zookeeper: path={}", self.paths.ballot()));
            }
            return;
        };
        let Some(identity) = &self.identity else { return };
        let Some((bytes, stat)) = data else {
            // A server may lag; only a transaction's "no" is certain.
            let check = Op::Check { path: self.paths.ballot(), version: self.seen.as_ref().map_or(0, |s| s.version) };
            return self.call(cx, Urgency::Normal, Ask::BallotGone, Request::Multi(vec![check]));
        };
        if stat.czxid != identity.czxid {
            // Genesis and ballot are created by one transaction: this one was deleted and made again by hand.
            return self.stop(
                cx,
                GroupError::WentBackwards {
                    what: "ballot",
                    seen: format!("czxid {:#x}", identity.czxid),
                    found: format!("czxid {:#x}", stat.czxid),
                },
            );
        }
        match record::open::<Ballot>(&bytes, Some(identity.uuid)) {
            Ok(ballot) => {
                self.compare_ballot(cx, stat.version, &ballot);
                self.observe(cx, stat.version, ballot);
            }
            Err(error) => self.stop_damaged(cx, self.paths.ballot(), 0, error),
        }
    }

    /// Looks whether the ballot read lies before the one seen, or is another of the same version: ZooKeeper itself never
    /// goes back, so it was put back.
    fn compare_ballot(&mut self, cx: &mut Context<'_>, version: i32, ballot: &Ballot) {
        let Some(seen) = &self.seen else { return };
        match version.cmp(&seen.version) {
            std::cmp::Ordering::Greater => {}
            std::cmp::Ordering::Equal if seen.ballot.nonce == ballot.nonce => {}
            std::cmp::Ordering::Equal => self.ballot_went_back(cx, version, ballot.term),
            // A server may lag; only a transaction shows what is.
            std::cmp::Ordering::Less => {
                let check = Op::Check { path: self.paths.ballot(), version };
                let ask = Ask::BallotBack { version, term: ballot.term };
                self.call(cx, Urgency::Normal, ask, Request::Multi(vec![check]));
            }
        }
    }

    pub(super) fn ballot_went_back(&mut self, cx: &mut Context<'_>, version: i32, term: u64) {
        let Some(seen) = &self.seen else { return };
        let error = GroupError::WentBackwards {
            what: "ballot",
            seen: format!("version {} of term {}", seen.version, seen.ballot.term),
            found: format!("version {version} of term {term}"),
        };
        self.stop(cx, error);
    }

    /// A transaction said that there is no ballot: nothing can be fenced any more.
    pub(super) fn ballot_missing(&mut self, cx: &mut Context<'_>) {
        let (path, what) = (self.paths.ballot(), "the ballot is missing".to_owned());
        self.stop(cx, GroupError::Damaged { path, index: 0, what });
    }

    /// Learns what the ballot was at some time. Versions only rise, so an older sight is dropped.
    pub(super) fn observe(&mut self, cx: &mut Context<'_>, version: i32, ballot: Ballot) {
        if self.seen.as_ref().is_some_and(|seen| seen.version >= version) {
            return;
        }
        self.known.term = self.known.term.max(ballot.term);
        self.seen = Some(Seen { version, ballot });
        if matches!(self.phase, Phase::Leader(_)) && !self.handing_over {
            self.suspicion.blame();
        }
        self.suspicion.ballot_changed(cx);
        self.trust_all();
        self.ballot_moved(cx);
    }

    /// The ballot, if somebody holds it.
    pub(super) fn holder(&self) -> Option<&Ballot> {
        self.seen.as_ref().map(|seen| &seen.ballot).filter(|ballot| !ballot.vacant && ballot.node != 0)
    }

    /// Who leads, as the ballot says.
    pub(super) fn leader(&self) -> Option<Leader> {
        let ballot = self.holder()?;
        Some(Leader { node: NodeId(ballot.node), addresses: ballot.addresses.clone().unwrap_or_default() })
    }
}
