//! Strikes: every effect of a run has a number, and a strike says what becomes of one of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use bequest::replica::event::{Effect, NodeId};
use bequest_recovery::keeper::{Op, Request, RequestId};
use bequest_recovery::model::SessionId;
use bytes::Bytes;

use crate::death::Death;
use crate::golden::hold::Part;
use crate::mix::{Micros, MILLI};
use crate::world::{Happening, Pid, World};

// A message, a disk or a machine that is late: long enough for two beats to overtake it, too short to be suspected.
const LATE: Micros = 60 * MILLI;
// A request that is late lies in its socket until its client is connected again and has looked what became of it.
const REQUEST_LATE: Micros = 40 * MILLI;

/// An effect, as far as it matters for what can become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A transaction that creates or sets something.
    Write,
    /// A transaction that only deletes.
    Deletion,
    /// A read, or a transaction that only checks.
    Look,
    /// A message to another node.
    Message,
    /// A write to the local disk.
    Disk,
    /// A view of the state is asked of the machine.
    View,
    /// Any other job of the machine.
    Job,
}

/// What becomes of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It never happens: a request or message does not arrive, a write that was reported is gone with the power.
    Lost,
    /// It happens, and nobody is told.
    Silent,
    /// It happens when nobody expects it any more.
    Late,
    /// It is refused, definitely.
    Refused,
    /// Its process is killed before it.
    CrashBefore,
    /// Its process is killed right after it happened.
    CrashAfter,
    /// The same two, and the disk is gone too.
    WipeBefore,
    WipeAfter,
}

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Strike {
    /// Number of the effect, counted from 1.
    pub effect: u64,
    pub outcome: Outcome,
}

/// What goes wrong in a run, and what there was that could have.
#[derive(Debug, Default)]
pub struct Strikes {
    /// Ascending.
    pub planned: VecDeque<Strike>,
    /// Kinds of the effects so far: effect 1 comes first.
    pub kinds: Vec<Kind>,
    /// Effects are numbered no more.
    pub over: bool,
    /// Strikes that came about.
    pub landed: Vec<(Kind, Outcome)>,
    /// The run is a script's, without chance.
    pub scripted: bool,
    /// The request that was struck first, and the number it had when it was issued again.
    first: Option<(Pid, Request)>,
    pub again: Option<u64>,
    requests: BTreeMap<(Pid, RequestId), (Outcome, Kind)>,
    writes: BTreeMap<(Pid, u64), Outcome>,
    // One for each job in a machine's queue.
    jobs: BTreeMap<Pid, VecDeque<Option<(Outcome, Kind)>>>,
}

/// What is to be done with an effect after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Goes,
    /// It does not happen, or not now.
    Withheld,
    /// Its process is dead.
    Dead,
}

