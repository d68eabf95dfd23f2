//! What can go wrong, and what a machine must permit for it.

use std::time::Duration;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Kill -9 a node.
    Kill,
    /// Kill -9 both nodes at the same moment.
    KillBoth,
    /// Kill a node and delete its disk.
    Wipe,
    /// Kill both nodes and delete both disks.
    WipeBoth,
    /// Delete a node's disk while it runs.
    DiskGone,
    /// Stop a node's threads, and let them go on.
    Pause,
    /// Stop both nodes' threads at once.
    PauseBoth,
    /// End a node by SIGTERM.
    Stop,
    /// End both nodes by SIGTERM.
    StopBoth,
    /// Fill a node's disk.
    DiskFull,
    /// Let a sync of a node's disk fail.
    SyncError,
    /// Take memory away by a control group: the kernel kills the node.
    MemoryGroup,
    /// Take memory away by a limit of the process: its allocations fail.
    MemoryLimit,
    /// Close a node's connections to ZooKeeper by FIN, again and again.
    KeeperFin,
    /// Close them by RST.
    KeeperReset,
    /// Close a node's side alone; ZooKeeper sees nothing of it.
    KeeperHalfOpen,
    /// Carry nothing between a node and ZooKeeper; what was sent arrives later.
    KeeperSilence,
    /// Carry a node's requests, and throw away ZooKeeper's replies.
    KeeperSwallow,
    /// Let a few of a node's requests through, and throw away the rest.
    KeeperRequests,
    /// Refuse a node's connections to ZooKeeper.
    KeeperRefuse,
    /// Close the connections to a node by FIN, again and again.
    PeerFin,
    /// Close them by RST.
    PeerReset,
    /// Carry nothing on the connections to a node; those from it go on.
    PeerSilence,
    /// Carry what is sent to a node, and throw away what it answers.
    PeerSwallow,
    /// Refuse connections to a node.
    PeerRefuse,
    /// Cut the link between a node and ZooKeeper.
    LinkKeeper,
    /// Cut the link between the nodes.
    LinkPeers,
    /// Cut the link between a node and its clients.
    LinkClients,
    /// Cut all links of a node.
    Unplug,
    /// Cut and join the link between a node and ZooKeeper again and again.
    FlapKeeper,
    /// Cut and join the link between the nodes again and again.
    FlapPeers,
    /// Cut and join all links of a node again and again.
    FlapAll,
    /// Cut a ZooKeeper server's link.
    LinkMember,
    /// Kill -9 a ZooKeeper server.
    MemberKill,
    /// Kill -9 the ZooKeeper server that leads.
    MemberLeaderKill,
    /// Stop a ZooKeeper server's threads, and let them go on.
    MemberPause,
    /// Kill -9 all ZooKeeper servers at once.
    KeeperDown,
}

/// What a machine must permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Nothing that is not there anyway.
    Nothing,
    /// Network namespaces.
    Links,
    /// Mounting a tmpfs.
    Disk,
    /// Tracing processes, by strace.
    Trace,
    /// A control group for memory.
    Group,
}

/// What one fault at a time may be about: a set of them, by bits.
pub(crate) type Parts = u16;

const NODES: Parts = 0b11;
const KEEPERS: Parts = 0b11 << 2;
const PEERS: Parts = 1 << 4;
const CLIENTS: Parts = 0b11 << 5;
const MEMBERS: Parts = 1 << 7;

