//! The bound on calls that the core has not taken yet: beyond it callers are refused as busy at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::call::Permits;
use crate::config::NodeConfig;

// Bytes are counted in such units.
const UNIT_BYTES: usize = 1024;

/// Lets calls through to the raft thread.
#[derive(Debug)]
pub(crate) struct Gate {
    calls: Arc<Semaphore>,
    units: Arc<Semaphore>,
}

impl Gate {
    /// Room for what one group may have in flight, and as much again behind it, over all groups: the core bounds what it
    /// took over itself.
    pub(crate) fn new(config: &NodeConfig) -> Self {
        let calls = config.proposals_in_flight + config.reads_in_flight;
        let units = config.proposal_bytes_in_flight / UNIT_BYTES * 2;
        Self { calls: Arc::new(Semaphore::new(calls)), units: Arc::new(Semaphore::new(units)) }
    }

    /// Lets a call with this much data through, or says which bound is met.
    pub(crate) fn enter(&self, bytes: usize) -> Result<Permits, &'static str> {
        // A call larger than the whole bound can never pass; the limit on proposals is far below.
        let units = u32::try_from(bytes / UNIT_BYTES + 1).map_err(|_| "the call's own size")?;
        let call = self.calls.clone().try_acquire_owned().map_err(|_| "calls waiting for the raft thread")?;
        let data = self.units.clone().try_acquire_many_owned(units).map_err(|_| "bytes waiting for the raft thread")?;
        Ok([call, data])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> (NodeConfig, Gate) {
        let config = NodeConfig::new(1, "zk://localhost/x", "localhost:7000", "/tmp/x");
        let gate = Gate::new(&config);
        (config, gate)
    }

    #[test]
    fn calls_beyond_the_bound_are_refused_until_earlier_ones_are_taken() {
        let (config, gate) = gate();
        let full = 2 * (config.proposal_bytes_in_flight >> 20);
        let mut inside: Vec<Permits> = (0..full).map(|_| gate.enter((1 << 20) - 1).expect("room")).collect();
        assert_eq!(gate.enter(0).expect_err("full"), "bytes waiting for the raft thread");
        inside.pop();
        drop(gate.enter(1000).expect("room again"));
        inside.clear();
        let calls = config.proposals_in_flight + config.reads_in_flight;
        let inside: Vec<Permits> = (0..calls).map(|_| gate.enter(0).expect("room")).collect();
        assert_eq!(gate.enter(0).expect_err("full"), "calls waiting for the raft thread");
        drop(inside);
    }

    #[test]
    fn all_that_a_group_may_have_in_flight_has_room_at_once() {
        let (mut config, _) = gate();
        config.proposals_in_flight = 4096;
        config.proposal_bytes_in_flight = 4096 * 65 * 1024;
        let gate = Gate::new(&config);
        let inside: Vec<Permits> = (0..4096).map(|_| gate.enter(64 * 1024).expect("room")).collect();
        drop(inside);
    }
}
