//! Qwen 3, dense: each query and key head is normalised, and heads have a size of their own.
//!
//! What the shared decoder has of optional parts. Sources: mlx-lm's `models/qwen3.py`, and
//! llama.cpp's `qwen3`.

use super::Source;
use super::decoder::{Config, Parts};
use crate::error::MlxError;
use crate::rope::Pairs;

/// Reads the hyperparameters of a `qwen3`.
pub(super) fn config(source: &Source<'_>, name: &str) -> Result<Config, MlxError> {
    let parts = Parts { qk_norm: true, ..Parts::default() };
    match source {
        Source::Gguf(gguf) => Config::from_gguf(gguf, name, Pairs::Halves, parts),
        Source::Folder(folder) => {
            let keys = folder.config();
            // transformers assumes 128 where mlx-lm refuses.
            keys.size("head_dim")?;
            let attention_bias = keys.flag_opt("attention_bias")?.unwrap_or(false);
            let parts = Parts { qkv_bias: attention_bias, output_bias: attention_bias, ..parts };
            Config::from_folder(folder, None, parts)
        }
    }
}
