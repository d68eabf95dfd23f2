//! What a process' client of ZooKeeper has not sent yet, and what it has sent as one.

use std::collections::{BTreeMap, VecDeque};

use bequest_recovery::bundle::{fitting, Bundle};
use bequest_recovery::keeper::{Op, Outcome, Request, RequestId, Urgency};

use crate::wal::checks_a_ballot;

/// Those whose outcomes are known.
type Known = Vec<(RequestId, Outcome)>;
/// Those of which nothing was done.
type Again = Vec<(RequestId, Vec<Op>)>;

/// Requests that wait to be sent, and transactions of several that were.
#[derive(Debug)]
pub struct Queue {
    urgent: VecDeque<(RequestId, Request)>,
    again: VecDeque<(RequestId, Request)>,
    normal: VecDeque<(RequestId, (u64, Request))>,
    shared: VecDeque<(RequestId, (u64, Vec<Op>))>,
    /// Requests that were taken in.
    taken: u64,
    /// How many shared transactions may be on their way at once.
    room: usize,
    /// Those that are, by the request that goes by its name.
    bundles: BTreeMap<RequestId, Sent>,
}

#[derive(Debug)]
struct Sent {
    members: Vec<RequestId>,
    bundle: Bundle,
    ops: Vec<Op>,
}

impl Queue {
    pub fn new(room: usize) -> Self {
        Self {
            urgent: VecDeque::new(),
            again: VecDeque::new(),
            normal: VecDeque::new(),
            shared: VecDeque::new(),
            taken: 0,
            room,
            bundles: BTreeMap::new(),
        }
    }

    pub fn push(&mut self, id: RequestId, urgency: Urgency, request: Request) {
        self.taken += 1;
        match (urgency, request) {
            (Urgency::Urgent, request) => self.urgent.push_back((id, request)),
            (Urgency::Shared, Request::Multi(ops)) => {
                let fences = ops.iter().filter(|op| checks_a_ballot(op)).count();
                assert!(fences == 1 && ops.first().is_some_and(checks_a_ballot), "A1: not fenced: {ops:?}");
                self.shared.push_back((id, (self.taken, ops)));
            }
            (Urgency::Shared | Urgency::Normal, request) => self.normal.push_back((id, (self.taken, request))),
        }
    }

    /// What is sent next: a request, or several by the name of the first, and how many.
    pub fn pop(&mut self) -> Option<(RequestId, Request, usize)> {
        if let Some((id, request)) = self.urgent.pop_front().or_else(|| self.again.pop_front()) {
            return Some((id, request, 1));
        }
        let room = self.bundles.len() < self.room;
        let shared = self.shared.front().filter(|_| room).map(|(_, (number, _))| *number);
        let earlier = |(_, (number, _)): &(RequestId, (u64, Request))| shared.is_none_or(|shared| *number < shared);
        if self.normal.front().is_some_and(earlier) {
            let (id, (_, request)) = self.normal.pop_front()?;
            return Some((id, request, 1));
        }
        shared?;
        let bytes = self.shared.iter().map(|(_, (_, ops))| ops.iter().map(Op::bytes).sum());
        let count = fitting(bytes);
        let (members, multis): (Vec<_>, Vec<_>) = self.shared.drain(..count).map(|(id, (_, ops))| (id, ops)).unzip();
        let id = *members.first()?;
        let (bundle, ops) = Bundle::new(multis);
        self.bundles.insert(id, Sent { members, bundle, ops: ops.clone() });
        Some((id, Request::Multi(ops), count))
    }

    /// Takes it out if it waits: it is not to be sent any more. Whether it did.
    pub fn forget(&mut self, id: RequestId) -> bool {
        let before = self.len();
        self.urgent.retain(|(queued, _)| *queued != id);
        self.again.retain(|(queued, _)| *queued != id);
        self.normal.retain(|(queued, _)| *queued != id);
        self.shared.retain(|(queued, _)| *queued != id);
        self.len() < before
    }

    /// Whether it is on its way with others, by another's name.
    pub fn sent(&self, id: RequestId) -> bool {
        self.bundles.values().any(|sent| sent.members.contains(&id))
    }

    /// Everything that waits. It is not to be sent any more.
    pub fn drain(&mut self) -> Vec<RequestId> {
        let Self { urgent, again, normal, shared, .. } = self;
        let singles = [urgent, again].into_iter().flat_map(|queue| queue.drain(..)).map(|(id, _)| id);
        let others = normal.drain(..).map(|(id, _)| id).chain(shared.drain(..).map(|(id, _)| id));
        singles.chain(others).collect()
    }

    /// What was sent by this name is lost: all of this is unknown.
    pub fn lost(&mut self, id: RequestId) -> Vec<RequestId> {
        self.bundles.remove(&id).map_or_else(|| vec![id], |sent| sent.members)
    }

    /// What was sent by this name is answered: whose outcome is known by it, and what is to be sent again.
    pub fn answered(&mut self, id: RequestId, outcome: Outcome) -> (Known, Again) {
        let Some(Sent { members, bundle, ops }) = self.bundles.remove(&id) else {
            return (vec![(id, outcome)], Vec::new());
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

    /// Nothing of it was done: it goes by itself.
    pub fn push_again(&mut self, id: RequestId, ops: Vec<Op>) {
        self.again.push_back((id, Request::Multi(ops)));
    }

    fn len(&self) -> usize {
        self.urgent.len() + self.again.len() + self.normal.len() + self.shared.len()
    }
}
