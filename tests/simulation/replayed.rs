//! Runs of the model of succession (`tests/model`), played to the real core in a world without chance: both must end
//! alike.
//!
//! A run is drawn in the model, chapter by chapter: whole stories (a leader dies, its last append lost), whose steps the
//! model must allow, and for each the commands that bring the same about in the world. After every chapter the two are
//! compared: who holds the ballot, what lies in ZooKeeper at each index, what was acknowledged, what each node applied.

use bequest::command::Command;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stateright::Model;

use crate::golden::stage;
use crate::machine::{key_and_value, KEYS};
use crate::succession::state::Phase;
use crate::succession::{Action, Answer, Bounds, Occurrence, State, Succession};
use crate::world::{Place, World};

const RUNS: u64 = 300;
const CHAPTERS: usize = 12;

const BOUNDS: Bounds = Bounds {
    terms: 3,
    proposals: 3,
    window: 2,
    kills: 99,
    wipes: 99,
    breaks: 99,
    late: 2,
    twins: 0,
    lags: 0,
    snapshots: 0,
};

/// How an append of a leader that dies comes to nothing known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// ZooKeeper never sees it; the other node, if it runs, has the entry.
    Lost,
    /// ZooKeeper never sees it, nor does the other node.
    Unheard,
    /// It is in ZooKeeper; the answer is lost.
    Unanswered,
    /// The other node has not heard of it; it is served once its process is dead.
    Adrift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chapter {
    /// A write is acknowledged.
    Write,
    /// Everybody is dead, and one starts.
    Rise(usize),
    /// The dead node starts beside the leader.
    Join,
    /// The one that follows dies; its disk too?
    FollowerDies { wiped: bool },
    /// The leader dies; its disk too?
    LeaderDies { wiped: bool },
    /// Its append was under way.
    LeaderDiesAsking(Fate),
    /// An append is served from a broken connection's socket, before or after it is issued again.
    Late { first: bool },
    /// The leader is stopped, replaced, asked for a write, and goes on.
    Paused { asked: bool },
}

struct Replay {
    model: Succession,
    state: State,
    world: World,
    told: Vec<String>,
    rng: StdRng,
}

fn value(bytes: &bytes::Bytes) -> Option<u64> {
    match Command::decode(bytes) {
        Ok(Command::Plain(command)) => key_and_value(&command).map(|(_, value)| value),
        _ => None,
    }
}

impl Replay {
    fn new(seed: u64) -> Self {
        let model = Succession::new(BOUNDS, &[]);
        let state = model.init_states()[0];
        let rng = StdRng::seed_from_u64(seed);
        let mut replay = Self { model, state, world: stage::empty(), told: Vec::new(), rng };
        replay.obey("start n1");
        replay.obey("until n1 leads");
        replay.succeed(0);
        replay.obey("start n2");
        replay.obey("until n2 follows");
        replay.sync();
        replay
    }

    /// A step of the model, which must allow it.
    fn act(&mut self, action: Action) {
        let mut allowed = Vec::new();
        self.model.actions(&self.state, &mut allowed);
        assert!(allowed.contains(&action), "the model allows {allowed:?}, not {action:?}\n{}", self.told.join("\n"));
        self.told.push(format!("  {action:?}"));
        let next = self.model.next_state(&self.state, action);
        self.state = next.unwrap_or_else(|| panic!("{action:?} leads nowhere\n{}", self.told.join("\n")));
        for property in self.model.properties() {
            assert!((property.condition)(&self.model, &self.state), "{}\n{}", property.name, self.told.join("\n"));
        }
    }

    /// A command to the world.
    fn obey(&mut self, command: &str) {
        self.told.push(command.to_owned());
        let command = command.parse().expect("a command");
        if let Err(what) = self.world.obey(&command) {
            panic!("{what}\n{}", self.told.join("\n"));
        }
    }

    fn phase(&self, node: usize) -> Phase {
        self.state.processes[node].phase
    }

    fn leader(&self) -> Option<usize> {
        let term = self.state.keeper.ballot.term;
        (0..2).find(|node| self.phase(*node) == Phase::Leader && self.state.processes[*node].term == term)
    }

    fn asked(&self) -> usize {
        self.state.answers.iter().filter(|answer| **answer != Answer::Unasked).count()
    }

    /// A node seals, reads, stands, and has its first append acknowledged.
    fn succeed(&mut self, node: usize) {
        for action in [Action::Seal(node), Action::Serve(node), Action::Hear(node)] {
            self.act(action);
        }
        for _ in 0..self.state.keeper.ballot.term {
            self.act(Action::Read(node));
        }
        self.act(Action::Close(node));
        self.act(Action::Stand(node));
        self.append(node);
    }

    fn append(&mut self, node: usize) {
        self.act(Action::Append(node));
        self.act(Action::Serve(node));
        self.act(Action::Hear(node));
    }

    fn replicate(&mut self) {
        let Some(from) = self.leader() else { return };
        let action = Action::Replicate { from, to: 1 - from };
        let mut allowed = Vec::new();
        self.model.actions(&self.state, &mut allowed);
        if allowed.contains(&action) {
            self.act(action);
        }
    }

