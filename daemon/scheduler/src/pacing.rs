//! How many prompt tokens one step may read.
//!
//! Owns the size of a prefill chunk. Pure policy: measured durations come in as arguments. Cancel
//! and deadline are seen between chunks, and streams stand still meanwhile, so a chunk should take
//! about [`Company::target_ms`]: every chunk reads all weights, so larger ones are faster on the whole.
//! The engine's speed is not known beforehand, so the size follows what was measured.

use std::time::Duration;

/// The chunk size of one loaded model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pacing {
    /// Prompt tokens a millisecond; 0 before anything has been measured.
    speed: f64,
}

/// Who waits while a chunk is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// Streams, which stand still meanwhile.
    Streams,
    /// Nobody but prompts.
    Prompts,
    /// Nobody at all, and the engine gives the chunk up when its request ends.
    Nobody,
}

impl Company {
    /// What one chunk should take, in milliseconds.
    #[must_use]
    pub const fn target_ms(self) -> u64 {
        match self {
            Self::Streams => 250,
            Self::Prompts => 500,
            Self::Nobody => 1_000,
        }
    }
}

impl Pacing {
    /// Smallest chunk. Below it matrix products lose their efficiency.
    pub const MIN_TOKENS: usize = 16;
    /// Largest chunk.
    pub const MAX_TOKENS: usize = 512;
    /// The size before anything has been measured.
    const FIRST_TOKENS: usize = 64;

    /// Nothing has been measured.
    #[must_use]
    pub const fn new() -> Self {
        Self { speed: 0.0 }
    }

    /// Prompt tokens of the next step: a power of two, so that engines meet few different shapes.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few hundred tokens or milliseconds")]
    pub fn chunk_tokens(self, company: Company) -> usize {
        if self.speed <= 0.0 {
            return Self::FIRST_TOKENS;
        }
        let wanted = self.speed * company.target_ms() as f64;
        let mut tokens = Self::MIN_TOKENS;
        // The nearest power of two; the one below would halve most chunks.
        while tokens < Self::MAX_TOKENS && 1.5 * tokens as f64 <= wanted {
            tokens *= 2;
        }
        tokens
    }

    /// Learns from a step that read `tokens` prompt tokens in `elapsed`. A prompt's short tail is
    /// slow for its size and says nothing. A speed counts as much as all before it, so that one
    /// disturbed step does not spoil the next ones and a lasting change is followed soon.
    #[expect(clippy::cast_precision_loss, reason = "a few hundred tokens")]
    pub fn learn(&mut self, tokens: usize, elapsed: Duration) {
        let elapsed_ms = elapsed.as_secs_f64() * 1_000.0;
        if tokens < Self::MIN_TOKENS || elapsed_ms <= 0.0 {
            return;
        }
        let speed = tokens as f64 / elapsed_ms;
        self.speed = if self.speed > 0.0 { f64::midpoint(self.speed, speed) } else { speed };
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

    /// The size it settles on for an engine of a given speed, in each company.
    fn settle(tokens_per_s: u64) -> [usize; 3] {
        let mut pacing = Pacing::new();
        for _ in 0..20 {
            let tokens = pacing.chunk_tokens(Company::Streams);
            let elapsed = Duration::from_micros(tokens as u64 * 1_000_000 / tokens_per_s);
            pacing.learn(tokens, elapsed);
        }
        [Company::Streams, Company::Prompts, Company::Nobody].map(|one| pacing.chunk_tokens(one))
    }

    #[test]
    fn the_chunk_follows_the_engines_speed() {
        assert_eq!(settle(10), [Pacing::MIN_TOKENS; 3]);
        assert_eq!(settle(160), [32, 64, 128]);
        assert_eq!(settle(600), [128, 256, 512]);
        assert_eq!(settle(100_000), [Pacing::MAX_TOKENS; 3]);
    }

    #[test]
    fn a_prompts_short_tail_says_nothing() {
        let mut pacing = Pacing::new();
        pacing.learn(1, Duration::from_millis(100));
        assert_eq!(pacing, Pacing::new());
    }

    #[test]
    fn one_disturbed_step_is_forgotten_soon() {
        let mut pacing = Pacing::new();
        for elapsed_ms in [100, 100, 2_000, 100, 100] {
            pacing.learn(64, Duration::from_millis(elapsed_ms));
        }
        assert_eq!(pacing.chunk_tokens(Company::Streams), 128);
    }
}
