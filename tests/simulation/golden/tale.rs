//! What happens in a world, told in the protocol's words: one line for each step of a core, as what it was told and,
//! behind the arrow, what it wants done, in that order.
//!
//! Left out are beats, looks at znodes that show nothing new, and what of a cause says nothing. Never left out is what
//! changes ZooKeeper, a disk or a machine, or what a client is told: what a transaction did whose answer never reaches
//! the one who asked is told in a line of its own.

use std::collections::BTreeMap;

use bequest::replica::event::{Effect, Event, LinkEvent, MachineEvent, Persist, Token};
use bequest::replica::status::{GroupStatus, Mode, Role};
use bequest_recovery::keeper::{KeeperEvent, Op, Outcome, Reply, Request, RequestId};
use bequest_recovery::model::{Change, ZooModel};

use super::decode::{span, Decoder, Kind};
use super::line::{push_once, told, Line, Weight, Wish};
use super::peers;
use crate::clients::Purpose;
use crate::host::Output;
use crate::machine::answered_index;
use crate::mix::Micros;
use crate::world::{Pid, Place, World};

#[derive(Debug)]
struct Asked {
    words: String,
    kind: Kind,
    request: Request,
    at: (usize, usize),
}

/// The story so far.
#[derive(Debug, Default)]
pub struct Tale {
    decoder: Decoder,
    lines: Vec<Line>,
    /// When something was told last that is more than a look.
    pub last_at: Micros,
    now: Micros,
    current: Option<Pid>,
    /// Names of processes, and the numbers by which they tell themselves from others.
    names: BTreeMap<Pid, (String, u64)>,
    tokens: BTreeMap<Token, String>,
    reads: u64,
    asked: BTreeMap<(Pid, RequestId), Asked>,
    /// What each process saw when it looked last.
    seen: BTreeMap<(Pid, String), String>,
    roles: BTreeMap<Pid, (Role, Mode)>,
    /// Transactions whose answers have not arrived: the line that tells of each.
    unanswered: Vec<(Pid, Vec<Op>, usize)>,
    followed: usize,
    generation: u64,
}

impl Tale {
    /// A tale of what is not there yet.
    pub fn behind(zoo: &ZooModel) -> Self {
        Self { followed: zoo.log().len(), generation: zoo.generation(), ..Self::default() }
    }

    /// Lines told so far; what is told later begins there.
    pub fn mark(&self) -> usize {
        self.lines.len()
    }

    /// What was told between two marks.
    pub fn between(&self, from: usize, to: usize) -> Vec<String> {
        told(&self.lines[from..to])
    }

    /// A process has begun to live.
    pub fn born(&mut self, pid: Pid, place: Place, nonce: u64) {
        let name = format!("n{}{}", place.node, if place.host == 0 { "" } else { "'" });
        self.names.insert(pid, (name, nonce));
    }

    fn name(&self, pid: Pid) -> String {
        self.names.get(&pid).map(|(name, _)| name.clone()).unwrap_or_else(|| format!("{pid:?}"))
    }

    /// A client asks something.
    pub fn asked(&mut self, token: Token, purpose: &Purpose) {
        let name = match purpose {
            Purpose::Write { value } => format!("v{value}"),
            Purpose::InSession { value, request, .. } => {
                format!("v{value} (session {}, request {})", request.session, request.sequence)
            }
            Purpose::Open { .. } => "a session".to_owned(),
            Purpose::Read { .. } | Purpose::Scan { .. } => {
                self.reads += 1;
                format!("read {}", self.reads)
            }
        };
        self.tokens.insert(token, name);
    }

    fn token(&self, token: Token) -> String {
        self.tokens.get(&token).cloned().unwrap_or_else(|| format!("{token:?}"))
    }

    fn line(&mut self, now: Micros, who: String, words: String) {
        self.last_at = now;
        self.lines.push(Line { who, causes: vec![(Weight::Loud, words)], ..Line::default() });
    }

    /// A core is told something.
    pub fn told(&mut self, now: Micros, pid: Pid, events: &[Event]) {
        self.now = now;
        self.current = Some(pid);
        let mut causes = Vec::new();
        for event in events {
            if let Some(cause) = self.cause(pid, event) {
                push_once(&mut causes, cause);
            }
        }
        self.lines.push(Line { who: self.name(pid), causes, ..Line::default() });
    }

