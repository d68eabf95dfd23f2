//! Seals of which nobody knows what became of them.

use bequest::Role;
use bequest_recovery::path::GroupPaths;

use super::{stage, Stage};
use crate::genesis;
use crate::golden::stage::CALM;
use crate::mix::Mix;

/// One node, so that nobody else puts right what it does not.
const ALONE: Mix = Mix { name: "alone, by hand", nodes: 1, ..CALM };

impl Stage {
    fn quota(&mut self, exhausted: bool) {
        let group = format!("{}/", GroupPaths::new(&genesis::name(0)).genesis());
        self.0.zoo.exhaust_quota(exhausted.then_some(&group));
    }
}

/// A refusal speaks for one attempt. A seal lies in the socket of a broken connection, the same one issued again is refused
/// by a quota, and when there is room again the first attempt wins the ballot for a process that has given up.
pub fn a_seal_that_lands_late_is_given_back() {
    stage(&ALONE, |stage| {
        stage.play("start n1; until n1 leads; propose n1; until answered");
        let term = stage.term();
        stage.quota(true);
        stage.play("propose n1; until n1 follows; until n1 succeeds; hold n1 requests; pass 2ms; release n1 requests");
        assert!(stage.0.groups[0].mirror.ballot.0.vacant, "the seal was not served");
        // What is left in the socket lies there until its client is connected again and has asked once more.
        stage.0.strikes.scripted = true;
        let asked = stage.0.in_socket(stage.pid(1));
        stage.play(&format!("break n1 leaving {asked}"));
        stage.until("the second attempt is refused", |stage| stage.role(1) == Role::Follower);
        assert_eq!((stage.0.zoo.adrift(), stage.term()), (1, term), "the first attempt is still on its way");
        stage.quota(false);
        stage.until("the first attempt lands", |stage| stage.term() > term);
        assert_eq!(stage.role(1), Role::Follower);
        stage.must_recover();
    });
}
