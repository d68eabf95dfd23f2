//! Where scripts are played: a world without chance, in which nothing happens but what a script does.

use bequest::replica::event::Event;
use bequest::replica::status::Role;
use bequest_recovery::path::GroupPaths;
use bequest_recovery::record::{self, Segment, Uuid};
use bytes::Bytes;

use super::script::{Command, Condition, End, Failure, Script, Step, Target};
use super::tale::Tale;
use crate::death::Death;
use crate::dice::Dice;
use crate::genesis;
use crate::keeper::Silence;
use crate::mix::{Delay, Micros, Mix, MILLI, QUIET, SECOND};
use crate::network::Block;
use crate::process::number;
use crate::world::{Happening, Pid, Place, World};

/// Everything takes as long every time, and what is further away takes longer.
pub const CALM: Mix = Mix {
    name: "golden",
    clients: 1,
    servers: 1,
    keeper: fixed(MILLI),
    network: fixed(200),
    disk: fixed(500),
    machine: fixed(100),
    wal_bytes: 1 << 20,
    wal_segments: 100_000,
    log_cache_bytes: 1 << 20,
    ..QUIET
};

// A condition that does not hold after this long never will.
const PATIENCE: Micros = 60 * SECOND;
// Longer than three beats.
const QUIET_FOR: Micros = 100 * MILLI;

const fn fixed(delay: Micros) -> Delay {
    Delay { min: delay, max: delay }
}

/// Plays a script: the script as it should be, with what happened behind the commands.
///
/// # Errors
/// If it is no script, or the world does not allow a command.
pub fn play(text: &str) -> Result<String, Failure> {
    let script: Script = text.parse()?;
    let mut stage = Stage { mix: CALM, world: None };
    let mut played = Vec::new();
    for block in &script.blocks {
        let mut lines = block.head.clone();
        let mut told = Vec::new();
        for step in &block.steps {
            let mark = stage.tale().map_or(0, Tale::mark);
            stage.carry_out(step)?;
            told.push((step.given, mark, stage.tale().map_or(0, Tale::mark)));
        }
        // A look is found to have shown nothing only once it is answered: lines are written down at the end.
        for (given, from, to) in told {
            if let (false, Some(tale)) = (given, stage.tale()) {
                lines.extend(tale.between(from, to));
            }
        }
        played.push(lines.join("\n"));
    }
    Ok(played.join("\n\n") + "\n")
}

struct Stage {
    mix: Mix,
    world: Option<World>,
}

impl Stage {
    fn tale(&self) -> Option<&Tale> {
        self.world.as_ref().and_then(|world| world.tale.as_ref())
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), Failure> {
        let result = match &step.command {
            Command::Set(what, value) => self.set(what, *value),
            command => {
                let mix = self.mix;
                // A script's bounds live as long as the test program.
                let world = self.world.get_or_insert_with(|| calm(Box::leak(Box::new(mix))));
                world.obey(command)
            }
        };
        result.map_err(|what| Failure { line: step.line, what })
    }

    fn set(&mut self, what: &str, value: u64) -> Result<(), String> {
        if self.world.is_some() {
            return Err("set comes before everything else".to_owned());
        }
        match what {
            "wal_segments" => self.mix.wal_segments = value,
            "wal_bytes" => self.mix.wal_bytes = value,
            "segment_bytes" => self.mix.segment_bytes = value as usize,
            "segments_in_flight" => self.mix.segments_in_flight = value as usize,
            "log_cache_bytes" => self.mix.log_cache_bytes = value,
            "nodes" => self.mix.nodes = value,
            _ => return Err(format!("nothing to set: {what:?}")),
        }
        Ok(())
    }
}

/// A world without chance, to be told what to do.
#[cfg(not(planted))]
pub fn empty() -> World {
    calm(&CALM)
}

fn calm(mix: &'static Mix) -> World {
    let mut world = World::empty(Dice::even(), mix, false);
    world.by_hand = true;
    // Stops are what some scripts are about; all others show that there are none.
    world.hostile = true;
    world.tale = Some(Tale::behind(&world.zoo));
    world
}

fn own(node: u64) -> Place {
    Place { node, host: 0 }
}

