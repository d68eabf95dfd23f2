//! Requests that wait for a place in the window, or for a session.

use super::ticket::{Submission, Ticket};
use crate::keeper::{Request, Urgency};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Two queues; the urgent one goes first.
#[derive(Default)]
pub(super) struct Queue {
    urgent: VecDeque<(Ticket, Request)>,
    normal: VecDeque<(Ticket, Request)>,
}

impl Queue {
    /// Takes a request in; one that was too many is answered at once.
    pub(super) fn push(&mut self, submission: Submission) {
        let Submission { ticket, urgency, request } = submission;
        match (request, urgency) {
            (None, _) => ticket.unknown("too many requests are waiting"),
            (Some(request), Urgency::Urgent) => self.urgent.push_back((ticket, request)),
            (Some(request), Urgency::Normal) => self.normal.push_back((ticket, request)),
        }
    }

    /// The request to be sent next.
    pub(super) fn pop(&mut self) -> Option<(Ticket, Request)> {
        self.urgent.pop_front().or_else(|| self.normal.pop_front())
    }

    /// Reports as unknown every request whose `limit` is reached; returns the next limit. Limits ascend in the order
    /// of submission.
    pub(super) fn give_up(&mut self, now: Instant, limit: impl Fn(&Ticket) -> Instant, cause: &str) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for queue in [&mut self.urgent, &mut self.normal] {
            let reached = queue.partition_point(|(ticket, _)| limit(ticket) <= now);
            queue.drain(..reached).for_each(|(ticket, _)| ticket.unknown(cause));
            next = next.into_iter().chain(queue.front().map(|(ticket, _)| limit(ticket))).min();
        }
        next
    }

    /// Reports every request as unknown.
    pub(super) fn clear(&mut self, cause: &str) {
        for (ticket, _) in self.urgent.drain(..).chain(self.normal.drain(..)) {
            ticket.unknown(cause);
        }
    }
}
