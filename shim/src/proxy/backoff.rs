//! Connections that were lost shortly after each other.
//!
//! Owns how long the proxy waits before the next attempt, so that a daemon that dies of its start,
//! or of whatever it is asked, is not started as fast as it dies. One that has answered something
//! since it was connected to was of use: whoever ended it, its start is sound, and nobody has to
//! wait for the next one. (What a request does to a daemon again and again is the quarantine's, in
//! the daemon.) Pure: time is an argument.

use std::time::{Duration, Instant};

/// Losses in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    in_a_row: u32,
    last_at: Option<Instant>,
}

impl Backoff {
    /// Two further apart than this have nothing to do with each other.
    const APART: Duration = Duration::from_secs(10);
    /// What the second one in a row costs; each later one costs twice as much.
    const PAUSE: Duration = Duration::from_millis(50);
    /// The most that one costs.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    /// A connection was lost at `now`, to a daemon that was of use or not.
    pub(super) fn note(&mut self, was_of_use: bool, now: Instant) {
        let is_soon =
            !was_of_use && self.last_at.is_some_and(|last_at| now < last_at + Self::APART);
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
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for death in 0..8 {
            backoff.note(false, at(death * 10));
            pauses.push(backoff.pause(at(death * 10)).as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.pause(at(70 + 900)), Duration::from_millis(100));
        backoff.note(false, at(60_000));
        assert_eq!(backoff.pause(at(60_000)), Duration::ZERO);
        backoff.note(false, at(60_001));
        assert!(!backoff.pause(at(60_001)).is_zero());
        backoff.note(true, at(60_002));
        assert_eq!(backoff.pause(at(60_002)), Duration::ZERO, "it had answered something");
    }
}
