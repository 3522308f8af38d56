//! Durations counted in buckets.
//!
//! Owns the buckets and what is read from them. Knows nobody: the engine thread and the edges record
//! into it, and whoever shows metrics reads. Recording is a search among some twenty numbers and two
//! relaxed additions: no lock, no allocation, so that it may stand in the path of every token.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const fn us(microseconds: u64) -> Duration {
    Duration::from_micros(microseconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Upper ends of the buckets for what a caller waits for: the first token, a slot, a reply.
pub const WAITS: &[Duration] = &[
    ms(1),
    us(2_500),
    ms(5),
    ms(10),
    ms(25),
    ms(50),
    ms(100),
    ms(250),
    ms(500),
    s(1),
    us(2_500_000),
    s(5),
    s(10),
    s(30),
    s(60),
    s(120),
    s(300),
    s(600),
    s(900),
    s(1_800),
];

/// Upper ends of the buckets for the time between two tokens. They are close together where people
/// read: 10 to 100 tokens a second.
pub const TOKENS: &[Duration] = &[
    us(100),
    us(250),
    us(500),
    ms(1),
    us(2_500),
    ms(5),
    ms(10),
    ms(15),
    ms(20),
    ms(30),
    ms(40),
    ms(50),
    ms(75),
    ms(100),
    ms(250),
    ms(500),
    s(1),
    us(2_500_000),
    s(5),
    s(10),
];

/// Upper ends of the buckets for loads.
pub const LOADS: &[Duration] = &[
    ms(10),
    ms(50),
    ms(100),
    ms(250),
    ms(500),
    s(1),
    us(2_500_000),
    s(5),
    s(10),
    s(30),
    s(60),
    s(120),
    s(300),
    s(600),
];

/// Durations, counted.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One more than bounds: the last takes what is beyond.
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Empty, with these upper ends, which ascend. A duration on an end is below it.
    #[must_use]
    pub fn new(bounds: &'static [Duration]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_ns: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let index = self.bounds.partition_point(|bound| *bound < duration);
        if let Some(bucket) = self.buckets.get(index) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What has been counted. Its sum may already hold a duration whose bucket does not.
    #[must_use]
    pub fn read(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds: self.bounds,
            counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
        }
    }
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    bounds: &'static [Duration],
    counts: Vec<u64>,
    /// All durations together.
    pub sum: Duration,
}

impl HistogramSnapshot {
    /// How many durations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each upper end, and how many durations are at or below it. What is beyond the last is in
    /// [`HistogramSnapshot::count`] only.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let below = self.counts.iter().scan(0, |below, count| {
            *below += count;
            Some(*below)
        });
        self.bounds.iter().copied().zip(below)
    }

    /// Adds what another histogram of the same bounds has counted; one of others is left out.
    pub fn add(&mut self, other: &Self) {
        if self.bounds == other.bounds {
            for (count, more) in self.counts.iter_mut().zip(&other.counts) {
                *count += more;
            }
            self.sum += other.sum;
        }
    }

    /// The duration that `share` (0 to 1) of all are below, straight between the ends of its bucket;
    /// the last end for what is beyond it. `None` when nothing was counted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = share.clamp(0.0, 1.0) * self.count() as f64;
        let mut below = 0;
        let mut lower = Duration::ZERO;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            if *count > 0 && (below + count) as f64 >= rank {
                let within = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
                return Some(lower + (*bound - lower).mul_f64(within));
            }
            below += count;
            lower = *bound;
        }
        (self.count() > 0).then_some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_at_every_end_that_it_does_not_exceed() {
        let histogram = Histogram::new(WAITS);
        for duration in [us(1), ms(1), us(1_001), s(1_800), s(1_801)] {
            histogram.record(duration);
        }
        let reading = histogram.read();
        let cumulative: Vec<u64> = reading.cumulative().map(|(_, count)| count).collect();
        assert_eq!(cumulative[..2], [2, 3]);
        assert_eq!(*cumulative.last().unwrap(), 4);
        assert_eq!(reading.count(), 5);
        assert_eq!(reading.sum, us(1) + ms(1) + us(1_001) + s(3_601));
    }

    #[test]
    fn the_ends_of_buckets_ascend() {
        for bounds in [WAITS, TOKENS, LOADS] {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        let histogram = Histogram::new(WAITS);
        assert_eq!(histogram.read().quantile(0.5), None);
        for _ in 0..9 {
            histogram.record(ms(7));
        }
        histogram.record(s(2_000));
        let mut reading = histogram.read();
        let half = reading.quantile(0.5).unwrap();
        assert!(half > ms(5) && half <= ms(10), "{half:?}");
        assert_eq!(reading.quantile(0.95), Some(s(1_800)));
        reading.add(&histogram.read());
        assert_eq!((reading.count(), reading.quantile(0.5)), (20, Some(half)));
    }
}
