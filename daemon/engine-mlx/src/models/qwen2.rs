//! Qwen 2 and 2.5: biases on queries, keys and values.
//!
//! What the shared decoder has of optional parts. Sources: mlx-lm's `models/qwen2.py`, and
//! llama.cpp's `qwen2`.

use super::Source;
use super::decoder::{Config, Parts};
use crate::error::MlxError;
use crate::rope::Pairs;

/// Reads the hyperparameters of a `qwen2`.
pub(super) fn config(source: &Source<'_>, name: &str) -> Result<Config, MlxError> {
    let parts = Parts { qkv_bias: true, ..Parts::default() };
    match source {
        Source::Gguf(gguf) => Config::from_gguf(gguf, name, Pairs::Halves, parts),
        Source::Folder(folder) => {
            // mlx-lm and transformers disagree on the base of a file that names none.
            Config::from_folder(folder, None, parts)
        }
    }
}
