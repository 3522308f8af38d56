//! Llama: the architecture of Llama 1 to 3, SmolLM and Mistral.
//!
//! What the shared decoder has of optional parts. Sources: mlx-lm's `models/llama.py`, and
//! llama.cpp's `llama`.

use super::Source;
use super::decoder::{Config, Parts};
use crate::error::MlxError;
use crate::rope::Pairs;

/// Reads the hyperparameters of a `llama` or `mistral`.
pub(super) fn config(source: &Source<'_>, name: &str) -> Result<Config, MlxError> {
    match source {
        Source::Gguf(gguf) => Config::from_gguf(gguf, name, Pairs::SideBySide, Parts::default()),
        Source::Folder(folder) => {
            let keys = folder.config();
            let attention_bias = keys.flag_opt("attention_bias")?.unwrap_or(false);
            let parts = Parts {
                qkv_bias: attention_bias,
                output_bias: attention_bias,
                mlp_bias: keys.flag_opt("mlp_bias")?.unwrap_or(false),
                qk_norm: false,
            };
            Config::from_folder(folder, Some(10_000.0), parts)
        }
    }
}
