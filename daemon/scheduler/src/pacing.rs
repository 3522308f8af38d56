//! Prefill chunk size: how many prompt tokens one step reads.
//!
//! Owns the size of a prefill chunk. Pure policy: measured durations come in as arguments.
//!
//! A chunk should take about [`Contention::target_ms`]. Smaller chunks cost throughput, because
//! every chunk reads all weights. Larger chunks cost latency, because cancellation and deadlines
//! are checked between chunks and decoding streams pause meanwhile. The engine's speed is not known
//! beforehand, so the size follows the measured speed.

use std::time::Duration;

/// The chunk size of one loaded model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pacing {
    /// Prompt tokens per millisecond; 0 before the first measurement.
    speed: f64,
}

/// What else is running while a prefill chunk is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contention {
    /// Decoding sequences, whose streams pause meanwhile.
    Streams,
    /// Other prompts only.
    Prompts,
    /// Nothing, and the engine can abandon the chunk when its request ends.
    None,
}

impl Contention {
    /// Target duration of one chunk, in milliseconds.
    #[must_use]
    pub const fn target_ms(self) -> u64 {
        match self {
            Self::Streams => 250,
            Self::Prompts => 500,
            Self::None => 1_000,
        }
    }
}

impl Pacing {
    /// Smallest chunk. Below it matrix products lose their efficiency.
    pub const MIN_TOKENS: usize = 16;
    /// Largest chunk.
    pub const MAX_TOKENS: usize = 512;
    /// The size before the first measurement.
    const FIRST_TOKENS: usize = 64;

    /// A model without measurements.
    #[must_use]
    pub const fn new() -> Self {
        Self { speed: 0.0 }
    }

    /// Prompt tokens of the next step.
    ///
    /// Always a power of two, so that engines see few different tensor shapes.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few hundred tokens or milliseconds")]
    pub fn chunk_tokens(self, contention: Contention) -> usize {
        if self.speed <= 0.0 {
            return Self::FIRST_TOKENS;
        }
        let wanted = self.speed * contention.target_ms() as f64;
        let mut tokens = Self::MIN_TOKENS;
        // The nearest power of two: rounding down would halve most chunks.
        while tokens < Self::MAX_TOKENS && 1.5 * tokens as f64 <= wanted {
            tokens *= 2;
        }
        tokens
    }

    /// Records a step that read `tokens` prompt tokens in `elapsed`.
    ///
    /// The short tail of a prompt is slow for its size and is ignored. The last speed counts as
    /// much as all earlier ones together: one disturbed step does not spoil the next ones, and a
    /// lasting change is followed soon.
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

    /// The final chunk size for an engine of a given speed, under each contention.
    fn settle(tokens_per_s: u64) -> [usize; 3] {
        let mut pacing = Pacing::new();
        for _ in 0..20 {
            let tokens = pacing.chunk_tokens(Contention::Streams);
            let elapsed = Duration::from_micros(tokens as u64 * 1_000_000 / tokens_per_s);
            pacing.learn(tokens, elapsed);
        }
        [Contention::Streams, Contention::Prompts, Contention::None]
            .map(|one| pacing.chunk_tokens(one))
    }

    #[test]
    fn chunk_size_follows_engine_speed() {
        assert_eq!(settle(10), [Pacing::MIN_TOKENS; 3]);
        assert_eq!(settle(160), [32, 64, 128]);
        assert_eq!(settle(600), [128, 256, 512]);
        assert_eq!(settle(100_000), [Pacing::MAX_TOKENS; 3]);
    }

    #[test]
    fn short_prompt_tail_is_ignored() {
        let mut pacing = Pacing::new();
        pacing.learn(1, Duration::from_millis(100));
        assert_eq!(pacing, Pacing::new());
    }

    #[test]
    fn one_disturbed_step_is_forgotten() {
        let mut pacing = Pacing::new();
        for elapsed_ms in [100, 100, 2_000, 100, 100] {
            pacing.learn(64, Duration::from_millis(elapsed_ms));
        }
        assert_eq!(pacing.chunk_tokens(Contention::Streams), 128);
    }
}
