//! How long nobody was served.

use std::ops::Sub;
use std::time::Duration;

/// The longest time without an acknowledged write that overlaps `from` to `to`, and when it began and ended. `acks`
/// ascend. Where no answer came any more, the wait goes on until `to`.
pub fn longest_gap<T>(acks: &[T], from: T, to: T) -> (Duration, T, T)
where
    T: Copy + Ord + Sub<Output = Duration>,
{
    let first = acks.partition_point(|ack| *ack <= from).saturating_sub(1);
    let last = (acks.partition_point(|ack| *ack < to) + 1).min(acks.len());
    let window = acks.get(first..last).unwrap_or_default();
    let ends = window.iter().skip(1).copied().chain(acks.last().is_none_or(|ack| *ack < to).then_some(to));
    let starts = window.iter().copied().chain(window.is_empty().then_some(from));
    let gaps = starts.zip(ends).map(|(start, end)| (end - start, start, end));
    gaps.max_by_key(|gap| gap.0).unwrap_or((Duration::ZERO, from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(acks: &[u64], from: u64, to: u64) -> (u64, u64, u64) {
        let at = Duration::from_millis;
        let acks: Vec<Duration> = acks.iter().copied().map(at).collect();
        let (gap, start, end) = longest_gap(&acks, at(from), at(to));
        (gap.as_millis() as u64, start.as_millis() as u64, end.as_millis() as u64)
    }

    #[test]
    fn it_reaches_from_the_last_one_before_to_the_first_one_after() {
        assert_eq!(of(&[1, 2, 3, 40, 41], 5, 41), (37, 3, 40));
        assert_eq!(of(&[1, 50, 60, 61], 55, 61), (10, 50, 60), "what was over before does not count");
    }

    #[test]
    fn without_a_further_answer_it_lasts_until_the_end() {
        assert_eq!(of(&[1, 2], 3, 30), (28, 2, 30));
        assert_eq!(of(&[], 3, 30), (27, 3, 30));
    }
}
