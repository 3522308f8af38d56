//! Request time limits, and durations as the numbers that replies report.
//!
//! Owns the rule that a request's time is up. Reads no clock: time is an argument.

use std::time::{Duration, Instant};

use ingle_protocol::deadline::Deadline;
use ingle_protocol::timeouts::Layer;

use crate::error::EngineFailure;

/// Milliseconds as a float, for timings.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The timeout of a request whose time is up at `now`.
///
/// Once its work has begun, the limit is W after `work_since`. A request that only `waits_for`
/// something is bounded by the daemon's own limit, and ends shortly before it.
#[must_use]
pub fn timeout_failure(
    deadline: &Deadline,
    work_since: Option<Instant>,
    waits_for: &'static str,
    now: Instant,
) -> Option<EngineFailure> {
    let (what, layer, limit_ms) = match work_since {
        Some(_) => ("the work", Layer::Work, deadline.work_ms),
        None => (waits_for, Layer::Daemon, deadline.limit_ms),
    };
    let elapsed = now.saturating_duration_since(deadline.accepted_at);
    (now >= deadline.work_ends_at(work_since.unwrap_or(now))).then(|| EngineFailure::Timeout {
        what,
        layer,
        limit_ms,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}
