//! Sim model configuration: the `config.json` of a sim model's folder.
//!
//! Owns the keys and their defaults. Does not know the engine's traits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::EngineError;

/// A sim model's `config.json`. Counts `*_at` are tokens of one generation, from 1.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimConfig {
    /// Always `sim`.
    pub model_type: String,
    /// The completion; a text derived from the prompt when absent.
    #[serde(default)]
    pub reply: Option<String>,
    /// Its chat template; ChatML when absent.
    #[serde(default)]
    pub chat_template: Option<String>,
    /// Whether it supports fill-in-the-middle; the tokens for that are the bytes 1 to 3.
    #[serde(default = "default_fills_gaps")]
    pub fills_gaps: bool,
    /// Logits of each step, by character; all other tokens are impossible.
    ///
    /// Without them tokens are not sampled, and the sampler settings have no effect.
    #[serde(default)]
    pub logits: BTreeMap<char, f32>,
    /// Words of a text made from the prompt.
    #[serde(default = "default_words")]
    pub words: usize,
    /// Milliseconds a decode step takes.
    #[serde(default)]
    pub token_delay_ms: u64,
    /// Milliseconds a prompt token takes.
    #[serde(default)]
    pub prompt_token_delay_ms: u64,
    /// Maximum prompt tokens over all passes; a pass that exceeds it fails.
    #[serde(default)]
    pub prompt_tokens: Option<u64>,
    /// Milliseconds the load takes.
    #[serde(default)]
    pub load_delay_ms: u64,
    /// The load fails.
    #[serde(default)]
    pub fail_load: bool,
    /// The generation fails at this token.
    #[serde(default)]
    pub fail_at: Option<usize>,
    /// The engine thread hangs at this token.
    #[serde(default)]
    pub hang_at: Option<usize>,
    /// The engine thread panics at this token.
    #[serde(default)]
    pub panic_at: Option<usize>,
    /// The process aborts at this token.
    #[serde(default)]
    pub abort_at: Option<usize>,
    /// Whether it is an embedding model.
    #[serde(default)]
    pub embeds: bool,
    /// Tokens of context.
    #[serde(default = "default_context")]
    pub context_tokens: usize,
    /// Bytes its weights count for.
    #[serde(default)]
    pub weight_bytes: u64,
    /// Bytes a token of a sequence counts for.
    #[serde(default = "default_kv_bytes")]
    pub kv_bytes_per_token: u64,
    /// Whether those bytes are really allocated and written, so that resident memory shows them.
    #[serde(default)]
    pub allocate: bool,
}

fn default_kv_bytes() -> u64 {
    4
}

fn default_fills_gaps() -> bool {
    true
}

fn default_words() -> usize {
    12
}

fn default_context() -> usize {
    32_768
}

impl SimConfig {
    /// Reads `config.json` of a sim model's folder.
    ///
    /// # Errors
    /// [`EngineError::Io`], and [`EngineError::InvalidModel`] for an unknown key.
    pub fn read(folder: &Path) -> Result<Self, EngineError> {
        let file = folder.join("config.json");
        let text = fs::read_to_string(&file)
            .map_err(|error| EngineError::Io { file: file.clone(), problem: error.to_string() })?;
        serde_json::from_str(&text)
            .map_err(|error| EngineError::InvalidModel { file, problem: error.to_string() })
    }
}
