//! Memory estimate of a model, from its header alone.
//!
//! Owns the sizes that a load reserves before it starts. Reads no weights.

use ingle_formats::gguf::GgufFile;
use ingle_formats::hf::ModelFolder;
use ingle_protocol::wire::models::EngineKind;

/// The memory that a model will take in its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The engine.
    pub engine: EngineKind,
    /// Bytes of its weights.
    pub weights: u64,
    /// Bytes held besides the weights: buffers, and a KV cache that is allocated up front.
    pub overhead: u64,
    /// Additional bytes held during the load.
    pub staging: u64,
    /// Bytes of KV cache per token.
    pub kv_per_token: u64,
    /// Whether `overhead` includes the KV cache of all tokens.
    pub kv_up_front: bool,
    /// Tokens of context.
    pub context_tokens: usize,
}

impl Estimate {
    /// Tokens of context that are assumed where a header gives none.
    pub const USUAL_TOKENS: usize = 2_048;

    /// The empty estimate of a model that no engine of this build runs; its load fails.
    #[must_use]
    pub fn unknown(engine: EngineKind, context_tokens: usize) -> Self {
        Self {
            engine,
            weights: 0,
            overhead: 0,
            staging: 0,
            kv_per_token: 0,
            kv_up_front: true,
            context_tokens,
        }
    }

    /// Bytes that the model takes after the load.
    #[must_use]
    pub fn loaded_bytes(&self) -> u64 {
        self.weights.saturating_add(self.overhead)
    }

    /// Maximum bytes that the model takes during the load.
    #[must_use]
    pub fn load_bytes(&self) -> u64 {
        self.loaded_bytes().saturating_add(self.staging)
    }

    /// Bytes of KV cache for a sequence of `tokens`.
    #[must_use]
    pub fn kv_bytes(&self, tokens: usize) -> u64 {
        self.kv_per_token.saturating_mul(tokens.min(self.context_tokens) as u64)
    }

    /// Bytes by which the model grows for a sequence of `tokens`.
    #[must_use]
    pub fn growth(&self, tokens: usize) -> u64 {
        if self.kv_up_front { 0 } else { self.kv_bytes(tokens) }
    }
}

/// Elements of the keys and values of one token, over all layers of a GGUF model.
///
/// The file gives the number of heads once or per layer; recurrent layers have none.
#[must_use]
pub fn gguf_kv_elements(gguf: &GgufFile) -> Option<u64> {
    let metadata = gguf.metadata();
    let architecture = metadata.string("general.architecture").ok()?;
    let list = |key: &str| metadata.u32_list(&format!("{architecture}.{key}")).ok();
    let number = |key: &str| list(key)?.first().map(|&value| u64::from(value));
    let heads = list("attention.head_count")?;
    let most = heads.iter().copied().max()?.max(1);
    let kv_heads = list("attention.head_count_kv").filter(|list| !list.is_empty());
    let kv_heads = kv_heads.unwrap_or(heads);
    let head_dim = number("embedding_length")? / u64::from(most);
    let keys = number("attention.key_length").unwrap_or(head_dim);
    let values = number("attention.value_length").unwrap_or(head_dim);
    let all_heads: u64 = match kv_heads.as_slice() {
        [same] => number("block_count")?.checked_mul(u64::from(*same))?,
        each => each.iter().map(|&heads| u64::from(heads)).sum(),
    };
    all_heads.checked_mul(keys.checked_add(values)?)
}

/// Elements of the keys and values of one token, over all layers of a model folder.
#[must_use]
pub fn folder_kv_elements(folder: &ModelFolder) -> Option<u64> {
    let config = folder.config();
    let number = |key: &str| config.size_opt(key).ok().flatten().map(|value| value as u64);
    let heads = number("num_attention_heads")?;
    let kv_heads = number("num_key_value_heads").unwrap_or(heads);
    let head_dim = number("head_dim").or_else(|| number("hidden_size")?.checked_div(heads))?;
    number("num_hidden_layers")?.checked_mul(kv_heads)?.checked_mul(2 * head_dim)
}

/// Context length that a GGUF model was trained with, in tokens.
#[must_use]
pub fn gguf_context_tokens(gguf: &GgufFile) -> Option<usize> {
    let metadata = gguf.metadata();
    let architecture = metadata.string("general.architecture").ok()?;
    let tokens = metadata.u32_opt(&format!("{architecture}.context_length")).ok()??;
    usize::try_from(tokens).ok()
}
