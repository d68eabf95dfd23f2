//! The end of a run: every fault ends, and then the group must serve, without anybody's help (I8).

use crate::dice::Part;
use crate::mix::{Micros, MILLI, SECOND};
use crate::world::{Group, World};

// Within this much simulated time somebody serves again. A ballot's back-off doubles up to 30 seconds.
const SERVES_WITHIN: Micros = 120 * SECOND;
// Within this much more everybody has caught up and every question is answered.
const CONVERGES_WITHIN: Micros = 60 * SECOND;

impl World {
    /// A whole run, as its mix wants it.
    pub fn live(&mut self, steps: u64, until: Micros) {
        if self.mix.backwards {
            self.live_backwards(steps, until, None);
        } else {
            self.live_and_heal(steps, until);
        }
        self.counts.one("runs");
        self.counts.add("steps", self.steps);
        let leaderships: usize = self.groups.iter().map(|group| group.history.leaderships()).sum();
        self.counts.add("leaderships", leaderships as u64);
        self.counts.add("milliseconds simulated", self.busy / MILLI);
    }

    /// Chaos for so many steps, or so long, then healing.
    fn live_and_heal(&mut self, steps: u64, until: Micros) {
        self.run(steps, until, |_| false);
        self.heal();
        self.groups.iter_mut().for_each(|group| group.clients.stop());
        let began = self.now;
        self.must_serve();
        let took = self.now - began;
        self.counts.one(match took {
            0..=300_000 => "healed within 0.3 s",
            300_001..=1_000_000 => "healed within 1 s",
            1_000_001..=5_000_000 => "healed within 5 s",
            5_000_001..=30_000_000 => "healed within 30 s",
            _ => "healed later",
        });
        self.must_converge();
    }

    pub fn must_serve(&mut self) {
        let until = self.now + SERVES_WITHIN;
        let so_far = |group: &Group| (group.clients.acknowledged, group.clients.answered);
        let before: Vec<(u64, u64)> = self.groups.iter().map(so_far).collect();
        let mut next = self.now;
        let served = self.run(u64::MAX, until, |world| {
            let open: Vec<usize> = (0..world.groups.len())
                .filter(|group| {
                    let (acknowledged, answered) = so_far(&world.groups[*group]);
                    acknowledged == before[*group].0 || answered == before[*group].1
                })
                .collect();
            if world.now >= next {
                next = world.now + 20 * MILLI;
                for group in &open {
                    let leaders: Vec<_> = world.leaders(*group).into_keys().collect();
                    if let Some(pid) = world.roll(Part::Driver).pick(&leaders) {
                        world.write(*group, pid);
                        world.read(*group, pid);
                    }
                }
            }
            open.is_empty()
        });
        assert!(served, "I8: nobody serves after the last fault: {}", self.situation());
    }

    pub fn must_converge(&mut self) {
        let until = self.now + CONVERGES_WITHIN;
        let nodes = self.mix.nodes as usize;
        self.run(u64::MAX, until, |world| {
            world.processes.len() == nodes
                && world.groups.iter().enumerate().all(|(number, group)| {
                    let end = group.mirror.end().index;
                    group.clients.waiting() == 0
                        && world.processes.values().all(|process| process.replicas[number].host.applied() == end)
                })
        });
        for (number, group) in self.groups.iter().enumerate() {
            if let Some((token, pid, purpose)) = group.clients.first_waiting() {
                panic!("{token:?} ({purpose:?}) was never answered by {pid:?}: {}", self.situation());
            }
            let end = group.mirror.end().index;
            for process in self.processes.values() {
                let applied = process.replicas[number].host.applied();
                assert_eq!(applied, end, "{:?} does not catch up: {}", process.pid, self.situation());
                self.check_state(process.pid, number);
            }
            for (value, write) in &group.history.writes {
                assert!(write.acknowledged.is_none() || write.took.is_some(), "I1: value {value} was lost");
            }
        }
    }

    /// Everybody's status in a few words, for a failure's message.
    pub fn situation(&self) -> String {
        let mut text = String::new();
        for (number, group) in self.groups.iter().enumerate() {
            let ballot = &group.mirror.ballot.0;
            text.push_str(&format!(
                "group {number}: ballot term {} node {} vacant {}, log ends at {}, {} segments",
                ballot.term,
                ballot.node,
                ballot.vacant,
                group.mirror.end().index,
                group.mirror.segments(),
            ));
            for process in self.processes.values() {
                let replica = &process.replicas[number];
                let status = replica.status.as_ref();
                text.push_str(&format!(
                    "; {:?} node {} {:?} term {:?} last {:?} commit {:?} applied {} ({:?}), connected {}; ",
                    process.pid,
                    process.place.node,
                    status.map(|status| status.role),
                    status.map(|status| status.term),
                    status.map(|status| status.last),
                    status.map(|status| status.commit),
                    replica.host.applied(),
                    status.map(|status| status.reason.as_str()),
                    process.keeper.connection.is_some(),
                ));
            }
        }
        if self.trace.keeps() {
            for process in self.processes.values() {
                text.push_str(&format!("\n{:?}: {:?}", process.pid, process.core));
            }
        }
        text
    }
}