    /// What the core wants done that was told something last.
    pub fn wants(&mut self, effects: &[Effect]) {
        let Some(pid) = self.current.take() else { return };
        for effect in effects {
            let at = (self.lines.len() - 1, self.lines[self.lines.len() - 1].wishes.len());
            let wish = match effect {
                Effect::Keeper { id, request, .. } => {
                    let (words, kind) = self.decoder.request(request);
                    let read = matches!(kind, Kind::Read | Kind::Poll);
                    let asked = Asked { words: words.clone(), kind, request: request.clone(), at };
                    self.asked.insert((pid, *id), asked);
                    Some(Wish { words, read, dropped: false })
                }
                other => self.effect(pid, other).map(|words| Wish { words, read: false, dropped: false }),
            };
            if let (Some(wish), Some(line)) = (wish, self.lines.last_mut()) {
                // Messages to a peer that follow each other and are all alike are one. Nothing else is: to do it twice
                // is something else than to do it once.
                let told = matches!(effect, Effect::Send { .. });
                if !told || line.wishes.last().is_none_or(|last| last.words != wish.words) {
                    line.wishes.push(wish);
                }
            }
        }
        let line = self.lines.last();
        if line.is_some_and(|line| line.text().is_some() && !line.only_reads()) {
            self.last_at = self.now;
        }
    }

    fn cause(&mut self, pid: Pid, event: &Event) -> Option<(Weight, String)> {
        use Weight::{Dull, Loud, Plain};
        Some(match event {
            Event::Tick => (Dull, "tick".to_owned()),
            Event::Keeper(event) => return self.keeper_cause(pid, event),
            Event::Link(peer, LinkEvent::Up { incarnation }) => {
                (Loud, format!("link to {}.i{} up", peers::node(*peer), incarnation.0))
            }
            Event::Link(peer, LinkEvent::Down) => (Loud, format!("link to {} down", peers::node(*peer))),
            Event::Link(peer, LinkEvent::Refused) => (Plain, format!("{} refuses a connection", peers::node(*peer))),
            Event::Link(peer, LinkEvent::Message(bytes)) => {
                let (words, dull) = peers::message(bytes);
                (if dull { Dull } else { Plain }, format!("{} says {words}", peers::node(*peer)))
            }
            Event::Probed { nonce } => {
                let own = self.names.get(&pid).map(|(_, own)| *own);
                let answer = match nonce {
                    None => "unanswered",
                    Some(_) if *nonce == own => "answered by itself",
                    Some(_) => "answered by another process",
                };
                (Loud, format!("probe {answer}"))
            }
            Event::Persisted { .. } => (Plain, "written".to_owned()),
            Event::LogFetched { entries, .. } => {
                let index = |entry: Option<&bequest_recovery::entry::Entry>| entry.map_or(0, |entry| entry.index);
                (Plain, format!("log fetched {}", span(index(entries.first()), index(entries.last()))))
            }
            Event::Machine(_, event) => return Some(machine_cause(event)),
            Event::Join { local, applied, .. } => {
                let log = local.as_ref().map_or("no log".to_owned(), |log| {
                    let last = log.slots.last().map_or(log.base.index, |slot| slot.position.index);
                    format!(
                        "log {}..{last} commit {} known {}",
                        log.base.index + 1,
                        log.commit,
                        log.known.position.index
                    )
                });
                (Loud, format!("joins with {log}, machine at {applied}"))
            }
            Event::Propose { token, .. } => (Loud, format!("propose {}", self.token(*token))),
            Event::Read { token, .. } => (Loud, self.token(*token)),
            Event::HandOver { .. } => (Loud, "asked to hand over".to_owned()),
            Event::ShutDown => (Loud, "asked to shut down".to_owned()),
        })
    }

    fn keeper_cause(&mut self, pid: Pid, event: &KeeperEvent) -> Option<(Weight, String)> {
        use Weight::{Dull, Loud, Plain};
        Some(match event {
            KeeperEvent::Connected { session, .. } => (Loud, format!("connected, session {}", session.0)),
            KeeperEvent::Disconnected { .. } => (Loud, "disconnected from zookeeper".to_owned()),
            KeeperEvent::Expired { .. } => (Loud, "session expired".to_owned()),
            KeeperEvent::Trouble(what) => (Loud, format!("zookeeper trouble: {what}")),
            KeeperEvent::Changed { path } => (Dull, format!("{} changed", self.decoder.path(path))),
            KeeperEvent::Outcome { id, outcome, .. } => {
                let asked = self.asked.remove(&(pid, *id))?;
                let words = format!("{}: {}", asked.words, self.decoder.outcome(&asked.request, outcome));
                match (asked.kind, outcome) {
                    (Kind::Read | Kind::Poll, Outcome::Ok(reply)) => {
                        let fresh = asked.kind == Kind::Poll && self.looked(pid, &asked, reply);
                        let missing = matches!(reply, Reply::Data(None) | Reply::Stat(None) | Reply::Children(None));
                        let words = match (&asked.request, reply) {
                            _ if missing => format!("{} missing", asked.words),
                            (Request::Get { path, .. }, Reply::Data(Some((data, _)))) if fresh => {
                                format!("{} read", self.decoder.content(path, data))
                            }
                            _ => format!("{} read", asked.words),
                        };
                        (if missing || fresh { Plain } else { Dull }, words)
                    }
                    (Kind::Check, Outcome::Ok(_)) => (Plain, words),
                    (Kind::Write, Outcome::Ok(_)) => {
                        self.answered(pid, &asked.request);
                        (Loud, words)
                    }
                    (Kind::Read | Kind::Poll, _) => (Plain, format!("read of {words}")),
                    (Kind::Write | Kind::Check, _) => (Loud, words),
                }
            }
        })
    }

