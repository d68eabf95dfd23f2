//! Challenge and answer: is a silent leader dead, or only out of sight?
//!
//! A node that hears nothing from a leader writes a challenge below the leader's registration, naming the ballots it
//! doubts. The *cores* of those groups answer, through ZooKeeper, and so a cut between the two nodes moves nothing,
//! while a dead machine stays silent and is replaced. Nothing here is needed for safety: taking a ballot always is safe.

use std::collections::BTreeMap;
use std::time::Duration;

use bequest_recovery::keeper::{Outcome, Reason, Reply, Request, Urgency};
use bequest_recovery::path;
use bequest_recovery::record::{self, Answer, Challenge, Doubt, Testimony, Uuid, FORMAT};
use bytes::Bytes;

use super::context::{Context, Owner};
use super::event::{GroupNumber, NodeId, Now};
use super::hint;

/// A request of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The challenge to a node; whether it replaces one.
    Write { peer: NodeId, nonce: u64, replace: bool },
    /// Left on the answer, to be told when it comes.
    Watch(NodeId),
    /// The answer of a node.
    Read(NodeId),
    /// Who challenges this node?
    List,
    /// The challenge of a node.
    Question(NodeId),
    /// This node's answer; whether it replaces one.
    Answer { peer: NodeId, replace: bool },
}

/// What became of a doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It leads.
    Leading,
    /// It is on the way to lead; the number moves while it gets on.
    Succeeding(u64),
    /// It holds the ballot and does neither.
    No,
    /// No answer came in time.
    Silent,
}

/// A challenge to this node, to be answered by its cores.
#[derive(Clone, Debug)]
pub(super) struct Question {
    challenger: NodeId,
    pub(super) nonce: u64,
    pub(super) incarnation: u64,
    pub(super) doubts: Vec<Doubt>,
}

#[derive(Debug, Default)]
struct Doubted {
    /// Groups doubted now, with the ballot version and the time an answer may take.
    groups: BTreeMap<GroupNumber, (Uuid, i32, Duration)>,
    /// The holder's incarnation, as the ballot names it.
    incarnation: u64,
    /// The challenge under way.
    asked: Option<Asked>,
    repeat_at: Now,
}

#[derive(Debug)]
struct Asked {
    nonce: u64,
    record: Bytes,
    groups: BTreeMap<GroupNumber, (Uuid, i32)>,
    patience: Duration,
    /// When ZooKeeper acknowledged the challenge: silence counts from here.
    since: Option<Now>,
    /// The deadline passed: one last look at the answer decides.
    last_look: bool,
}

/// Both sides of all challenges of this node.
#[derive(Debug, Default)]
pub(super) struct Challenges {
    doubted: BTreeMap<NodeId, Doubted>,
    answered: BTreeMap<NodeId, u64>,
    answers: BTreeMap<NodeId, Bytes>,
    polled: Now,
}

impl Challenges {
    fn call(cx: &mut Context<'_>, call: Call, request: Request) {
        cx.call(Owner::Challenge(call), Urgency::Urgent, request);
    }

    /// The group's leader on `peer` is silent under this ballot version.
    pub(super) fn doubt(
        &mut self,
        cx: &mut Context<'_>,
        peer: NodeId,
        group: GroupNumber,
        about: (Uuid, i32, u64),
        patience: Duration,
    ) {
        let doubted = self.doubted.entry(peer).or_default();
        doubted.groups.insert(group, (about.0, about.1, patience));
        doubted.incarnation = doubted.incarnation.max(about.2);
        if doubted.asked.is_none() && cx.now >= doubted.repeat_at && cx.facts.usable() {
            self.ask(cx, peer);
        }
    }

    /// The group no longer doubts anybody on `peer`.
    pub(super) fn trust(&mut self, peer: NodeId, group: GroupNumber) {
        if let Some(doubted) = self.doubted.get_mut(&peer) {
            doubted.groups.remove(&group);
        }
    }

    fn ask(&mut self, cx: &mut Context<'_>, peer: NodeId) {
        let Some(doubted) = self.doubted.get_mut(&peer) else { return };
        let nonce = cx.random.next();
        let patience = doubted.groups.values().map(|(_, _, patience)| *patience).max().unwrap_or_default();
        let groups: BTreeMap<_, _> = doubted.groups.iter().map(|(group, (uuid, v, _))| (*group, (*uuid, *v))).collect();
        let record = record::seal(&Challenge {
            format: FORMAT,
            uuid: Uuid([0; 16]).to_bytes(),
            nonce,
            incarnation: doubted.incarnation,
            doubts: groups
                .values()
                .map(|(uuid, version)| Doubt { group: uuid.to_bytes(), version: *version })
                .collect(),
        });
        doubted.asked = Some(Asked { nonce, record, groups, patience, since: None, last_look: false });
        self.write(cx, peer, true);
        let answer = path::answer(peer.0, cx.config.node.0);
        Self::call(cx, Call::Watch(peer), Request::Exists { path: answer, watch: true });
    }

