//! Chance, or its absence.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Where every draw comes from.
pub enum Dice {
    /// A seed's draws.
    Seeded(Box<StdRng>),
    /// The middle of every range, and nothing that is not more likely than not: a world without chance. Whole numbers
    /// still differ from each other, by their last bits.
    Even(u32),
}

impl Dice {
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Box::new(StdRng::seed_from_u64(seed)))
    }
}

impl RngCore for Dice {
    fn next_u32(&mut self) -> u32 {
        match self {
            Self::Seeded(rng) => rng.next_u32(),
            Self::Even(_) => 1 << 31,
        }
    }

    fn next_u64(&mut self) -> u64 {
        match self {
            Self::Seeded(rng) => rng.next_u64(),
            Self::Even(drawn) => {
                *drawn += 1;
                1 << 63 | u64::from(*drawn)
            }
        }
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        match self {
            Self::Seeded(rng) => rng.fill_bytes(bytes),
            Self::Even(_) => bytes.fill(1 << 7),
        }
    }
}
