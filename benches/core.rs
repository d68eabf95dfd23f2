//! What a proposal costs the core: from the event until it is to be applied, without threads, disk and network.
//!
//! `cargo bench --no-default-features --bench core`
//!
//! A group of one node is founded in the model of ZooKeeper and led by the core. From then on every transaction is
//! answered as done without being looked at, so that the model is no part of what is measured.

use std::time::Duration;

use bequest::command::Command;
use bequest::replica::event::{Apply, Config, Effect, Event, GroupNumber, MachineEvent, NodeId, Now, Token};
use bequest::replica::status::Role;
use bequest::replica::Core;
use bequest_recovery::genesis::{cluster_parents, cluster_record, found_group};
use bequest_recovery::keeper::{KeeperEvent, Op, Outcome, Reply, Request, SessionNumber};
use bequest_recovery::model::{SessionId, ZooModel};
use bequest_recovery::record::{Addresses, Limits, Uuid};
use bytes::Bytes;
use criterion::{Criterion, Throughput};

const GROUP: GroupNumber = GroupNumber(1);
const NAME: &str = "measured";
const SESSION: SessionNumber = SessionNumber(1);
const STEP: Duration = Duration::from_millis(10);
/// Steps until a group that nobody contests is led.
const STEPS_MAX: usize = 1000;

/// The core, and what answers it at once.
struct Rig {
    core: Core,
    zoo: ZooModel,
    session: SessionId,
    now: Now,
    leads: bool,
    tokens: u64,
    applied: usize,
}

impl Rig {
    /// A core that leads.
    fn leading() -> Self {
        let mut zoo = ZooModel::new(1);
        let session = zoo.connect(0);
        // No snapshot is ever due: there is no machine to take it of.
        let limits = Limits { wal_bytes: 1 << 50, wal_segments: 1 << 50, state_bytes: 1 << 50 };
        let record = cluster_record(Uuid([0xc1; 16]));
        let mut cluster = vec![Op::Create { path: "/".to_owned(), data: record, ephemeral: false }];
        cluster.extend(cluster_parents());
        for request in [Request::Multi(cluster), found_group(NAME, Uuid([7; 16]), &[1], limits)] {
            let outcome = zoo.execute(session, &request);
            assert!(matches!(outcome, Outcome::Ok(_)), "founding was refused: {outcome:?}");
        }
        let core = Core::new(config());
        let mut rig = Self { core, zoo, session, now: Now::default(), leads: false, tokens: 0, applied: 0 };
        rig.turn(vec![Event::Keeper(KeeperEvent::Connected { session: SESSION, timeout_ms: 6000 })]);
        rig.turn(vec![Event::Join { group: GROUP, name: NAME.to_owned(), local: None, applied: 0 }]);
        let mut steps = 0;
        while !rig.leads {
            steps += 1;
            assert!(steps < STEPS_MAX, "nobody leads after {:?}", rig.now);
            rig.now = rig.now + STEP;
            rig.turn(vec![Event::Tick]);
        }
        rig
    }

    /// Gives events, and what they bring about, until nothing is left to be done.
    fn turn(&mut self, mut events: Vec<Event>) {
        while !events.is_empty() {
            let effects = self.core.step(self.now, events.drain(..));
            for effect in effects.list {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Keeper { id, urgency: _, request } => {
                let outcome = match &request {
                    Request::Multi(_) if self.leads => Outcome::Ok(Reply::Done),
                    _ => self.zoo.execute(self.session, &request),
                };
                Some(Event::Keeper(KeeperEvent::Outcome { id, session: SESSION, outcome }))
            }
            Effect::Persist(group, persist) => Some(Event::Persisted { group, number: persist.number }),
            Effect::Apply(group, entries) => {
                self.applied += entries.iter().filter(|apply| apply.token.is_some()).count();
                let index = entries.last().map(|Apply { entry, .. }| entry.index)?;
                Some(Event::Machine(group, MachineEvent::Applied { index, ready_to_lead: true }))
            }
            Effect::Probe { .. } => Some(Event::Probed { nonce: None }),
            Effect::Status(_, status) => {
                self.leads = status.role == Role::Leader;
                assert!(status.stopped.is_none(), "stopped: {status:?}");
                None
            }
            Effect::StopNode(error) => panic!("stopped: {error}"),
            Effect::RefuseProposal(_, error) => panic!("refused: {error}"),
            _ => None,
        }
    }

    /// Proposes so many commands at once; returns when all of them are to be applied.
    fn propose(&mut self, count: usize, data: &Bytes) {
        let wanted = self.applied + count;
        let proposals = (0..count).map(|_| {
            self.tokens += 1;
            Event::Propose { group: GROUP, token: Token(self.tokens), data: data.clone() }
        });
        let proposals = proposals.collect();
        self.turn(proposals);
        assert_eq!(self.applied, wanted, "not everything was committed");
    }
}

fn config() -> Config {
    Config {
        node: NodeId(1),
        addresses: Addresses { peer: "localhost:7001".to_owned(), client: String::new() },
        nonce: 7,
        seed: 7,
        cluster: None,
        beat: Duration::from_millis(30),
        election_timeout: Duration::from_millis(150),
        poll: Duration::from_secs(2),
        segment_bytes: 256 * 1024,
        segments_in_flight: 8,
        proposal_bytes_in_flight: 64 << 20,
        proposals_in_flight: 8192,
        reads_in_flight: 8192,
        log_cache_bytes: 32 << 20,
    }
}

fn proposals(criterion: &mut Criterion) {
    for (count, bytes) in [(1, 100), (256, 100), (16, 64 * 1024)] {
        let data = Command::Plain(vec![0x5a; bytes].into()).encode();
        let mut group = criterion.benchmark_group("core");
        group.throughput(Throughput::Elements(count as u64));
        let mut rig = Rig::leading();
        group.bench_function(format!("propose {count} of {bytes} B"), |bencher| {
            bencher.iter(|| rig.propose(count, &data));
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    proposals(&mut criterion);
    criterion.final_summary();
}