    fn write(&self, cx: &mut Context<'_>, peer: NodeId, replace: bool) {
        let Some(asked) = self.doubted.get(&peer).and_then(|doubted| doubted.asked.as_ref()) else { return };
        let request = hint::put(path::challenge(peer.0, cx.config.node.0), asked.record.clone(), replace);
        Self::call(cx, Call::Write { peer, nonce: asked.nonce, replace }, request);
    }

    /// A session is there, or back: look for challenges, and forget what was under way.
    pub(super) fn connected(&mut self, cx: &mut Context<'_>) {
        for doubted in self.doubted.values_mut() {
            doubted.asked = None;
        }
        self.list(cx);
    }

    fn list(&mut self, cx: &mut Context<'_>) {
        self.polled = cx.now;
        let path = path::challenges(cx.config.node.0);
        cx.call(Owner::Challenge(Call::List), Urgency::Normal, Request::Children { path, watch: true });
    }

    pub(super) fn changed(&mut self, cx: &mut Context<'_>, changed: &str) {
        let own = cx.config.node.0;
        if changed == path::challenges(own) {
            self.list(cx);
        }
        let Some((parent, name)) = changed.rsplit_once('/') else { return };
        let Some(number) = path::number(name, 20) else { return };
        if parent == path::challenges(own) {
            self.look(cx, NodeId(number));
        } else if number == own {
            let peers: Vec<_> = self.doubted.keys().copied().collect();
            for peer in peers.into_iter().filter(|peer| changed == path::answer(peer.0, own)) {
                self.read(cx, peer);
            }
        }
    }

    fn look(&self, cx: &mut Context<'_>, challenger: NodeId) {
        let path = path::challenge(cx.config.node.0, challenger.0);
        Self::call(cx, Call::Question(challenger), Request::Get { path, watch: true });
    }

    fn read(&self, cx: &mut Context<'_>, peer: NodeId) {
        let path = path::answer(peer.0, cx.config.node.0);
        Self::call(cx, Call::Read(peer), Request::Get { path, watch: true });
    }

