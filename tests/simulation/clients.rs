//! Clients: writes, writes through sessions with retries, and reads, at whichever node they like.

use std::collections::BTreeMap;

use bequest::apply::Answer;
use bequest::command::{Command, SessionRequest};
use bequest::replica::event::{Event, Token};
use bequest::{ProposeError, ReadError};
use rand::Rng;

use crate::host::Output;
use crate::machine::{answered_index, command, KEYS};
use crate::process::NUMBER;
use crate::world::{Happening, Pid, World};

// A process that owes this many answers is asked nothing more.
const WAITING_MAX: usize = 24;
// Requests a session leaves open at once.
const OPEN_MAX: usize = 4;

/// What a token is for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    Write { value: u64 },
    InSession { client: u64, value: u64, request: SessionRequest },
    Open { client: u64 },
    Read { key: u64, floor: u64 },
}

#[derive(Debug, Default)]
struct Client {
    session: Option<u64>,
    opening: bool,
    next: u64,
    // Sequence numbers not answered, with their values.
    open: BTreeMap<u64, u64>,
    // Everything below was answered, or given up.
    settled: u64,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    tokens: BTreeMap<Token, (Pid, Purpose)>,
    values: u64,
    stopped: bool,
    /// Indexes and values of writes acknowledged since this was emptied.
    pub acknowledged: u64,
    /// Reads answered.
    pub answered: u64,
}

impl Clients {
    pub fn new(count: u64) -> Self {
        Self {
            clients: (0..count).map(|_| Client::default()).collect(),
            tokens: BTreeMap::new(),
            values: 0,
            stopped: false,
            acknowledged: 0,
            answered: 0,
        }
    }

    /// No client begins anything any more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Tokens nobody answered yet.
    pub fn waiting(&self) -> usize {
        self.tokens.len()
    }

    /// One that waits, for the report.
    pub fn first_waiting(&self) -> Option<(Token, Pid, Purpose)> {
        self.tokens.iter().next().map(|(token, (pid, purpose))| (*token, *pid, *purpose))
    }
}

impl World {
    pub fn client_acts(&mut self, client: u64) {
        if self.clients.stopped {
            return;
        }
        let think = self.draw(self.mix.think);
        self.after(think, Happening::Client(client));
        let Some(pid) = self.somebody() else { return };
        match self.rng.random_range(0..100) {
            0..25 => self.read(pid),
            25..55 => self.write(pid),
            _ => self.write_in_session(pid, client),
        }
    }

    /// Mostly who leads, sometimes anybody.
    fn somebody(&mut self) -> Option<Pid> {
        let leaders = self.leaders().into_keys();
        let leaders: Vec<Pid> = leaders.filter(|pid| self.processes[pid].tokens.len() < WAITING_MAX).collect();
        let all: Vec<Pid> = self
            .processes
            .values()
            .filter(|process| process.joined && process.tokens.len() < WAITING_MAX)
            .map(|process| process.pid)
            .collect();
        let from = if leaders.is_empty() || self.rng.random_ratio(1, 8) { all } else { leaders };
        self.pick(&from)
    }

    /// A linearizable read of some key.
    pub fn read(&mut self, pid: Pid) {
        let key = self.rng.random_range(0..KEYS);
        let token = self.ask(pid, Purpose::Read { key, floor: self.history.floor });
        self.tell(pid, Event::Read { group: NUMBER, token });
    }

    /// A write without a session.
    pub fn write(&mut self, pid: Pid) {
        let (key, value) = self.new_value();
        self.history.attempt(key, value);
        let data = Command::Plain(self.padded(key, value)).encode();
        let token = self.ask(pid, Purpose::Write { value });
        self.tell(pid, Event::Propose { group: NUMBER, token, data });
    }

    fn new_value(&mut self) -> (u64, u64) {
        self.clients.values += 1;
        (self.rng.random_range(0..KEYS), self.clients.values)
    }

    // Equal bytes for equal values: a retry is the same command.
    fn padded(&self, key: u64, value: u64) -> bytes::Bytes {
        let padding = match value % 40 {
            0 => 600,
            place => place as usize * 3,
        };
        command(key, value, padding)
    }

