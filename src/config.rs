//! How a node is set up: plain values, and the one check of them.

use std::path::PathBuf;
use std::time::Duration;

use bequest_recovery::address::{Address, AddressError};

use crate::replica::event::NodeId;

/// When an entry counts as being in the local log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskSync {
    /// When it is written; a sync follows within about 100 ms. What the death of a machine takes is in ZooKeeper, and
    /// is replayed. Nothing acknowledged is ever lost by it.
    #[default]
    Background,
    /// Only when it is synced. Costs a sync for every batch and gives nothing but a shorter replay.
    BeforeAcknowledging,
}

/// How a node is set up. [`NodeConfig::new`] has the defaults; set fields as needed.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node's id: 1 or above, highest bit clear, its own for ever.
    pub id: u64,
    /// Where ZooKeeper is: `zk://[user:password@]host:port,host:port/path`.
    pub keeper: String,
    /// Where the peer port listens: `host:port`.
    pub listen: String,
    /// Where peers reach it, if not at `listen`: `host:port`.
    pub advertise: Option<String>,
    /// What status and errors tell clients of this node: free text, for instance the URL of a service.
    pub client_address: String,
    /// The directory for everything local. It is a cache: if it is lost, the node is rebuilt from ZooKeeper.
    pub data_dir: PathBuf,
    /// ZooKeeper session timeout to ask for. No takeover waits for it.
    pub session_timeout: Duration,
    /// How often a link says that its node lives.
    pub beat: Duration,
    /// Silence after which a leader is doubted. Grows by itself where ZooKeeper is slow.
    pub election_timeout: Duration,
    /// How often watches are doubled by a plain read.
    pub poll: Duration,
    /// Bytes of entries in a segment, unless one entry alone is larger.
    pub segment_bytes: usize,
    /// Segments of a group on their way to ZooKeeper at once.
    pub segments_in_flight: usize,
    /// Proposals of a group that are accepted and not applied yet; more are busy.
    pub proposals_in_flight: usize,
    /// Bytes of such proposals.
    pub proposal_bytes_in_flight: usize,
    /// Reads of a group that wait at once; more are busy.
    pub reads_in_flight: usize,
    /// Bytes of applied entries kept in memory for followers that lag, per group.
    pub log_cache_bytes: u64,
    /// When an entry counts as being in the local log.
    pub disk_sync: DiskSync,
}

/// Bounds within which a configuration makes sense.
const ELECTION_TIMEOUT_BEATS_MIN: u32 = 3;
const SEGMENT_BYTES: std::ops::RangeInclusive<usize> = 4 * 1024..=512 * 1024;
const SEGMENTS_IN_FLIGHT_MAX: usize = 64;
const CALLS_MAX: usize = 1 << 20;
const PROPOSAL_BYTES: std::ops::RangeInclusive<usize> = 1 << 20..=4 << 30;

