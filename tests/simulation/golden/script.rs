//! Scripts: the rule, what is done to the world, and what must come of it.
//!
//! A script is text. Lines that begin with `#` state the rule. Then come blocks, parted by empty lines: commands, `---`,
//! and what happened. `given` before a command leaves out what comes of it: another script shows it.

use std::fmt;
use std::str::FromStr;

use super::hold::Part;
use crate::mix::{Micros, MILLI, SECOND};

/// Where a script is wrong, or its world.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// Counted from 1.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.what)
    }
}

/// What a script is made of.
#[derive(Debug)]
pub struct Script {
    pub blocks: Vec<Block>,
}

/// Commands, and what must come of them.
#[derive(Debug)]
pub struct Block {
    /// Everything up to the line `---`, as it was written.
    pub head: Vec<String>,
    pub steps: Vec<Step>,
    pub expected: Vec<String>,
}

/// One command of a script.
#[derive(Debug)]
pub struct Step {
    pub line: usize,
    /// What comes of it is not told.
    pub given: bool,
    pub command: Command,
}

/// One end of a path that can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Node(u64),
    ZooKeeper,
}

/// A znode, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Ballot,
    Genesis,
    Pointer,
    /// The newest snapshot's.
    Manifest,
    /// The one that holds this index.
    Segment(u64),
}

/// What can be done to a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Before everything else: a bound of the group or of the core.
    Set(String, u64),
    Start(Vec<u64>),
    /// A second process of a node, on another host.
    StartElsewhere(u64),
    Kill(Vec<u64>),
    /// Deletes the disks of nodes that do not run.
    Wipe(Vec<u64>),
    Pause(u64),
    Continue(u64),
    ShutDown(u64),
    HandOver(u64),
    /// So many writes at once.
    Propose(u64, u64),
    OpenSession(u64),
    ProposeInSession(u64),
    /// Once more, the oldest request that was not answered.
    Retry(u64),
    Read(u64),
    /// Packets vanish.
    Cut(u64, End),
    /// Connections are refused.
    Refuse(u64, u64),
    Heal(u64, End),
    /// Nothing goes through a connection to ZooKeeper any more, or no answer does.
    Mute {
        node: u64,
        answers: bool,
    },
    /// A connection to ZooKeeper ends; so many requests stay in its socket.
    Break {
        node: u64,
        leaving: u64,
    },
    Expire(u64),
    /// What is left in sockets is served by hand alone.
    KeepSockets,
    /// One request of those that are left in sockets is served.
    ServeSocket,
    Hold(u64, Part),
    /// Lets everything go on, or just so many of what waits.
    Release(u64, Part, Option<u64>),
    Delete(Target),
    Damage(Target),
    /// ZooKeeper loses everything, and the group is founded once more.
    FoundAnew,
    Pass(Micros),
    Until(Condition),
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Leads(u64),
    Follows(u64),
    Succeeds(u64),
    /// It refuses the group, or to run at all.
    Stops(u64),
    /// Its process ended.
    Ends(u64),
    Applied(u64, u64),
    /// ZooKeeper has the group's log up to an index.
    Holds(u64),
    /// The newest snapshot is of this index, or a later one.
    Snapshot(u64),
    /// Its session is over, whether it knows or not.
    Expired(u64),
    /// Every client was answered.
    Answered,
    /// Nothing happened for a while that would be told.
    Quiet,
}

fn node(word: &str) -> Option<u64> {
    word.strip_prefix('n')?.parse().ok().filter(|node| *node > 0)
}

fn nodes(words: &[&str]) -> Option<Vec<u64>> {
    let nodes: Option<Vec<u64>> = words.iter().map(|word| node(word.trim_end_matches(','))).collect();
    nodes.filter(|nodes| !nodes.is_empty())
}

fn end(word: &str) -> Option<End> {
    if word == "zookeeper" {
        Some(End::ZooKeeper)
    } else {
        node(word).map(End::Node)
    }
}

fn part(word: &str) -> Option<Part> {
    Part::ALL.into_iter().find(|part| part.to_string() == word)
}

