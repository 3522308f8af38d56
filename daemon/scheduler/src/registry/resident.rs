//! A model that is in memory, and what its engine is asked through.
//!
//! Owns the generator or embedder and the sequences that are kept for later prompts. Knows nothing
//! of requests, names or how a model got here.

use std::time::Instant;

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

use crate::pacing::Pacing;
use crate::prompt_cache::{PromptCache, Reuse};
use crate::time::millis;
use ingle_engine::backend::{Embedder, Generator, SeqId, Trimmed};
use ingle_engine::error::EngineError;

/// A model that can generate.
pub struct Resident {
    /// Its numerics.
    pub generator: Box<dyn Generator>,
    /// Its prefill chunk size.
    pub pacing: Pacing,
    pub(super) prompt_cache: PromptCache,
    pub(super) engine: EngineKind,
    pub(super) load_ms: f64,
}

impl Resident {
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

    /// Opens a sequence for `prompt`: the sequence, and how many of the prompt's tokens it holds
    /// already. It is forked from `reader`, a running one that has read the same prompt, or goes on
    /// from a kept one if that begins alike.
    ///
    /// # Errors
    /// What the generator reports.
    pub fn open(
        &mut self,
        prompt: &[u32],
        reader: Option<SeqId>,
    ) -> Result<(SeqId, usize), EngineError> {
        // The last token is read again, because its logits are wanted.
        let shared = prompt.len().saturating_sub(1);
        let reader = reader.filter(|_| shared > 0);
        if let Some(forked) = reader.and_then(|reader| self.fork(reader, shared)) {
            return Ok((forked, shared));
        }
        match self.prompt_cache.find(prompt) {
            Some(Reuse::Whole { seq, tokens }) => return Ok((seq, tokens)),
            Some(Reuse::Beginning { seq, tokens }) => {
                // An engine that cannot fork or has no room reads the prompt from its start.
                if let Ok(forked) = self.generator.fork(seq, tokens) {
                    return Ok((forked, tokens));
                }
            }
            None => {}
        }
        loop {
            match self.generator.open() {
                Err(EngineError::NoCapacity { .. }) if self.give_up_kept() => {}
                opened => return Ok((opened?, 0)),
            }
        }
    }

    /// Closes the kept sequence that has not been used for longest, to make room in the KV cache.
    /// False when none is kept.
    pub fn give_up_kept(&mut self) -> bool {
        let kept = self.prompt_cache.evict();
        if let Some(seq) = kept {
            self.generator.close(seq);
        }
        kept.is_some()
    }

    /// Forks a running sequence, at the cost of kept ones if need be. `None` where the engine
    /// cannot: the prompt is read once more then.
    fn fork(&mut self, reader: SeqId, len: usize) -> Option<SeqId> {
        loop {
            match self.generator.fork(reader, len) {
                Err(EngineError::NoCapacity { .. }) if self.give_up_kept() => {}
                forked => return forked.ok(),
            }
        }
    }

    /// Gives up the least recently used kept sequences.
    pub fn drop_kept(&mut self, sequences: usize) {
        for _ in 0..sequences {
            if !self.give_up_kept() {
                return;
            }
        }
    }

    /// Which kept sequence `prompt` would go on from, counted from the least recently used one,
    /// and whether it would take it over as a whole.
    #[must_use]
    pub fn goes_on_from(&self, prompt: &[u32]) -> Option<(usize, bool)> {
        self.prompt_cache.look(prompt)
    }

    /// Spares the kept sequence that `prompt` would go on from when room is made.
    pub fn prefer(&mut self, prompt: &[u32]) {
        self.prompt_cache.prefer(prompt);
    }

    /// Takes back a sequence whose KV cache should hold `tokens`, and keeps it for prompts that
    /// begin alike.
    pub fn keep(&mut self, seq: SeqId, tokens: Vec<u32>) {
        // A pass that was under way may have put more into it than was accounted for.
        if !matches!(self.generator.trim(seq, tokens.len()), Ok(Trimmed::Done)) {
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
    /// How much of a request is worked off at once.
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