/// A value that makes no sense. Nothing was opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A field's value is out of its bounds.
    #[error("bad configuration: {field}={value}; {what}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        what: &'static str,
    },
    /// The ZooKeeper address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl NodeConfig {
    /// The defaults for a node: everything else has none.
    pub fn new(id: u64, keeper: impl Into<String>, listen: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            id,
            keeper: keeper.into(),
            listen: listen.into(),
            advertise: None,
            client_address: String::new(),
            data_dir: data_dir.into(),
            session_timeout: Duration::from_secs(6),
            beat: Duration::from_millis(30),
            election_timeout: Duration::from_millis(150),
            poll: Duration::from_secs(2),
            segment_bytes: 256 * 1024,
            segments_in_flight: 8,
            proposals_in_flight: 8192,
            proposal_bytes_in_flight: 16 * 1024 * 1024,
            reads_in_flight: 8192,
            log_cache_bytes: 32 * 1024 * 1024,
            disk_sync: DiskSync::Background,
        }
    }

    /// Checks every value; returns ZooKeeper's address.
    ///
    /// # Errors
    /// If a value makes no sense, with what it must be.
    pub fn check(&self) -> Result<Address, ConfigError> {
        let Self {
            id,
            keeper,
            listen,
            advertise,
            client_address,
            data_dir,
            session_timeout,
            beat,
            election_timeout,
            poll,
            segment_bytes,
            segments_in_flight,
            proposals_in_flight,
            proposal_bytes_in_flight,
            reads_in_flight,
            log_cache_bytes: _,
            disk_sync: _,
        } = self;
        let address = keeper.parse()?;
        require(valid_node_id(*id), "id", id, "1 or above, highest bit clear")?;
        require(is_host_and_port(listen), "listen", listen, "host:port")?;
        let advertised = self.advertised();
        require(is_host_and_port(advertised), "advertise", advertised, "host:port")?;
        require(
            advertise.is_some() || !is_wildcard(listen),
            "listen",
            listen,
            "with a wildcard address peers must be told another one: set advertise",
        )?;
        require(client_address.len() <= 1024, "client_address", client_address.len(), "at most 1024 bytes")?;
        require(!data_dir.as_os_str().is_empty(), "data_dir", data_dir.display(), "a directory")?;
        require(millis(1000..=600_000, *session_timeout), "session_timeout", debug(session_timeout), "1 s to 10 min")?;
        require(millis(5..=10_000, *beat), "beat", debug(beat), "5 ms to 10 s")?;
        require(
            *election_timeout >= *beat * ELECTION_TIMEOUT_BEATS_MIN && millis(20..=60_000, *election_timeout),
            "election_timeout",
            debug(election_timeout),
            "20 ms to 1 min, and at least three beats",
        )?;
        require(millis(50..=60_000, *poll), "poll", debug(poll), "50 ms to 1 min")?;
        require(SEGMENT_BYTES.contains(segment_bytes), "segment_bytes", segment_bytes, "4 KiB to 512 KiB")?;
        require(
            (1..=SEGMENTS_IN_FLIGHT_MAX).contains(segments_in_flight),
            "segments_in_flight",
            segments_in_flight,
            "1 to 64",
        )?;
        require(
            (1..=CALLS_MAX).contains(proposals_in_flight),
            "proposals_in_flight",
            proposals_in_flight,
            "1 to 1048576",
        )?;
        require(
            PROPOSAL_BYTES.contains(proposal_bytes_in_flight),
            "proposal_bytes_in_flight",
            proposal_bytes_in_flight,
            "1 MiB to 4 GiB",
        )?;
        require((1..=CALLS_MAX).contains(reads_in_flight), "reads_in_flight", reads_in_flight, "1 to 1048576")?;
        Ok(address)
    }

    /// Where peers reach this node.
    pub(crate) fn advertised(&self) -> &str {
        self.advertise.as_ref().unwrap_or(&self.listen)
    }
}

/// Whether a number may name a node: the highest bit marks witnesses.
pub(crate) fn valid_node_id(id: u64) -> bool {
    NodeId(id) != NodeId(0) && id >> 63 == 0
}

fn require(holds: bool, field: &'static str, value: impl ToString, what: &'static str) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError::Field { field, value: value.to_string(), what })
    }
}

fn millis(bounds: std::ops::RangeInclusive<u128>, duration: Duration) -> bool {
    bounds.contains(&duration.as_millis())
}

fn debug(duration: &Duration) -> String {
    format!("{duration:?}")
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn is_wildcard(listen: &str) -> bool {
    ["0.0.0.0:", "[::]:"].iter().any(|wildcard| listen.starts_with(wildcard))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig::new(1, "zk://localhost:2181/x", "127.0.0.1:7000", "/tmp/x")
    }

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(config().check().map(|address| address.chroot), Ok("/x".to_owned()));
    }

    #[test]
    fn a_bad_value_is_named_with_what_it_must_be() {
        type Spoil = fn(&mut NodeConfig);
        let cases: [(&str, Spoil); 12] = [
            ("id", |config| config.id = 0),
            ("id", |config| config.id = 1 << 63),
            ("listen", |config| config.listen = "7000".into()),
            ("listen", |config| config.listen = "0.0.0.0:7000".into()),
            ("advertise", |config| config.advertise = Some("somewhere".into())),
            ("election_timeout", |config| config.election_timeout = Duration::from_millis(89)),
            ("segment_bytes", |config| config.segment_bytes = 1024 * 1024),
            ("segments_in_flight", |config| config.segments_in_flight = 0),
            ("session_timeout", |config| config.session_timeout = Duration::ZERO),
            ("proposals_in_flight", |config| config.proposals_in_flight = (1 << 20) + 1),
            ("proposal_bytes_in_flight", |config| config.proposal_bytes_in_flight = (1 << 20) - 1),
            ("reads_in_flight", |config| config.reads_in_flight = 0),
        ];
        for (name, spoil) in cases {
            let mut config = config();
            spoil(&mut config);
            let error = config.check().expect_err(name);
            assert!(matches!(&error, ConfigError::Field { field, .. } if *field == name), "{name}: {error}");
        }
        let mut config = config();
        config.keeper = "localhost:2181".into();
        assert_eq!(config.check(), Err(ConfigError::Address(AddressError::NoScheme)));
    }
}