    /// A look at something; it is not told if it showed what the last one did. Whether it showed something new.
    fn looked(&mut self, pid: Pid, asked: &Asked, reply: &Reply) -> bool {
        let seen = format!("{reply:?}");
        let before = self.seen.insert((pid, format!("{:?}", asked.request)), seen.clone());
        let fresh = before != Some(seen);
        self.lines[asked.at.0].wishes[asked.at.1].dropped = !fresh;
        fresh
    }

    /// Who asked learns that the transaction took effect: it needs no line of its own.
    fn answered(&mut self, pid: Pid, request: &Request) {
        let Request::Multi(ops) = request else { return };
        let place = self.unanswered.iter().position(|(asker, open, _)| *asker == pid && open == ops);
        if let Some(place) = place {
            let (_, _, line) = self.unanswered.remove(place);
            self.lines[line].dropped = true;
        }
    }

    fn effect(&mut self, pid: Pid, effect: &Effect) -> Option<String> {
        Some(match effect {
            Effect::Keeper { .. } => return None,
            Effect::Dial { peer, incarnation, .. } => format!("dial {}.i{}", peers::node(*peer), incarnation.0),
            Effect::Probe { .. } => "probe".to_owned(),
            Effect::Send { peer, message } => match peers::message(message) {
                (_, true) => return None,
                (words, false) => format!("tell {} {words}", peers::node(*peer)),
            },
            Effect::PersistIdentity { .. } => "persist the cluster's uuid".to_owned(),
            Effect::Persist(_, persist) => format!("persist #{} ({})", persist.number, persisted(persist)),
            Effect::FetchLog { low, high, .. } => format!("fetch log {}", span(*low, high - 1)),
            Effect::Apply(_, entries) => {
                let index = |apply: Option<&bequest::replica::event::Apply>| apply.map_or(0, |apply| apply.entry.index);
                format!("apply {}", span(index(entries.first()), index(entries.last())))
            }
            Effect::Query(_, token) => format!("query for {}", self.token(*token)),
            Effect::SnapshotTake { upload, .. } => format!("take snapshot #{upload}"),
            Effect::SnapshotCredit { .. } => return None,
            Effect::SnapshotAbandon { upload, .. } => format!("abandon snapshot #{upload}"),
            Effect::RestoreBegin { restore, .. } => format!("begin restore #{restore}"),
            Effect::RestoreChunk { .. } => "restore a chunk".to_owned(),
            Effect::RestoreFinish { applied, .. } => format!("finish restore at {applied}"),
            Effect::RestoreAbandon { restore, .. } => format!("abandon restore #{restore}"),
            Effect::Leadership(_, leading) => format!("machine {}", if *leading { "leads" } else { "leads no more" }),
            Effect::RefuseProposal(token, error) => format!("answer {}: {error}", self.token(*token)),
            Effect::RefuseRead(token, error) => format!("answer {}: {error}", self.token(*token)),
            Effect::Status(_, status) => return self.status(pid, status),
            // Its words are the reason of the status that says so.
            Effect::StopGroup(_, error) => format!("STOP {}", variant(error)),
            Effect::StopNode(error) => format!("STOP NODE {}: {error}", variant(error)),
            Effect::Registered { incarnation, .. } => format!("is registered as incarnation {}", incarnation.0),
            Effect::ShutDown => "ends".to_owned(),
        })
    }

    fn status(&mut self, pid: Pid, status: &GroupStatus) -> Option<String> {
        let before = self.roles.insert(pid, (status.role, status.mode.clone()));
        let role = (before.as_ref().is_none_or(|(role, _)| *role != status.role)).then(|| {
            let reason = match &status.reason {
                reason if reason.is_empty() => String::new(),
                reason => format!(" ({})", self.decoder.text(reason)),
            };
            format!("is {:?} at term {}{reason}", status.role, status.term)
        });
        let mode = (before.is_none_or(|(_, mode)| mode != status.mode)).then(|| format!("mode {:?}", status.mode));
        match (role, mode) {
            (Some(role), Some(mode)) => Some(format!("{role}, {mode}")),
            (role, mode) => role.or(mode),
        }
    }