    fn write_in_session(&mut self, pid: Pid, number: u64) {
        let client = &mut self.clients.clients[number as usize];
        let Some(session) = client.session else {
            if !std::mem::replace(&mut client.opening, true) {
                let token = self.ask(pid, Purpose::Open { client: number });
                self.tell(pid, Event::Propose { group: NUMBER, token, data: Command::OpenSession.encode() });
            }
            return;
        };
        let retry = client.open.len() >= OPEN_MAX || (!client.open.is_empty() && self.rng.random_bool(0.4));
        let (sequence, value) = if retry {
            let open: Vec<(u64, u64)> =
                self.clients.clients[number as usize].open.iter().map(|(s, v)| (*s, *v)).collect();
            self.pick(&open).expect("some are open")
        } else {
            let (key, value) = self.new_value();
            self.history.writes.entry(value).or_default().key = key;
            let client = &mut self.clients.clients[number as usize];
            client.next += 1;
            client.open.insert(client.next, value);
            (client.next, value)
        };
        let client = &self.clients.clients[number as usize];
        let lowest_open = client.open.keys().next().copied().unwrap_or(sequence).min(sequence);
        let request = SessionRequest { session, sequence, lowest_open };
        let key = self.history.writes[&value].key;
        self.history.attempt(key, value);
        let data = Command::InSession(request, self.padded(key, value)).encode();
        let token = self.ask(pid, Purpose::InSession { client: number, value, request });
        self.tell(pid, Event::Propose { group: NUMBER, token, data });
    }

    fn ask(&mut self, pid: Pid, purpose: Purpose) -> Token {
        let token = self.fresh_token();
        self.clients.tokens.insert(token, (pid, purpose));
        if let Some(process) = self.processes.get_mut(&pid) {
            process.tokens.insert(token);
        }
        token
    }

    fn answered(&mut self, pid: Pid, token: Token) -> Purpose {
        let (asked, purpose) = self.clients.tokens.remove(&token).unwrap_or_else(|| panic!("{token:?} answered twice"));
        assert_eq!(asked, pid, "{token:?} was answered by another process");
        if let Some(process) = self.processes.get_mut(&pid) {
            process.tokens.remove(&token);
        }
        purpose
    }

    /// A process died: nobody will answer what was asked of it.
    pub fn forget_tokens(&mut self, pid: Pid) {
        let gone: Vec<Token> =
            self.clients.tokens.iter().filter(|(_, (asked, _))| *asked == pid).map(|(token, _)| *token).collect();
        for token in gone {
            if let Some((_, Purpose::Open { client })) = self.clients.tokens.remove(&token) {
                self.clients.clients[client as usize].opening = false;
            }
        }
    }

    pub fn proposal_refused(&mut self, pid: Pid, token: Token, error: &ProposeError) {
        let purpose = self.answered(pid, token);
        let unknown = matches!(error, ProposeError::Unknown);
        self.counts.one(match error {
            ProposeError::Unknown => "outcome unknown to a client",
            ProposeError::Busy { .. } => "busy",
            ProposeError::NotLeader { .. } => "proposal refused: not leader",
            ProposeError::ShuttingDown => "proposal refused: shutting down",
            ProposeError::ProposalTooLarge { .. } => "proposal refused: too large",
            _ => "proposal refused otherwise",
        });
        match purpose {
            Purpose::Write { value } | Purpose::InSession { value, .. } if !unknown => self.history.refused(value),
            Purpose::Write { .. } | Purpose::InSession { .. } => {}
            Purpose::Open { client } => self.clients.clients[client as usize].opening = false,
            Purpose::Read { .. } => panic!("{token:?} is a read and was refused as a proposal"),
        }
    }

    pub fn read_refused(&mut self, pid: Pid, token: Token, error: &ReadError) {
        let purpose = self.answered(pid, token);
        assert!(matches!(purpose, Purpose::Read { .. }), "{token:?} is a proposal and was refused as a read: {error}");
        self.counts.one("read refused");
    }

