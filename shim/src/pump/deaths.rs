//! Connections that were lost shortly after each other.
//!
//! Owns how long the pump waits before the next attempt. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Losses in a row.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    in_a_row: u32,
    last_at: Option<Instant>,
}

impl Deaths {
    /// Two further apart than this have nothing to do with each other.
    const APART: Duration = Duration::from_secs(10);
    /// What the second one in a row costs; each later one costs twice as much.
    const PAUSE: Duration = Duration::from_millis(50);
    /// The most that one costs.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    /// A connection was lost at `now`.
    pub(super) fn note(&mut self, now: Instant) {
        let is_soon = self.last_at.is_some_and(|last_at| now < last_at + Self::APART);
        self.in_a_row = if is_soon { self.in_a_row.saturating_add(1) } else { 1 };
        self.last_at = Some(now);
    }

    /// How long to wait at `now` before the next attempt.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let Some(last_at) = self.last_at.filter(|_| self.in_a_row > 1) else {
            return Duration::ZERO;
        };
        let doublings = (self.in_a_row - 2).min(10);
        let pause = (Self::PAUSE * 2_u32.pow(doublings)).min(Self::MAX_PAUSE);
        (last_at + pause).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dies_again_and_again_is_started_less_and_less_often() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deaths = Deaths::default();
        let mut pauses = Vec::new();
        for death in 0..8 {
            deaths.note(at(death * 10));
            pauses.push(deaths.pause(at(death * 10)).as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(deaths.pause(at(70 + 900)), Duration::from_millis(100));
        deaths.note(at(60_000));
        assert_eq!(deaths.pause(at(60_000)), Duration::ZERO);
    }
}