/// What a strike brings about a while after its effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aftermath {
    /// A part that was slow goes on.
    Goes(Part),
    /// A message that was late is sent.
    Sends(NodeId, Bytes),
    /// The power fails, and takes along all that was not synced.
    Darkness,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Write, Self::Deletion, Self::Look, Self::Message, Self::Disk, Self::View, Self::Job];

    /// `None` for what has no outcome of its own: a report to whoever embeds the core, an order to dial.
    fn of(effect: &Effect) -> Option<Self> {
        Some(match effect {
            Effect::Keeper { request: Request::Multi(ops), .. } => {
                let writes = |op: &Op| matches!(op, Op::Create { .. } | Op::Set { .. });
                if ops.iter().any(writes) {
                    Self::Write
                } else if ops.iter().any(|op| matches!(op, Op::Delete { .. })) {
                    Self::Deletion
                } else {
                    Self::Look
                }
            }
            Effect::Keeper { .. } => Self::Look,
            Effect::Send { .. } => Self::Message,
            Effect::Persist(..) => Self::Disk,
            Effect::SnapshotTake { .. } => Self::View,
            Effect::Apply(..)
            | Effect::Query(..)
            | Effect::RestoreBegin { .. }
            | Effect::RestoreChunk { .. }
            | Effect::RestoreFinish { .. }
            | Effect::RestoreAbandon { .. }
            | Effect::Leadership(..) => Self::Job,
            _ => return None,
        })
    }
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Lost,
        Self::Silent,
        Self::Late,
        Self::Refused,
        Self::CrashBefore,
        Self::CrashAfter,
        Self::WipeBefore,
        Self::WipeAfter,
    ];

    /// Whether this can become of such an effect, and is not the same as another outcome of it.
    ///
    /// - A deletion or a look is never refused: quotas bound what is created and set, and an ACL that denies stops a
    ///   group on purpose.
    /// - A look changes nothing: whether its answer is lost, or it is late, or its process dies behind it, is all the
    ///   same as that it is lost, or that its process dies before it.
    /// - Nobody answers a message, so none is silent; refused is the connection it would have gone by. A process
    ///   that dies behind one dies before its next effect.
    /// - A disk's thread lives and dies with its process: a write that is silent is one behind which the process died.
    ///   A disk that refuses stops the node: a crash before the write.
    /// - A machine's thread neither, and only a view can fail.
    pub fn suits(self, kind: Kind) -> bool {
        use Outcome::*;
        match kind {
            Kind::Write => true,
            Kind::Deletion => self != Refused,
            Kind::Look => matches!(self, Lost | CrashBefore | WipeBefore),
            Kind::Message => matches!(self, Lost | Late | Refused | CrashBefore | WipeBefore),
            Kind::Disk => matches!(self, Lost | Late | CrashBefore | CrashAfter | WipeBefore | WipeAfter),
            Kind::View => matches!(self, Late | Refused | CrashBefore | CrashAfter | WipeBefore | WipeAfter),
            Kind::Job => matches!(self, Late | CrashBefore | CrashAfter | WipeBefore | WipeAfter),
        }
    }

    /// Whether a disk goes too.
    pub fn wipes(self) -> bool {
        matches!(self, Self::WipeBefore | Self::WipeAfter)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "transaction that writes",
            Self::Deletion => "transaction that deletes",
            Self::Look => "read or check",
            Self::Message => "message",
            Self::Disk => "disk write",
            Self::View => "view of the state",
            Self::Job => "other machine job",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Silent => "silent",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::CrashBefore => "crash-before",
            Self::CrashAfter => "crash-after",
            Self::WipeBefore => "wipe-before",
            Self::WipeAfter => "wipe-after",
        })
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.effect, self.outcome)
    }
}

impl FromStr for Strike {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("no strike: {text:?}; one is like 17:late");
        let (effect, outcome) = text.split_once(':').ok_or_else(wrong)?;
        let effect = effect.parse().map_err(|_| wrong())?;
        let outcome = Outcome::ALL.into_iter().find(|one| one.to_string() == outcome).ok_or_else(wrong)?;
        Ok(Self { effect, outcome })
    }
}

impl Strikes {
    /// Looks whether the request struck first is issued again.
    fn watch(&mut self, pid: Pid, request: &Request, struck: Option<Outcome>) {
        match &self.first {
            None if struck.is_some() => self.first = Some((pid, request.clone())),
            Some(first) if self.again.is_none() && (first.0, &first.1) == (pid, request) && !self.over => {
                self.again = Some(self.kinds.len() as u64);
            }
            _ => {}
        }
    }
}

impl World {
    /// Numbers an effect, before it is carried out, and says what becomes of it if that is decided at once.
    pub fn number_effect(&mut self, pid: Pid, effect: &Effect) -> Verdict {
        let Some(kind) = Kind::of(effect) else { return Verdict::Goes };
        let outcome = self.next_strike(kind);
        if let Effect::Keeper { request, .. } = effect {
            self.strikes.watch(pid, request, outcome);
        }
        if let Some(outcome @ (Outcome::CrashBefore | Outcome::WipeBefore)) = outcome {
            self.lands(outcome, kind);
            self.kill_now(pid, outcome.wipes());
            return Verdict::Dead;
        }
        match effect {
            Effect::Keeper { id, .. } => {
                outcome.and_then(|outcome| self.strikes.requests.insert((pid, *id), (outcome, kind)));
            }
            Effect::Persist(_, persist) => match outcome {
                Some(Outcome::Late) => self.slow_down(pid, Part::Disk, kind),
                Some(outcome) => {
                    self.strikes.writes.insert((pid, persist.number), outcome);
                }
                None => {}
            },
            Effect::Send { peer, message } => {
                let Some(outcome) = outcome else { return Verdict::Goes };
                self.lands(outcome, kind);
                if outcome == Outcome::Late {
                    self.after(LATE, Happening::Aftermath(pid, Aftermath::Sends(*peer, message.clone())));
                } else if let (Outcome::Refused, Some(process)) = (outcome, self.processes.get(&pid)) {
                    self.unlink(process.place.node, peer.0);
                }
                return Verdict::Withheld;
            }
            _ if outcome == Some(Outcome::Late) => {
                self.slow_down(pid, Part::Machine, kind);
                self.strikes.jobs.entry(pid).or_default().push_back(None);
            }
            _ => {
                let struck = outcome.map(|outcome| (outcome, kind));
                self.strikes.jobs.entry(pid).or_default().push_back(struck);
            }
        }
        Verdict::Goes
    }

