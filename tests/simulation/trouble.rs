//! What goes wrong below a process: its disk, its clock, and single servers and rules of ZooKeeper.
//!
//! A disk that fails once is never asked again by the same process: its node ends, as `src/driver/disk.rs` has it end,
//! a moment after the failure, and what is found at the next start is what the disk had.

use std::collections::{BTreeMap, BTreeSet};

use bequest_recovery::path::{self, GroupPaths};
use rand::Rng;

use crate::blows::Blow;
use crate::death::Death;
use crate::dice::{Part, Roll};
use crate::faults::{self, Aim};
use crate::genesis;
use crate::mix::{Fault, Micros, MILLI, SECOND};
use crate::process::Process;
use crate::world::{Happening, Pid, Place, World};

/// What will become of the next use of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The next write fails; all of it is on the disk nevertheless?
    Write { there: bool },
    /// The next sync fails. Of what was not synced, so many per cent are on the disk, from its beginning.
    Sync { kept: usize },
    /// What is read next is not what was written.
    Read,
}

/// All that is wrong, or about to go wrong.
#[derive(Debug, Default)]
pub struct Troubles {
    /// Disks about to fail.
    pub disks: BTreeMap<Place, Trouble>,
    /// Disks about to be full, with the number of writes they still have room for.
    pub full: BTreeMap<Place, u32>,
    // Processes whose disk has failed, and that are about to end.
    broken: BTreeSet<Pid>,
    /// Servers of ZooKeeper that are down.
    pub servers: BTreeSet<usize>,
    // Znodes that nobody may use.
    denied: Vec<String>,
    // When the last of them was allowed again.
    allowed_at: Option<Micros>,
}

impl World {
    // ---- disks ----------------------------------------------------------------------------------------------------

    /// Whether a process' disk has failed it.
    pub fn disk_broken(&self, pid: Pid) -> bool {
        self.troubles.broken.contains(&pid)
    }

    /// Whether a write fails, and if so, whether all of it is on the disk nevertheless.
    pub fn write_fails(&mut self, pid: Pid) -> Option<bool> {
        let place = self.processes.get(&pid)?.place;
        self.strike_aimed_write(pid, place);
        if let Some(room) = self.troubles.full.get_mut(&place) {
            let Some(less) = room.checked_sub(1) else {
                self.struck(Blow::Drawn(Fault::DiskFull), pid);
                self.disk_fails(pid, "full", None);
                return Some(false);
            };
            *room = less;
        }
        let Some(Trouble::Write { there }) = self.troubles.disks.get(&place).copied() else { return None };
        self.troubles.disks.remove(&place);
        self.struck(Blow::Drawn(Fault::DiskWrite), pid);
        self.disk_fails(pid, "write failed", None);
        Some(there)
    }

    /// Whether a sync fails. What was not synced may be gone from the end, once its process is.
    pub fn sync_fails(&mut self, place: Place) -> bool {
        let Some(pid) = self.at(place) else { return false };
        if self.disk_broken(pid) {
            return true;
        }
        let unsynced = self.disks.entry(place).or_default().unsynced();
        let Some(Trouble::Sync { kept }) = self.troubles.disks.get(&place).copied().filter(|_| unsynced > 0) else {
            return false;
        };
        self.troubles.disks.remove(&place);
        self.struck(Blow::Drawn(Fault::DiskSync), pid);
        self.disk_fails(pid, "sync failed", Some(unsynced * kept / 100));
        true
    }

    /// Whether what is read from a disk is found damaged.
    pub fn read_fails(&mut self, pid: Pid) -> bool {
        let Some(place) = self.processes.get(&pid).map(|process| process.place) else { return false };
        let fails = self.troubles.disks.get(&place) == Some(&Trouble::Read);
        if fails {
            self.disk_fails(pid, "damage was read", None);
        }
        fails
    }

    fn disk_fails(&mut self, pid: Pid, what: &str, kept: Option<usize>) {
        self.troubles.broken.insert(pid);
        self.counts.one(&format!("disk: {what}"));
        self.note(("disk fails", pid.0), || format!("{pid:?} finds its disk failing: {what}"));
        // The core goes on until its thread is told.
        let Some(place) = self.processes.get(&pid).map(|process| process.place) else { return };
        let delay = self.roll(Part::Trouble(place)).random_range(1..5 * MILLI);
        self.after(delay, Happening::DiskFailed(pid, kept));
    }

