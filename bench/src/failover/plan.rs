//! Who dies how, and who is measured beside.

use serde::Serialize;

/// A way to interrupt the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Death {
    /// The leader's process is killed: its connections are reset.
    Kill,
    /// The leader's host loses its network: nobody is told.
    Link,
    /// The leader's process is stopped: its connections stay, in silence.
    Stop,
    /// The leader's process is asked to end, and hands over.
    HandOver,
    /// The leader of the ZooKeeper ensemble is killed.
    Keeper,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Two nodes, over HTTP.
    Bequest,
    /// Three members of etcd with their default timers.
    Etcd,
    /// The same with the fastest timers it takes.
    EtcdFast,
    /// A bare client of ZooKeeper, by the client library that bequest uses.
    #[value(name = "zookeeper")]
    #[serde(rename = "zookeeper")]
    ZooKeeper,
}

impl Death {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Kill, Self::Link, Self::Stop, Self::HandOver, Self::Keeper];

    /// In words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the leader",
            Self::Link => "the leader's host loses its network",
            Self::Stop => "SIGSTOP of the leader",
            Self::HandOver => "clean end of the leader",
            Self::Keeper => "kill -9 of ZooKeeper's leader",
        }
    }

    /// Who dies so.
    pub(crate) fn contenders(self) -> &'static [Contender] {
        match self {
            Self::Kill | Self::Stop => &[Contender::Bequest, Contender::Etcd, Contender::EtcdFast],
            Self::Link | Self::HandOver => &[Contender::Bequest],
            Self::Keeper => &[Contender::Bequest, Contender::ZooKeeper],
        }
    }
}

impl Contender {
    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bequest => "bequest",
            Self::Etcd => "etcd",
            Self::EtcdFast => "etcd-fast",
            Self::ZooKeeper => "zookeeper",
        }
    }
}
