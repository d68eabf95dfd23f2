//! Hosts as network namespaces, and cables between them that can be cut one by one.
//!
//! Every node has three cables to this program's own network: towards ZooKeeper, towards the other node, and towards
//! clients. At the near ends of the first two sit proxies, so that no packet passes but through them. ZooKeeper's
//! servers are on a bridge.

use std::net::{IpAddr, Ipv4Addr};

use bequest_harness::confine::run;
use bequest_harness::network::{self, add_host, on_host, plug};

/// A cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cable {
    /// From a node (0 or 1) towards ZooKeeper.
    Keeper(usize),
    /// From a node towards the other.
    Peers(usize),
    /// From a node towards clients.
    Clients(usize),
    /// Of a ZooKeeper server (0 to 2).
    Member(usize),
}

impl Cable {
    /// Its near end.
    fn device(self) -> String {
        match self {
            Self::Keeper(node) => format!("keeper{node}"),
            Self::Peers(node) => format!("peers{node}"),
            Self::Clients(node) => format!("clients{node}"),
            Self::Member(member) => format!("member{member}"),
        }
    }

    fn third(self) -> u8 {
        let third = match self {
            Self::Keeper(node) => 10 + node,
            Self::Peers(node) => 20 + node,
            Self::Clients(node) => 30 + node,
            Self::Member(_) => 40,
        };
        third as u8
    }

    /// Its end on this side.
    pub(crate) fn near(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, self.third(), 1))
    }

    /// Its end on the host.
    pub(crate) fn far(self) -> IpAddr {
        let last = match self {
            Self::Member(member) => 11 + member,
            _ => 2,
        };
        IpAddr::V4(Ipv4Addr::new(10, 77, self.third(), last as u8))
    }

    /// Takes its carrier away, at the end that is not the host's: packets vanish and nobody is told.
    pub(crate) fn cut(self) -> Result<(), String> {
        network::cut(&self.device())
    }

    /// Gives it back.
    pub(crate) fn join(self) -> Result<(), String> {
        network::join(&self.device())
    }
}

/// All cables of a node.
pub(crate) fn cables(node: usize) -> [Cable; 3] {
    [Cable::Keeper(node), Cable::Peers(node), Cable::Clients(node)]
}

/// What runs a program on a node's host.
pub(crate) fn on_node(node: usize) -> Vec<String> {
    on_host(&format!("node{node}"))
}

/// What runs a program on a ZooKeeper server's host.
pub(crate) fn on_member(member: usize) -> Vec<String> {
    on_host(&format!("zookeeper{member}"))
}

/// Makes all hosts and cables. The network must be this program's own.
pub(crate) fn make() -> Result<(), String> {
    // What is sent while a cable is cut must vanish, and not be refused for want of a way.
    run("ip", &["link", "add", "nowhere", "type", "veth", "peer", "name", "nothing"])?;
    run("ip", &["addr", "add", "10.78.0.1/24", "dev", "nowhere"])?;
    run("ip", &["link", "set", "nowhere", "up"])?;
    run("ip", &["link", "set", "nothing", "up"])?;
    run("ip", &["route", "add", "default", "via", "10.78.0.2", "dev", "nowhere"])?;
    run("ip", &["neigh", "add", "10.78.0.2", "lladdr", "02:00:00:00:00:02", "dev", "nowhere"])?;
    for node in 0..2 {
        let host = format!("node{node}");
        add_host(&host)?;
        for cable in cables(node) {
            add_cable(cable, &host)?;
            run("ip", &["addr", "add", &format!("{}/24", cable.near()), "dev", &cable.device()])?;
            cable.join()?;
        }
    }
    network::add_switch(Cable::Member(0).near())?;
    for member in 0..3 {
        let host = format!("zookeeper{member}");
        add_host(&host)?;
        add_cable(Cable::Member(member), &host)?;
        plug(&Cable::Member(member).device())?;
    }
    Ok(())
}

fn add_cable(cable: Cable, host: &str) -> Result<(), String> {
    network::add_cable(&cable.device(), host, cable.far())
}