    /// The node of a process whose disk has failed ends.
    pub fn disk_failed(&mut self, pid: Pid, kept: Option<usize>) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.paused {
            process.frozen.push(Happening::DiskFailed(pid, kept));
            return;
        }
        let disk = self.disks.entry(process.place).or_default();
        if let Some(kept) = kept {
            disk.lose_power(kept.min(disk.unsynced()));
        }
        self.die(pid, Death::Process);
        self.come_back(pid);
    }

    /// What a process that starts finds wrong with its disk; `false` if it cannot start.
    pub fn open_disk(&mut self, place: Place) -> bool {
        if self.troubles.disks.get(&place) == Some(&Trouble::Read) {
            self.move_aside(place);
        }
        if self.troubles.full.get(&place) != Some(&0) {
            return true;
        }
        let mut roll = self.roll(Part::Trouble(place));
        if !self.hurts(&mut roll, "too-full", 5_000) {
            return true;
        }
        self.counts.one("disk: too full to start");
        let delay = self.lasts(&mut roll, self.mix.downtime);
        self.after(delay, Happening::Birth(place));
        false
    }

    /// A disk that was found damaged is moved aside: what comes back comes from ZooKeeper.
    fn move_aside(&mut self, place: Place) {
        self.troubles.disks.remove(&place);
        self.disks.remove(&place);
        self.counts.one("disk: damaged and moved aside");
        self.note(("moved aside", place), || format!("{place:?} finds its disk damaged"));
    }

    /// Bits of a disk flip. What comes of it depends on where: RocksDB finds a damaged file at open, or when it is read;
    /// of its own log it takes what lies before the damage; and a group whose state alone is damaged is removed.
    fn flip(&mut self, roll: &mut Roll, (place, pid): (Place, Pid)) {
        self.struck(Blow::Drawn(Fault::Flip), pid);
        let kind = roll.random_range(0..4);
        if kind == 0 {
            self.troubles.disks.insert(place, Trouble::Read);
            return;
        }
        if kind == 2 {
            let disk = self.disks.entry(place).or_default();
            let kept = roll.random_range(0..=disk.logged());
            disk.cut_log(kept);
        }
        self.die(pid, Death::Process);
        match kind {
            1 => self.move_aside(place),
            2 => self.counts.one("disk: log damaged"),
            _ => {
                let group = roll.random_range(0..self.groups.len());
                self.disks.entry(place).or_default().forget(group);
                self.counts.one("disk: group damaged and removed");
            }
        }
        self.come_back(pid);
    }

    /// Sets a copy of a disk aside now and then, to be put back much later.
    pub fn disk_copies(&mut self, roll: &mut Roll, place: Place) {
        let disk = self.disks.entry(place).or_default();
        if disk.copies() == 0 || roll.random_ratio(1, 40) {
            disk.back_up();
        }
    }

    /// A fault of a disk, drawn for a process.
    pub fn trouble_disk(&mut self, roll: &mut Roll, fault: Fault, (place, pid): (Place, Pid), spell: Micros) {
        match fault {
            Fault::DiskWrite => self.break_disk(roll, place),
            Fault::DiskSync => {
                self.troubles.disks.insert(place, Trouble::Sync { kept: roll.random_range(0..=100) });
                // Not only when the next one is due anyway.
                self.sync_fails(place);
            }
            Fault::DiskFull => {
                let room = roll.random_range(0..3);
                self.fill_disk(place, room, spell);
            }
            _ => self.flip(roll, (place, pid)),
        }
    }

    /// The next write to a disk will fail.
    pub fn break_disk(&mut self, roll: &mut Roll, place: Place) {
        self.troubles.disks.insert(place, Trouble::Write { there: roll.random_bool(0.5) });
    }

    /// A disk will be full for a while, once so many writes are done.
    pub fn fill_disk(&mut self, place: Place, room: u32, spell: Micros) {
        self.troubles.full.insert(place, room);
        self.after(spell, Happening::End(faults::Fault::DiskFull(place)));
    }

    // ---- clocks ---------------------------------------------------------------------------------------------------

    /// A fault of a process' clock.
    pub fn trouble_clock(&mut self, roll: &mut Roll, fault: Fault, pid: Pid, spell: Micros) {
        let now = self.now;
        self.struck(Blow::Drawn(fault), pid);
        match fault {
            Fault::Leap => {
                let by = roll.random_range(10 * MILLI..10 * SECOND);
                let Some(process) = self.processes.get_mut(&pid) else { return };
                process.clock.leap(by);
                process.keeper.clock_leaps(by);
                self.tell(pid, bequest::replica::event::Event::Tick);
            }
            Fault::Drift => {
                let rate = roll.random_range(800_000..1_250_000);
                let Some(process) = self.processes.get_mut(&pid) else { return };
                process.clock.go_at(rate, now);
            }
            _ => {
                // The whole machine is suspended: its clock stands still meanwhile.
                self.pause(pid);
                let Some(process) = self.processes.get_mut(&pid) else { return };
                process.clock.stop(now);
                let spell = if roll.random_bool(0.5) { spell } else { spell + crate::keeper::SESSION_TIMEOUT };
                self.after(spell, Happening::End(faults::Fault::Pause(pid)));
            }
        }
    }

    // ---- zookeeper ------------------------------------------------------------------------------------------------

    /// A server of ZooKeeper goes down, if a majority stays.
    pub fn server_dies(&mut self, roll: &mut Roll, aim: &Aim) {
        let server = aim.server;
        if (self.troubles.servers.len() + 1) * 2 >= self.zoo.servers() || self.keepers.down {
            return;
        }
        self.troubles.servers.insert(server);
        self.keepers.lagging.insert(server);
        self.counts.one("zookeeper server down");
        let connected = |process: &&Process| process.keeper.connection.is_some_and(|to| to.server == server);
        let hit: Vec<Pid> = self.processes.values().filter(connected).map(|process| process.pid).collect();
        self.struck_some(Blow::Drawn(Fault::Member), &hit);
        for pid in hit {
            // What it had passed on to its leader may still be carried out.
            let adrift = roll.random_range(0..=self.in_socket(pid));
            self.break_connection(pid, adrift);
        }
        self.after(aim.spell, Happening::End(faults::Fault::Server(server)));
    }

    /// The servers elect another leader: nobody is served for a moment, and sessions survive.
    pub fn servers_elect(&mut self, roll: &mut Roll) {
        if self.keepers.down {
            return;
        }
        self.struck_all(Blow::Drawn(Fault::Election));
        self.counts.one("zookeeper elects");
        for pid in self.pids() {
            let adrift = roll.random_range(0..=self.in_socket(pid));
            self.break_connection(pid, adrift);
        }
        self.keepers.down = true;
        self.zoo.begin_epoch();
        let spell = roll.random_range(20 * MILLI..400 * MILLI);
        self.after(spell, Happening::End(faults::Fault::Election));
    }

    /// A server that a client finds when it looks for one.
    pub fn some_server(&self, roll: &mut Roll) -> Option<usize> {
        let takes = |server: &usize| !self.troubles.servers.contains(server) && !self.keepers.closed.contains(server);
        let open: Vec<usize> = (0..self.zoo.servers()).filter(takes).collect();
        (!open.is_empty()).then(|| open[roll.random_range(0..open.len())])
    }

    /// Nobody may use some znode any more.
    pub fn deny(&mut self, roll: &mut Roll, aim: &Aim) {
        let group = GroupPaths::new(&genesis::name(aim.group));
        let denied = match roll.random_range(0..5) {
            0 => group.genesis().to_owned(),
            1 => group.ballot(),
            2 => group.wals(),
            3 => group.chunks(),
            _ => path::node(aim.from),
        };
        self.struck_all(Blow::Drawn(Fault::Deny));
        self.note(("deny", &denied), || format!("{denied} is denied to everybody"));
        self.zoo.deny(&denied, true);
        self.troubles.denied.push(denied);
        self.after(aim.spell, Happening::End(faults::Fault::Denied));
    }

    /// What was denied first is allowed again.
    pub fn allow(&mut self) {
        if self.troubles.denied.is_empty() {
            return;
        }
        let denied = self.troubles.denied.remove(0);
        if !self.troubles.denied.contains(&denied) {
            self.zoo.deny(&denied, false);
        }
        self.troubles.allowed_at = Some(self.now);
    }

    /// Whether something was denied to a process: then it may stop a group, or its node, for an operator to act.
    pub fn was_denied(&self, pid: Pid) -> bool {
        let born = self.processes.get(&pid).map_or(self.now, |process| process.born);
        !self.troubles.denied.is_empty() || self.troubles.allowed_at.is_some_and(|at| at >= born)
    }

    /// A process stops something because it was denied: an operator starts it again.
    pub fn started_again(&mut self, pid: Pid) {
        self.counts.one("stopped: denied");
        self.die(pid, Death::Exit);
        self.come_back(pid);
    }

    /// Ends all of it.
    pub fn untroubled(&mut self) {
        let damaged = |_: &Place, trouble: &mut Trouble| *trouble == Trouble::Read;
        self.troubles.disks.retain(damaged);
        self.troubles.full.clear();
        self.troubles.servers.clear();
        while !self.troubles.denied.is_empty() {
            self.allow();
        }
    }
}
