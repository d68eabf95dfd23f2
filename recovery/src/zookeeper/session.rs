//! One session: what is outstanding on it, and what it is told.

use super::request::{carry, poll_guarded, Answer};
use super::ticket::Ticket;
use super::watches::Watches;
use crate::bundle::Bundle;
use crate::keeper::{Op, Outcome};
use crate::queue::Parcel;
use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use zookeeper_client::{Acls, Client};

/// A request that was handed to the client, or several in one.
struct Flight {
    // Each gone once its outcome was reported, at its deadline at the latest. The flight keeps its place in the window
    // until the client has answered: the request may still lie in the client's queue, which has no bound of its own.
    tickets: Vec<Option<Ticket>>,
    bundle: Option<Bundle>,
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
    /// A request was answered, and its outcome reported. Nothing was done of these, which were sent together with one
    /// that was refused.
    Answered(Vec<(Ticket, Vec<Op>)>),
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
    /// Flights with a bundle.
    shared: usize,
    watches: Watches,
}

impl Outstanding {
    pub(super) fn new(client: Arc<Client>, acls: Acls<'static>) -> Self {
        Self { client, acls, flights: VecDeque::new(), shared: 0, watches: Watches::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    /// How many of them may be of several requests.
    pub(super) fn shared(&self) -> usize {
        self.shared
    }

    /// Hands a request to the client before this returns: the order of calls is the order of sending.
    pub(super) async fn launch(&mut self, parcel: Parcel<Ticket>) {
        let Parcel { owners, request, bundle } = parcel;
        self.shared += usize::from(bundle.is_some());
        // The client takes a request when its method is called, which is when the future is polled first.
        let future = Box::pin(carry(Arc::clone(&self.client), self.acls, request));
        let tickets = owners.into_iter().map(Some).collect();
        let mut flight = Flight { tickets, bundle, state: State::Pending(future) };
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
        let Some(Flight { tickets, bundle, state: State::Ready(answer) }) = self.flights.pop_front() else {
            return Happening::Answered(Vec::new());
        };
        self.shared -= usize::from(bundle.is_some());
        let broken = answer.broken;
        let again = self.settle(tickets, bundle, answer);
        if broken {
            Happening::Broken
        } else {
            Happening::Answered(again)
        }
    }

    /// Reports an outcome, and only then lets the watch left with it be heard of. Returns what is to be sent again.
    fn settle(
        &mut self,
        tickets: Vec<Option<Ticket>>,
        bundle: Option<Bundle>,
        answer: Answer,
    ) -> Vec<(Ticket, Vec<Op>)> {
        let Answer { outcome, watcher, ops, .. } = answer;
        let mut again = Vec::new();
        match bundle {
            Some(bundle) => {
                let parts = bundle.part(ops);
                for ((ticket, own), ops) in tickets.into_iter().zip(bundle.outcomes(&outcome)).zip(parts) {
                    match (ticket, own) {
                        (Some(ticket), Some(own)) => ticket.report(own),
                        (Some(ticket), None) => again.push((ticket, ops)),
                        // Given up at its deadline.
                        (None, _) => {}
                    }
                }
            }
            None => report(tickets, &outcome),
        }
        if let Some((watched, watcher)) = watcher {
            self.watches.add(watched, watcher);
        }
        again
    }

    /// Reports what has passed its deadline as unknown; returns the next deadline.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for place in self.flights.iter_mut().flat_map(|flight| &mut flight.tickets) {
            if let Some(ticket) = place.take_if(|ticket| ticket.deadline <= now) {
                ticket.unknown("no answer until the deadline");
            }
            next = next.into_iter().chain(place.as_ref().map(|ticket| ticket.deadline)).min();
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
            let Flight { tickets, bundle, state } = flight;
            match state {
                State::Ready(answer) => {
                    let again = self.settle(tickets, bundle, answer);
                    again.into_iter().for_each(|(ticket, _)| ticket.unknown(cause));
                }
                State::Pending(_) => report(tickets, &Outcome::Unknown(cause.to_owned())),
            }
        }
        self.watches.give_up()
    }
}

fn report(tickets: Vec<Option<Ticket>>, outcome: &Outcome) {
    tickets.into_iter().flatten().for_each(|ticket| ticket.report(outcome.clone()));
}