    /// A write reached a disk.
    pub fn wrote(&mut self, now: Micros, pid: Pid, number: u64) {
        self.line(now, self.name(pid), format!("disk has #{number}"));
    }

    /// A state machine did a job.
    pub fn machine_did(&mut self, now: Micros, pid: Pid, applied: (u64, u64), output: &[Output]) {
        let mut words = Vec::new();
        if output.iter().any(|output| matches!(output, Output::Restored)) {
            words.push(format!("machine is restored at {}", applied.1));
        } else if applied.0 != applied.1 {
            words.push(format!("machine applied {}", span(applied.0 + 1, applied.1)));
        }
        for output in output {
            match output {
                Output::Took(took) => words.push(format!("v{} at {}", took.value, took.index)),
                Output::Answer(token, bequest::apply::Answer::Machine(bytes)) => words.push(format!(
                    "answer {}: took effect at {}",
                    self.token(*token),
                    answered_index(bytes).unwrap_or_default()
                )),
                Output::Answer(token, answer) => words.push(format!("answer {}: {answer:?}", self.token(*token))),
                Output::Event(_) | Output::Query(_) | Output::Write(_) | Output::Restored => {}
            }
        }
        if !words.is_empty() {
            self.line(now, self.name(pid), words.join(", "));
        }
    }

    /// A read was answered.
    pub fn read_answered(&mut self, now: Micros, pid: Pid, token: Token, applied: u64, list: &[u64]) {
        let values: Vec<String> = list.iter().map(|value| format!("v{value}")).collect();
        let words = format!("answer {}: [{}] in the state at {applied}", self.token(token), values.join(" "));
        self.line(now, self.name(pid), words);
    }
}

fn machine_cause(event: &MachineEvent) -> (Weight, String) {
    use Weight::{Loud, Plain};
    match event {
        MachineEvent::Applied { index, .. } => (Plain, format!("applied {index}")),
        MachineEvent::SnapshotTaken { applied, .. } => (Plain, format!("snapshot taken at {applied}")),
        MachineEvent::SnapshotChunk { .. } => (Plain, "chunk".to_owned()),
        MachineEvent::SnapshotEnd { .. } => (Plain, "last chunk".to_owned()),
        MachineEvent::SnapshotFailed { message, .. } => (Loud, format!("snapshot failed: {message}")),
        MachineEvent::RestoreTook { .. } => (Plain, "chunk restored".to_owned()),
        MachineEvent::Restored { restore } => (Plain, format!("restored #{restore}")),
        MachineEvent::RestoreFailed { message, .. } => (Loud, format!("restore failed: {message}")),
        MachineEvent::Failed { message } => (Loud, format!("machine failed: {message}")),
    }
}

fn persisted(persist: &Persist) -> String {
    let Persist { number: _, birth, reset, truncate_from, entries, hard_state, compact, known } = persist;
    let mut words = Vec::new();
    words.extend(birth.as_ref().map(|_| "who the group is".to_owned()));
    words.extend(reset.map(|base| format!("begin anew behind {}", base.index)));
    words.extend(truncate_from.map(|from| format!("drop from {from}")));
    if let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) {
        words.push(format!("entries {}", span(first.index, last.index)));
    }
    words.extend(hard_state.map(|(term, commit)| format!("term {term} commit {commit}")));
    words.extend(compact.map(|base| format!("drop up to {}", base.index)));
    words.extend(known.map(|known| format!("known {} under term {}", known.position.index, known.term)));
    words.join(", ")
}

/// The name of an error.
fn variant(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect()
}

impl World {
    /// Takes in what ZooKeeper committed since the last time.
    pub fn tell_transactions(&mut self) {
        let Some(tale) = &mut self.tale else { return };
        if tale.generation != self.zoo.generation() {
            (tale.generation, tale.followed) = (self.zoo.generation(), 0);
        }
        for transaction in &self.zoo.log()[tale.followed.min(self.zoo.log().len())..] {
            let owner = self.keepers.owners.get(&transaction.session).copied();
            let who = owner.map_or_else(|| "an operator".to_owned(), |pid| tale.name(pid));
            match &transaction.change {
                Change::Multi(ops) => {
                    let (words, kind) = tale.decoder.request(&Request::Multi(ops.clone()));
                    if kind == Kind::Write {
                        tale.line(self.now, "zk".to_owned(), format!("{who}'s {words} takes effect, unanswered"));
                        if let Some(pid) = owner {
                            tale.unanswered.push((pid, ops.clone(), tale.lines.len() - 1));
                        }
                    }
                }
                Change::Closed => tale.line(self.now, "zk".to_owned(), format!("{who}'s session ends")),
                Change::Opened | Change::Refused(_) => {}
            }
        }
        tale.followed = self.zoo.log().len();
    }
}
