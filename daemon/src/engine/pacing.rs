//! How many prompt tokens one step may read.
//!
//! Owns the size of a prefill chunk. Pure policy: measured durations come in as arguments. Cancel
//! and deadline are seen between chunks, so a chunk should take about
//! [`Pacing::TARGET_MS`]; the engine's speed is not known beforehand, so the size follows what was
//! measured.

use std::time::Duration;

/// The chunk size of one loaded model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    chunk_tokens: usize,
}

impl Pacing {
    /// What one chunk should take, in milliseconds.
    pub const TARGET_MS: u64 = 250;
    /// Smallest chunk. Below it matrix products lose their efficiency.
    pub const MIN_TOKENS: usize = 16;
    /// Largest chunk.
    pub const MAX_TOKENS: usize = 512;

    /// The size before anything has been measured.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunk_tokens: 64 }
    }

    /// Prompt tokens of the next step.
    #[must_use]
    pub const fn chunk_tokens(self) -> usize {
        self.chunk_tokens
    }

    /// Learns from a step that read `tokens` prompt tokens in `elapsed`. The size doubles when
    /// even the doubled chunk would have met the target, and halves when a chunk missed it by
    /// half; in between it stays, so that it does not flutter. Chunks smaller than the present
    /// size (a prompt's last one) say little and only slow ones count.
    pub fn learn(&mut self, tokens: usize, elapsed: Duration) {
        let target = Duration::from_millis(Self::TARGET_MS);
        if elapsed > target * 3 / 2 {
            self.chunk_tokens = (self.chunk_tokens / 2).max(Self::MIN_TOKENS);
        } else if tokens >= self.chunk_tokens && elapsed * 2 <= target {
            self.chunk_tokens = (self.chunk_tokens * 2).min(Self::MAX_TOKENS);
        }
    }
}

impl Default for Pacing {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size it settles on for an engine of a given speed.
    fn settle(tokens_per_s: u64) -> usize {
        let mut pacing = Pacing::new();
        for _ in 0..20 {
            let tokens = pacing.chunk_tokens();
            let elapsed = Duration::from_millis(tokens as u64 * 1_000 / tokens_per_s);
            pacing.learn(tokens, elapsed);
        }
        pacing.chunk_tokens()
    }

    #[test]
    fn the_chunk_follows_the_engines_speed() {
        assert_eq!(settle(10), Pacing::MIN_TOKENS);
        assert_eq!(settle(160), 32);
        assert_eq!(settle(100_000), Pacing::MAX_TOKENS);
    }

    #[test]
    fn a_prompts_short_tail_does_not_grow_the_chunk() {
        let mut pacing = Pacing::new();
        pacing.learn(1, Duration::from_millis(1));
        assert_eq!(pacing, Pacing::new());
    }
}
