//! How long the values of recently changed keys are, so that changing a key again reads nothing.
//!
//! It holds what was committed, and nothing else. Which keys it still knows depends on what was committed since the
//! machine was opened; it must therefore never decide what a command does, only whether that is read from the disk.

use std::collections::HashMap;

/// Bound on the memory of one generation, as [`cost`] counts it. Two generations of some thousand short keys each; a
/// node may have a thousand groups.
const GENERATION_BYTES_MAX: usize = 512 << 10;
/// What a key takes beside its own bytes: its place in the table, which may be half empty, and its allocation.
const KEY_OVERHEAD_BYTES: usize = 96;

/// Lengths of the values of recently changed keys; `None` for a key that is not there.
pub(super) struct Lengths {
    generation_bytes_max: usize,
    young: HashMap<Box<[u8]>, Option<usize>>,
    young_bytes: usize,
    /// What was young before. A key in it that changes is young again; the others go when the young one is full.
    old: HashMap<Box<[u8]>, Option<usize>>,
}

impl Default for Lengths {
    fn default() -> Self {
        Self::new(GENERATION_BYTES_MAX)
    }
}

impl Lengths {
    pub(super) fn new(generation_bytes_max: usize) -> Self {
        Self { generation_bytes_max, young: HashMap::new(), young_bytes: 0, old: HashMap::new() }
    }

    /// The length of the committed value of `key`, if it is known; `Some(None)` if it is known that there is none.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<usize>> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    /// Remembers what was committed.
    pub(super) fn set(&mut self, key: &[u8], length: Option<usize>) {
        if let Some(known) = self.young.get_mut(key) {
            *known = length;
            return;
        }
        // Copied: a slice of what came over the network would keep all that came with it.
        let key = self.old.remove_entry(key).map_or_else(|| key.into(), |(key, _)| key);
        if self.young_bytes + cost(&key) > self.generation_bytes_max {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.young_bytes = 0;
        }
        self.young_bytes += cost(&key);
        self.young.insert(key, length);
    }

    /// Forgets everything: another state is in force.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.generation_bytes_max);
    }
}

fn cost(key: &[u8]) -> usize {
    key.len() + KEY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 10 * (KEY_OVERHEAD_BYTES + 2);

    #[test]
    fn what_was_set_last_is_known_until_two_generations_have_passed() {
        let mut lengths = Lengths::new(BYTES_MAX);
        lengths.set(b"aa", Some(1));
        lengths.set(b"aa", None);
        assert_eq!(lengths.get(b"aa"), Some(None));
        let key = |number: u32| format!("{number:02}").into_bytes();
        (0..19).for_each(|number| lengths.set(&key(number), Some(number as usize)));
        assert_eq!(lengths.get(b"aa"), Some(None), "in the old generation");
        lengths.set(b"aa", Some(3));
        (20..29).for_each(|number| lengths.set(&key(number), None));
        assert_eq!(lengths.get(b"aa"), Some(Some(3)), "young again");
        (30..50).for_each(|number| lengths.set(&key(number), None));
        assert_eq!(lengths.get(b"aa"), None);
        lengths.clear();
        assert_eq!(lengths.get(&key(49)), None);
    }

    #[test]
    fn it_never_holds_more_than_two_generations() {
        let mut lengths = Lengths::new(BYTES_MAX);
        for number in 0..1000_usize {
            lengths.set(&number.to_le_bytes()[..1 + number % 8], Some(number));
            let held: usize =
                [&lengths.young, &lengths.old].iter().flat_map(|keys| keys.keys()).map(|key| cost(key)).sum();
            assert!(held <= 2 * BYTES_MAX, "{held}");
        }
    }
}
