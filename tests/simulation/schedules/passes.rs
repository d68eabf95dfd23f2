//! Read passes over what changes under the reader, or is shown by servers that are behind.

use bequest_recovery::path::GroupPaths;

use super::{stage, Stage};
use crate::genesis;
use crate::golden::hold::Part;
use crate::golden::stage::CALM;
use crate::mix::Mix;

/// Two servers, of which one can be left behind.
const SERVERS: Mix = Mix { name: "two servers, by hand", servers: 2, ..CALM };
/// Answers to a successor that come before the one that lists a bucket: all at once, those to its seal, the pointer, the WALs
/// and the buckets of the newest.
const ANSWERS_BEFORE: usize = 1;
/// A short log, so that a new leader soon trims what the one before it wrote.
const SHORT: Mix = Mix { name: "short log, by hand", wal_segments: 90, ..CALM };

/// A session opened in the middle of a pass promises nothing about what the pass has seen. Its connection breaks before
/// anything was answered, and the server it moves to has not even applied its opening: what the pass found listed before
/// is missing there, and that would be believed, since the check that closes the pass is a transaction.
pub fn a_pass_ends_with_its_session() {
    stage(&SERVERS, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows; propose n1; until answered; until quiet");
        // From here on one server applies nothing.
        stage.0.keepers.closed.insert(0);
        stage.0.keepers.lagging.insert(0);
        stage.play("propose n1; until answered; kill n1; until n2 succeeds");
        stage.until("it has sealed", |stage| stage.0.groups[0].mirror.ballot.0.node == 2);
        // Its core is slow to take the last answer before it asks for segments: the listing of a bucket.
        stage.play("hold n2 replies; pass 3ms");
        for _ in 0..ANSWERS_BEFORE {
            let waiting = stage.waiting(2);
            stage.play(&format!("release n2 replies {waiting}; pass 3ms"));
        }
        stage.play("hold n2 core; release n2 replies; pass 1ms");
        stage.another_session_moves_to_the_server_behind();
        stage.play("release n2 core; pass 10ms");
        stage.must_recover();
    });
}

impl Stage {
    /// n2's session expires while its core is held up; the next one is opened on the server that is not behind, and moves to
    /// the other before anything was asked on it.
    fn another_session_moves_to_the_server_behind(&mut self) {
        let session = self.process(2).keeper.session;
        self.play("break n2; expire n2");
        self.until("it has another session", |stage| {
            let keeper = &stage.process(2).keeper;
            keeper.connection.is_some() && keeper.session.is_some() && keeper.session != session
        });
        self.0.keepers.closed = [1].into();
        self.play("break n2");
        self.until("it is connected", |stage| stage.process(2).keeper.connection.is_some());
        assert!(self.0.zoo.lag(0) > 0, "the server has not applied the opening");
    }

    /// How many answers to a node are held back.
    fn waiting(&self, node: u64) -> usize {
        self.0.held[&(self.pid(node), Part::Replies)].len()
    }

    /// How many WALs there are.
    fn wals(&self) -> usize {
        let wals = format!("{}/", GroupPaths::new(&genesis::name(0)).wals());
        self.0.zoo.head().below(&wals).filter(|(path, _)| !path[wals.len()..].contains('/')).count()
    }
}

/// A seal whose answer was lost is known to be won by a look at the ballot; by then there is another session, on a server that is
/// behind. Read there without a transaction first, a WAL is missing that was written after what this server has applied.
pub fn a_pass_is_opened_on_its_own_session() {
    stage(&SERVERS, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows; until quiet");
        stage.0.keepers.closed.insert(0);
        stage.0.keepers.lagging.insert(0);
        stage.play("hand over n1; until n2 leads; until n1 follows; until quiet");
        stage.play("hand over n2; until n1 leads; until n2 follows; propose n1; until answered; until quiet");
        stage.play("kill n1; until n2 succeeds; mute n2 replies; pass 2ms; break n2");
        assert_eq!(stage.0.groups[0].mirror.ballot.0.node, 2, "it has sealed");
        stage.until("it is connected", |stage| stage.process(2).keeper.connection.is_some());
        stage.play("pass 1ms; hold n2 core; pass 3ms");
        stage.another_session_moves_to_the_server_behind();
        stage.play("release n2 core; pass 10ms");
        stage.must_recover();
    });
}

/// What was listed is gone, one WAL after the other, because the next leader trimmed it: nothing is damaged, the reader was
/// deposed. Its own look at the ballot would say so, and waits behind the pass in a window that is full.
pub fn what_a_pass_misses_is_not_believed_once_the_ballot_moved() {
    stage(&SHORT, |stage| {
        stage.play("start n1; until n1 leads; start n2; until n2 follows");
        for _ in 0..3 {
            stage.play("hand over n1; until n2 leads; until n1 follows; until quiet");
            stage.play("hand over n2; until n1 leads; until n2 follows; until quiet");
        }
        let second = stage.pid(2);
        stage.0.keeper(second).expect("it lives").window = 4;
        let listed = stage.wals();
        assert!(listed > 6, "{listed} WALs");
        let term = stage.term();
        stage.play("hand over n1; until n2 succeeds");
        stage.until("it has sealed", |stage| stage.term() > term);
        // The WALs are listed, and nothing of them is read yet, when its core is held up for long.
        stage.play("pass 2500us; hold n2 core; cut n1 n2; until n1 leads");
        while stage.wals() > 1 {
            stage.play("propose n1; until answered; pass 20ms");
        }
        stage.play("hold n2 replies; release n2 core; pass 3ms; release n2 replies 1; pass 1ms; release n2 replies");
        stage.play("pass 100ms; heal n1 n2");
        stage.must_recover();
    });
}
