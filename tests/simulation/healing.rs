//! The end of a run: every fault ends, and then the group must serve, without anybody's help (I8).

use crate::machine::KEYS;
use crate::mix::{Micros, MILLI, SECOND};
use crate::world::World;

// Within this much simulated time somebody serves again. A ballot's back-off doubles up to 30 seconds.
const SERVES_WITHIN: Micros = 120 * SECOND;
// Within this much more everybody has caught up and every question is answered.
const CONVERGES_WITHIN: Micros = 60 * SECOND;

impl World {
    /// A whole run: chaos for so many steps, then healing.
    pub fn live(&mut self, steps: u64) {
        self.run(steps, Micros::MAX, |_| false);
        self.heal();
        self.clients.stop();
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
        self.counts.one("runs");
        self.counts.add("steps", self.steps);
        self.counts.add("leaderships", self.history.leaderships() as u64);
        self.counts.add("seconds simulated", self.now / SECOND);
    }

    pub fn must_serve(&mut self) {
        let until = self.now + SERVES_WITHIN;
        let (acknowledged, answered) = (self.clients.acknowledged, self.clients.answered);
        let mut next = self.now;
        let served = self.run(u64::MAX, until, |world| {
            let wrote = world.clients.acknowledged > acknowledged;
            let read = world.clients.answered > answered;
            if world.now >= next && !(wrote && read) {
                next = world.now + 20 * MILLI;
                let leaders: Vec<_> = world.leaders().into_keys().collect();
                if let Some(pid) = world.pick(&leaders) {
                    world.write(pid);
                    world.read(pid);
                }
            }
            wrote && read
        });
        assert!(
            served && self.clients.acknowledged > acknowledged,
            "I8: nobody serves after the last fault: {}",
            self.situation()
        );
    }

    pub fn must_converge(&mut self) {
        let until = self.now + CONVERGES_WITHIN;
        let nodes = self.mix.nodes as usize;
        self.run(u64::MAX, until, |world| {
            let end = world.mirror.end().index;
            world.clients.waiting() == 0
                && world.processes.len() == nodes
                && world.processes.values().all(|process| process.host.applied() == end)
        });
        if let Some((token, pid, purpose)) = self.clients.first_waiting() {
            panic!("{token:?} ({purpose:?}) was never answered by {pid:?}: {}", self.situation());
        }
        let end = self.mirror.end().index;
        for process in self.processes.values() {
            let applied = process.host.applied();
            assert_eq!(applied, end, "{:?} does not catch up: {}", process.pid, self.situation());
            for key in 0..KEYS {
                assert_eq!(process.host.list(key), self.history.list(key, end), "I4: {:?}, key {key}", process.pid);
            }
        }
        for (value, write) in &self.history.writes {
            assert!(write.acknowledged.is_none() || write.took.is_some(), "I1: value {value} was lost");
        }
    }

    /// Everybody's status in a few words, for a failure's message.
    pub fn situation(&self) -> String {
        let mut text = format!(
            "zookeeper: ballot term {} node {} vacant {}, log ends at {}, {} segments",
            self.mirror.ballot.0.term,
            self.mirror.ballot.0.node,
            self.mirror.ballot.0.vacant,
            self.mirror.end().index,
            self.mirror.segments(),
        );
        for process in self.processes.values() {
            let status = process.status.as_ref();
            text.push_str(&format!(
                "; {:?} node {} {:?} term {:?} last {:?} commit {:?} applied {} ({:?}), connected {}",
                process.pid,
                process.place.node,
                status.map(|status| status.role),
                status.map(|status| status.term),
                status.map(|status| status.last),
                status.map(|status| status.commit),
                process.host.applied(),
                status.map(|status| status.reason.as_str()),
                process.keeper.connection.is_some(),
            ));
        }
        if self.trace.keeps() {
            for process in self.processes.values() {
                text.push_str(&format!("\n{:?}: {:?}", process.pid, process.core));
            }
        }
        text
    }
}
