//! Time limits of a request: [`Budget`] on the wire, [`Deadline`] inside a process.
//!
//! Owns the translation between the two. The wire never carries an absolute time, because two
//! processes (or one that was stopped) need not agree on the clock.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::timeouts::{self, Layer};

/// The sender's limit, as it tells the next layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// W that the sender requests, in milliseconds; less than the class's W or ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_ms: Option<u64>,
    /// Time left of the sender's own limit, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
}

/// One layer's limit for one request, as an instant of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// W of the request, in milliseconds.
    pub work_ms: u64,
    /// The layer's limit, in milliseconds from `accepted_at`.
    pub limit_ms: u64,
    /// When the layer accepted the request.
    pub accepted_at: Instant,
}

impl Deadline {
    /// The limit of `layer` for a request of a class whose W is `class_work_ms`.
    ///
    /// The budget can only shorten: a W above the class's is cut to it.
    #[must_use]
    pub fn new(
        layer: Layer,
        class_work_ms: u64,
        budget: Option<Budget>,
        accepted_at: Instant,
    ) -> Self {
        let requested_ms = budget.and_then(|budget| budget.work_ms).unwrap_or(class_work_ms);
        let work_ms = requested_ms.min(class_work_ms).max(1);
        let remaining_ms = budget.and_then(|budget| budget.remaining_ms);
        let limit_ms = timeouts::layer_limit_ms(layer, work_ms, remaining_ms);
        Self { work_ms, limit_ms, accepted_at }
    }

    /// When the layer answers by itself.
    #[must_use]
    pub fn expires_at(&self) -> Instant {
        self.accepted_at + Duration::from_millis(self.limit_ms)
    }

    /// When work that starts at `started_at` must stop: W later, or a margin before the layer's
    /// own limit, whichever is first, so that the innermost layer answers first.
    #[must_use]
    pub fn work_ends_at(&self, started_at: Instant) -> Instant {
        let own = started_at + Duration::from_millis(self.work_ms);
        let margin_ms = timeouts::margin_ms(self.work_ms);
        let before_layer =
            self.accepted_at + Duration::from_millis(self.limit_ms.saturating_sub(margin_ms));
        own.min(before_layer)
    }

    /// Time left at `now`, in milliseconds.
    #[must_use]
    pub fn remaining_ms(&self, now: Instant) -> u64 {
        let left = self.expires_at().saturating_duration_since(now);
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }

    /// Time taken at `now`, in milliseconds.
    #[must_use]
    pub fn elapsed_ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.accepted_at);
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    /// The budget to send inwards at `now`.
    #[must_use]
    pub fn budget(&self, now: Instant) -> Budget {
        Budget { work_ms: Some(self.work_ms), remaining_ms: Some(self.remaining_ms(now)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_shortens_but_never_extends() {
        let now = Instant::now();
        let request = |work_ms| Some(Budget { work_ms: Some(work_ms), remaining_ms: None });
        assert_eq!(Deadline::new(Layer::Daemon, 1_000, request(200), now).limit_ms, 300);
        assert_eq!(Deadline::new(Layer::Daemon, 1_000, request(9_000), now).limit_ms, 1_500);
    }

    #[test]
    fn late_work_ends_before_the_daemon_limit() {
        let now = Instant::now();
        let deadline = Deadline::new(Layer::Daemon, 1_000, None, now);
        let prompt = deadline.work_ends_at(now);
        let late = deadline.work_ends_at(now + Duration::from_millis(900));
        assert_eq!(prompt, now + Duration::from_millis(1_000));
        assert_eq!(late, now + Duration::from_millis(1_480));
        assert!(late < deadline.expires_at());
    }
}
