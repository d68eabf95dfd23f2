//! When each replica is to be ticked, so that a step asks those whose time has come and not all there are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::{GroupNumber, Now};

/// Greater than every group's number, to end a range with.
const LAST: GroupNumber = GroupNumber(u32::MAX);

/// When something is to be looked at again, if nothing happens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    At(Now),
    /// Once the core was not stepped for so long: every step puts it off.
    Idle(Duration),
}

/// When a replica is to be ticked: at every step from its time on, until a step plans anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// From this time on, or once the core was not stepped for so long. The core is to be woken for it.
    Tick { at: Now, idle: Option<Duration> },
    /// From this time on too, but a tick does nothing unless something has happened to the replica in the same step, or
    /// it is `alone` or later. `wakes`: it is overdue, and what it waits for is looked for again soon.
    Rest { from: Now, alone: Option<Now>, wakes: bool },
}

/// The plans of all replicas, by time.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    plans: BTreeMap<GroupNumber, Plan>,
    timed: BTreeSet<(Now, GroupNumber)>,
    idle: BTreeSet<(Duration, GroupNumber)>,
    resting: BTreeSet<GroupNumber>,
    alone: BTreeSet<(Now, GroupNumber)>,
    /// How many rest and wake the core all the same.
    waking: usize,
    /// The step that made the plans.
    stepped: Now,
}

impl Agenda {
    /// The step that was made before this one.
    pub(super) fn set_stepped(&mut self, now: Now) {
        self.stepped = now;
    }

    /// Puts a plan in the place of the replica's former one.
    pub(super) fn set(&mut self, group: GroupNumber, plan: Plan) {
        let before = self.plans.insert(group, plan);
        if before == Some(plan) {
            return;
        }
        match before {
            None => {}
            Some(Plan::Tick { at, idle }) => {
                self.timed.remove(&(at, group));
                if let Some(idle) = idle {
                    self.idle.remove(&(idle, group));
                }
            }
            Some(Plan::Rest { from: _, alone, wakes }) => {
                self.resting.remove(&group);
                if let Some(at) = alone {
                    self.alone.remove(&(at, group));
                }
                self.waking -= usize::from(wakes);
            }
        }
        match plan {
            Plan::Tick { at, idle } => {
                self.timed.insert((at, group));
                self.idle.extend(idle.map(|idle| (idle, group)));
            }
            Plan::Rest { from: _, alone, wakes } => {
                self.resting.insert(group);
                self.alone.extend(alone.map(|at| (at, group)));
                self.waking += usize::from(wakes);
            }
        }
    }

    /// From when on the replica is ticked, as planned in the last step.
    pub(super) fn from(&self, group: GroupNumber) -> Now {
        match self.plans.get(&group) {
            Some(Plan::Tick { at, idle }) => idle.map_or(*at, |idle| (self.stepped + idle).min(*at)),
            Some(Plan::Rest { from, .. }) => *from,
            None => Now::default(),
        }
    }

    /// Who is to be ticked now, ascending. `touched`: whom something happened to in this step.
    pub(super) fn due(&self, now: Now, touched: &BTreeSet<GroupNumber>) -> Vec<GroupNumber> {
        let gap = now.since(self.stepped);
        let timed = self.timed.range(..=(now, LAST)).map(|(_, group)| *group);
        let idle = self.idle.range(..=(gap, LAST)).map(|(_, group)| *group);
        let alone = self.alone.range(..=(now, LAST)).map(|(_, group)| *group);
        let woken = self.resting.intersection(touched).copied().filter(|group| self.from(*group) <= now);
        let mut due: Vec<_> = timed.chain(idle).chain(alone).chain(woken).collect();
        due.sort_unstable();
        due.dedup();
        due
    }

    /// Everybody who rests though its time has come.
    pub(super) fn resting(&self, now: Now) -> impl Iterator<Item = GroupNumber> + '_ {
        self.resting.iter().copied().filter(move |group| self.from(*group) <= now)
    }

    /// When to be woken; that may be over already.
    pub(super) fn wake_at(&self) -> Option<Now> {
        let timed = self.timed.first().map(|(at, _)| *at);
        let idle = self.idle.first().map(|(idle, _)| self.stepped + *idle);
        let waking = (self.waking > 0).then_some(self.stepped);
        [timed, idle, waking].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::context::Random;
    use super::*;

    fn at(millis: u64) -> Now {
        Now(Duration::from_millis(millis))
    }

    fn some_plan(random: &mut Random, now: u64) -> Plan {
        let soon = |random: &mut Random| at(now + random.next() % 40);
        let maybe = random.next().is_multiple_of(2);
        match random.next() % 3 {
            0 => Plan::Tick { at: soon(random), idle: None },
            1 => Plan::Tick { at: soon(random), idle: maybe.then(|| Duration::from_millis(10 + random.next() % 20)) },
            _ => {
                let from = soon(random);
                let alone = maybe.then(|| soon(random).max(from));
                Plan::Rest { from, alone, wakes: random.next().is_multiple_of(2) }
            }
        }
    }

    /// As if each replica were asked.
    fn asked(plan: Plan, now: Now, stepped: Now, touched: bool) -> bool {
        match plan {
            Plan::Tick { at, idle } => at <= now || idle.is_some_and(|idle| now.since(stepped) >= idle),
            Plan::Rest { from, alone, .. } => from <= now && (touched || alone.is_some_and(|at| at <= now)),
        }
    }

    #[test]
    fn an_agenda_names_whom_a_look_at_every_plan_would() {
        let mut random = Random::new(7);
        for _ in 0..200 {
            let (mut agenda, mut plans) = (Agenda::default(), BTreeMap::new());
            let mut now = 0;
            for _ in 0..60 {
                let stepped = at(now);
                now += random.next() % 25;
                let touched: BTreeSet<_> =
                    (0..12).map(GroupNumber).filter(|_| random.next().is_multiple_of(4)).collect();
                let due = agenda.due(at(now), &touched);
                let all = plans.iter().filter(|(group, plan)| asked(**plan, at(now), stepped, touched.contains(group)));
                assert_eq!(due, all.map(|(group, _)| *group).collect::<Vec<_>>());
                for group in touched.into_iter().chain(due) {
                    let plan = some_plan(&mut random, now);
                    agenda.set(group, plan);
                    plans.insert(group, plan);
                }
                agenda.set_stepped(at(now));
                let wakes = plans.values().filter_map(|plan| match *plan {
                    Plan::Tick { at: time, idle } => Some(idle.map_or(time, |idle| time.min(at(now) + idle))),
                    Plan::Rest { wakes, .. } => wakes.then_some(at(now)),
                });
                assert_eq!(agenda.wake_at(), wakes.min());
            }
        }
    }
}