    /// Whoever follows learns everything; then both must be alike.
    fn sync(&mut self) {
        self.replicate();
        self.obey("until answered");
        self.obey("until quiet");
        self.compare();
    }

    fn chapters(&self) -> Vec<Chapter> {
        let another_term = self.state.keeper.ballot.term < BOUNDS.terms;
        let another_write = self.asked() < usize::from(BOUNDS.proposals);
        let Some(leader) = self.leader() else {
            return if another_term { vec![Chapter::Rise(0), Chapter::Rise(1)] } else { Vec::new() };
        };
        let other = self.phase(1 - leader) != Phase::Dead;
        let mut chapters = Vec::new();
        if another_write {
            chapters.extend([
                Chapter::Write,
                Chapter::Write,
                Chapter::Late { first: true },
                Chapter::Late { first: false },
            ]);
        }
        if other {
            chapters.extend([Chapter::FollowerDies { wiped: false }, Chapter::FollowerDies { wiped: true }]);
        } else {
            chapters.push(Chapter::Join);
        }
        if another_term {
            chapters.extend([Chapter::LeaderDies { wiped: false }, Chapter::LeaderDies { wiped: true }]);
            if other {
                chapters.push(Chapter::Paused { asked: false });
            }
            if another_write {
                let fates = [Fate::Lost, Fate::Unheard, Fate::Unanswered, Fate::Adrift];
                chapters.extend(fates.map(Chapter::LeaderDiesAsking));
                chapters.extend(other.then_some(Chapter::Paused { asked: true }));
            }
        }
        chapters
    }

    fn kill(&mut self, node: usize, wiped: bool) {
        self.obey(&format!("kill n{}", node + 1));
        if wiped {
            self.obey(&format!("wipe n{}", node + 1));
            self.act(Action::Wipe { process: node, late: false });
        } else {
            self.act(Action::Kill { process: node, torn: false, late: false });
        }
    }

    /// The leader is gone: the other node, if it runs, takes over.
    fn orphan(&mut self, heir: usize) {
        if self.phase(heir) != Phase::Dead {
            self.obey(&format!("until n{} leads", heir + 1));
            self.succeed(heir);
            self.sync();
        }
    }

    fn play(&mut self, chapter: Chapter) {
        self.told.push(format!("{chapter:?}"));
        match (chapter, self.leader()) {
            (Chapter::Rise(node), None) => {
                self.obey(&format!("start n{}", node + 1));
                self.act(Action::Start(node));
                self.obey(&format!("until n{} leads", node + 1));
                self.succeed(node);
                self.sync();
            }
            (Chapter::Write, Some(leader)) => {
                self.obey(&format!("propose n{}", leader + 1));
                self.act(Action::Propose(leader));
                self.append(leader);
                self.sync();
            }
            (Chapter::Join, Some(leader)) => {
                self.obey(&format!("start n{}", 2 - leader));
                self.obey(&format!("until n{} follows", 2 - leader));
                self.act(Action::Start(1 - leader));
                self.sync();
            }
            (Chapter::FollowerDies { wiped }, Some(leader)) => {
                self.kill(1 - leader, wiped);
                self.sync();
            }
            (Chapter::LeaderDies { wiped }, Some(leader)) => {
                self.kill(leader, wiped);
                self.orphan(1 - leader);
            }
            (Chapter::LeaderDiesAsking(fate), Some(leader)) => self.leader_dies_asking(leader, fate),
            (Chapter::Late { first }, Some(leader)) => self.late(leader, first),
            (Chapter::Paused { asked }, Some(leader)) => self.paused(leader, asked),
            (chapter, leader) => panic!("{chapter:?} with {leader:?}"),
        }
    }

    fn leader_dies_asking(&mut self, leader: usize, fate: Fate) {
        let (one, other) = (leader + 1, 2 - leader);
        let unheard = matches!(fate, Fate::Unheard | Fate::Adrift);
        if unheard {
            self.obey(&format!("cut n{one} n{other}"));
        }
        self.obey(&format!("mute n{one}{}", if fate == Fate::Unanswered { " replies" } else { "" }));
        self.obey(&format!("propose n{one}"));
        // Long enough for everything that is not held up, and too short for a doubt.
        self.obey("pass 20ms");
        self.act(Action::Propose(leader));
        self.act(Action::Append(leader));
        if fate == Fate::Unanswered {
            self.act(Action::Serve(leader));
        }
        if !unheard {
            self.replicate();
        }
        if fate == Fate::Adrift {
            self.obey(&format!("kill n{one}"));
            self.act(Action::Kill { process: leader, torn: false, late: true });
            self.act(Action::Late(0));
            self.obey("pass 20ms");
        } else {
            // What lies in the socket is gone with the connection.
            self.obey(&format!("break n{one}"));
            self.kill(leader, false);
        }
        if unheard {
            self.obey(&format!("heal n{one} n{other}"));
        }
        self.orphan(1 - leader);
    }

