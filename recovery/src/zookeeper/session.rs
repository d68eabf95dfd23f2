//! One session: what is outstanding on it, and what it is told.

use super::request::{carry, poll_guarded, Answer};
use super::ticket::Ticket;
use super::watches::Watches;
use crate::keeper::Request;
use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use zookeeper_client::{Acls, Client};

/// A request that was handed to the client.
struct Flight {
    // Gone once the outcome was reported, at the deadline at the latest. The flight keeps its place in the window
    // until the client has answered: the request may still lie in the client's queue, which has no bound of its own.
    ticket: Option<Ticket>,
    state: State,
}

enum State {
    Pending(Pin<Box<dyn Future<Output = Answer> + Send>>),
    Ready(Answer),
}

impl Flight {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let State::Pending(future) = &mut self.state {
            match poll_guarded(future, context) {
                Poll::Ready(answer) => self.state = State::Ready(answer),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

/// What [`Outstanding::next`] waited for.
pub(super) enum Happening {
    /// A request was answered, and its outcome reported.
    Answered,
    /// The same, but the client library is at fault and of no further use.
    Broken,
    /// The watch on this path fired.
    Fired(String),
}

async fn oldest_answered(flights: &mut VecDeque<Flight>) {
    match flights.front_mut() {
        Some(oldest) => poll_fn(|context| oldest.poll(context)).await,
        None => std::future::pending().await,
    }
}

/// What is outstanding on one session.
pub(super) struct Outstanding {
    client: Arc<Client>,
    acls: Acls<'static>,
    flights: VecDeque<Flight>,
    watches: Watches,
}

impl Outstanding {
    pub(super) fn new(client: Arc<Client>, acls: Acls<'static>) -> Self {
        Self { client, acls, flights: VecDeque::new(), watches: Watches::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Hands a request to the client before this returns: the order of calls is the order of sending.
    pub(super) async fn launch(&mut self, ticket: Ticket, request: Request) {
        // The client takes a request when its method is called, which is when the future is polled first.
        let future = Box::pin(carry(Arc::clone(&self.client), self.acls, request));
        let mut flight = Flight { ticket: Some(ticket), state: State::Pending(future) };
        poll_fn(|context| {
            // An answer that is there at once waits for its turn like any other.
            let _ = flight.poll(context);
            Poll::Ready(())
        })
        .await;
        self.flights.push_back(flight);
    }

    /// Waits for the answer to the oldest request and reports it, or for a watch to fire.
    ///
    /// Servers answer a connection in order, so waiting for the oldest delays no other, and outcomes are in order
    /// even where the client gives up all its requests at once.
    pub(super) async fn next(&mut self) -> Happening {
        let Self { flights, watches, .. } = self;
        tokio::select! {
            biased;
            () = oldest_answered(flights) => {}
            path = watches.fired() => return Happening::Fired(path),
        }
        let Some(Flight { ticket, state: State::Ready(answer) }) = self.flights.pop_front() else {
            return Happening::Answered;
        };
        let happening = if answer.broken { Happening::Broken } else { Happening::Answered };
        self.settle(ticket, answer);
        happening
    }

    /// Reports an outcome, and only then lets the watch left with it be heard of.
    fn settle(&mut self, ticket: Option<Ticket>, answer: Answer) {
        if let Some(ticket) = ticket {
            ticket.report(answer.outcome);
        }
        if let Some((watched, watcher)) = answer.watcher {
            self.watches.add(watched, watcher);
        }
    }

    /// Reports what has passed its deadline as unknown; returns the next deadline.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for flight in &mut self.flights {
            match &flight.ticket {
                Some(ticket) if ticket.deadline <= now => {
                    if let Some(ticket) = flight.ticket.take() {
                        ticket.unknown("no answer until the deadline");
                    }
                }
                Some(ticket) => next = Some(next.map_or(ticket.deadline, |next: Instant| next.min(ticket.deadline))),
                None => {}
            }
        }
        next
    }

    /// Ends with the session: answers that are there are reported, all others are unknown. Returns the paths of the
    /// watches that are gone.
    pub(super) async fn end(mut self, cause: &str) -> Vec<String> {
        for mut flight in std::mem::take(&mut self.flights) {
            poll_fn(|context| {
                let _ = flight.poll(context);
                Poll::Ready(())
            })
            .await;
            match flight {
                Flight { ticket, state: State::Ready(answer) } => self.settle(ticket, answer),
                Flight { ticket: Some(ticket), .. } => ticket.unknown(cause),
                Flight { ticket: None, .. } => {}
            }
        }
        self.watches.give_up()
    }
}
