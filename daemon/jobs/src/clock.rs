//! Wall clock of jobs: timestamps for output, and an age clock for clean-up.
//!
//! Owns the format of a timestamp and the age clock. A wall clock can jump, so no age is computed from
//! two of its readings alone: see [`AgeClock`].

use std::time::SystemTime;

use time::{OffsetDateTime, PrimitiveDateTime};

use crate::limits;

/// Milliseconds since 1970, by the wall clock.
#[must_use]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Formats milliseconds since 1970 as RFC 3339 in UTC: `2026-11-21T10:00:00.000Z`.
#[must_use]
pub fn rfc3339(unix_ms: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    let time = time.unwrap_or_else(|_| {
        // The time is outside the years -9999 to 9999: the nearest of them is used.
        let nearest = if unix_ms < 0 { PrimitiveDateTime::MIN } else { PrimitiveDateTime::MAX };
        nearest.assume_utc()
    });
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second, ms) = time.to_hms_milli();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Age of the job store, which a jump of the wall clock cannot accelerate.
///
/// While a daemon runs, the monotonic clock advances the age. The time between two daemons is known
/// from the wall clock only: it counts as a day at most, and as zero if the wall clock went back. So
/// a job is never cleaned up early, a jump forward ages the jobs by one day, and a machine that was off
/// for long keeps them longer, which is harmless.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgeClock {
    /// Age of the store in milliseconds.
    pub age_ms: u64,
    /// Wall clock at the last update, in milliseconds since 1970.
    pub noted_ms: i64,
}

impl AgeClock {
    /// The clock at the start of a daemon, when the wall clock is at `now_ms`.
    #[must_use]
    pub fn resumed(self, now_ms: i64) -> Self {
        if self.noted_ms == 0 {
            return Self { noted_ms: now_ms, ..self };
        }
        let between_ms = u64::try_from(now_ms.saturating_sub(self.noted_ms)).unwrap_or(0);
        self.advanced(between_ms, now_ms)
    }

    /// The clock after `elapsed_ms` of monotonic time, when the wall clock is at `now_ms`.
    #[must_use]
    pub fn advanced(self, elapsed_ms: u64, now_ms: i64) -> Self {
        let elapsed_ms = elapsed_ms.min(limits::JOB_SWEEP_GAP_MS);
        Self { age_ms: self.age_ms.saturating_add(elapsed_ms), noted_ms: now_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn timestamps_are_rfc3339_in_utc() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_792_577_898_123, "2026-10-21T10:18:18.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }

    #[test]
    fn wall_clock_jumps_age_at_most_a_day() {
        let start = AgeClock::default().resumed(1_000 * DAY_MS);
        assert_eq!(start.age_ms, 0);
        // Ten years forward between two daemons: a day.
        let forward = start.resumed(4_650 * DAY_MS);
        assert_eq!(forward.age_ms, limits::JOB_SWEEP_GAP_MS);
        // And back again: nothing.
        let back = forward.resumed(1_001 * DAY_MS);
        assert_eq!(back.age_ms, forward.age_ms);
        // While the daemon runs, the wall clock has no influence.
        let hour_ms = 3_600_000;
        assert_eq!(back.advanced(hour_ms, 9_000 * DAY_MS).age_ms, back.age_ms + hour_ms);
    }
}
