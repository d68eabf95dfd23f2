//! What is asked of all replicas at once, kept up to date by those that something happens to.

use std::collections::{BTreeMap, BTreeSet};

use bequest_recovery::path::GROUPS;

use super::event::{GroupNumber, NodeId};
use super::replica::Replica;

#[derive(Debug, Default)]
pub(super) struct Roster {
    names: BTreeMap<String, GroupNumber>,
    uuids: BTreeMap<[u8; 16], GroupNumber>,
    /// Those that hold a ballot, or are about to win or to give one back.
    restless: BTreeSet<GroupNumber>,
    /// Those with changes of what they doubt.
    doubting: BTreeSet<GroupNumber>,
    /// Voters of groups whose genesis was read lately.
    voters: BTreeSet<NodeId>,
}

impl Roster {
    pub(super) fn joined(&mut self, name: String, group: GroupNumber) {
        self.names.insert(name, group);
    }

    /// To be told of every replica that may have changed.
    pub(super) fn note(&mut self, replica: &mut Replica) {
        let group = replica.number;
        if let Some(identity) = replica.introduce() {
            // Two groups have one uuid only where somebody copied znodes by hand: the first is meant, as ever.
            self.uuids.entry(identity.uuid.0).and_modify(|first| *first = group.min(*first)).or_insert(group);
            self.voters.extend(&identity.voters);
        }
        if !replica.doubts.is_empty() {
            self.doubting.insert(group);
        }
        if replica.at_rest() {
            self.restless.remove(&group);
        } else {
            self.restless.insert(group);
        }
    }

    /// The group whose znode lies at this path.
    pub(super) fn at_path(&self, path: &str) -> Option<GroupNumber> {
        let name = path.strip_prefix(GROUPS)?.strip_prefix('/')?.split('/').next()?;
        self.names.get(name).copied()
    }

    /// The group with this uuid, once its genesis was read.
    pub(super) fn group(&self, uuid: &[u8]) -> Option<GroupNumber> {
        self.uuids.get(uuid).copied()
    }

    /// Groups that hold a ballot, among others.
    pub(super) fn restless(&self) -> &BTreeSet<GroupNumber> {
        &self.restless
    }

    pub(super) fn take_doubting(&mut self) -> BTreeSet<GroupNumber> {
        std::mem::take(&mut self.doubting)
    }

    pub(super) fn take_voters(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.voters)
    }
}
