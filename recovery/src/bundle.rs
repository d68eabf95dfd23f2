//! Requests of several callers as one transaction.
//!
//! A transaction of many groups' appends costs ZooKeeper and its client little more than that of one. Since it takes
//! effect whole or not at all, its outcome is the outcome of each request in it, but for one case: where it is refused,
//! one operation is named. The request with that operation is refused. Of the others it is known that nothing was done,
//! and not whether they would have been refused as well: they are sent again, each by itself.
//!
//! A request may see what those before it in the same transaction do, as if they had been sent one after the other.

use crate::keeper::{Op, Outcome, Refusal, Reply};
use crate::planted;

/// Requests that are put together at most.
pub const BUNDLE_REQUESTS_MAX: usize = 256;
/// Bytes that are put together at most; a single request may be larger.
pub const BUNDLE_BYTES_MAX: usize = 128 * 1024;

/// How many of the requests that wait, in this order and of these sizes, make the next transaction: one at least.
pub fn fitting(bytes: impl IntoIterator<Item = usize>) -> usize {
    let mut total = 0;
    let sums = bytes.into_iter().map(|bytes| {
        total += bytes;
        total
    });
    sums.take(BUNDLE_REQUESTS_MAX).enumerate().take_while(|(at, sum)| *at == 0 || *sum <= BUNDLE_BYTES_MAX).count()
}

/// Which operations of a transaction belong to which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Operations of each request.
    lengths: Vec<usize>,
}

impl Bundle {
    /// Puts transactions together, in order.
    pub fn new(multis: impl IntoIterator<Item = Vec<Op>>) -> (Self, Vec<Op>) {
        let mut lengths = Vec::new();
        let mut all = Vec::new();
        for ops in multis {
            lengths.push(ops.len());
            all.extend(ops);
        }
        (Self { lengths }, all)
    }

    /// What each request learns from the outcome of the whole, in order. `None`: nothing was done, and it is to be sent
    /// again by itself.
    pub fn outcomes(&self, outcome: &Outcome) -> Vec<Option<Outcome>> {
        let Outcome::Refused(Refusal { op, reason }) = *outcome else {
            return self.lengths.iter().map(|_| Some(outcome.clone())).collect();
        };
        let mut first = 0;
        let share = |length: &usize| {
            let own = first..first + length;
            first = own.end;
            if own.contains(&op) {
                return Some(Outcome::Refused(Refusal { op: op - own.start, reason }));
            }
            planted!(UnrefusedIsDone).then_some(Outcome::Ok(Reply::Done))
        };
        self.lengths.iter().map(share).collect()
    }

    /// The transactions that were put together.
    pub fn part(&self, all: Vec<Op>) -> Vec<Vec<Op>> {
        let mut all = all.into_iter();
        self.lengths.iter().map(|length| all.by_ref().take(*length).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Reason;

    fn multis() -> Vec<Vec<Op>> {
        let op = |path: &str, version| Op::Check { path: path.to_owned(), version };
        [("/a", 2), ("/b", 1), ("/c", 3)]
            .map(|(path, count)| (0..count).map(|version| op(path, version)).collect())
            .into()
    }

    #[test]
    fn what_takes_effect_together_is_done_for_all_and_what_is_unknown_is_so_for_all() {
        let (bundle, _) = Bundle::new(multis());
        for outcome in [Outcome::Ok(Reply::Done), Outcome::Unknown("lost".to_owned())] {
            assert_eq!(bundle.outcomes(&outcome), vec![Some(outcome.clone()); 3]);
        }
    }

    #[test]
    fn a_refusal_is_for_the_request_it_names_and_all_others_go_again() {
        let (bundle, all) = Bundle::new(multis());
        let places = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)];
        for (op, (member, place)) in places.into_iter().enumerate() {
            let refused = |op| Outcome::Refused(Refusal { op, reason: Reason::BadVersion });
            let mut told = vec![None; 3];
            told[member] = Some(refused(place));
            assert_eq!(bundle.outcomes(&refused(op)), told);
        }
        assert_eq!(bundle.part(all), multis());
    }

    #[test]
    fn a_bundle_has_one_request_at_least_and_no_more_than_the_limits() {
        assert_eq!(fitting([]), 0);
        assert_eq!(fitting([BUNDLE_BYTES_MAX + 1, 1]), 1);
        assert_eq!(fitting([1, BUNDLE_BYTES_MAX - 1, 1]), 2);
        assert_eq!(fitting(vec![1; 2 * BUNDLE_REQUESTS_MAX]), BUNDLE_REQUESTS_MAX);
    }
}