    /// Lets time pass; returns the doubts that got no answer.
    pub(super) fn tick(&mut self, cx: &mut Context<'_>) {
        if !cx.facts.usable() {
            return;
        }
        if cx.now.since(self.polled) >= cx.config.poll {
            self.list(cx);
        }
        let due: Vec<_> = self
            .doubted
            .iter()
            .filter(|(_, doubted)| doubted.asked.is_none() && !doubted.groups.is_empty() && cx.now >= doubted.repeat_at)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            self.ask(cx, peer);
        }
        let mut late = Vec::new();
        for (peer, doubted) in &mut self.doubted {
            if let Some(asked) = &mut doubted.asked {
                if !asked.last_look && asked.since.is_some_and(|since| cx.now.since(since) >= asked.patience) {
                    asked.last_look = true;
                    late.push(*peer);
                }
            }
        }
        for peer in late {
            // A watch may have been missed; silence is only believed after a look.
            self.read(cx, peer);
        }
    }

    pub(super) fn wake_at(&self, poll: Duration) -> Option<Now> {
        let asked = self.doubted.values().filter_map(|doubted| match &doubted.asked {
            Some(asked) if !asked.last_look => asked.since.map(|since| since + asked.patience),
            Some(_) => None,
            None => (!doubted.groups.is_empty()).then_some(doubted.repeat_at),
        });
        asked.chain([self.polled + poll]).min()
    }

    /// Takes an outcome; returns what was learned: verdicts on doubts, or a question for the cores.
    pub(super) fn outcome(
        &mut self,
        cx: &mut Context<'_>,
        call: Call,
        outcome: Outcome,
    ) -> (Vec<(GroupNumber, i32, Verdict)>, Option<Question>) {
        match (call, outcome) {
            (Call::Write { peer, nonce, .. }, Outcome::Ok(_)) => {
                if let Some(asked) = self.asked(peer).filter(|asked| asked.nonce == nonce) {
                    asked.since = Some(cx.now);
                }
            }
            (Call::Write { peer, nonce, replace }, Outcome::Refused(refusal)) => {
                let again = matches!(refusal.reason, Reason::NoNode | Reason::NodeExists) && refusal.op == 0;
                match self.asked(peer).filter(|asked| asked.nonce == nonce) {
                    Some(_) if again && (replace || refusal.reason == Reason::NodeExists) => {
                        self.write(cx, peer, !replace);
                    }
                    // The peer never registered, or access is denied: there is nobody to answer.
                    Some(asked) => asked.since = Some(cx.now),
                    None => {}
                }
            }
            (Call::Write { peer, nonce, .. }, Outcome::Unknown(_))
                if self.asked(peer).is_some_and(|asked| asked.nonce == nonce) =>
            {
                self.settle(cx, peer);
            }
            (Call::Read(peer), Outcome::Ok(Reply::Data(data))) => return (self.answer_read(cx, peer, data), None),
            (Call::Read(peer), _) if self.asked(peer).is_some_and(|asked| asked.last_look) => {
                // Not even a look was possible: no verdict, ask again.
                self.settle(cx, peer);
            }
            (Call::List, Outcome::Ok(Reply::Children(Some(names)))) => {
                for challenger in names.iter().filter_map(|name| path::number(name, 20)) {
                    self.look(cx, NodeId(challenger));
                }
            }
            (Call::Question(challenger), Outcome::Ok(Reply::Data(Some((bytes, _))))) => {
                return (Vec::new(), self.question(challenger, &bytes));
            }
            (Call::Answer { peer, replace }, Outcome::Refused(refusal)) if refusal.op == 0 => {
                if matches!(refusal.reason, Reason::NoNode | Reason::NodeExists) {
                    self.put_answer(cx, peer, !replace);
                }
            }
            (Call::Answer { peer, .. }, Outcome::Unknown(_)) => {
                // Answered again when it is looked at again.
                self.answered.remove(&peer);
            }
            _ => {}
        }
        (Vec::new(), None)
    }

    fn asked(&mut self, peer: NodeId) -> Option<&mut Asked> {
        self.doubted.get_mut(&peer)?.asked.as_mut()
    }

    /// Ends the challenge under way; the next one may follow after a while.
    fn settle(&mut self, cx: &Context<'_>, peer: NodeId) {
        if let Some(doubted) = self.doubted.get_mut(&peer) {
            let patience = doubted.asked.take().map_or(cx.config.election_timeout, |asked| asked.patience);
            doubted.repeat_at = cx.now + patience;
        }
    }

    fn answer_read(
        &mut self,
        cx: &mut Context<'_>,
        peer: NodeId,
        data: Option<(Bytes, bequest_recovery::keeper::Stat)>,
    ) -> Vec<(GroupNumber, i32, Verdict)> {
        let Some(asked) = self.asked(peer) else { return Vec::new() };
        let answer = data
            .and_then(|(bytes, _)| record::open::<Answer>(&bytes, None).ok())
            .filter(|answer| answer.nonce == asked.nonce);
        // Of several testimonies on one ballot the first counts.
        let stands: Option<BTreeMap<_, _>> = answer.as_ref().map(|answer| {
            let testimonies = answer.testimonies.iter().rev();
            testimonies.map(|said| ((&said.group[..], said.version), (said.stand, said.progress))).collect()
        });
        let verdict = |uuid: &Uuid, version: i32| match &stands {
            None => Verdict::Silent,
            Some(stands) => match stands.get(&(&uuid.0[..], version)) {
                Some((1, _)) => Verdict::Leading,
                Some((2, progress)) => Verdict::Succeeding(*progress),
                _ => Verdict::No,
            },
        };
        if answer.is_none() && !asked.last_look {
            return Vec::new();
        }
        let verdicts =
            asked.groups.iter().map(|(group, (uuid, version))| (*group, *version, verdict(uuid, *version))).collect();
        self.settle(cx, peer);
        verdicts
    }

    fn question(&mut self, challenger: NodeId, bytes: &Bytes) -> Option<Question> {
        let challenge: Challenge = record::open(bytes, None).ok()?;
        if self.answered.get(&challenger) == Some(&challenge.nonce) {
            return None;
        }
        self.answered.insert(challenger, challenge.nonce);
        let Challenge { nonce, incarnation, doubts, .. } = challenge;
        Some(Question { challenger, nonce, incarnation, doubts })
    }

    /// Writes the cores' answer.
    pub(super) fn answer(&mut self, cx: &mut Context<'_>, question: &Question, testimonies: Vec<Testimony>) {
        let record = record::seal(&Answer {
            format: FORMAT,
            uuid: Uuid([0; 16]).to_bytes(),
            nonce: question.nonce,
            testimonies,
        });
        self.answers.insert(question.challenger, record);
        self.put_answer(cx, question.challenger, true);
    }

    fn put_answer(&self, cx: &mut Context<'_>, peer: NodeId, replace: bool) {
        let Some(record) = self.answers.get(&peer) else { return };
        let request = hint::put(path::answer(cx.config.node.0, peer.0), record.clone(), replace);
        Self::call(cx, Call::Answer { peer, replace }, request);
    }
}
