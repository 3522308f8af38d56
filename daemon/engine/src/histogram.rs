//! Duration histograms.
//!
//! Owns the buckets and the snapshots of them. The engine thread and the edges record durations,
//! and the metrics read them. A record is a search among some twenty numbers and two relaxed
//! additions: no lock, no allocation, so that it may be called for every token.

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

/// Bucket bounds for waiting times: first token, admission, reply.
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

/// Bucket bounds for the time between two tokens.
///
/// They are dense at the speeds that people read: 10 to 100 tokens per second.
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

/// Bucket bounds for loads.
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

/// A histogram of durations.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// One more than bounds: the last bucket counts the durations beyond them.
    buckets: Box<[AtomicU64]>,
    sum_ns: AtomicU64,
}

impl Histogram {
    /// Creates an empty histogram with ascending upper bounds, which are inclusive.
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

    /// A snapshot. Its sum may include a duration that its buckets do not include yet.
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
    /// The sum of all durations.
    pub sum: Duration,
}

impl HistogramSnapshot {
    /// Number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bound, and the number of durations at or below it.
    ///
    /// Durations beyond the last bound are in [`HistogramSnapshot::count`] only.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let below = self.counts.iter().scan(0, |below, count| {
            *below += count;
            Some(*below)
        });
        self.bounds.iter().copied().zip(below)
    }

    /// Adds another snapshot with the same bounds; one with other bounds is ignored.
    pub fn add(&mut self, other: &Self) {
        if self.bounds == other.bounds {
            for (count, more) in self.counts.iter_mut().zip(&other.counts) {
                *count += more;
            }
            self.sum += other.sum;
        }
    }

    /// The quantile at `share` (0 to 1), interpolated linearly within its bucket.
    ///
    /// A quantile beyond the last bound is that bound. `None` when the histogram is empty.
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
    fn duration_counts_at_every_bound_above_it() {
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
    fn bounds_ascend() {
        for bounds in [WAITS, TOKENS, LOADS] {
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn quantile_lies_in_the_bucket_of_its_rank() {
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