impl World {
    fn of(&self, node: u64) -> Result<Pid, String> {
        self.at(own(node)).ok_or_else(|| format!("n{node} does not run"))
    }

    /// Does what a command says.
    ///
    /// # Errors
    /// If the world does not allow it.
    pub fn obey(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Set(..) => return Err("set comes before everything else".to_owned()),
            Command::Start(nodes) => {
                for node in nodes {
                    if self.at(own(*node)).is_some() {
                        return Err(format!("n{node} runs"));
                    }
                    self.give_birth(own(*node));
                }
            }
            Command::StartElsewhere(node) => self.start_twin_of(*node),
            Command::Kill(nodes) => {
                for node in nodes {
                    self.die(self.of(*node)?, Death::Process);
                }
            }
            Command::Wipe(nodes) => {
                for node in nodes {
                    if self.at(own(*node)).is_some() {
                        return Err(format!("n{node} runs"));
                    }
                    self.disks.remove(&own(*node));
                }
            }
            Command::Pause(node) => self.pause(self.of(*node)?),
            Command::Continue(node) => self.resume(self.of(*node)?),
            Command::ShutDown(node) => self.shut_down(self.of(*node)?),
            Command::HandOver(node) => self.tell(self.of(*node)?, Event::HandOver { group: number(0) }),
            Command::Pass(time) => {
                let until = self.now + time;
                // Something must happen at the end, or time would stand still.
                self.after(*time, Happening::Moment);
                self.run(u64::MAX, until, |_| false);
            }
            Command::Until(condition) => self.wait_for(*condition)?,
            command => return self.obey_client(command),
        }
        Ok(())
    }

    fn obey_client(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Propose(node, count) => {
                let pid = self.of(*node)?;
                (0..*count).for_each(|_| self.write(0, pid));
            }
            Command::OpenSession(node) => self.open_session(0, self.of(*node)?, 0),
            Command::ProposeInSession(node) | Command::Retry(node) => {
                let retry = matches!(command, Command::Retry(_));
                if !self.write_or_retry(0, self.of(*node)?, 0, retry) {
                    return Err("no session is open, or no request in it".to_owned());
                }
            }
            Command::Read(node) => self.read(0, self.of(*node)?),
            command => return self.obey_fault(command),
        }
        Ok(())
    }

    fn obey_fault(&mut self, command: &Command) -> Result<(), String> {
        match command {
            Command::Cut(node, End::ZooKeeper) => {
                self.keepers.isolated.insert(*node);
                self.break_connection(self.of(*node)?, 0);
            }
            Command::Heal(node, End::ZooKeeper) => {
                self.keepers.isolated.remove(node);
            }
            Command::Cut(node, End::Node(other)) => self.block_both(*node, *other, Block::Silent),
            Command::Refuse(node, other) => self.block_both(*node, *other, Block::Reject),
            Command::Heal(node, End::Node(other)) => {
                self.network.blocked.retain(|ends, _| *ends != (*node, *other) && *ends != (*other, *node));
            }
            // Its client notices when the connection is broken by a command.
            Command::Mute { node, answers } => {
                let silence = if *answers { Silence::Answers } else { Silence::Both };
                self.mute(self.of(*node)?, silence, PATIENCE * 60);
            }
            Command::Break { node, leaving } => self.break_connection(self.of(*node)?, *leaving as usize),
            Command::Expire(node) => {
                let session = self.session_of(*node)?;
                self.expire_session(session);
            }
            Command::KeepSockets => self.keepers.sockets_kept = true,
            Command::ServeSocket => {
                if self.zoo.adrift() == 0 {
                    return Err("nothing is left in a socket".to_owned());
                }
                self.serve_late();
            }
            Command::Hold(node, part) => self.hold(self.of(*node)?, *part),
            Command::Release(node, part, count) => {
                if !self.release(self.of(*node)?, *part, count.map(|count| count as usize)) {
                    return Err(format!("the {part} of n{node} is not held back, or fewer wait"));
                }
            }
            Command::Delete(target) => {
                let (path, _) = self.znode(*target)?;
                self.zoo.tamper(&path, None);
            }
            Command::Damage(target) => {
                let (path, data) = self.znode(*target)?;
                let mut bytes = data.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                self.zoo.tamper(&path, Some(bytes.into()));
            }
            Command::FoundAnew => {
                self.zoo.wipe();
                genesis::create_as(&mut self.zoo, self.mix, |_| Uuid([0x77; 16]));
            }
            other => return Err(format!("not done: {other}")),
        }
        Ok(())
    }

    fn block_both(&mut self, one: u64, other: u64, block: Block) {
        self.block(one, other, block);
        self.block(other, one, block);
    }

    fn session_of(&self, node: u64) -> Result<bequest_recovery::model::SessionId, String> {
        let process = &self.processes[&self.of(node)?];
        process.keeper.session.ok_or_else(|| format!("n{node} has no session"))
    }

    fn znode(&self, target: Target) -> Result<(String, Bytes), String> {
        let paths = GroupPaths::new(&genesis::name(0));
        let path = match target {
            Target::Ballot => paths.ballot(),
            Target::Genesis => paths.genesis().to_owned(),
            Target::Pointer => paths.pointer(),
            Target::Manifest => {
                let newest = self.groups[0].mirror.pointer.newest.ok_or("no snapshot")?;
                paths.manifest(newest.index, newest.term)
            }
            Target::Segment(index) => {
                let holds = |data: &Bytes| {
                    record::open::<Segment>(data, None).is_ok_and(|segment| {
                        let last = segment.prev_index + segment.entries.len() as u64;
                        (segment.prev_index + 1..=last).contains(&index)
                    })
                };
                let wals = format!("{}/", paths.wals());
                let found = self.zoo.head().below(&wals).find(|(_, znode)| holds(&znode.data));
                found.map(|(path, _)| path.to_owned()).ok_or_else(|| format!("no segment holds {index}"))?
            }
        };
        let znode = self.zoo.head().get(&path).ok_or_else(|| format!("{path} is not there"))?;
        let data = znode.data.clone();
        Ok((path, data))
    }

    fn wait_for(&mut self, condition: Condition) -> Result<(), String> {
        let (began, until) = (self.now, self.now + PATIENCE);
        let session = match condition {
            Condition::Expired(node) => Some(self.session_of(node)?),
            _ => None,
        };
        let holds = |world: &mut World| match (condition, session) {
            (Condition::Expired(_), Some(session)) => !world.zoo.alive(session),
            (Condition::Quiet, _) => {
                let last = world.tale.as_ref().map_or(0, |tale| tale.last_at);
                world.now >= last.max(began) + QUIET_FOR
            }
            _ => world.holds(condition),
        };
        if self.holds(condition) {
            return Ok(());
        }
        // Where nothing happens at all, time passes all the same.
        for tick in 1..=PATIENCE / QUIET_FOR {
            self.after(tick * QUIET_FOR, Happening::Moment);
        }
        if self.run(u64::MAX, until, holds) {
            Ok(())
        } else {
            Err(format!("still not: {condition}; {}", self.situation()))
        }
    }

    fn holds(&self, condition: Condition) -> bool {
        let role = |node: u64| self.at(own(node)).map(|pid| self.processes[&pid].replicas[0].role());
        let group = &self.groups[0];
        match condition {
            Condition::Leads(node) => role(node) == Some(Role::Leader),
            Condition::Follows(node) => role(node) == Some(Role::Follower),
            Condition::Succeeds(node) => role(node) == Some(Role::Successor),
            Condition::Ends(node) => role(node).is_none(),
            Condition::Stops(node) => {
                let stopped = |pid: &Pid| {
                    let place = self.processes.get(pid).map(|process| process.place);
                    place.or_else(|| self.last_places.get(pid).copied()) == Some(own(node))
                };
                self.stops.iter().any(|(pid, _)| stopped(pid)) || self.node_stops.iter().any(|(pid, _)| stopped(pid))
            }
            Condition::Applied(node, index) => {
                let pid = self.at(own(node));
                pid.is_some_and(|pid| self.processes[&pid].replicas[0].host.applied() >= index)
            }
            Condition::Holds(index) => group.mirror.end().index >= index,
            Condition::Snapshot(index) => group.mirror.pointer.newest.is_some_and(|newest| newest.index >= index),
            Condition::Answered => group.clients.waiting() == 0,
            Condition::Quiet | Condition::Expired(_) => false,
        }
    }
}
