//! Watchdog: detects a stalled engine thread by its heartbeat.
//!
//! Owns the rule for a stall: a thread that has work and gives no heartbeat for `engine.stall_s` is
//! stuck. Its requests then fail, and the process ends. Does not know the thread's work, and never
//! sends it a command.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ingle_protocol::wire::status::Phase;

use crate::handle::EngineHandle;
use crate::stall::Stall;

/// Number of heartbeat checks within the stall limit.
const TICKS: u32 = 20;
/// Maximum time between two checks.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum delay of a check whose interval still counts; less where the limit is short.
///
/// A later check means that the process or the machine was suspended.
const TOLERATED_DELAY: Duration = Duration::from_millis(500);

/// Measures the silence of the engine thread.
#[derive(Debug, Clone)]
pub struct Watchdog {
    limit: Duration,
    silent_ms: Arc<AtomicU64>,
}

impl Watchdog {
    /// A watchdog that reports a stall after `limit` without a heartbeat.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, silent_ms: Arc::default() }
    }

    /// Whether the silence has reached half of the limit, which health reports.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.silent_ms.load(Ordering::Relaxed) >= millis(self.limit / 2)
    }

    /// Runs until the thread stalls.
    pub async fn run(self, engine: EngineHandle) -> Stall {
        let interval = (self.limit / TICKS).min(MAX_INTERVAL);
        let tolerated = interval + TOLERATED_DELAY.min(self.limit / 4);
        let mut silence = Silence::new(tolerated, Instant::now());
        loop {
            tokio::time::sleep(interval).await;
            let now = Instant::now();
            let (phase, beat_at) = engine.heartbeat();
            let works = !matches!(phase, Phase::Idle | Phase::Stopped);
            let silent = silence.observe(now, beat_at, works);
            self.silent_ms.store(millis(silent), Ordering::Relaxed);
            if silent >= self.limit {
                return Stall { phase, silent_ms: millis(silent) };
            }
        }
    }
}

/// Measures silence between checks.
///
/// A gap between two checks that is too long does not count: the process was suspended, and with it
/// the engine thread.
#[derive(Debug)]
struct Silence {
    /// Maximum time between two checks that counts.
    longest: Duration,
    observed_at: Instant,
    counts_from: Instant,
}

impl Silence {
    fn new(longest: Duration, now: Instant) -> Self {
        Self { longest, observed_at: now, counts_from: now }
    }

    /// Duration of the silence at `now`, after a last heartbeat at `beat_at`.
    fn observe(&mut self, now: Instant, beat_at: Instant, works: bool) -> Duration {
        let since = now.saturating_duration_since(self.observed_at);
        self.observed_at = now;
        if !works || since > self.longest {
            self.counts_from = now;
        }
        now.saturating_duration_since(self.counts_from.max(beat_at))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unobserved_time_is_not_silence() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::new(Duration::from_millis(600), start);
        for (now, beat_at, works, silent) in [
            (100, 90, true, 10),
            (200, 90, true, 110),
            (300, 250, true, 50),
            // An idle thread gives no heartbeat.
            (400, 250, false, 0),
            (500, 250, true, 100),
            // The process was suspended for a while.
            (5_000, 250, true, 0),
            (5_100, 250, true, 100),
            (5_700, 250, true, 700),
        ] {
            let found = silence.observe(at(now), at(beat_at), works);
            assert_eq!(found, Duration::from_millis(silent), "at {now}");
        }
    }
}