fn time(word: &str) -> Option<Micros> {
    let split = word.find(|letter: char| !letter.is_ascii_digit())?;
    let (count, unit) = word.split_at(split);
    let unit = match unit {
        "us" => 1,
        "ms" => MILLI,
        "s" => SECOND,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(unit)
}

fn target(words: &[&str]) -> Option<Target> {
    Some(match words {
        ["ballot"] => Target::Ballot,
        ["genesis"] => Target::Genesis,
        ["pointer"] => Target::Pointer,
        ["manifest"] => Target::Manifest,
        ["segment", index] => Target::Segment(index.parse().ok()?),
        _ => return None,
    })
}

fn condition(words: &[&str]) -> Option<Condition> {
    Some(match words {
        ["quiet"] => Condition::Quiet,
        ["answered"] => Condition::Answered,
        ["zookeeper", "holds", index] => Condition::Holds(index.parse().ok()?),
        ["snapshot", index] => Condition::Snapshot(index.parse().ok()?),
        [one, "leads"] => Condition::Leads(node(one)?),
        [one, "follows"] => Condition::Follows(node(one)?),
        [one, "succeeds"] => Condition::Succeeds(node(one)?),
        [one, "stops"] => Condition::Stops(node(one)?),
        [one, "ends"] => Condition::Ends(node(one)?),
        [one, "expired"] => Condition::Expired(node(one)?),
        [one, "applied", index] => Condition::Applied(node(one)?, index.parse().ok()?),
        _ => return None,
    })
}

fn command(words: &[&str]) -> Option<Command> {
    Some(match words {
        ["set", what, value] => Command::Set((*what).to_owned(), value.parse().ok()?),
        ["start", one, "elsewhere"] => Command::StartElsewhere(node(one)?),
        ["start", rest @ ..] => Command::Start(nodes(rest)?),
        ["kill", rest @ ..] => Command::Kill(nodes(rest)?),
        ["wipe", rest @ ..] => Command::Wipe(nodes(rest)?),
        ["pause", one] => Command::Pause(node(one)?),
        ["continue", one] => Command::Continue(node(one)?),
        ["shut", "down", one] => Command::ShutDown(node(one)?),
        ["hand", "over", one] => Command::HandOver(node(one)?),
        ["propose", one] => Command::Propose(node(one)?, 1),
        ["propose", one, "in", "session"] => Command::ProposeInSession(node(one)?),
        ["propose", one, count] => Command::Propose(node(one)?, count.strip_prefix('x')?.parse().ok()?),
        ["open", "session", one] => Command::OpenSession(node(one)?),
        ["retry", one] => Command::Retry(node(one)?),
        ["read", one] => Command::Read(node(one)?),
        ["cut", one, other] => Command::Cut(node(one)?, end(other)?),
        ["refuse", one, other] => Command::Refuse(node(one)?, node(other)?),
        ["heal", one, other] => Command::Heal(node(one)?, end(other)?),
        ["mute", one] => Command::Mute { node: node(one)?, answers: false },
        ["mute", one, "replies"] => Command::Mute { node: node(one)?, answers: true },
        ["break", one] => Command::Break { node: node(one)?, leaving: 0 },
        ["break", one, "leaving", count] => Command::Break { node: node(one)?, leaving: count.parse().ok()? },
        ["expire", one] => Command::Expire(node(one)?),
        ["keep", "sockets"] => Command::KeepSockets,
        ["serve", "socket"] => Command::ServeSocket,
        ["hold", one, what] => Command::Hold(node(one)?, part(what)?),
        ["release", one, what] => Command::Release(node(one)?, part(what)?, None),
        ["release", one, what, count] => Command::Release(node(one)?, part(what)?, Some(count.parse().ok()?)),
        ["delete", rest @ ..] => Command::Delete(target(rest)?),
        ["damage", rest @ ..] => Command::Damage(target(rest)?),
        ["found", "anew"] => Command::FoundAnew,
        ["pass", rest] => Command::Pass(time(rest)?),
        ["until", rest @ ..] => Command::Until(condition(rest)?),
        _ => return None,
    })
}

impl FromStr for Command {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        command(&words).ok_or_else(|| format!("unknown command: {text:?}"))
    }
}

struct Nodes<'a>(&'a [u64]);

