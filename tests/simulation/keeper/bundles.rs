//! What a process' client of ZooKeeper has sent as one transaction.

use std::collections::BTreeMap;

use bequest_recovery::bundle::Bundle;
use bequest_recovery::keeper::{Op, Outcome, Request, RequestId};
use bequest_recovery::queue::Parcel;

/// Those whose outcomes are known.
type Known = Vec<(RequestId, Outcome)>;
/// Those of which nothing was done.
type Again = Vec<(RequestId, Vec<Op>)>;

/// Shared transactions on their way, each by the first of its requests.
#[derive(Debug)]
pub struct Bundles {
    /// How many may be on their way at once.
    max: usize,
    sent: BTreeMap<RequestId, Sent>,
}

#[derive(Debug)]
struct Sent {
    members: Vec<RequestId>,
    bundle: Bundle,
    ops: Vec<Op>,
}

impl Bundles {
    pub fn new(max: usize) -> Self {
        Self { max, sent: BTreeMap::new() }
    }

    /// Whether there is room for one more.
    pub fn room(&self) -> bool {
        self.sent.len() < self.max
    }

    /// Keeps in mind what is sent; returns its name.
    pub fn send(&mut self, parcel: &Parcel<RequestId>) -> RequestId {
        let name = *parcel.owners.first().expect("somebody waits for it");
        if let (Some(bundle), Request::Multi(ops)) = (&parcel.bundle, &parcel.request) {
            let sent = Sent { members: parcel.owners.clone(), bundle: bundle.clone(), ops: ops.clone() };
            self.sent.insert(name, sent);
        }
        name
    }

    /// Whether it is on its way with others, by another's name.
    pub fn carries(&self, id: RequestId) -> bool {
        self.sent.values().any(|sent| sent.members.contains(&id))
    }

    /// What was sent by this name is lost: all of this is unknown.
    pub fn lost(&mut self, name: RequestId) -> Vec<RequestId> {
        self.sent.remove(&name).map_or_else(|| vec![name], |sent| sent.members)
    }

    /// What was sent by this name is answered: whose outcome is known by it, and what is to be sent again.
    pub fn answered(&mut self, name: RequestId, outcome: Outcome) -> (Known, Again) {
        let Some(Sent { members, bundle, ops }) = self.sent.remove(&name) else {
            return (vec![(name, outcome)], Vec::new());
        };
        let (mut known, mut again) = (Vec::new(), Vec::new());
        for ((id, own), ops) in members.into_iter().zip(bundle.outcomes(&outcome)).zip(bundle.part(ops)) {
            match own {
                Some(own) => known.push((id, own)),
                None => again.push((id, ops)),
            }
        }
        (known, again)
    }
}
