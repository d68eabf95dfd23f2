//! What is said to, and by, a node's earlier lives.

use super::stage;
use crate::golden::stage::CALM;

pub fn a_heartbeat_to_an_earlier_life_commits_nothing() {
    stage(&CALM, |_| {});
}

pub fn what_is_due_to_an_earlier_life_commits_nothing() {
    stage(&CALM, |_| {});
}

pub fn a_term_that_no_ballot_showed_deafens_nobody() {
    stage(&CALM, |_| {});
}
