//! What happened, as a hash that tells two runs apart and, on demand, as text to read.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::mix::Micros;

// Lines kept where not all of them are printed.
const LINES: usize = 2_000;

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    keep: bool,
}

/// FNV-1a: the same on every machine and in every release of Rust.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl Trace {
    /// With `keep`, lines are written and kept; without, only the hash is.
    pub fn new(keep: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), keep }
    }

    /// Records something; the text is made only where it is kept.
    pub fn note(&mut self, now: Micros, key: impl Hash, text: impl FnOnce() -> String) {
        let mut hasher = Fnv(self.hash);
        now.hash(&mut hasher);
        key.hash(&mut hasher);
        self.hash = hasher.finish();
        self.say(now, text);
    }

    /// Writes a line where lines are kept; whether they are makes no difference to the hash.
    pub fn say(&mut self, now: Micros, text: impl FnOnce() -> String) {
        if self.keep {
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{:>11.3} ms  {}", now as f64 / 1_000.0, text()));
        }
    }

    /// Whether lines are kept.
    pub fn keeps(&self) -> bool {
        self.keep
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
