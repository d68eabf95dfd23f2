//! What is said to, and by, a node's earlier lives.

use bequest::replica::event::{Event, LinkEvent, NodeId};

use super::{stage, Stage};
use crate::death::Death;
use crate::golden::hold::Part;
use crate::golden::peers::of_term;
use crate::golden::stage::CALM;
use crate::network::Block;
use crate::world::{Happening, Pid};

impl Stage {
    /// A life of n1 has acknowledged entries of n2, which leads; then the power fails, and takes along that they were
    /// written. What its next life has instead, at the same indexes, are entries of its own from an earlier term, attached
    /// to the WAL's end: n2's are on their way to ZooKeeper still. Now they land. Returns the life that ended; n2, which
    /// has not heard of that, goes on sending to it.
    fn a_suffix_comes_back(&mut self) -> Pid {
        self.play("start n1; until n1 leads; start n2; until n2 follows; propose n1; until answered; until quiet");
        let (term, place) = (self.term(), Self::place(1));
        self.play("cut n1 n2; hold n1 requests; propose n1 x2; pass 5ms");
        self.0.disks.get_mut(&place).expect("a disk").back_up();
        let suffix = self.on_disk(1);
        self.until("n2 stands", |stage| stage.on_disk(2).0 > term);
        self.play("hold n2 requests; propose n2; heal n1 n2; release n1 requests");
        self.until("n1 has what n2 wrote", |stage| stage.on_disk(1) == (stage.term(), suffix.1));
        self.play("pass 5ms");
        assert!(self.0.groups[0].mirror.end().index < suffix.1, "nothing of it is in ZooKeeper");

        let former = self.pid(1);
        self.0.hold(former, Part::Messages);
        self.0.block(1, 2, Block::Silent);
        self.0.die(former, Death::Power);
        let disk = self.0.disks.get_mut(&place).expect("a disk");
        disk.put_back(disk.copies() - 1);
        self.play("start n1; until n1 follows; hold n1 requests");
        assert_eq!(self.on_disk(1), suffix, "the suffix is kept");
        while self.0.groups[0].mirror.end().index < suffix.1 {
            self.play("release n2 requests 1; pass 10us");
        }
        assert_eq!(self.term(), term + 1);
        former
    }
}

/// A heartbeat says up to where what was acknowledged is committed, and not what that is: heard by another life than the one
/// that acknowledged it, it would commit what that life has there.
pub fn a_heartbeat_to_an_earlier_life_commits_nothing() {
    stage(&CALM, |stage| {
        let former = stage.a_suffix_comes_back();
        stage.play("pass 130ms");
        // A router kept copies, and delivers them to who has the address now.
        let sent = stage.0.held.remove(&(former, Part::Messages)).unwrap_or_default();
        assert!(!sent.is_empty(), "n2 sends nothing to the life that ended");
        for happening in sent {
            let Happening::Message { from, bytes, .. } = happening else { continue };
            stage.0.stale_message(NodeId(1), from, bytes);
        }
        stage.play("pass 5ms");
        stage.must_recover();
    });
}

/// The same heartbeat is due in the very step in which a leader's core meets the new life.
pub fn a_heartbeat_due_as_a_new_life_is_met_commits_nothing() {
    stage(&CALM, |stage| {
        stage.a_suffix_comes_back();
        stage.play("pass 5ms; hold n2 core; heal n1 n2");
        stage.until("the handshake is complete", |stage| {
            let met = |event: &Event| matches!(event, Event::Link(_, LinkEvent::Up { .. }));
            stage.process(2).inbox.iter().any(met)
        });
        stage.play("pass 130ms; release n2 core; pass 5ms");
        stage.must_recover();
    });
}

/// A follower whose Raft believed a term from a message would ignore its leader from then on.
pub fn a_term_that_no_ballot_showed_deafens_nobody() {
    stage(&CALM, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows; propose n1; until answered; until quiet");
        let second = stage.pid(2);
        // A follower whose answer is missing is sent heartbeats.
        stage.play("hold n2 messages; propose n1; pass 130ms");
        let sent = stage.0.held.remove(&(second, Part::Messages)).unwrap_or_default();
        let mut forged = 0;
        for happening in sent {
            let Happening::Message { from, link, bytes, .. } = happening else { continue };
            let damaged = of_term(&bytes, 1 << 40);
            forged += u32::from(damaged.is_some());
            stage.0.message(second, from, link, damaged.unwrap_or(bytes));
        }
        assert!(forged > 0, "no heartbeat came");
        stage.must_recover();
    });
}

/// What is lost on the way to a follower is repeated, and nothing else: raft-rs' heartbeats to a follower that has everything,
/// and knows what of it is committed, would only cost.
pub fn a_leader_repeats_only_what_may_be_lost() {
    stage(&CALM, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows; propose n1; until answered; until quiet");
        let second = stage.pid(2);
        let of_raft = |stage: &Stage| {
            let held = stage.0.held.get(&(second, Part::Messages)).into_iter().flatten();
            let raft =
                |held: &&Happening| matches!(held, Happening::Message { bytes, .. } if of_term(bytes, 1).is_some());
            held.filter(raft).count()
        };
        stage.play("hold n2 messages; pass 140ms");
        assert_eq!(of_raft(stage), 0, "heartbeats");
        stage.play("propose n1; until answered; pass 1ms");
        let said = of_raft(stage);
        stage.play("pass 140ms");
        assert!(of_raft(stage) > said, "nothing is repeated");
        stage.must_recover();
    });
}
