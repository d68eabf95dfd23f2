//! What many numbers come to.

use serde::Serialize;

/// The middle of some numbers, and how far they go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Half of them are below, half above.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of these numbers; `None` if there are none.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (below, above) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: f64::midpoint(below, above), min, max })
    }
}

/// The smallest of ascending numbers that at least this share of them do not exceed; `None` if there are none.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> Option<u32> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let spread = |numbers: &[f64]| Spread::of(numbers.iter().copied());
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(spread(&[9.0, 1.0, 5.0]), Some(Spread { median: 5.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread(&[7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn what_is_no_number_does_not_count() {
        let spread = Spread::of([f64::NAN, 2.0, f64::INFINITY]);
        assert_eq!(spread, Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
    }

    #[test]
    fn a_percentile_is_one_of_the_numbers_by_nearest_rank() {
        let hundred: Vec<u32> = (1..=100).collect();
        let of = |share| percentile(&hundred, share);
        assert_eq!(
            [of(0.0), of(0.5), of(0.99), of(0.991), of(1.0)],
            [Some(1), Some(50), Some(99), Some(100), Some(100)]
        );
        assert_eq!(percentile(&[3, 8], 0.5), Some(3));
        assert_eq!(percentile(&[3, 8], 0.51), Some(8));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