    /// A strike comes about.
    fn lands(&mut self, outcome: Outcome, kind: Kind) {
        assert!(outcome.suits(kind), "{outcome} does not suit a {kind}");
        self.strikes.landed.push((kind, outcome));
        self.note(("strike", outcome), || format!("strike: {kind}: {outcome}"));
    }

    fn next_strike(&mut self, kind: Kind) -> Option<Outcome> {
        let strikes = &mut self.strikes;
        if strikes.over {
            return None;
        }
        strikes.kinds.push(kind);
        let number = strikes.kinds.len() as u64;
        let strike = strikes.planned.front().copied().filter(|strike| strike.effect == number)?;
        strikes.planned.pop_front();
        Some(strike.outcome)
    }

    fn slow_down(&mut self, pid: Pid, part: Part, kind: Kind) {
        self.lands(Outcome::Late, kind);
        self.hold(pid, part);
        self.after(LATE, Happening::Aftermath(pid, Aftermath::Goes(part)));
    }

    /// The server gets to the oldest request of a connection; `true` if something else becomes of it than usual.
    pub fn request_struck(&mut self, pid: Pid, session: SessionId) -> bool {
        let Some(id) = self.zoo.oldest(session) else { return false };
        let Some((outcome, kind)) = self.strikes.requests.remove(&(pid, id)) else { return false };
        self.lands(outcome, kind);
        match outcome {
            Outcome::Lost => self.break_connection(pid, 0),
            Outcome::Silent => {
                self.zoo.serve(session);
                self.break_connection(pid, 0);
            }
            Outcome::Late => {
                let waiting = self.zoo.waiting(session);
                self.break_connection(pid, waiting);
            }
            Outcome::Refused => self.zoo.refuse(session),
            Outcome::CrashAfter | Outcome::WipeAfter => {
                self.zoo.serve(session);
                self.kill_now(pid, outcome.wipes());
            }
            Outcome::CrashBefore | Outcome::WipeBefore => unreachable!("decided when the request was made"),
        }
        self.pump();
        true
    }

    /// How long what is left in a broken connection's socket lies there, where a script says so.
    pub fn drifts_for(&self) -> Option<Micros> {
        self.strikes.scripted.then_some(REQUEST_LATE)
    }

    /// A write reached the disk; `true` if its process did not live to hear of it.
    pub fn write_struck(&mut self, pid: Pid, number: u64) -> bool {
        let Some(outcome) = self.strikes.writes.remove(&(pid, number)) else { return false };
        self.lands(outcome, Kind::Disk);
        if outcome == Outcome::Lost {
            // Once the core has heard that it is there.
            self.after(MILLI, Happening::Aftermath(pid, Aftermath::Darkness));
            return false;
        }
        self.kill_now(pid, outcome.wipes());
        true
    }

    /// A machine is about to do its oldest job; what becomes of it.
    pub fn job_struck(&mut self, pid: Pid) -> Option<Outcome> {
        let (outcome, kind) = self.strikes.jobs.get_mut(&pid)?.pop_front().flatten()?;
        self.lands(outcome, kind);
        Some(outcome)
    }

    pub fn aftermath(&mut self, pid: Pid, aftermath: Aftermath) {
        match aftermath {
            Aftermath::Goes(part) => {
                self.release(pid, part, None);
            }
            Aftermath::Sends(peer, bytes) => self.send(pid, peer, bytes),
            Aftermath::Darkness => {
                let Some(place) = self.processes.get(&pid).map(|process| process.place) else { return };
                self.disks.entry(place).or_default().lose_power(0);
                self.kill(pid, Death::Power);
            }
        }
    }
}
