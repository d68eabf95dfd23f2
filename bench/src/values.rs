//! Keys and values: bytes that no compression makes smaller.

use bytes::Bytes;
use rand::{rngs::StdRng, RngCore, SeedableRng};

/// Random bytes that values are cut from; longer than what any compressor here looks back.
const POOL_BYTES: usize = 16 * 1024 * 1024;
/// Keys are written again and again, so that no state grows beyond what its owner is made for.
const STATE_BYTES: usize = 32 * 1024 * 1024;
const KEYS_MIN: u64 = 512;
const KEYS_MAX: u64 = 4096;
/// Odd, so that neighbours are cut from places far apart, and all places are used.
const STRIDE: u64 = 10_000_019;

/// Bytes of what is read.
pub(crate) const READ_BYTES: usize = 100;

/// Makes keys and values.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pool: Bytes,
}

impl Values {
    /// Drawn by a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut pool = vec![0; POOL_BYTES];
        StdRng::seed_from_u64(seed).fill_bytes(&mut pool);
        Self { pool: pool.into() }
    }

    /// Of characters that need no escape anywhere, for whoever takes text: six random bits in each.
    pub(crate) fn printable(seed: u64) -> Self {
        const LETTERS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
        let pool: Vec<u8> = Self::new(seed).pool.iter().map(|byte| LETTERS[usize::from(byte % 64)]).collect();
        Self { pool: pool.into() }
    }

    /// A value for request `number`, as text; of printable ones only.
    pub(crate) fn text(&self, number: u64, bytes: usize) -> String {
        String::from_utf8_lossy(&self.value(number, bytes)).into_owned()
    }

    /// A value for request `number`; not copied.
    pub(crate) fn value(&self, number: u64, bytes: usize) -> Bytes {
        let places = (POOL_BYTES - bytes) as u64;
        let from = usize::try_from(number.wrapping_mul(STRIDE) % places).unwrap_or(0);
        self.pool.slice(from..from + bytes)
    }

    /// The key of request `number`, whose value has so many bytes.
    pub(crate) fn key(number: u64, bytes: usize) -> Bytes {
        format!("{bytes:06}-{:09}", number % keys(bytes)).into()
    }
}

/// Keys with values of so many bytes.
pub(crate) fn keys(bytes: usize) -> u64 {
    ((STATE_BYTES / bytes.max(1)) as u64).clamp(KEYS_MIN, KEYS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn values_and_keys_that_follow_each_other_differ() {
        let values = Values::new(1);
        for bytes in [100, 1024, 65536] {
            let several: BTreeSet<Bytes> = (0..500).map(|number| values.value(number, bytes)).collect();
            assert_eq!(several.len(), 500);
            assert!(several.iter().all(|value| value.len() == bytes));
            let several: BTreeSet<Bytes> = (0..500).map(|number| Values::key(number, bytes)).collect();
            assert_eq!(several.len(), 500);
        }
    }

    #[test]
    fn printable_values_are_text_of_the_length_asked_for() {
        let text = Values::printable(3).text(17, 100);
        assert!(text.len() == 100 && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    }

    #[test]
    fn a_value_has_nothing_a_compressor_could_use() {
        // All values of a byte about equally often: within five deviations of what chance makes of 65,536 of them.
        let mut counts = [0_i64; 256];
        Values::new(2).value(3, 65536).iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (count - 256).abs() < 80), "{counts:?}");
    }
}
