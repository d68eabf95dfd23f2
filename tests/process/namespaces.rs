//! Three hosts as network namespaces: nodes A and B and one with ZooKeeper, on links that can be cut one by one.
//!
//! ZooKeeper's network is a bridge in its namespace. The peers have a cable of their own between them, and the test one
//! to each node. Cutting a cable takes the carrier away on both sides: nobody is told, packets vanish.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A cable between two namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cable {
    /// Between the two nodes.
    Peers,
    /// Between a node (0 or 1) and ZooKeeper.
    Keeper(usize),
    /// Between a node and this test.
    Test(usize),
}

/// The hosts. Dropping them deletes everything they have.
#[derive(Debug)]
pub(crate) struct Hosts {
    names: [String; 3],
    number: u8,
}

const A: usize = 0;
const B: usize = 1;
const Z: usize = 2;

impl Hosts {
    /// Makes them; `None` where the system does not permit it, which is printed.
    pub(crate) fn make() -> Option<Self> {
        sweep();
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("bequest-{}-{serial}", std::process::id());
        let names = ["a", "b", "z"].map(|host| format!("{prefix}-{host}"));
        if let Err(refusal) = ip(&["netns", "add", &names[0]]) {
            println!("skipped: network namespaces cannot be made here: {refusal}");
            return None;
        }
        // From here on everything is deleted again if something fails.
        let mut hosts = Self { names, number: 0 };
        must(&["netns", "add", &hosts.names[B]]);
        must(&["netns", "add", &hosts.names[Z]]);
        hosts.number = hosts.take_number();
        hosts.wire();
        Some(hosts)
    }

    /// Finds addresses that no other test uses: the cable of that number can be made.
    fn take_number(&self) -> u8 {
        let begin = std::process::id().wrapping_mul(37) % 250;
        let mut refusal = String::new();
        for number in (0..250).map(|at| ((begin + at) % 250 + 1) as u8) {
            let outside = format!("bq{number}z");
            match ip(&["link", "add", &outside, "type", "veth", "peer", "name", "test", "netns", &self.names[Z]]) {
                Ok(()) => return number,
                Err(found) => refusal = found,
            }
        }
        panic!("no cable can be made: {refusal}");
    }

    fn wire(&self) {
        let number = self.number;
        for host in &self.names {
            must(&["-n", host, "link", "set", "lo", "up"]);
        }
        let z = &self.names[Z];
        must(&["-n", z, "link", "add", "bridge", "type", "bridge"]);
        must(&["-n", z, "addr", "add", &format!("{}/24", self.keeper_address(Z)), "dev", "bridge"]);
        must(&["-n", z, "link", "set", "bridge", "up"]);
        must(&["-n", z, "link", "set", "test", "master", "bridge", "up"]);
        let outside = format!("bq{number}z");
        must(&["addr", "add", &format!("198.18.{number}.9/24"), "dev", &outside]);
        must(&["link", "set", &outside, "up"]);
        for node in [A, B] {
            let (host, port) = (&self.names[node], format!("node{node}"));
            let peer = ["link", "add", "keeper", "type", "veth", "peer", "name", &port, "netns", z];
            must(&[&["-n", host.as_str()][..], &peer].concat());
            must(&["-n", z, "link", "set", &port, "master", "bridge", "up"]);
            must(&["-n", host, "addr", "add", &format!("{}/24", self.keeper_address(node)), "dev", "keeper"]);
            must(&["-n", host, "link", "set", "keeper", "up"]);

            let outside = format!("bq{number}t{node}");
            must(&["link", "add", &outside, "type", "veth", "peer", "name", "test", "netns", host]);
            must(&["addr", "add", &format!("198.19.{number}.{}/30", 17 + 4 * node), "dev", &outside]);
            must(&["link", "set", &outside, "up"]);
            must(&["-n", host, "addr", "add", &format!("{}/30", self.test_address(node)), "dev", "test"]);
            must(&["-n", host, "link", "set", "test", "up"]);
        }
        let (a, b) = (&self.names[A], &self.names[B]);
        must(&["-n", a, "link", "add", "peers", "type", "veth", "peer", "name", "peers", "netns", b]);
        for node in [A, B] {
            let host = &self.names[node];
            must(&["-n", host, "addr", "add", &format!("{}/29", self.peer_address(node)), "dev", "peers"]);
            must(&["-n", host, "link", "set", "peers", "up"]);
        }
    }

    /// Starts a program on a node's host (0 or 1) or on ZooKeeper's.
    pub(crate) fn prefix(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.names[host]].map(str::to_owned).to_vec()
    }

    /// ZooKeeper's host.
    pub(crate) const KEEPER: usize = Z;

    /// A host's address on ZooKeeper's network.
    pub(crate) fn keeper_address(&self, host: usize) -> String {
        format!("198.18.{}.{}", self.number, [2, 3, 1][host])
    }

    /// A node's address towards the other.
    pub(crate) fn peer_address(&self, node: usize) -> String {
        format!("198.19.{}.{}", self.number, 2 + node)
    }

    /// A node's address towards the test.
    pub(crate) fn test_address(&self, node: usize) -> String {
        format!("198.19.{}.{}", self.number, 18 + 4 * node)
    }

    /// Takes a cable's carrier away, at the end that is not a node's where there is one.
    pub(crate) fn cut(&self, cable: Cable) {
        self.set(cable, "down");
    }

    /// Gives it back.
    pub(crate) fn heal(&self, cable: Cable) {
        self.set(cable, "up");
    }

    fn set(&self, cable: Cable, to: &str) {
        match cable {
            Cable::Peers => must(&["-n", &self.names[B], "link", "set", "peers", to]),
            Cable::Keeper(node) => must(&["-n", &self.names[Z], "link", "set", &format!("node{node}"), to]),
            Cable::Test(node) => must(&["link", "set", &format!("bq{}t{node}", self.number), to]),
        }
    }

    /// Everything but power: no cable of a node's host has a carrier.
    pub(crate) fn cut_off(&self, node: usize) {
        [Cable::Peers, Cable::Keeper(node), Cable::Test(node)].into_iter().for_each(|cable| self.cut(cable));
    }

    /// All cables of a node's host are back.
    pub(crate) fn plug_in(&self, node: usize) {
        [Cable::Peers, Cable::Keeper(node), Cable::Test(node)].into_iter().for_each(|cable| self.heal(cable));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // Its ends of the cables go with it, and with them the other ends.
            let _ = ip(&["netns", "del", name]);
        }
        for cable in ["z", "t0", "t1"].map(|end| format!("bq{}{end}", self.number)) {
            // Gone already, unless making it stopped half way. The number is 0 until one is ours.
            let _ = ip(&["link", "del", &cable]);
        }
    }
}

/// Deletes what tests that were killed have left behind.
fn sweep() {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let process = name.strip_prefix("bequest-").and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !std::path::Path::new("/proc").join(process).exists()) {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn must(args: &[&str]) {
    ip(args).unwrap_or_else(|refusal| panic!("ip {}: {refusal}", args.join(" ")));
}

fn ip(args: &[&str]) -> Result<(), String> {
    match Command::new("ip").args(args).output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => Err(String::from_utf8_lossy(&stderr).trim().to_owned()),
        Err(error) => Err(format!("cannot run ip: {error}; run `apt-get install iproute2`")),
    }
}
