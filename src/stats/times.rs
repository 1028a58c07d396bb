//! How long something took, many times over: how often, percentiles to two digits, and the longest exactly.

use crate::limits;
use hdrhistogram::Histogram;

/// Digits of a percentile that are right: the third tells nobody anything and would cost eight times the memory.
const DIGITS: u8 = 2;

/// Durations, in the one unit that all of them are given in.
#[derive(Clone, Debug)]
pub struct Times {
    /// Grows with the longest that it was given, so that short ones cost little.
    histogram: Histogram<u32>,
    /// Longer ones stand in the histogram as this.
    most: u64,
    sum: u64,
    max: u64,
}

impl Times {
    /// None yet; percentiles tell apart what is not longer than `most`.
    fn new(most: u64) -> Times {
        let histogram = Histogram::new(DIGITS).expect("two digits are few enough");
        Times { histogram, most, sum: 0, max: 0 }
    }

    /// None yet, in milliseconds.
    pub fn of_locks() -> Times {
        Times::new(limits::STATS_TIME_MAX)
    }

    /// None yet, in microseconds.
    pub fn of_the_disk() -> Times {
        Times::new(limits::STATS_LATENCY_MAX)
    }

    /// One more.
    pub fn add(&mut self, time: u64) {
        self.histogram.record(time.min(self.most)).expect("it grows as far as it has to");
        self.sum = self.sum.saturating_add(time);
        self.max = self.max.max(time);
    }

    /// All of `other` as well.
    pub fn merge(&mut self, other: &Times) {
        self.histogram.add(&other.histogram).expect("it grows as far as it has to");
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// All together.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The longest; 0 if there was none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The one that so large a part of all did not exceed, from 0 to 1; 0 if there was none.
    pub fn quantile(&self, part: f64) -> u64 {
        self.histogram.value_at_quantile(part).min(self.max)
    }

    /// Bytes of its counts.
    pub fn bytes(&self) -> usize {
        self.histogram.distinct_values() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_two_digits_and_the_longest_exactly() {
        let mut times = Times::of_locks();
        (1..=1_000).for_each(|time| times.add(time));
        assert_eq!((times.count(), times.sum(), times.max()), (1_000, 500_500, 1_000));
        for (part, exact) in [(0.5, 500), (0.95, 950), (0.99, 990)] {
            let found = times.quantile(part);
            assert!(found.abs_diff(exact) <= exact / 100, "{part}: {found}");
        }
    }

    #[test]
    fn none_is_zero_and_one_is_all_its_percentiles() {
        let mut times = Times::of_locks();
        assert_eq!((times.count(), times.quantile(0.5), times.max()), (0, 0, 0));
        times.add(123_457);
        assert_eq!((times.quantile(0.5), times.quantile(0.99)), (123_457, 123_457));
    }

    #[test]
    fn what_is_longer_than_can_be_told_apart_is_counted_all_the_same() {
        let mut times = Times::of_locks();
        times.add(u64::MAX);
        times.add(3);
        assert_eq!((times.count(), times.max(), times.sum()), (2, u64::MAX, u64::MAX));
        assert!(times.quantile(0.99) >= limits::STATS_TIME_MAX);
        assert!(times.bytes() <= 11 * 1024, "{} bytes", times.bytes());
        let mut all = Times::of_locks();
        all.merge(&times);
        assert_eq!((all.count(), all.max(), all.quantile(0.1)), (2, u64::MAX, 3));
    }
}
