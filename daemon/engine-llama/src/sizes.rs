//! Memory sizes of llama.cpp, computed before a load.
//!
//! Owns the sizes of batches and pools, on which a load and its estimate must agree, and the sizes
//! that follow from a header. Reads no weights.

use crate::limits;

use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
use ingle_formats::gguf::GgufFile;

/// Maximum tokens of one call of llama.cpp, for a generator.
pub(super) const BATCH_TOKENS: u32 = 2_048;
/// Tokens that llama.cpp computes together; its own default. The pacing's largest chunk is as many.
pub(super) const MICRO_BATCH_TOKENS: u32 = 512;

/// Architectures without a KV cache in llama.cpp: every token attends to every other.
const WITHOUT_KV_CACHE: &[&str] = &[
    "bert",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
];

/// Tokens of the KV cache that all sequences of a model share.
///
/// One sequence can fill it; with a short context several are needed.
pub(super) fn pool_tokens(context_tokens: usize, settings: &EngineSettings) -> usize {
    let several = context_tokens.saturating_mul(limits::CONCURRENT_GENERATIONS);
    several.min(settings.gguf_context_tokens).max(context_tokens)
}

/// Tokens that an embedding model takes, and computes, together. A text is read whole, because
/// every token may look at every other.
pub(super) fn embedding_batch_tokens(context_tokens: usize) -> usize {
    context_tokens.max(MICRO_BATCH_TOKENS as usize)
}

/// Bytes that llama.cpp keeps besides the weights, about: the KV cache, of which a token takes
/// `kv_per_token`, the hidden states of the tokens that are computed together, several times over,
/// and the logits of those whose outputs are wanted.
#[must_use]
pub(super) fn overhead_bytes(
    gguf: &GgufFile,
    role: Role,
    context_tokens: usize,
    kv_per_token: u64,
    settings: &EngineSettings,
) -> u64 {
    const HIDDEN_STATES: u64 = 16;
    let metadata = gguf.metadata();
    let architecture = metadata.string("general.architecture").unwrap_or_default();
    let width = metadata.u32_opt(&format!("{architecture}.embedding_length")).ok().flatten();
    let (kv_tokens, batch, logits) = match role {
        Role::Generates => (
            pool_tokens(context_tokens, settings),
            MICRO_BATCH_TOKENS as usize,
            limits::GGUF_SEQUENCES,
        ),
        Role::Embeds => {
            let batch = embedding_batch_tokens(context_tokens);
            if WITHOUT_KV_CACHE.contains(&architecture) {
                // There is no head, but memory for its output is allocated.
                (0, batch, batch)
            } else {
                // The head is computed, although it is not used, and its output is copied.
                (batch, batch, 2 * batch)
            }
        }
    };
    let hidden = u64::from(width.unwrap_or(0)).saturating_mul(HIDDEN_STATES * batch as u64);
    let logits = vocabulary(gguf).saturating_mul(logits as u64);
    let floats = hidden.saturating_add(logits);
    kv_per_token.saturating_mul(kv_tokens as u64).saturating_add(floats.saturating_mul(4))
}

/// Tokens of the vocabulary. The embedding may be in a later part of a split model.
fn vocabulary(gguf: &GgufFile) -> u64 {
    let rows = gguf.tensor("token_embd.weight").and_then(|tensor| tensor.shape.first().copied());
    let tokens = || Some(gguf.metadata().strings_opt("tokenizer.ggml.tokens").ok()??.len());
    rows.or_else(tokens).unwrap_or(0) as u64
}
