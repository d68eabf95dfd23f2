//! ZooKeeper sessions: how they fall silent, expire, and outlive their processes.

use bequest::replica::event::Event;
use bequest_recovery::keeper::{KeeperEvent, SessionNumber};
use bequest_recovery::model::SessionId;
use rand::Rng;

use crate::death::Death;
use crate::dice::{Organ, Part, Roll};
use crate::keeper::{Silence, SESSION_TIMEOUT};
use crate::mix::MILLI;
use crate::world::{Happening, Pid, World};

impl World {
    /// The client learns, or decides, that its session is over; it goes for a new one.
    pub fn session_over(&mut self, pid: Pid) {
        let Some(mut roll) = self.roll_of(pid, Organ::Connection) else { return };
        let half = roll.random_bool(0.5);
        let Some(client) = self.keeper(pid) else { return };
        let Some(session) = client.session.take() else { return };
        let number = SessionNumber(client.number);
        self.counts.one("session expired");
        self.note(("expired", pid.0, session.0), || format!("{pid:?} finds {session:?} expired"));
        self.tell(pid, Event::Keeper(KeeperEvent::Expired { session: number }));
        if half {
            let Some(client) = self.keeper(pid) else { return };
            for id in client.queue.drain() {
                self.report_unknown(pid, id, "session expired");
            }
        }
        self.after_connection_lost(pid);
    }

    /// The ensemble ends a session.
    pub fn expire_session(&mut self, session: SessionId) {
        if !self.zoo.alive(session) {
            return;
        }
        self.zoo.expire(session);
        self.note(("expire", session.0), || format!("zookeeper expires {session:?}"));
        if let Some(pid) = self.keepers.owners.get(&session).copied() {
            if self.processes.get(&pid).is_some_and(|process| process.paused) {
                self.counts.one("pause outlived the session");
            }
            if let Some(connection) = self.keeper(pid).and_then(|client| client.connection) {
                let delay = self.roll(Part::Session(session.0)).random_range(1..50 * MILLI);
                self.after(delay, Happening::Notice(pid, connection.id));
            }
        }
        self.pump();
    }

    /// Has the ensemble look at a session that fell silent, once its time is over.
    pub fn watch_session(&mut self, session: SessionId) {
        self.keepers.silent.entry(session).or_insert(self.now);
        let slack = self.roll(Part::Session(session.0)).random_range(0..SESSION_TIMEOUT / 3);
        self.after(SESSION_TIMEOUT + slack, Happening::SessionClock(session));
    }

    pub fn session_clock(&mut self, session: SessionId) {
        if !self.zoo.alive(session) {
            return;
        }
        if self.keepers.down {
            self.after(SESSION_TIMEOUT, Happening::SessionClock(session));
            return;
        }
        let silent = self.keepers.silent.get(&session).copied();
        if silent.is_some_and(|since| since + SESSION_TIMEOUT <= self.now) {
            self.expire_session(session);
        }
    }

    /// A paused process goes on, or a mute ends: the ensemble hears of the session again, if it still has it.
    pub fn speak_again(&mut self, pid: Pid) {
        let Some(client) = self.keeper(pid) else { return };
        let (Some(connection), Some(session)) = (client.connection, client.session) else { return };
        if connection.mute == Silence::Both {
            return;
        }
        client.silent_since = None;
        self.keepers.silent.remove(&session);
        if !self.zoo.alive(session) {
            self.after(1, Happening::Notice(pid, connection.id));
        }
    }

    /// How many of the requests in a broken connection's socket stay there, to be served late; the others are lost.
    pub fn adrift(&mut self, roll: &mut Roll, waiting: usize) -> usize {
        let adrift = roll.random_range(0..=waiting);
        if adrift > 0 && self.comes_true(roll, "adrift", || format!("{adrift} of {waiting} requests")) {
            adrift
        } else {
            0
        }
    }

    /// What a dead process leaves at ZooKeeper: a session that lives on for a while, and requests in a socket.
    pub fn abandon_session(&mut self, pid: Pid, death: Death) {
        let Some(client) = self.keeper(pid) else { return };
        let Some(session) = client.session else { return };
        let Some(mut roll) = self.roll_of(pid, Organ::Death) else { return };
        if death == Death::Exit && roll.random_bool(0.5) {
            self.zoo.expire(session);
            self.pump();
            return;
        }
        if self.zoo.attached(session).is_some() {
            let waiting = self.zoo.waiting(session);
            let adrift = self.adrift(&mut roll, waiting);
            self.zoo.cut(session, adrift);
            self.drift();
        }
        self.watch_session(session);
    }
}
