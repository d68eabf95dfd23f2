//! The bound on calls that the core has not taken yet: beyond it callers are refused as busy at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::call::Permits;

// Calls and bytes of them waiting for the raft thread, over all groups. The core bounds what it took over itself.
const CALLS_MAX: usize = 16 * 1024;
const UNITS_MAX: usize = 32 * 1024;
const UNIT_BYTES: usize = 1024;

/// Lets calls through to the raft thread.
#[derive(Debug)]
pub(crate) struct Gate {
    calls: Arc<Semaphore>,
    units: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { calls: Arc::new(Semaphore::new(CALLS_MAX)), units: Arc::new(Semaphore::new(UNITS_MAX)) }
    }
}

impl Gate {
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

    #[test]
    fn calls_beyond_the_bound_are_refused_until_earlier_ones_are_taken() {
        let gate = Gate::default();
        let mut inside: Vec<Permits> = (0..32).map(|_| gate.enter((1 << 20) - 1).expect("room")).collect();
        assert_eq!(gate.enter(0).expect_err("full"), "bytes waiting for the raft thread");
        inside.pop();
        drop(gate.enter(1000).expect("room again"));
        inside.clear();
        let inside: Vec<Permits> = (0..CALLS_MAX).map(|_| gate.enter(0).expect("room")).collect();
        assert_eq!(gate.enter(0).expect_err("full"), "calls waiting for the raft thread");
        drop(inside);
    }
}