    pub fn machine_job(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::MachineJob(pid));
            return;
        }
        let before = process.host.applied();
        let output = process.host.work();
        let after = process.host.applied();
        self.check_applied(pid, before, after, &output);
        self.machine_output(pid, output);
        let delay = self.draw(self.mix.machine);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.machine_busy = !process.host.idle();
        if process.machine_busy {
            self.after(delay, Happening::MachineJob(pid));
        }
    }

    /// Nothing is applied that is not in ZooKeeper, and a restored state is the one of its index.
    fn check_applied(&mut self, pid: Pid, before: u64, after: u64, output: &[Output]) {
        let end = self.mirror.end().index;
        assert!(after <= end, "I1: {pid:?} applied {after}, the log in zookeeper ends at {end}");
        if output.iter().any(|output| matches!(output, Output::Restored)) {
            self.counts.one("restore finished");
            self.note(("restored", pid.0, after), || format!("{pid:?} restored the state at {after}"));
            for key in 0..KEYS {
                let list = self.processes[&pid].host.list(key);
                assert_eq!(
                    list,
                    self.history.list(key, after),
                    "I4: {pid:?} restored another state of {after}, key {key}"
                );
            }
        } else {
            assert!(after >= before, "{pid:?} went back from {before} to {after} without a restore");
        }
    }

    pub fn machine_output(&mut self, pid: Pid, output: Vec<Output>) {
        for output in output {
            match output {
                Output::Event(event) => self.tell(pid, Event::Machine(NUMBER, event)),
                Output::Took(took) => self.history.took(pid, took),
                Output::Write(state) => {
                    if let Some(place) = self.processes.get(&pid).map(|process| process.place) {
                        self.disks.entry(place).or_default().write(crate::disk::Write::Machine(state));
                    }
                }
                Output::Restored => {}
                Output::Answer(token, answer) => self.proposal_answered(pid, token, &answer),
                Output::Query(token) => self.query(pid, token),
            }
        }
    }

    fn proposal_answered(&mut self, pid: Pid, token: Token, answer: &Answer) {
        let purpose = self.answered(pid, token);
        let end = self.mirror.end().index;
        match (purpose, answer) {
            (Purpose::Open { client }, Answer::Opened { session }) => {
                self.clients.clients[client as usize] =
                    Client { session: Some(*session), next: 0, settled: 0, ..Client::default() };
            }
            (Purpose::Write { value }, Answer::Machine(bytes)) => {
                self.acknowledge(value, answered_index(bytes).expect("the machine answers with an index"), end);
            }
            (Purpose::InSession { client, value, request }, Answer::Machine(bytes)) => {
                let index = answered_index(bytes).expect("the machine answers with an index");
                if self.history.writes[&value].acknowledged.is_some() {
                    self.counts.one("applied by a twin attempt once");
                }
                self.acknowledge(value, index, end);
                let client = &mut self.clients.clients[client as usize];
                if client.session == Some(request.session) {
                    client.open.remove(&request.sequence);
                    client.settled = client.settled.max(request.lowest_open);
                }
            }
            // A late attempt of a request that another attempt settled.
            (Purpose::InSession { value, .. }, Answer::Superseded { .. }) => {
                let write = &self.history.writes[&value];
                assert!(write.acknowledged.is_some(), "value {value} was superseded while its client still wants it");
                self.counts.one("superseded");
            }
            (purpose, answer) => panic!("{pid:?} answered {purpose:?} with {answer:?}"),
        }
    }

    fn acknowledge(&mut self, value: u64, index: u64, end: u64) {
        self.history.acknowledged(value, index, end);
        self.clients.acknowledged += 1;
        self.counts.one("acknowledged");
        self.note(("acknowledged", value, index), || format!("value {value} is acknowledged at {index}"));
    }

    fn query(&mut self, pid: Pid, token: Token) {
        let purpose = self.answered(pid, token);
        let Purpose::Read { key, floor } = purpose else { panic!("{token:?} was answered as a read: {purpose:?}") };
        let host = &self.processes[&pid].host;
        let (applied, list) = (host.applied(), host.list(key));
        self.history.read(pid, floor, applied, key, &list);
        self.clients.answered += 1;
        self.counts.one("read");
        self.note(("read", key, applied), || format!("{pid:?} answers a read of key {key} at {applied}"));
    }
}