impl Kind {
    /// All of them.
    pub(crate) const ALL: &'static [Kind] = &[
        Kind::Kill,
        Kind::KillBoth,
        Kind::Wipe,
        Kind::WipeBoth,
        Kind::DiskGone,
        Kind::Pause,
        Kind::PauseBoth,
        Kind::Stop,
        Kind::StopBoth,
        Kind::DiskFull,
        Kind::SyncError,
        Kind::MemoryGroup,
        Kind::MemoryLimit,
        Kind::KeeperFin,
        Kind::KeeperReset,
        Kind::KeeperHalfOpen,
        Kind::KeeperSilence,
        Kind::KeeperSwallow,
        Kind::KeeperRequests,
        Kind::KeeperRefuse,
        Kind::PeerFin,
        Kind::PeerReset,
        Kind::PeerSilence,
        Kind::PeerSwallow,
        Kind::PeerRefuse,
        Kind::LinkKeeper,
        Kind::LinkPeers,
        Kind::LinkClients,
        Kind::Unplug,
        Kind::FlapKeeper,
        Kind::FlapPeers,
        Kind::FlapAll,
        Kind::LinkMember,
        Kind::MemberKill,
        Kind::MemberLeaderKill,
        Kind::MemberPause,
        Kind::KeeperDown,
    ];

    /// What it is called on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::KillBoth => "kill-both",
            Kind::Wipe => "wipe",
            Kind::WipeBoth => "wipe-both",
            Kind::DiskGone => "disk-gone",
            Kind::Pause => "pause",
            Kind::PauseBoth => "pause-both",
            Kind::Stop => "stop",
            Kind::StopBoth => "stop-both",
            Kind::DiskFull => "disk-full",
            Kind::SyncError => "sync-error",
            Kind::MemoryGroup => "memory-group",
            Kind::MemoryLimit => "memory-limit",
            Kind::KeeperFin => "keeper-fin",
            Kind::KeeperReset => "keeper-reset",
            Kind::KeeperHalfOpen => "keeper-half-open",
            Kind::KeeperSilence => "keeper-silence",
            Kind::KeeperSwallow => "keeper-swallow",
            Kind::KeeperRequests => "keeper-requests",
            Kind::KeeperRefuse => "keeper-refuse",
            Kind::PeerFin => "peer-fin",
            Kind::PeerReset => "peer-reset",
            Kind::PeerSilence => "peer-silence",
            Kind::PeerSwallow => "peer-swallow",
            Kind::PeerRefuse => "peer-refuse",
            Kind::LinkKeeper => "link-keeper",
            Kind::LinkPeers => "link-peers",
            Kind::LinkClients => "link-clients",
            Kind::Unplug => "unplug",
            Kind::FlapKeeper => "flap-keeper",
            Kind::FlapPeers => "flap-peers",
            Kind::FlapAll => "flap-all",
            Kind::LinkMember => "link-member",
            Kind::MemberKill => "member-kill",
            Kind::MemberLeaderKill => "member-leader-kill",
            Kind::MemberPause => "member-pause",
            Kind::KeeperDown => "keeper-down",
        }
    }

    /// What a machine must permit for it.
    pub(crate) fn need(self) -> Need {
        match self {
            Kind::DiskFull => Need::Disk,
            Kind::SyncError => Need::Trace,
            Kind::MemoryGroup => Need::Group,
            Kind::LinkKeeper
            | Kind::LinkPeers
            | Kind::LinkClients
            | Kind::Unplug
            | Kind::FlapKeeper
            | Kind::FlapPeers
            | Kind::FlapAll
            | Kind::LinkMember => Need::Links,
            _ => Need::Nothing,
        }
    }

    /// What it is about, if aimed at `target`: no two faults at a time share a part.
    pub(crate) fn parts(self, target: usize) -> Parts {
        let of = |parts: Parts| (parts & parts.wrapping_neg()) << (target % 2);
        match self {
            Kind::Kill
            | Kind::Wipe
            | Kind::DiskGone
            | Kind::Pause
            | Kind::Stop
            | Kind::DiskFull
            | Kind::SyncError
            | Kind::MemoryGroup
            | Kind::MemoryLimit => of(NODES),
            Kind::KillBoth | Kind::WipeBoth | Kind::PauseBoth | Kind::StopBoth => NODES,
            Kind::KeeperFin
            | Kind::KeeperReset
            | Kind::KeeperHalfOpen
            | Kind::KeeperSilence
            | Kind::KeeperSwallow
            | Kind::KeeperRequests
            | Kind::KeeperRefuse
            | Kind::LinkKeeper
            | Kind::FlapKeeper => of(KEEPERS),
            Kind::PeerFin
            | Kind::PeerReset
            | Kind::PeerSilence
            | Kind::PeerSwallow
            | Kind::PeerRefuse
            | Kind::LinkPeers
            | Kind::FlapPeers => PEERS,
            Kind::LinkClients => of(CLIENTS),
            Kind::Unplug | Kind::FlapAll => of(KEEPERS) | PEERS | of(CLIENTS),
            Kind::LinkMember | Kind::MemberKill | Kind::MemberLeaderKill | Kind::MemberPause | Kind::KeeperDown => {
                MEMBERS
            }
        }
    }

    /// How long it lasts, in milliseconds: from, to. Sessions are two seconds.
    pub(crate) fn length_ms(self) -> (u64, u64) {
        match self {
            Kind::Kill | Kind::KillBoth | Kind::Wipe | Kind::WipeBoth => (50, 3000),
            Kind::Pause | Kind::PauseBoth | Kind::MemberPause => (200, 7000),
            // Long enough for a clean end, which is bounded.
            Kind::Stop | Kind::StopBoth => (8000, 9000),
            Kind::DiskGone | Kind::DiskFull | Kind::SyncError | Kind::MemoryGroup | Kind::MemoryLimit => (3000, 6000),
            Kind::KeeperDown => (2000, 9000),
            _ => (300, 6000),
        }
    }

    /// Whether a node may end by itself, or stop its group, because of it.
    pub(crate) fn excuses_an_end(self) -> bool {
        matches!(self, Kind::DiskGone | Kind::DiskFull | Kind::SyncError | Kind::MemoryGroup | Kind::MemoryLimit)
    }
}

/// One fault that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Its kind.
    pub(crate) kind: Kind,
    /// What it is aimed at: a node (0 or 1) or a ZooKeeper server (0 to 2).
    pub(crate) target: usize,
    /// When it begins, from the beginning of its round.
    pub(crate) begin: Duration,
    /// How long it lasts.
    pub(crate) length: Duration,
    /// What further choices are made by.
    pub(crate) draw: u64,
}

impl Fault {
    /// When it ends.
    pub(crate) fn end(&self) -> Duration {
        self.begin + self.length
    }

    /// What it is about.
    pub(crate) fn parts(&self) -> Parts {
        self.kind.parts(self.target)
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let aim = match self.parts() {
            MEMBERS if matches!(self.kind, Kind::KeeperDown | Kind::MemberLeaderKill) => String::new(),
            MEMBERS => format!(" server {}", self.target + 1),
            NODES => String::new(),
            PEERS if matches!(self.kind, Kind::LinkPeers | Kind::FlapPeers) => String::new(),
            _ => format!(" node {}", self.target % 2 + 1),
        };
        format!("{}{aim}", self.kind.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_different_nodes_and_of_different_parts_may_coincide() {
        assert_eq!(Kind::Kill.parts(0) & Kind::Kill.parts(1), 0);
        assert_eq!(Kind::Kill.parts(0) & Kind::KeeperReset.parts(0), 0);
        assert_ne!(Kind::Kill.parts(0) & Kind::WipeBoth.parts(1), 0);
        assert_ne!(Kind::Unplug.parts(1) & Kind::KeeperSilence.parts(1), 0);
        assert_ne!(Kind::Unplug.parts(1) & Kind::FlapPeers.parts(0), 0);
        assert_eq!(Kind::Unplug.parts(1) & Kind::KeeperSilence.parts(0), 0);
    }
}
