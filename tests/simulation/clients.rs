//! Clients: writes and transfers, with and without sessions and retries, reads and scans, at whichever node they like.

use std::collections::BTreeMap;

use bequest::apply::Answer;
use bequest::command::{Command, SessionRequest};
use bequest::replica::event::{Event, MachineEvent, Token};
use bequest::{ProposeError, ReadError};
use rand::Rng;

use crate::blows::Blow;
use crate::dice::{Organ, Part, Roll};
use crate::history::Known;
use crate::host::Output;
use crate::ledger::{between, transfer, ACCOUNTS};
use crate::machine::{answered_index, command, KEYS};
use crate::pairs::strike::Outcome;
use crate::process::{number, Process};
use crate::steps::Step;
use crate::world::{Group, Happening, Pid, World};

// So many writes after the last turn of machines' states into data files, the next one comes.
const UNFLUSHED_MAX: usize = 30;

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
    Read { key: u64, known: Known },
    Scan { known: Known },
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
    pub fn client_acts(&mut self, group: usize, client: u64) {
        if self.groups[group].clients.stopped {
            return;
        }
        let mut roll = self.roll(Part::Client(group, client));
        let think = self.lasts(&mut roll, self.mix.think);
        self.after(think, Happening::Client(group, client));
        let act = roll.random_range(0..100);
        let Some(pid) = self.somebody(&mut roll, group) else { return };
        match act {
            0..18 => self.read(group, pid),
            18..25 => self.scan(group, pid),
            25..55 => self.write(group, pid),
            _ => self.write_in_session(&mut roll, group, pid, client),
        }
    }

    /// Mostly who leads, sometimes anybody.
    fn somebody(&self, roll: &mut Roll, group: usize) -> Option<Pid> {
        let free = |process: &Process| process.replicas[group].tokens.len() < WAITING_MAX;
        let leaders = self.leaders(group).into_keys();
        let leaders: Vec<Pid> = leaders.filter(|pid| free(&self.processes[pid])).collect();
        let joined = self.processes.values().filter(|process| process.replicas[group].joined && free(process));
        let all: Vec<Pid> = joined.map(|process| process.pid).collect();
        let anybody = roll.random_ratio(1, 8);
        roll.pick(&if leaders.is_empty() || anybody { all } else { leaders })
    }

    /// A linearizable read of some key.
    pub fn read(&mut self, group: usize, pid: Pid) {
        let key = self.roll(Part::Keys(group)).random_range(0..KEYS);
        let token = self.ask(group, pid, Purpose::Read { key, known: self.groups[group].history.known() });
        self.tell(pid, Event::Read { group: number(group), token });
    }

    /// A linearizable look at all lists and accounts at once.
    pub fn scan(&mut self, group: usize, pid: Pid) {
        let token = self.ask(group, pid, Purpose::Scan { known: self.groups[group].history.known() });
        self.tell(pid, Event::Read { group: number(group), token });
    }

    /// A write without a session.
    pub fn write(&mut self, group: usize, pid: Pid) {
        let (key, value) = self.new_value(group);
        self.groups[group].history.attempt(key, value);
        let data = Command::Plain(self.padded(key, value)).encode();
        let token = self.ask(group, pid, Purpose::Write { value });
        self.tell(pid, Event::Propose { group: number(group), token, data });
    }

    fn new_value(&mut self, group: usize) -> (u64, u64) {
        let mut roll = self.roll(Part::Keys(group));
        let key = roll.random_range(0..KEYS);
        let clients = &mut self.groups[group].clients;
        clients.values += 1;
        let value = clients.values;
        if roll.random_ratio(1, 4) {
            let from = roll.random_range(0..ACCOUNTS);
            let to = (from + roll.random_range(1..ACCOUNTS)) % ACCOUNTS;
            return (transfer(from, to), value);
        }
        (key, value)
    }

    // Equal bytes for equal values: a retry is the same command.
    fn padded(&self, key: u64, value: u64) -> bytes::Bytes {
        let padding = match value % 40 {
            0 => 600,
            place => place as usize * 3,
        };
        command(key, value, padding)
    }

    fn write_in_session(&mut self, roll: &mut Roll, group: usize, pid: Pid, place: u64) {
        let client = &mut self.groups[group].clients.clients[place as usize];
        let Some(session) = client.session else {
            if !std::mem::replace(&mut client.opening, true) {
                self.open_session(group, pid, place);
            }
            return;
        };
        let retry = client.open.len() >= OPEN_MAX || (!client.open.is_empty() && roll.random_bool(0.4));
        let (sequence, value) = if retry {
            let open: Vec<(u64, u64)> =
                self.groups[group].clients.clients[place as usize].open.iter().map(|(s, v)| (*s, *v)).collect();
            roll.pick(&open).expect("some are open")
        } else {
            self.new_request(group, place)
        };
        self.send_in_session(group, pid, place, session, sequence, value);
    }

    fn send_in_session(&mut self, group: usize, pid: Pid, place: u64, session: u64, sequence: u64, value: u64) {
        let client = &self.groups[group].clients.clients[place as usize];
        let lowest_open = client.open.keys().next().copied().unwrap_or(sequence).min(sequence);
        let request = SessionRequest { session, sequence, lowest_open };
        let history = &mut self.groups[group].history;
        let key = history.writes[&value].key;
        history.attempt(key, value);
        let data = Command::InSession(request, self.padded(key, value)).encode();
        let token = self.ask(group, pid, Purpose::InSession { client: place, value, request });
        self.tell(pid, Event::Propose { group: number(group), token, data });
    }

    fn new_request(&mut self, group: usize, place: u64) -> (u64, u64) {
        let (key, value) = self.new_value(group);
        self.groups[group].history.writes.entry(value).or_default().key = key;
        let client = &mut self.groups[group].clients.clients[place as usize];
        client.next += 1;
        client.open.insert(client.next, value);
        (client.next, value)
    }

    /// Opens a session for a client.
    pub fn open_session(&mut self, group: usize, pid: Pid, place: u64) {
        let token = self.ask(group, pid, Purpose::Open { client: place });
        self.tell(pid, Event::Propose { group: number(group), token, data: Command::OpenSession.encode() });
    }

    /// A client's next write in its session, or once more the oldest that is open; `false` if there is none.
    pub fn write_or_retry(&mut self, group: usize, pid: Pid, place: u64, retry: bool) -> bool {
        let client = &self.groups[group].clients.clients[place as usize];
        let Some(session) = client.session else { return false };
        let oldest = client.open.iter().next().map(|(sequence, value)| (*sequence, *value));
        let request = if retry { oldest } else { Some(self.new_request(group, place)) };
        let Some((sequence, value)) = request else { return false };
        self.send_in_session(group, pid, place, session, sequence, value);
        true
    }

    fn ask(&mut self, group: usize, pid: Pid, purpose: Purpose) -> Token {
        let token = self.fresh_token();
        if let Some(tale) = &mut self.tale {
            tale.asked(token, &purpose);
        }
        self.groups[group].clients.tokens.insert(token, (pid, purpose));
        if let Some(process) = self.processes.get_mut(&pid) {
            process.replicas[group].tokens.insert(token);
        }
        token
    }

    /// The group a token was made for.
    fn asked_of(&self, token: Token) -> usize {
        let asked = self.groups.iter().position(|group| group.clients.tokens.contains_key(&token));
        asked.unwrap_or_else(|| panic!("{token:?} was answered twice, or never asked"))
    }

    fn answered(&mut self, group: usize, pid: Pid, token: Token) -> Purpose {
        let (asked, purpose) =
            self.groups[group].clients.tokens.remove(&token).unwrap_or_else(|| panic!("{token:?} answered twice"));
        assert_eq!(asked, pid, "{token:?} was answered by another process");
        if let Some(process) = self.processes.get_mut(&pid) {
            process.replicas[group].tokens.remove(&token);
        }
        purpose
    }

    /// A process died: nobody will answer what was asked of it.
    pub fn forget_tokens(&mut self, pid: Pid) {
        for Group { clients, .. } in &mut self.groups {
            let of_pid = clients.tokens.iter().filter(|(_, (asked, _))| *asked == pid);
            let gone: Vec<Token> = of_pid.map(|(token, _)| *token).collect();
            for token in gone {
                if let Some((_, Purpose::Open { client })) = clients.tokens.remove(&token) {
                    clients.clients[client as usize].opening = false;
                }
            }
        }
    }

    pub fn proposal_refused(&mut self, pid: Pid, token: Token, error: &ProposeError) {
        let group = self.asked_of(token);
        let purpose = self.answered(group, pid, token);
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
            Purpose::Write { value } | Purpose::InSession { value, .. } if !unknown => {
                self.groups[group].history.refused(value);
            }
            Purpose::Write { .. } | Purpose::InSession { .. } => {}
            Purpose::Open { client } => self.groups[group].clients.clients[client as usize].opening = false,
            Purpose::Read { .. } | Purpose::Scan { .. } => {
                panic!("{token:?} is a read and was refused as a proposal")
            }
        }
    }

    pub fn read_refused(&mut self, pid: Pid, token: Token, error: &ReadError) {
        let purpose = self.answered(self.asked_of(token), pid, token);
        let reads = matches!(purpose, Purpose::Read { .. } | Purpose::Scan { .. });
        assert!(reads, "{token:?} is a proposal and was refused as a read: {error}");
        self.counts.one("read refused");
    }

    pub fn machine_job(&mut self, pid: Pid, group: usize) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::MachineJob(pid, group));
            return;
        }
        if self.durable && (self.disk_broken(pid) || self.read_fails(pid)) {
            return;
        }
        let struck = self.job_struck(pid);
        let Some(mut roll) = self.roll_of(pid, Organ::Machine(group)) else { return };
        let fails =
            self.hurts(&mut roll, "snapshot-fails", self.mix.snapshot_fails) || struck == Some(Outcome::Refused);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let host = &mut process.replicas[group].host;
        let before = host.applied();
        let snapshots = host.uploading();
        let output = host.work(fails);
        let failed = |output: &Output| matches!(output, Output::Event(MachineEvent::SnapshotFailed { .. }));
        let no_view = snapshots && output.iter().any(failed);
        let after = host.applied();
        if let Some(tale) = &mut self.tale {
            tale.machine_did(self.now, pid, (before, after), &output);
        }
        if no_view {
            self.struck_at(Blow::NoView, Step::Snapshotting);
        }
        self.check_applied(pid, group, before, after, &output);
        if output.iter().any(|output| matches!(output, Output::Write(_))) {
            if let Some(there) = self.write_fails(pid) {
                self.machine_fails(pid, group, output, there);
                return;
            }
        }
        if let Some(outcome @ (Outcome::CrashAfter | Outcome::WipeAfter)) = struck {
            self.machine_dies(pid, group, output, outcome == Outcome::WipeAfter);
            return;
        }
        self.machine_output(pid, group, output);
        let delay = self.takes(&mut roll, self.mix.machine);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        let replica = &mut process.replicas[group];
        replica.machine_busy = !replica.host.idle();
        if replica.machine_busy {
            self.after(delay, Happening::MachineJob(pid, group));
        }
    }

    /// Nothing is applied that is not in ZooKeeper, and a restored state is the one of its index.
    fn check_applied(&mut self, pid: Pid, group: usize, before: u64, after: u64, output: &[Output]) {
        if self.knows_no_better(pid, group) {
            return;
        }
        let end = self.groups[group].mirror.end().index;
        if after > end && (self.is_whole_again(group) || self.follows_another(pid, group, after)) {
            return;
        }
        assert!(after <= end, "I1: {pid:?} applied {after}, the log in zookeeper ends at {end}");
        if output.iter().any(|output| matches!(output, Output::Restored)) {
            self.counts.one("restore finished");
            self.note(("restored", pid.0, after), || format!("{pid:?} restored the state at {after}"));
            if !self.restored_another(pid, group, after) {
                self.check_state(pid, group);
            }
        } else {
            assert!(after >= before, "{pid:?} went back from {before} to {after} without a restore");
        }
    }

    /// A machine's state is the one of its index.
    pub fn check_state(&self, pid: Pid, group: usize) {
        let (host, history) = (&self.processes[&pid].replicas[group].host, &self.groups[group].history);
        let (applied, (accounts, lists)) = (host.applied(), host.scan());
        for (key, list) in (0..).zip(lists) {
            assert_eq!(list, history.list(key, applied), "I4: {pid:?} has another state of {applied}, key {key}");
        }
        accounts.check();
        assert_eq!(accounts, history.accounts(applied), "I4: {pid:?} has other accounts at {applied}");
    }

    /// A machine's process dies right behind a job: what it did is done, and nobody is told.
    fn machine_dies(&mut self, pid: Pid, group: usize, mut output: Vec<Output>, wipe: bool) {
        output.retain(|output| matches!(output, Output::Took(_) | Output::Write(_)));
        self.machine_output(pid, group, output);
        self.kill_now(pid, wipe);
    }

    /// A machine's state could not be written: nobody is told of what it did.
    fn machine_fails(&mut self, pid: Pid, group: usize, mut output: Vec<Output>, there: bool) {
        output.retain(|output| matches!(output, Output::Took(_)) || there && matches!(output, Output::Write(_)));
        self.machine_output(pid, group, output);
    }

    fn disk(&mut self, pid: Pid) -> Option<&mut crate::disk::Disk> {
        let place = self.processes.get(&pid)?.place;
        Some(self.disks.entry(place).or_default())
    }

    pub fn machine_output(&mut self, pid: Pid, group: usize, output: Vec<Output>) {
        for output in output {
            match output {
                Output::Event(event) => self.tell(pid, Event::Machine(number(group), event)),
                Output::Took(took) if self.took_in_ours(pid, group, &took) => {
                    self.groups[group].history.took(pid, took);
                }
                Output::Took(_) => {}
                Output::Write(state) => {
                    if let Some(disk) = self.disk(pid) {
                        disk.write(crate::disk::Write::Machine(group, state));
                        if disk.unflushed() > UNFLUSHED_MAX {
                            disk.flush_machines();
                        }
                    }
                }
                Output::Restored => {
                    if let Some(disk) = self.disk(pid) {
                        disk.flush_machines();
                    }
                }
                Output::Answer(token, answer) => self.proposal_answered(pid, group, token, &answer),
                Output::Query(token) => self.query(pid, group, token),
            }
        }
    }

    fn proposal_answered(&mut self, pid: Pid, group: usize, token: Token, answer: &Answer) {
        let purpose = self.answered(group, pid, token);
        if self.answers_elsewhere(pid, group, token.0, false) {
            return;
        }
        let end = self.groups[group].mirror.end().index;
        match (purpose, answer) {
            (Purpose::Open { client }, Answer::Opened { session }) => {
                self.groups[group].clients.clients[client as usize] =
                    Client { session: Some(*session), next: 0, settled: 0, ..Client::default() };
            }
            (Purpose::Write { value }, Answer::Machine(bytes)) => {
                self.acknowledge(group, value, answered_index(bytes).expect("the machine answers with an index"), end);
            }
            (Purpose::InSession { client, value, request }, Answer::Machine(bytes)) => {
                let index = answered_index(bytes).expect("the machine answers with an index");
                if self.groups[group].history.writes[&value].acknowledged.is_some() {
                    self.counts.one("applied by a twin attempt once");
                }
                self.acknowledge(group, value, index, end);
                let client = &mut self.groups[group].clients.clients[client as usize];
                if client.session == Some(request.session) {
                    client.open.remove(&request.sequence);
                    client.settled = client.settled.max(request.lowest_open);
                }
            }
            // A late attempt of a request that another attempt settled.
            (Purpose::InSession { value, .. }, Answer::Superseded { .. }) => {
                let write = &self.groups[group].history.writes[&value];
                assert!(write.acknowledged.is_some(), "value {value} was superseded while its client still wants it");
                self.counts.one("superseded");
            }
            (purpose, answer) => panic!("{pid:?} answered {purpose:?} with {answer:?}"),
        }
    }

    fn acknowledge(&mut self, group: usize, value: u64, index: u64, end: u64) {
        self.groups[group].history.acknowledged(value, index, end);
        self.groups[group].clients.acknowledged += 1;
        self.counts.one("acknowledged");
        if between(self.groups[group].history.writes[&value].key).is_some() {
            self.counts.one("transfer acknowledged");
        }
        self.note(("acknowledged", value, index), || format!("value {value} is acknowledged at {index}"));
    }

    fn query(&mut self, pid: Pid, group: usize, token: Token) {
        let purpose = self.answered(group, pid, token);
        if self.answers_elsewhere(pid, group, token.0, true) {
            return;
        }
        let applied = self.processes[&pid].replicas[group].host.applied();
        let (Purpose::Read { known, .. } | Purpose::Scan { known }) = purpose else {
            panic!("{token:?} was answered as a read: {purpose:?}");
        };
        // All that its disk knew of is there, and what it cannot know of is not.
        if applied < known.floor && self.follows_another(pid, group, applied + 1) {
            return;
        }
        let host = &self.processes[&pid].replicas[group].host;
        let Group { history, clients, .. } = &mut self.groups[group];
        clients.answered += 1;
        let key = match purpose {
            Purpose::Read { key, .. } => key,
            _ => {
                let (accounts, lists) = host.scan();
                history.scan(pid, &known, applied, &lists, &accounts);
                self.counts.one("scan");
                self.note(("scan", applied), || format!("{pid:?} answers a scan at {applied}"));
                return;
            }
        };
        let list = host.list(key);
        history.read(pid, &known, applied, key, &list);
        if let Some(tale) = &mut self.tale {
            tale.read_answered(self.now, pid, token, applied, &list);
        }
        self.counts.one("read");
        self.note(("read", key, applied), || format!("{pid:?} answers a read of key {key} at {applied}"));
    }
}
