//! The machine that everything is measured on.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::stats::percentile;

const SYNCS: usize = 200;
const SYNC_BYTES: usize = 512;

/// What bears on the figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Cores.
    pub(crate) cores: usize,
    /// Memory, in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel.
    pub(crate) kernel: String,
    /// Microseconds that half of the syncs of 512 bytes took at most, on the disk that was used.
    pub(crate) sync_p50_us: u32,
    /// The same of 99 in a hundred.
    pub(crate) sync_p99_us: u32,
    /// Load of the last minute before the run began: what else went on.
    pub(crate) load_before: f64,
}

impl Machine {
    /// Looks, and syncs a file in `dir` some hundred times.
    pub(crate) fn look(dir: &Path) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let memory = read("/proc/meminfo")?;
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib: u64 = kib.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        let load = read("/proc/loadavg")?;
        let syncs = syncs(dir).context("cannot sync a file where the data goes")?;
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kib / 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            sync_p50_us: percentile(&syncs, 0.5).unwrap_or(0),
            sync_p99_us: percentile(&syncs, 0.99).unwrap_or(0),
            load_before: load.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0),
        })
    }

    /// In words.
    pub(crate) fn in_words(&self) -> String {
        let Self { cores, memory_mib, kernel, sync_p50_us, sync_p99_us, load_before } = self;
        format!(
            "machine: {cores} cores, {memory_mib} MiB, Linux {kernel}; a sync of {SYNC_BYTES} B takes {sync_p50_us} us \
             (p50), {sync_p99_us} us (p99); load of the minute before: {load_before}"
        )
    }
}

/// Memory that a process has in use, in MiB; 0 if it has ended.
pub(crate) fn resident_mib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Seconds that a process has kept a core busy; 0 if it has ended.
pub(crate) fn busy_seconds(pid: u32) -> f64 {
    // What Linux tells user space is in hundredths on every machine.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything. Times in user and system mode are fields 14 and 15 of the line.
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Microseconds of syncs, ascending.
fn syncs(dir: &Path) -> std::io::Result<Vec<u32>> {
    let path = dir.join("syncs");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        file.write_all(&[0x5a; SYNC_BYTES])?;
        let began = Instant::now();
        file.sync_data()?;
        times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_has_memory_and_keeps_a_core_busy() {
        let own = std::process::id();
        let (before, began) = (busy_seconds(own), Instant::now());
        while busy_seconds(own) <= before {
            assert!(began.elapsed().as_secs() < 60, "no time is told");
        }
        assert!(resident_mib(own) > 0);
        assert_eq!((resident_mib(0), busy_seconds(0)), (0, 0.0), "there is no such process");
    }
}
