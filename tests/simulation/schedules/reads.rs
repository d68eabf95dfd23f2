//! Answers of a leader that has only just come to lead, or does not know yet that it leads no more.

use bequest::Role;

use super::stage;
use crate::golden::stage::CALM;

/// A successor replays an acknowledged write it had not heard of, and stands. Its first append is in ZooKeeper, but nobody
/// told it so: the same one issued again must be looked up, and a read that came meanwhile is fenced by a check that takes
/// no look.
pub fn a_read_sees_what_was_replayed() {
    stage(&CALM, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows; propose n1; until answered; until quiet");
        let term = stage.term();
        stage.play("cut n1 n2; propose n1; until answered; heal n1 n2; kill n1");
        stage.until("n2 stands", |stage| stage.on_disk(2).0 > term);
        stage.play("mute n2 replies; pass 5ms");
        assert_eq!(stage.0.groups[0].mirror.end().term, stage.term(), "its first append is in ZooKeeper");
        stage.play("break n2");
        stage.until("it is connected", |stage| stage.process(2).keeper.connection.is_some());
        stage.play("pass 200us; read n2");
        assert_eq!(stage.role(2), Role::Successor);
        stage.play("until answered");
        stage.must_recover();
    });
}

/// An append is in ZooKeeper and its answer on the way. Before it arrives another node leads and acknowledges a write, and a
/// read comes to the old leader: the answer says that it led before the read came.
pub fn a_read_is_not_confirmed_by_what_was_asked_before_it() {
    stage(&CALM, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows; propose n1; until answered; until quiet");
        stage.play("cut n1 n2; hold n1 replies; propose n1; pass 5ms; until n2 leads; propose n2; pass 10ms");
        stage.play("read n1; release n1 replies 1; pass 1ms; release n1 replies; until answered; heal n1 n2");
        stage.must_recover();
    });
}

/// An append lies in its socket until another node leads, and has something else at its indexes.
pub fn a_deposed_leader_answers_nothing_as_done() {
    stage(&CALM, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows; propose n1; until answered; until quiet");
        stage.play("cut n1 n2; hold n1 requests; propose n1 x3; pass 5ms; until n2 leads; propose n2 x3");
        stage.play("release n1 requests; pass 5ms; heal n1 n2; until answered");
        stage.must_recover();
    });
}
