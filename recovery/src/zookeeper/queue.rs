//! Requests that wait for a place in the window, or for a session.

use super::request::frame_bytes;
use super::ticket::{Submission, Ticket};
use crate::bundle::{fitting, Bundle};
use crate::keeper::{Op, Request, Urgency};
use std::collections::VecDeque;
use tokio::time::Instant;

/// What is sent as one.
pub(super) struct Parcel {
    pub(super) tickets: Vec<Ticket>,
    pub(super) request: Request,
    /// There if the request could have been that of several, also where it is not: it counts as such.
    pub(super) bundle: Option<Bundle>,
}

impl Parcel {
    fn single((ticket, request): (Ticket, Request)) -> Self {
        Self { tickets: vec![ticket], request, bundle: None }
    }
}

/// Urgent ones go first, then parts of refused transactions. Of the others whichever was submitted first, where there is
/// room for it.
#[derive(Default)]
pub(super) struct Queue {
    urgent: VecDeque<(Ticket, Request)>,
    again: VecDeque<(Ticket, Request)>,
    normal: VecDeque<(Ticket, (u64, Request))>,
    shared: VecDeque<(Ticket, (u64, Vec<Op>))>,
    /// Requests that were taken in.
    taken: u64,
}

impl Queue {
    /// Takes a request in; one that was too many is answered at once.
    pub(super) fn push(&mut self, submission: Submission) {
        let Submission { ticket, urgency, request } = submission;
        self.taken += 1;
        match (request, urgency) {
            (None, _) => ticket.unknown("too many requests are waiting"),
            (Some(request), Urgency::Urgent) => self.urgent.push_back((ticket, request)),
            // One of nothing is refused by itself, and must not be done with others.
            (Some(Request::Multi(ops)), Urgency::Shared) if !ops.is_empty() => {
                self.shared.push_back((ticket, (self.taken, ops)));
            }
            (Some(request), Urgency::Normal | Urgency::Shared) => {
                self.normal.push_back((ticket, (self.taken, request)));
            }
        }
    }

    /// Takes in what is to be sent once more: nothing was done of this attempt. Deadlines ascend here as well, since shared
    /// transactions are sent in order, and answered in order.
    pub(super) fn push_again(&mut self, ticket: Ticket, ops: Vec<Op>) {
        self.again.push_back((ticket, Request::Multi(ops)));
    }

    /// What is to be sent next; no shared transaction if there is no `room` for one. Below a chroot whose path has so
    /// many bytes.
    pub(super) fn pop(&mut self, room: bool, chroot: usize) -> Option<Parcel> {
        if let Some(single) = self.urgent.pop_front().or_else(|| self.again.pop_front()) {
            return Some(Parcel::single(single));
        }
        let shared = self.shared.front().filter(|_| room).map(|(_, (number, _))| *number);
        let earlier = |(_, (number, _)): &(Ticket, (u64, Request))| shared.is_none_or(|shared| *number < shared);
        if self.normal.front().is_some_and(earlier) {
            let (ticket, (_, request)) = self.normal.pop_front()?;
            return Some(Parcel::single((ticket, request)));
        }
        shared?;
        let count = fitting(self.shared.iter().map(|(_, (_, ops))| frame_bytes(chroot, ops)));
        let (tickets, multis): (Vec<_>, Vec<_>) =
            self.shared.drain(..count).map(|(ticket, (_, ops))| (ticket, ops)).unzip();
        let (bundle, ops) = Bundle::new(multis);
        Some(Parcel { tickets, request: Request::Multi(ops), bundle: Some(bundle) })
    }

    /// Reports as unknown every request whose `limit` is reached; returns the next limit. Limits ascend in the order
    /// of submission.
    pub(super) fn give_up(&mut self, now: Instant, limit: impl Fn(&Ticket) -> Instant, cause: &str) -> Option<Instant> {
        let Self { urgent, again, normal, shared, .. } = self;
        let singles = [urgent, again].map(|queue| give_up(queue, now, &limit, cause));
        let others = [give_up(normal, now, &limit, cause), give_up(shared, now, &limit, cause)];
        singles.into_iter().chain(others).flatten().min()
    }

    /// Reports every request as unknown.
    pub(super) fn clear(&mut self, cause: &str) {
        let Self { urgent, again, normal, shared, .. } = self;
        let singles = [urgent, again].into_iter().flat_map(|queue| queue.drain(..)).map(|(ticket, _)| ticket);
        let others = normal.drain(..).map(|(ticket, _)| ticket).chain(shared.drain(..).map(|(ticket, _)| ticket));
        singles.chain(others).for_each(|ticket| ticket.unknown(cause));
    }
}

fn give_up<T>(
    queue: &mut VecDeque<(Ticket, T)>,
    now: Instant,
    limit: &impl Fn(&Ticket) -> Instant,
    cause: &str,
) -> Option<Instant> {
    let reached = queue.partition_point(|(ticket, _)| limit(ticket) <= now);
    queue.drain(..reached).for_each(|(ticket, _)| ticket.unknown(cause));
    queue.front().map(|(ticket, _)| limit(ticket))
}
