//! Host timeout: how long a host waits for one reply, and when the reply is due.

use ingle_protocol::timeouts::margin_ms;

/// The time that a host waits for one reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostTimeout {
    limit_ms: u64,
}

impl HostTimeout {
    /// A host that stops waiting for a call after `limit_ms` milliseconds.
    #[must_use]
    pub const fn new(limit_ms: u64) -> Self {
        Self { limit_ms }
    }

    /// Milliseconds after which the host stops waiting.
    #[must_use]
    pub const fn limit_ms(self) -> u64 {
        self.limit_ms
    }

    /// Milliseconds after which a reply is due: the host's limit less a margin for the reply's way.
    #[must_use]
    pub const fn due_ms(self) -> u64 {
        self.limit_ms.saturating_sub(margin_ms(self.limit_ms))
    }

    /// Milliseconds after which a call that becomes a job is answered, stored or not: half of the
    /// margin is left for the reply's way.
    #[must_use]
    pub const fn answer_ms(self) -> u64 {
        self.limit_ms.saturating_sub(margin_ms(self.limit_ms) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_is_due_before_the_host_times_out() {
        for (limit_ms, due_ms) in [(60_000, 59_000), (1_000, 980), (100, 95), (3, 0)] {
            assert_eq!(HostTimeout::new(limit_ms).due_ms(), due_ms);
        }
    }
}
