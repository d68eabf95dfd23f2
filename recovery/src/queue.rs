//! Requests that a client of ZooKeeper has not sent yet, and the order in which it does.

use std::collections::VecDeque;

use crate::bundle::{fitting, Bundle};
use crate::keeper::{Op, Request, Urgency};

/// What is sent as one.
#[derive(Debug)]
pub struct Parcel<T> {
    /// Who waits for the outcome: one, or everybody whose transaction is in the bundle.
    pub owners: Vec<T>,
    /// What is sent.
    pub request: Request,
    /// There if the request could have been that of several, also where it is not: it counts as such.
    pub bundle: Option<Bundle>,
}

#[derive(Debug)]
struct Waiting<T, R = Request> {
    owner: T,
    /// How many were taken in until it was.
    number: u64,
    request: R,
}

/// Requests that wait to be sent, each with its owner.
///
/// Urgent ones go first, then parts of refused transactions. Of the others whichever was taken in first, where there is
/// room for it.
#[derive(Debug)]
pub struct Queue<T> {
    urgent: VecDeque<Waiting<T>>,
    again: VecDeque<Waiting<T>>,
    normal: VecDeque<Waiting<T>>,
    shared: VecDeque<Waiting<T, Vec<Op>>>,
    taken: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let [urgent, again, normal] = [(); 3].map(|()| VecDeque::new());
        Self { urgent, again, normal, shared: VecDeque::new(), taken: 0 }
    }
}

impl<T> Queue<T> {
    /// Takes a request in.
    pub fn push(&mut self, owner: T, urgency: Urgency, request: Request) {
        self.taken += 1;
        let number = self.taken;
        match (urgency, request) {
            (Urgency::Urgent, request) => self.urgent.push_back(Waiting { owner, number, request }),
            // One of nothing is refused by itself, and must not be done with others.
            (Urgency::Shared, Request::Multi(ops)) if !ops.is_empty() => {
                self.shared.push_back(Waiting { owner, number, request: ops });
            }
            (Urgency::Normal | Urgency::Shared, request) => self.normal.push_back(Waiting { owner, number, request }),
        }
    }

    /// Takes in what was sent with others and is to be sent once more, by itself: nothing was done of it.
    pub fn push_again(&mut self, owner: T, ops: Vec<Op>) {
        self.taken += 1;
        self.again.push_back(Waiting { owner, number: self.taken, request: Request::Multi(ops) });
    }

    /// What is to be sent next; no shared transaction if there is no `room` for one. `bytes`: those of the request that
    /// carries these operations.
    pub fn pop(&mut self, room: bool, bytes: impl Fn(&[Op]) -> usize) -> Option<Parcel<T>> {
        let shared = self.shared.front().filter(|_| room).map(|first| first.number);
        let earlier = |first: &Waiting<T>| shared.is_none_or(|shared| first.number < shared);
        let single = self.urgent.pop_front().or_else(|| self.again.pop_front());
        let single = single.or_else(|| self.normal.front().is_some_and(earlier).then(|| self.normal.pop_front())?);
        if let Some(Waiting { owner, request, .. }) = single {
            return Some(Parcel { owners: vec![owner], request, bundle: None });
        }
        shared?;
        let count = fitting(self.shared.iter().map(|waiting| bytes(&waiting.request)));
        let together = self.shared.drain(..count).map(|Waiting { owner, request, .. }| (owner, request));
        let (owners, multis): (Vec<_>, Vec<_>) = together.unzip();
        let (bundle, ops) = Bundle::new(multis);
        Some(Parcel { owners, request: Request::Multi(ops), bundle: Some(bundle) })
    }

