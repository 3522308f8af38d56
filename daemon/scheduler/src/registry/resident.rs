//! A resident model: its generator or embedder, pacing and prompt cache.
//!
//! Owns the sequences that are kept for later prompts. Does not know requests, names or loads.

use std::time::Instant;

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

use crate::pacing::Pacing;
use crate::prompt_cache::{PromptCache, Reuse};
use crate::time::millis;
use ingle_engine::backend::{Embedder, Generator, SeqId, TrimOutcome};
use ingle_engine::error::EngineError;

/// A model that can generate.
pub struct ResidentGenerator {
    /// Its numerics.
    pub generator: Box<dyn Generator>,
    /// Its prefill chunk size.
    pub pacing: Pacing,
    pub(super) prompt_cache: PromptCache,
    pub(super) engine: EngineKind,
    pub(super) load_ms: f64,
}

impl ResidentGenerator {
    /// A generator that `engine` has loaded since `started_at`.
    pub(super) fn new(
        generator: Box<dyn Generator>,
        engine: EngineKind,
        started_at: Instant,
    ) -> Self {
        let prompt_cache =
            PromptCache::new(limits::PROMPT_CACHE_SEQUENCES, limits::PROMPT_CACHE_BYTES);
        let load_ms = millis(started_at.elapsed());
        Self { generator, pacing: Pacing::new(), prompt_cache, engine, load_ms }
    }

    /// Opens a sequence for `prompt`, and returns how many of its tokens the sequence holds.
    ///
    /// It is forked from `reader`, a running sequence that has read the same prompt, or reuses a
    /// kept sequence with the same beginning, or is empty.
    ///
    /// # Errors
    /// What the generator reports.
    pub fn open(
        &mut self,
        prompt: &[u32],
        reader: Option<SeqId>,
    ) -> Result<(SeqId, usize), EngineError> {
        // The last token is read again, because its logits are needed.
        let shared = prompt.len().saturating_sub(1);
        let reader = reader.filter(|_| shared > 0);
        if let Some(forked) = reader.and_then(|reader| self.fork(reader, shared)) {
            return Ok((forked, shared));
        }
        match self.prompt_cache.find(prompt) {
            Some(Reuse::Whole { seq, tokens }) => return Ok((seq, tokens)),
            Some(Reuse::Beginning { seq, tokens }) => {
                // If the engine cannot fork or has no capacity, the whole prompt is read.
                if let Ok(forked) = self.generator.fork(seq, tokens) {
                    return Ok((forked, tokens));
                }
            }
            None => {}
        }
        loop {
            match self.generator.open() {
                Err(EngineError::NoCapacity { .. }) if self.evict_kept() => {}
                opened => return Ok((opened?, 0)),
            }
        }
    }

    /// Evicts the least recently used kept sequence. False when none is kept.
    pub fn evict_kept(&mut self) -> bool {
        let kept = self.prompt_cache.evict();
        if let Some(seq) = kept {
            self.generator.close(seq);
        }
        kept.is_some()
    }

    /// Forks a running sequence, and evicts kept ones if necessary.
    ///
    /// `None` when the engine cannot fork: the prompt is then read once more.
    fn fork(&mut self, reader: SeqId, len: usize) -> Option<SeqId> {
        loop {
            match self.generator.fork(reader, len) {
                Err(EngineError::NoCapacity { .. }) if self.evict_kept() => {}
                forked => return forked.ok(),
            }
        }
    }

    /// Evicts the least recently used kept sequences.
    pub fn drop_kept(&mut self, sequences: usize) {
        for _ in 0..sequences {
            if !self.evict_kept() {
                return;
            }
        }
    }

    /// The kept sequence that `prompt` would reuse, counted from the least recently used one.
    ///
    /// The flag says whether it would be reused as a whole.
    #[must_use]
    pub fn reusable_kept(&self, prompt: &[u32]) -> Option<(usize, bool)> {
        self.prompt_cache.peek(prompt)
    }

    /// Makes the kept sequence that `prompt` would reuse the last to be evicted.
    pub fn prefer(&mut self, prompt: &[u32]) {
        self.prompt_cache.prefer(prompt);
    }

    /// Keeps a finished sequence, whose KV cache should hold `tokens`, for later prompts.
    pub fn keep(&mut self, seq: SeqId, tokens: Vec<u32>) {
        // A cancelled pass may have added more tokens than were accounted for.
        if !matches!(self.generator.trim(seq, tokens.len()), Ok(TrimOutcome::Done)) {
            self.generator.close(seq);
            return;
        }
        let bytes = self.generator.bytes(seq);
        for closed in self.prompt_cache.keep(seq, tokens, bytes) {
            self.generator.close(closed);
        }
    }
}

/// A model that embeds.
pub(super) struct ResidentEmbedder {
    pub(super) embedder: Box<dyn Embedder>,
    /// Its slice size.
    pub(super) pacing: Pacing,
    pub(super) engine: EngineKind,
    pub(super) load_ms: f64,
}

impl ResidentEmbedder {
    /// An embedder that `engine` has loaded since `started_at`.
    pub(super) fn new(
        embedder: Box<dyn Embedder>,
        engine: EngineKind,
        started_at: Instant,
    ) -> Self {
        let load_ms = millis(started_at.elapsed());
        Self { embedder, pacing: Pacing::new(), engine, load_ms }
    }
}
