//! Faults that wait for their moment: steps that pass quickly are struck as often as others, rare faults as often as
//! frequent ones.

use crate::blows::Blow;
use crate::dice::{Part, Roll};
use crate::mix::{Fault, Micros, Mix, SECOND};
use crate::steps::Step;
use crate::world::{Pid, Place, World};

/// A fault that strikes as soon as some replica is in a step.
#[derive(Debug)]
struct Wait {
    blow: Blow,
    step: Step,
    // It is given up then.
    until: Micros,
    roll: Roll,
}

// How long a fault waits for its moment.
const PATIENCE: Micros = 2 * SECOND;

// What the steps are drawn from: everything, what passes quickly, and what is rare.
const STEPS: [&[Step]; 4] = [
    &Step::ALL,
    &[
        Step::Restoring,
        Step::Challenging,
        Step::Sealing,
        Step::Reading,
        Step::Standing,
        Step::Snapshotting,
        Step::Trimming,
    ],
    &[Step::SteppingDown, Step::Restoring, Step::Challenging],
    &[Step::SteppingDown, Step::Restoring, Step::Challenging, Step::Sealing, Step::Reading],
];

// The last of them is for faults that seldom find what they need in steps that seldom come.
const RARE: usize = STEPS.len() - 1;
const RARE_FAULTS: [Fault; 6] =
    [Fault::DiskWrite, Fault::DiskSync, Fault::DiskFull, Fault::Member, Fault::Older, Fault::Twin];

/// Those that wait.
#[derive(Debug, Default)]
pub struct Waiting([Option<Wait>; STEPS.len()]);

impl World {
    /// Draws new ones for those that struck or were given up.
    pub fn wait_for_moments(&mut self) {
        let blows = self.mix.blows();
        for (place, steps) in STEPS.into_iter().enumerate() {
            if self.waiting.0[place].as_ref().is_some_and(|wait| self.now < wait.until) {
                continue;
            }
            let (mut roll, until) = (self.roll(Part::Aim(place)), self.now + PATIENCE);
            let mut blows = blows.clone();
            blows.retain(|blow| place != RARE || matches!(blow, Blow::Drawn(fault) if RARE_FAULTS.contains(fault)));
            let drawn = roll.pick(&blows).zip(roll.pick(steps));
            self.waiting.0[place] = drawn.map(|(blow, step)| Wait { blow, step, until, roll });
        }
    }

    /// What of these kinds waits for what a process is doing; it waits no more.
    fn moment(&mut self, pid: Pid, kind: impl Fn(Blow) -> bool) -> Option<(Blow, Roll)> {
        let now = self.now;
        let waits = |wait: &Wait| now < wait.until && kind(wait.blow);
        if self.healing || !self.waiting.0.iter().flatten().any(waits) {
            return None;
        }
        let steps = self.steps_of(pid);
        let hit = |wait: &mut Wait| waits(wait) && steps.contains(&wait.step);
        let Wait { blow, step, until: _, roll } = self.waiting.0.iter_mut().find_map(|wait| wait.take_if(hit))?;
        let allowed = self.comes_true(&roll, blow.word(), || format!("{pid:?} in {step}"));
        if allowed {
            self.note(("aimed", blow, step), || format!("fault: {blow} for {pid:?} in {step}"));
        }
        allowed.then_some((blow, roll))
    }

    /// A process has done a step of its core: a fault that waits for this strikes.
    pub fn strike_aimed(&mut self, pid: Pid) {
        let place = self.processes.get(&pid).map(|process| process.place);
        let synced = place.and_then(|place| self.disks.get(&place)).is_none_or(|disk| disk.unsynced() == 0);
        let connection = self.processes.get(&pid).and_then(|process| process.keeper.connection);
        let connected = connection.is_some() && self.troubles.servers.is_empty();
        let kind = |blow| match blow {
            Blow::Drawn(Fault::DiskWrite | Fault::DiskFull) => false,
            Blow::Drawn(Fault::DiskSync) => !synced,
            Blow::Drawn(Fault::Member) => connected,
            Blow::Drawn(_) => true,
            _ => false,
        };
        let (Some((Blow::Drawn(fault), mut roll)), Some(place)) = (self.moment(pid, kind), place) else { return };
        let mut aim = self.aim(&mut roll);
        if let Some(connection) = connection {
            aim.server = connection.server;
        }
        if aim.from != place.node {
            (aim.from, aim.to) = (place.node, aim.from);
        }
        aim.victim = Some((place, pid));
        self.inflict(&mut roll, fault, aim);
    }

    /// A process writes to its disk: a fault that waits for this strikes.
    pub fn strike_aimed_write(&mut self, pid: Pid, place: Place) {
        let kind = |blow| matches!(blow, Blow::Drawn(Fault::DiskWrite | Fault::DiskFull));
        match self.moment(pid, kind) {
            Some((Blow::Drawn(Fault::DiskFull), mut roll)) => {
                let spell = self.lasts(&mut roll, self.mix.spell);
                self.fill_disk(place, 0, spell);
            }
            Some((_, mut roll)) => self.break_disk(&mut roll, place),
            None => {}
        }
    }

    /// Whether this befalls a process now, by chance or because it waited for this.
    pub fn befalls(&mut self, pid: Pid, roll: &mut Roll, blow: Blow, in_10_000: u32) -> bool {
        self.hurts(roll, blow.word(), in_10_000) || self.moment(pid, |waits| waits == blow).is_some()
    }
}

impl Mix {
    /// Everything that may be aimed at a step.
    fn blows(&self) -> Vec<Blow> {
        let drawn = self.weights.list().into_iter().filter(|(_, weight)| *weight > 0);
        let others = [
            (Blow::MessageDropped, self.dropped),
            (Blow::MessageTwice, self.duplicated),
            (Blow::MessageLate, self.reordered),
            (Blow::MessageFromThePast, self.stale),
            (Blow::GivenUp, self.given_up),
            (Blow::BetweenEffects, self.killed_in_step),
        ];
        let others = others.into_iter().filter(|(_, rate)| *rate > 0);
        drawn.map(|(fault, _)| Blow::Drawn(fault)).chain(others.map(|(blow, _)| blow)).collect()
    }
}
