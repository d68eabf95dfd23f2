//! What an operator, a disk or an enforced quota may do to an ensemble.

use bytes::Bytes;

use super::{Change, Server, Session, SessionId, Tree, ZooModel};
use crate::keeper::{Op, Outcome, Reason, Refusal, Request};

/// The state of the whole ensemble at some moment, to be put back later.
#[derive(Clone, Debug)]
pub struct Backup {
    tree: Tree,
    zxid: i64,
}

impl ZooModel {
    /// Withdraws or gives back every permission on one znode.
    pub fn deny(&mut self, path: &str, denied: bool) {
        for tree in self.servers.iter_mut().map(|server| &mut server.tree).chain([&mut self.head]) {
            tree.deny(path, denied);
        }
    }

    /// Lets an enforced quota be exhausted below one znode: nothing can be created there. `None` lifts it.
    pub fn exhaust_quota(&mut self, prefix: Option<&str>) {
        for tree in self.servers.iter_mut().map(|server| &mut server.tree).chain([&mut self.head]) {
            tree.limit(prefix);
        }
    }

    /// Refuses the oldest request of a session's connection: a quota is exhausted, for that one moment, where its first
    /// operation that creates or sets something would write. A request without such an operation is not touched.
    pub fn refuse(&mut self, id: SessionId) {
        let Some(server) = self.attached(id) else { return };
        let Some((request_id, Request::Multi(ops))) = self.session(id).pipe.front() else { return };
        let grows = |op: &Op| matches!(op, Op::Create { .. } | Op::Set { .. });
        let (Some(op), request_id) = (ops.iter().position(grows), *request_id) else { return };
        let refusal = Refusal { op, reason: Reason::QuotaExceeded };
        self.commit(id, Change::Refused(refusal));
        self.catch_up(server);
        self.session(id).pipe.pop_front();
        self.answer(id, server, request_id, Outcome::Refused(refusal));
    }

    /// An operator's hand: overwrites a znode, or removes it with everything below it (`None`).
    pub fn tamper(&mut self, path: &str, data: Option<Bytes>) {
        self.zxid += 1;
        for server in 0..self.servers.len() {
            self.catch_up(server);
        }
        let (zxid, trees) = (self.zxid, self.servers.iter_mut().map(|server| &mut server.tree));
        for tree in trees.chain([&mut self.head]) {
            tree.force(path, data.clone(), zxid);
        }
    }

    /// The ensemble as it is now.
    pub fn backup(&self) -> Backup {
        Backup { tree: self.head.clone(), zxid: self.zxid }
    }

    /// The servers have elected another leader, or the old one again because its numbers ran out: transactions are counted
    /// on in a new epoch. Sessions stay.
    pub fn begin_epoch(&mut self) {
        self.zxid = next_epoch(self.zxid);
    }

    /// The ensemble goes back to an earlier state; every session is over, without a transaction to say so.
    pub fn roll_back(&mut self, backup: &Backup) {
        self.generation += 1;
        self.head = backup.tree.clone();
        // A restarted ensemble counts on in a new epoch.
        self.zxid = next_epoch(backup.zxid);
        self.log.clear();
        self.sockets.clear();
        for server in &mut self.servers {
            *server = Server { tree: self.head.clone(), applied: 0 };
        }
        for session in self.sessions.values_mut() {
            *session = Session { closed: true, ..Session::default() };
        }
    }

    /// The ensemble loses everything.
    pub fn wipe(&mut self) {
        self.roll_back(&Backup { tree: Tree::default(), zxid: 0 });
    }
}

/// The upper half of a number is the epoch, the lower half counts within it.
fn next_epoch(zxid: i64) -> i64 {
    ((zxid >> 32) + 1) << 32
}
