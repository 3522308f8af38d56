//! Backoff between connections that are lost shortly after each other.
//!
//! Owns how long the proxy waits before the next attempt, so that a daemon that dies of its start,
//! or of whatever it is asked, is not started as fast as it dies. One that has answered something
//! since it was connected to works: its start is sound, whatever ended it, and no request has to
//! wait for the next one. (What a request does to a daemon again and again is the quarantine's, in
//! the daemon.) Pure: time is an argument.

use std::time::{Duration, Instant};

/// Consecutive losses.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    losses: u32,
    last_at: Option<Instant>,
}

impl Backoff {
    /// Losses further apart than this are independent.
    const WINDOW: Duration = Duration::from_secs(10);
    /// The pause after the second consecutive loss; each later loss doubles it.
    const PAUSE: Duration = Duration::from_millis(50);
    /// The longest pause.
    const MAX_PAUSE: Duration = Duration::from_secs(1);

    /// Notes the loss of a connection at `now`, and whether its daemon had answered a request.
    pub(super) fn note(&mut self, has_answered: bool, now: Instant) {
        let is_soon =
            !has_answered && self.last_at.is_some_and(|last_at| now < last_at + Self::WINDOW);
        self.losses = if is_soon { self.losses.saturating_add(1) } else { 1 };
        self.last_at = Some(now);
    }

    /// The time to wait at `now` before the next attempt.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let Some(last_at) = self.last_at.filter(|_| self.losses > 1) else {
            return Duration::ZERO;
        };
        let doublings = (self.losses - 2).min(10);
        let pause = (Self::PAUSE * 2_u32.pow(doublings)).min(Self::MAX_PAUSE);
        (last_at + pause).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_losses_lengthen_the_pause() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for loss in 0..8 {
            backoff.note(false, at(loss * 10));
            pauses.push(backoff.pause(at(loss * 10)).as_millis());
        }
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(backoff.pause(at(70 + 900)), Duration::from_millis(100));
        backoff.note(false, at(60_000));
        assert_eq!(backoff.pause(at(60_000)), Duration::ZERO);
        backoff.note(false, at(60_001));
        assert!(!backoff.pause(at(60_001)).is_zero());
        backoff.note(true, at(60_002));
        assert_eq!(backoff.pause(at(60_002)), Duration::ZERO, "it had answered a request");
    }
}