    fn late(&mut self, leader: usize, first: bool) {
        let one = leader + 1;
        self.obey(&format!("mute n{one}"));
        self.obey(&format!("propose n{one}"));
        self.obey("pass 20ms");
        self.obey(&format!("break n{one} leaving 1"));
        self.act(Action::Propose(leader));
        self.act(Action::Append(leader));
        self.act(Action::Break { process: leader, late: true, lagging: false });
        if first {
            self.act(Action::Late(0));
        }
        self.act(Action::Serve(leader));
        self.act(Action::Hear(leader));
        if !first {
            self.act(Action::Late(0));
        }
        self.sync();
    }

    fn paused(&mut self, leader: usize, asked: bool) {
        let (one, other) = (leader + 1, 2 - leader);
        self.obey(&format!("pause n{one}"));
        self.obey(&format!("until n{other} leads"));
        self.succeed(1 - leader);
        self.obey("until quiet");
        if asked {
            self.obey(&format!("propose n{one}"));
            self.act(Action::Propose(leader));
            self.append(leader);
        } else {
            self.act(Action::StepDown(leader));
        }
        self.obey(&format!("continue n{one}"));
        self.obey(&format!("until n{one} follows"));
        self.sync();
    }

    /// Model and world show the same.
    fn compare(&self) {
        let same = |what: &str, model: String, world: String| {
            assert_eq!(model, world, "{what}: the model (left), the world (right)\n{}", self.told.join("\n"));
        };
        let (group, keeper) = (&self.world.groups[0], &self.state.keeper);
        let (ballot, version) = (&group.mirror.ballot.0, group.mirror.ballot.1);
        let holder = keeper.ballot;
        same(
            "ballot (term, node, version)",
            format!("{:?}", (holder.term, holder.node + 1, holder.term)),
            format!("{:?}", (ballot.term, ballot.node, version)),
        );
        let log = keeper.tree.recoverable().expect("whole");
        let model: Vec<_> = log.entries().map(|(index, entry)| (index, entry.term, entry.proposal)).collect();
        let entries = group.mirror.log.iter();
        let world: Vec<_> =
            entries.map(|(entry, _)| (entry.index, entry.term, value(&entry.data).unwrap_or(0))).collect();
        same("the log in zookeeper (index, term, proposal)", format!("{model:?}"), format!("{world:?}"));
        let model: Vec<_> = self.state.acknowledged.entries().map(|(index, entry)| (entry.proposal, index)).collect();
        let acknowledged = group.history.writes.iter();
        let world: Vec<_> = acknowledged.filter_map(|(value, write)| Some((*value, write.acknowledged?))).collect();
        same("acknowledged (proposal, index)", format!("{model:?}"), format!("{world:?}"));
        for node in 0..2 {
            let place = Place { node: node as u64 + 1, host: 0 };
            let process = &self.state.processes[node];
            let here = self.world.at(place);
            same(&format!("n{}", node + 1), format!("{}", process.phase != Phase::Dead), format!("{}", here.is_some()));
            let Some(pid) = here else { continue };
            let applied = process.log.prefix(process.commit).entries();
            let mut model: Vec<u64> =
                applied.map(|(_, entry)| u64::from(entry.proposal)).filter(|proposal| *proposal > 0).collect();
            let host = &self.world.processes[&pid].replicas[0].host;
            let mut world: Vec<u64> = (0..KEYS).flat_map(|key| host.list(key)).collect();
            model.sort_unstable();
            world.sort_unstable();
            same(
                &format!("applied by n{}", node + 1),
                format!("{} {model:?}", process.commit),
                format!("{} {world:?}", host.applied()),
            );
        }
    }
}

#[test]
fn runs_of_the_model_end_alike_in_the_real_core() {
    let mut reached = vec![0; Occurrence::ALL.len()];
    let mut chapters = 0;
    for seed in 0..RUNS {
        let mut replay = Replay::new(seed);
        for _ in 0..CHAPTERS {
            let next = replay.chapters();
            if next.is_empty() {
                break;
            }
            let chapter = next[replay.rng.random_range(0..next.len())];
            replay.play(chapter);
            chapters += 1;
        }
        for (sum, occurrence) in reached.iter_mut().zip(Occurrence::ALL) {
            *sum += replay.model.occurrences.count(*occurrence);
        }
    }
    println!("{RUNS} runs, {chapters} chapters");
    for (count, occurrence) in reached.iter().zip(Occurrence::ALL) {
        println!("{count:>8}  {}", occurrence.text());
    }
    for must in [
        Occurrence::SuffixKept,
        Occurrence::SuffixDropped,
        Occurrence::Acknowledged,
        Occurrence::AppendFenced,
        Occurrence::LateAppendApplied,
        Occurrence::AppliedBefore,
        Occurrence::UnknownAdopted,
        Occurrence::UnknownDropped,
        Occurrence::BothDisksLost,
        Occurrence::Deposed,
        Occurrence::LastTermServes,
    ] {
        assert!(reached[must as usize] > 0, "never: {}", must.text());
    }
}