impl fmt::Display for Nodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|node| format!("n{node}")).collect();
        f.write_str(&words.join(" "))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "n{node}"),
            Self::ZooKeeper => f.write_str("zookeeper"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ballot => f.write_str("ballot"),
            Self::Genesis => f.write_str("genesis"),
            Self::Pointer => f.write_str("pointer"),
            Self::Manifest => f.write_str("manifest"),
            Self::Segment(index) => write!(f, "segment {index}"),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leads(node) => write!(f, "n{node} leads"),
            Self::Follows(node) => write!(f, "n{node} follows"),
            Self::Succeeds(node) => write!(f, "n{node} succeeds"),
            Self::Stops(node) => write!(f, "n{node} stops"),
            Self::Ends(node) => write!(f, "n{node} ends"),
            Self::Applied(node, index) => write!(f, "n{node} applied {index}"),
            Self::Holds(index) => write!(f, "zookeeper holds {index}"),
            Self::Snapshot(index) => write!(f, "snapshot {index}"),
            Self::Expired(node) => write!(f, "n{node} expired"),
            Self::Answered => f.write_str("answered"),
            Self::Quiet => f.write_str("quiet"),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(what, value) => write!(f, "set {what} {value}"),
            Self::Start(nodes) => write!(f, "start {}", Nodes(nodes)),
            Self::StartElsewhere(node) => write!(f, "start n{node} elsewhere"),
            Self::Kill(nodes) => write!(f, "kill {}", Nodes(nodes)),
            Self::Wipe(nodes) => write!(f, "wipe {}", Nodes(nodes)),
            Self::Pause(node) => write!(f, "pause n{node}"),
            Self::Continue(node) => write!(f, "continue n{node}"),
            Self::ShutDown(node) => write!(f, "shut down n{node}"),
            Self::HandOver(node) => write!(f, "hand over n{node}"),
            Self::Propose(node, 1) => write!(f, "propose n{node}"),
            Self::Propose(node, count) => write!(f, "propose n{node} x{count}"),
            Self::OpenSession(node) => write!(f, "open session n{node}"),
            Self::ProposeInSession(node) => write!(f, "propose n{node} in session"),
            Self::Retry(node) => write!(f, "retry n{node}"),
            Self::Read(node) => write!(f, "read n{node}"),
            Self::Cut(node, other) => write!(f, "cut n{node} {other}"),
            Self::Refuse(node, other) => write!(f, "refuse n{node} n{other}"),
            Self::Heal(node, other) => write!(f, "heal n{node} {other}"),
            Self::Mute { node, answers: false } => write!(f, "mute n{node}"),
            Self::Mute { node, answers: true } => write!(f, "mute n{node} replies"),
            Self::Break { node, leaving: 0 } => write!(f, "break n{node}"),
            Self::Break { node, leaving } => write!(f, "break n{node} leaving {leaving}"),
            Self::Expire(node) => write!(f, "expire n{node}"),
            Self::KeepSockets => f.write_str("keep sockets"),
            Self::ServeSocket => f.write_str("serve socket"),
            Self::Hold(node, part) => write!(f, "hold n{node} {part}"),
            Self::Release(node, part, None) => write!(f, "release n{node} {part}"),
            Self::Release(node, part, Some(count)) => write!(f, "release n{node} {part} {count}"),
            Self::Delete(target) => write!(f, "delete {target}"),
            Self::Damage(target) => write!(f, "damage {target}"),
            Self::FoundAnew => f.write_str("found anew"),
            Self::Pass(time) if time % SECOND == 0 => write!(f, "pass {}s", time / SECOND),
            Self::Pass(time) if time % MILLI == 0 => write!(f, "pass {}ms", time / MILLI),
            Self::Pass(time) => write!(f, "pass {time}us"),
            Self::Until(condition) => write!(f, "until {condition}"),
        }
    }
}

impl FromStr for Script {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let mut blocks = Vec::new();
        let mut lines = text.lines().enumerate().map(|(place, line)| (place + 1, line)).peekable();
        let ruled = lines.peek().is_some_and(|(_, line)| line.starts_with("# "));
        if !ruled {
            return Err(Failure { line: 1, what: "a script begins with its rule, behind a #".to_owned() });
        }
        while lines.peek().is_some() {
            if lines.next_if(|(_, line)| line.trim().is_empty()).is_some() {
                continue;
            }
            let mut block = Block { head: Vec::new(), steps: Vec::new(), expected: Vec::new() };
            let began = lines.peek().map_or(1, |(line, _)| *line);
            let mut parted = false;
            for (line, text) in lines.by_ref() {
                block.head.push(text.to_owned());
                let words = text.trim();
                if words == "---" {
                    parted = true;
                    break;
                }
                if words.is_empty() || words.starts_with('#') {
                    continue;
                }
                let given = words.strip_prefix("given ");
                let command = given.unwrap_or(words).parse().map_err(|what| Failure { line, what })?;
                block.steps.push(Step { line, given: given.is_some(), command });
            }
            if block.steps.is_empty() {
                return Err(Failure { line: began, what: "no command".to_owned() });
            }
            if !parted {
                return Err(Failure { line: began, what: "no line --- behind the commands".to_owned() });
            }
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.trim().is_empty()) {
                block.expected.push(line.to_owned());
            }
            blocks.push(block);
        }
        Ok(Self { blocks })
    }
}
