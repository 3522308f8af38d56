//! Durations as the numbers that replies report.

use std::time::Duration;

/// Milliseconds as a float, for timings.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