    /// Takes out of each queue what lies before the first whose owner is not `due`, and calls `next` with that owner:
    /// where dues ascend in the order of submission, this finds all that are due, and the next. What was sent together
    /// was sent and is answered in that order, so what comes back of it keeps it.
    pub fn take_due(&mut self, due: impl Fn(&T) -> bool, mut next: impl FnMut(&T)) -> Vec<T> {
        let mut taken = Vec::new();
        let Self { urgent, again, normal, shared, .. } = self;
        for queue in [urgent, again, normal] {
            take_front(queue, &due, &mut next, &mut taken);
        }
        take_front(shared, &due, &mut next, &mut taken);
        taken
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<T> {
        self.take_due(|_| true, |_| {})
    }

    /// Takes out every request whose owner is not to be kept; how many these were.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) -> usize {
        let before = self.len();
        let Self { urgent, again, normal, shared, .. } = self;
        for queue in [urgent, again, normal] {
            queue.retain(|waiting| keep(&waiting.owner));
        }
        shared.retain(|waiting| keep(&waiting.owner));
        before - self.len()
    }

    fn len(&self) -> usize {
        self.urgent.len() + self.again.len() + self.normal.len() + self.shared.len()
    }
}

fn take_front<T, R>(
    queue: &mut VecDeque<Waiting<T, R>>,
    due: impl Fn(&T) -> bool,
    mut next: impl FnMut(&T),
    taken: &mut Vec<T>,
) {
    let count = queue.partition_point(|waiting| due(&waiting.owner));
    taken.extend(queue.drain(..count).map(|waiting| waiting.owner));
    if let Some(first) = queue.front() {
        next(&first.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multi(path: &str) -> Request {
        Request::Multi(vec![Op::Check { path: path.to_owned(), version: 1 }])
    }

    fn read() -> Request {
        Request::Get { path: "/".to_owned(), watch: false }
    }

    fn sent(queue: &mut Queue<u32>, room: bool) -> Vec<Vec<u32>> {
        std::iter::from_fn(|| queue.pop(room, |ops| ops.iter().map(Op::bytes).sum())).map(|sent| sent.owners).collect()
    }

    #[test]
    fn urgent_ones_go_first_then_what_was_refused_with_others_then_whichever_came_first() {
        let mut queue = Queue::default();
        queue.push(1, Urgency::Shared, multi("/a"));
        queue.push(2, Urgency::Shared, multi("/b"));
        queue.push(3, Urgency::Normal, read());
        queue.push(4, Urgency::Shared, multi("/c"));
        queue.push_again(5, Vec::new());
        queue.push(6, Urgency::Urgent, read());
        queue.push(7, Urgency::Normal, read());
        assert_eq!(sent(&mut queue, true), [vec![6], vec![5], vec![1, 2, 4], vec![3], vec![7]]);
    }

    #[test]
    fn without_room_for_a_shared_one_others_pass_it() {
        let mut queue = Queue::default();
        queue.push(1, Urgency::Shared, multi("/a"));
        queue.push(2, Urgency::Normal, read());
        assert_eq!(sent(&mut queue, false), [[2]]);
        assert_eq!(sent(&mut queue, true), [[1]]);
    }

    #[test]
    fn a_transaction_of_nothing_is_not_shared() {
        let mut queue = Queue::default();
        queue.push(1, Urgency::Shared, Request::Multi(Vec::new()));
        queue.push(2, Urgency::Shared, multi("/a"));
        let first = queue.pop(false, |_| 0).expect("it needs no room");
        assert_eq!((first.owners, first.bundle), (vec![1], None));
    }

    #[test]
    fn what_is_due_is_taken_out_of_every_queue_and_the_next_are_told() {
        let mut queue = Queue::default();
        for (owner, urgency) in [(1, Urgency::Urgent), (2, Urgency::Normal), (3, Urgency::Shared), (4, Urgency::Shared)]
        {
            queue.push(owner, urgency, multi("/a"));
        }
        let mut next = Vec::new();
        assert_eq!(queue.take_due(|owner| *owner < 4, |owner| next.push(*owner)), [1, 2, 3]);
        assert_eq!(next, [4]);
        assert_eq!(queue.retain(|owner| *owner != 4), 1);
        assert_eq!(queue.drain(), Vec::<u32>::new());
    }
}
