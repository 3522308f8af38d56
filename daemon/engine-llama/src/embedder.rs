//! The llama.cpp embedder: batches of texts in, vectors out.
//!
//! Owns the batching of texts. Does not know requests.

use llama_guard::{Context, Pass};

use crate::error::native;
use ingle_engine::backend::{Embedder, ModelInfo, check_text, normalized};
use ingle_engine::error::EngineError;

/// A model and its context.
pub(super) struct LlamaEmbedder {
    context: Context,
    info: ModelInfo,
    context_tokens: usize,
    dimensions: usize,
    batch_tokens: usize,
    batch_texts: usize,
    /// Whether the model has a KV cache, as a generator has.
    has_memory: bool,
    /// Tokens of the largest batch so far, whose outputs llama.cpp keeps room for.
    output_tokens: usize,
}

impl LlamaEmbedder {
    /// An embedder that takes `batch_texts` texts and `batch_tokens` tokens at a time; one text has
    /// `context_tokens` at most, which is no more.
    pub(super) fn new(
        context: Context,
        info: ModelInfo,
        dimensions: usize,
        context_tokens: usize,
        (batch_texts, batch_tokens): (usize, usize),
        has_memory: bool,
    ) -> Self {
        Self {
            context,
            info,
            context_tokens,
            dimensions,
            batch_tokens,
            batch_texts,
            has_memory,
            output_tokens: 0,
        }
    }

    fn embed_batch(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError> {
        let (mut tokens, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for (text, slot) in texts.iter().zip(0_i32..) {
            for (&token, position) in text.iter().zip(0_i32..) {
                tokens.push(i32::try_from(token).unwrap_or(i32::MAX));
                positions.push(position);
                slots.push(slot);
            }
        }
        // The pooling needs every token's output.
        let wanted = vec![1_i8; tokens.len()];
        let pass = if self.has_memory { Pass::Decode } else { Pass::Encode };
        self.output_tokens = self.output_tokens.max(tokens.len());
        let ran = self.context.run(pass, &tokens, &positions, &slots, &wanted, None);
        if self.has_memory {
            for (_, slot) in texts.iter().zip(0_i32..) {
                // The vectors stay; the keys and values of the texts are no longer needed.
                self.context.remove_from(slot, 0).map_err(native)?;
            }
        }
        ran.map_err(native)?;
        let mut vectors = Vec::with_capacity(texts.len());
        for (_, slot) in texts.iter().zip(0_i32..) {
            let vector = self.context.embedding(slot).map_err(native)?;
            vectors.push(normalized(vector)?);
        }
        Ok(vectors)
    }
}

impl Embedder for LlamaEmbedder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn overhead_bytes(&self) -> u64 {
        // It keeps logits too, although they are not used.
        let outputs = self.output_tokens * (self.info.vocab_size + self.dimensions);
        let output_bytes = (outputs * size_of::<f32>()) as u64;
        self.context.kv_bytes() + self.context.compute_bytes() + output_bytes
    }

    fn share_cores(&mut self, shares: bool) {
        self.context.share_cores(shares);
    }

    fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError> {
        for text in texts {
            check_text(text, self.info.vocab_size, self.context_tokens)?;
        }
        let mut vectors = Vec::with_capacity(texts.len());
        let mut left = texts;
        while !left.is_empty() {
            let mut tokens = 0;
            let fits = |text: &&&[u32]| {
                tokens += text.len();
                tokens <= self.batch_tokens
            };
            let count = left.iter().take(self.batch_texts).take_while(fits).count();
            // One text always fits.
            let (batch, rest) = left.split_at(count.max(1));
            vectors.extend(self.embed_batch(batch)?);
            left = rest;
        }
        Ok(vectors)
    }
}
