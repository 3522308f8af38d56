//! Watches the engine thread from outside, by its heartbeat.
//!
//! Owns the rule for a stall (SPEC section 2): a thread that works and says nothing for
//! `engine.stall_s` is stuck, its callers are told, and the process ends. Knows nothing of what the
//! thread does; never asks it anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ingle_protocol::wire::status::Phase;

use crate::handle::EngineHandle;
use crate::stall::Stall;

/// Looks at the heartbeat in the time of one stall.
const TICKS: u32 = 20;
/// The longest time between two looks.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// How late a look may be at most before the time is no measure: this process, or the machine, stood
/// still. Less where the limit is short.
const TOLERATED_DELAY: Duration = Duration::from_millis(500);

/// The engine thread's silence, as far as it counts.
#[derive(Debug, Clone)]
pub struct Watchdog {
    limit: Duration,
    silent_ms: Arc<AtomicU64>,
}

impl Watchdog {
    /// A thread that works in silence for `limit` has stalled.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, silent_ms: Arc::default() }
    }

    /// Whether the thread has been silent for so long that people should know.
    #[must_use]
    pub fn is_worried(&self) -> bool {
        self.silent_ms.load(Ordering::Relaxed) >= millis(self.limit / 2)
    }

    /// Watches until the thread stalls.
    pub async fn run(self, engine: EngineHandle) -> Stall {
        let interval = (self.limit / TICKS).min(MAX_INTERVAL);
        let tolerated = interval + TOLERATED_DELAY.min(self.limit / 4);
        let mut silence = Silence::new(tolerated, Instant::now());
        loop {
            tokio::time::sleep(interval).await;
            let now = Instant::now();
            let (phase, beat_at) = engine.heartbeat();
            let works = !matches!(phase, Phase::Idle | Phase::Stopped);
            let silent = silence.look(now, beat_at, works);
            self.silent_ms.store(millis(silent), Ordering::Relaxed);
            if silent >= self.limit {
                return Stall { phase, silent_ms: millis(silent) };
            }
        }
    }
}

/// Counts silence. Time in which nobody looked does not count: the engine thread stood still too.
#[derive(Debug)]
struct Silence {
    /// The longest time between two looks that counts.
    longest: Duration,
    looked_at: Instant,
    counts_from: Instant,
}

impl Silence {
    fn new(longest: Duration, now: Instant) -> Self {
        Self { longest, looked_at: now, counts_from: now }
    }

    /// How long the thread has been silent at `now`, when its last heartbeat was at `beat_at`.
    fn look(&mut self, now: Instant, beat_at: Instant, works: bool) -> Duration {
        let since = now.saturating_duration_since(self.looked_at);
        self.looked_at = now;
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
    fn only_time_in_which_somebody_looked_is_silence() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::new(Duration::from_millis(600), start);
        for (now, beat_at, works, silent) in [
            (100, 90, true, 10),
            (200, 90, true, 110),
            (300, 250, true, 50),
            // Idle threads have nothing to say.
            (400, 250, false, 0),
            (500, 250, true, 100),
            // The process was stopped for a while.
            (5_000, 250, true, 0),
            (5_100, 250, true, 100),
            (5_700, 250, true, 700),
        ] {
            let found = silence.look(at(now), at(beat_at), works);
            assert_eq!(found, Duration::from_millis(silent), "at {now}");
        }
    }
}
