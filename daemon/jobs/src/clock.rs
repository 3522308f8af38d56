//! The wall clock for jobs: times for display, and the age of the job store.
//!
//! Owns the RFC 3339 text of a time, and the age clock. A wall clock can jump, so no age is computed
//! from two of its readings alone: see [`AgeClock`].

use std::time::SystemTime;

use crate::limits;

use ingle_text::calendar::civil_from_days;

/// Milliseconds since 1970, by the wall clock.
#[must_use]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A time in milliseconds since 1970 as RFC 3339 text in UTC: `2026-11-21T10:00:00.000Z`.
#[must_use]
pub fn rfc3339(unix_ms: i64) -> String {
    let (days, ms) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The age of the job store, which no jump of the wall clock can advance by more than a day.
///
/// While a daemon runs, the monotonic clock advances it. The time between two daemons is known from
/// the wall clock only; it counts as a day at most, and as nothing if the wall clock went back. So
/// a job is never deleted early, one jump forward ages the jobs by a day, and a machine that was off
/// for long keeps them longer, which does no harm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgeClock {
    /// The age in milliseconds.
    pub age_ms: u64,
    /// The wall clock at the last update, in milliseconds since 1970.
    pub noted_ms: i64,
}

impl AgeClock {
    /// The clock of a daemon that starts at `now_ms` of the wall clock.
    #[must_use]
    pub fn resumed(self, now_ms: i64) -> Self {
        if self.noted_ms == 0 {
            return Self { noted_ms: now_ms, ..self };
        }
        let between_ms = u64::try_from(now_ms.saturating_sub(self.noted_ms)).unwrap_or(0);
        self.advanced(between_ms, now_ms)
    }

    /// The clock after `elapsed_ms` of the monotonic clock, at `now_ms` of the wall clock.
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
    fn times_are_rfc_3339() {
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
    fn wall_clock_jumps_add_a_day_at_most() {
        let start = AgeClock::default().resumed(1_000 * DAY_MS);
        assert_eq!(start.age_ms, 0);
        // Ten years forward between two daemons: a day.
        let forward = start.resumed(4_650 * DAY_MS);
        assert_eq!(forward.age_ms, limits::JOB_SWEEP_GAP_MS);
        // And back again: nothing.
        let back = forward.resumed(1_001 * DAY_MS);
        assert_eq!(back.age_ms, forward.age_ms);
        // While the daemon runs, the wall clock does not count.
        let hour_ms = 3_600_000;
        assert_eq!(back.advanced(hour_ms, 9_000 * DAY_MS).age_ms, back.age_ms + hour_ms);
    }
}
