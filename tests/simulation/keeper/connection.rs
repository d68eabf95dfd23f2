//! How connections to ZooKeeper are lost and found again.

use bequest::replica::event::Event;
use bequest_recovery::keeper::{KeeperEvent, SessionNumber};
use bequest_recovery::model::AttachError;
use rand::Rng;

use super::{Connection, Silence, SELF_EXPIRY, SESSION_TIMEOUT};
use crate::dice::Organ;
use crate::mix::{Micros, MILLI};
use crate::world::{Happening, Pid, World};

impl World {
    /// A connection ends and its client finds out. Up to `adrift` requests stay in the server's socket.
    pub fn break_connection(&mut self, pid: Pid, adrift: usize) {
        let now = self.now;
        let Some(client) = self.keeper(pid) else { return };
        let (Some(_), Some(session)) = (client.connection.take(), client.session) else { return };
        let number = SessionNumber(client.number);
        let outstanding = std::mem::take(&mut client.outstanding);
        let watching = std::mem::take(&mut client.watching);
        let done = std::mem::take(&mut client.done);
        let reported = std::mem::take(&mut client.reported);
        client.lost_at = now;
        client.falls_silent(now);
        if self.zoo.attached(session).is_some() {
            self.zoo.cut(session, adrift);
        }
        self.note(("cut", pid.0, outstanding.len()), || {
            format!("{pid:?} loses its connection to zookeeper, {} requests unknown", outstanding.len())
        });
        self.counts.one("connection to zookeeper lost");
        let Some(mut roll) = self.roll_of(pid, Organ::Connection) else { return };
        let first = roll.random_bool(0.5);
        if first {
            self.tell(pid, Event::Keeper(KeeperEvent::Disconnected { session: number }));
        }
        for name in outstanding {
            if done.contains(&name) {
                self.counts.one("lost reply of an applied write");
            }
            let lost = self.keeper(pid).map_or_else(Vec::new, |client| client.bundles.lost(name));
            for id in lost.into_iter().filter(|id| !reported.contains(id)) {
                self.report_unknown(pid, id, "connection lost");
            }
        }
        for path in watching {
            self.tell(pid, Event::Keeper(KeeperEvent::Changed { path }));
        }
        if !first {
            self.tell(pid, Event::Keeper(KeeperEvent::Disconnected { session: number }));
        }
        self.watch_session(session);
        self.drift();
        self.after_connection_lost(pid);
    }

    /// Has the client try for a connection soon.
    pub fn after_connection_lost(&mut self, pid: Pid) {
        let Some(mut roll) = self.roll_of(pid, Organ::Connection) else { return };
        let delay = roll.random_range(MILLI..50 * MILLI);
        let Some(client) = self.keeper(pid) else { return };
        client.reconnect_serial += 1;
        let serial = client.reconnect_serial;
        self.after(delay, Happening::Reconnect(pid, serial));
    }

    pub fn reconnect(&mut self, pid: Pid, serial: u64) {
        let now = self.now;
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::Reconnect(pid, serial));
            return;
        }
        let node = process.place.node;
        let self_expiry = process.clock.until(SELF_EXPIRY);
        let client = &mut process.keeper;
        if client.reconnect_serial != serial || client.connection.is_some() {
            return;
        }
        if client.session.is_some() && now > client.lost_at + self_expiry {
            self.counts.one("session given up by its client");
            self.session_over(pid);
            return;
        }
        if self.keepers.down || self.keepers.isolated.contains(&node) {
            self.after_connection_lost(pid);
            return;
        }
        let Some(mut roll) = self.roll_of(pid, Organ::Connection) else { return };
        let Some(server) = self.some_server(&mut roll) else {
            self.after_connection_lost(pid);
            return;
        };
        let Some(client) = self.keeper(pid) else { return };
        let session = match client.session {
            None => {
                client.number += 1;
                let session = self.zoo.connect(server);
                self.keepers.owners.insert(session, pid);
                session
            }
            Some(session) => match self.zoo.attach(session, server) {
                Ok(()) => session,
                Err(AttachError::Behind) => {
                    self.counts.one("server behind the session");
                    self.after_connection_lost(pid);
                    return;
                }
                Err(AttachError::Expired) => {
                    self.session_over(pid);
                    return;
                }
            },
        };
        self.keepers.silent.remove(&session);
        let id = self.fresh();
        let Some(client) = self.keeper(pid) else { return };
        client.session = Some(session);
        client.connection = Some(Connection { id, server, mute: Silence::Nothing });
        client.silent_since = None;
        let number = SessionNumber(client.number);
        self.note(("connected", pid.0, session.0, server), || {
            format!("{pid:?} is connected to server {server} by {session:?}")
        });
        let event = KeeperEvent::Connected { session: number, timeout_ms: SESSION_TIMEOUT / MILLI };
        self.tell(pid, Event::Keeper(event));
        self.flush(pid);
        self.pump();
    }

    /// A client finds its connection dead that has been so for a while.
    pub fn notice(&mut self, pid: Pid, connection: u64) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::Notice(pid, connection));
            return;
        }
        let Some(session) = process.keeper.session else { return };
        if process.keeper.connection.is_some_and(|current| current.id == connection) {
            let waiting = self.zoo.waiting(session);
            let Some(mut roll) = self.roll_of(pid, Organ::Connection) else { return };
            let adrift = self.adrift(&mut roll, waiting);
            self.break_connection(pid, adrift);
        }
    }

    /// Takes a part of a connection's life away; the client notices after a while.
    pub fn mute(&mut self, pid: Pid, mute: Silence, notice: Micros) {
        let now = self.now;
        let Some(client) = self.keeper(pid) else { return };
        let (Some(connection), Some(session)) = (&mut client.connection, client.session) else { return };
        connection.mute = mute;
        let id = connection.id;
        if mute == Silence::Both {
            client.falls_silent(now);
            self.watch_session(session);
        }
        self.after(notice, Happening::Notice(pid, id));
    }
}
