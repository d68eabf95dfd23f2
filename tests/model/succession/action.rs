//! What can happen next.

use super::keeper::Reply;
use super::rules::{Broken, Rules};
use super::state::{Answer, Phase, Process, State, LATE, PROCESSES, TWIN};
use super::step::merged;

/// One step. Processes are counted as in [`State::processes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A dead node starts, registers, and reads as an observer.
    Start(usize),
    /// A node is started a second time, on another host; the first process goes on.
    StartTwin(usize),
    /// A process dies and leaves its disk; perhaps its last entry was not synced.
    Kill {
        process: usize,
        torn: bool,
        late: bool,
    },
    /// A process dies, its disk with it.
    Wipe {
        process: usize,
        late: bool,
    },
    /// A process' connection breaks, what was on it may be served late, and its new session may be on a server that is
    /// behind.
    Break {
        process: usize,
        late: bool,
        lagging: bool,
    },
    /// A server falls behind.
    Lag,
    Seal(usize),
    /// ZooKeeper serves the oldest request of a process that it has not served.
    Serve(usize),
    /// The oldest answer reaches a process.
    Hear(usize),
    /// A request nobody waits for is served.
    Late(usize),
    /// A reader opens its pass by a transaction.
    Open(usize),
    /// A reader takes its next step.
    Read(usize),
    /// A reader closes its pass by a transaction: only then is what it found, or misses, to be believed.
    Close(usize),
    /// Replays what was read, and becomes leader.
    Stand(usize),
    Propose(usize),
    Append(usize),
    Publish(usize),
    Trim(usize),
    /// A leader's entries and commit index reach another node.
    Replicate {
        from: usize,
        to: usize,
    },
    /// A leader sees the ballot of another one.
    StepDown(usize),
}

impl Action {
    /// Whose step it is.
    pub fn process(self) -> Option<usize> {
        match self {
            Self::Start(process)
            | Self::StartTwin(process)
            | Self::Kill { process, .. }
            | Self::Wipe { process, .. }
            | Self::Break { process, .. }
            | Self::Seal(process) => Some(process),
            _ => None,
        }
    }
}

impl State {
    /// Everything that can happen next.
    pub fn actions(&self, rules: &Rules, actions: &mut Vec<Action>) {
        for process in 0..PROCESSES {
            self.faults(process, rules, actions);
            self.steps(process, rules, actions);
        }
        if self.left.lags > 0 && self.behind.is_none() {
            actions.push(Action::Lag);
        }
        actions.extend((0..LATE).filter(|place| self.late[*place].is_some()).map(Action::Late));
        if self.left.calm {
            // Both nodes are alike until something happens to one: it is the first one, without loss.
            actions.retain(|action| action.process().is_none_or(|process| process == 0));
        }
    }

    fn faults(&self, process: usize, rules: &Rules, actions: &mut Vec<Action>) {
        let one = &self.processes[process];
        if one.phase == Phase::Dead {
            if process != TWIN {
                actions.push(Action::Start(process));
            }
            return;
        }
        let unserved = one.queue.iter().flatten().any(|(_, reply)| *reply == Reply::None);
        let room = rules.bounds.late as usize > self.late.iter().flatten().count();
        let late = if unserved && room { &[false, true][..] } else { &[false] };
        for &late in late {
            if self.left.kills > 0 {
                actions.push(Action::Kill { process, torn: false, late });
                if process != TWIN && one.log.last() > 0 {
                    actions.push(Action::Kill { process, torn: true, late });
                }
            }
            if self.left.wipes > 0 && process != TWIN {
                actions.push(Action::Wipe { process, late });
            }
            let busy = one.in_flight() > 0 || one.open;
            if self.left.breaks > 0 && (busy || self.behind.is_some()) {
                actions.push(Action::Break { process, late, lagging: false });
                if self.behind.is_some() {
                    actions.push(Action::Break { process, late, lagging: true });
                }
            }
        }
        if self.left.twins > 0 && process != TWIN && self.processes[TWIN].phase == Phase::Dead {
            actions.push(Action::StartTwin(process));
        }
    }

    fn steps(&self, process: usize, rules: &Rules, actions: &mut Vec<Action>) {
        let one = &self.processes[process];
        if one.queue.iter().flatten().any(|(_, reply)| *reply == Reply::None) {
            actions.push(Action::Serve(process));
        }
        if one.queue[0].is_some_and(|(_, reply)| reply != Reply::None) {
            actions.push(Action::Hear(process));
        }
        match one.phase {
            Phase::Dead | Phase::Sealing => {}
            Phase::Follower if self.keeper.ballot.term < rules.bounds.terms => actions.push(Action::Seal(process)),
            Phase::Follower => {}
            Phase::Reading => {
                let needed = !rules.broken(Broken::BelieveAnyServer) && !rules.broken(Broken::ReadBeforeSeal);
                if !one.open && needed {
                    actions.push(Action::Open(process));
                } else if one.step < one.term {
                    actions.push(Action::Read(process));
                } else if one.gap || !(one.closed || rules.broken(Broken::NoClosingCheck)) {
                    actions.push(Action::Close(process));
                } else {
                    actions.push(Action::Stand(process));
                }
            }
            Phase::Leader => self.leading(process, rules, actions),
        }
    }

    fn leading(&self, process: usize, rules: &Rules, actions: &mut Vec<Action>) {
        let one = &self.processes[process];
        let room = one.in_flight() < usize::from(rules.bounds.window);
        let asked = self.answers.iter().filter(|answer| **answer != Answer::Unasked).count();
        if asked < usize::from(rules.bounds.proposals) && one.acknowledged > one.begin {
            actions.push(Action::Propose(process));
        }
        if room && one.sent < one.log.last() {
            actions.push(Action::Append(process));
        }
        if room && !one.tends_archive() && one.acknowledged > one.begin {
            if self.left.snapshots > 0 && one.commit > self.keeper.tree.newest {
                actions.push(Action::Publish(process));
            }
            if self.keeper.trimmable(one.term, self.covered(one, rules)).is_some() {
                actions.push(Action::Trim(process));
            }
        }
        for to in 0..2 {
            let other = &self.processes[to];
            let listens = match other.phase {
                Phase::Follower => other.term <= one.term,
                Phase::Leader => other.term < one.term,
                _ => false,
            };
            let news = merged(other.log, one.log).0 != other.log || other.commit < one.commit || other.term < one.term;
            if listens && other.node != one.node && news {
                actions.push(Action::Replicate { from: process, to });
            }
        }
        if self.keeper.ballot.term > one.term {
            actions.push(Action::StepDown(process));
        }
    }

    pub fn covered(&self, one: &Process, rules: &Rules) -> u8 {
        if rules.broken(Broken::TrimByApplied) {
            one.commit
        } else {
            self.keeper.tree.previous
        }
    }
}
