//! The architectures, one file each, and the little they have in common.
//!
//! Adding one is a file and a match arm in [`plan`]; removing one is the same backwards.

mod llama;

use mlx_rs::Array;

use super::Device;
use super::attention::Attention;
use super::kv_cache::{Append, Layout};
use super::weights::{Expected, Weights};
use crate::engine::backend::EngineError;
use crate::formats::gguf::GgufFile;

/// A model whose hyperparameters are known and whose tensors are on their way.
pub(super) trait Plan {
    /// Every tensor the architecture has.
    fn tensors(&self) -> Vec<Expected>;
    /// Rows of the output head.
    fn vocab_size(&self) -> usize;
    /// Tokens the model was made for.
    fn context_tokens(&self) -> usize;
    /// Makes the model from its tensors.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when a tensor is missing or stored in an unusable way.
    fn build(&self, weights: &mut Weights, device: Device) -> Result<Box<dyn Model>, EngineError>;
}

/// A decoder: tokens in, logits out. It keeps no state between passes.
pub(super) trait Model {
    /// The sizes of its KV cache.
    fn layout(&self) -> Layout;
    /// Queues one pass; nothing is computed yet. Returns logits `[wanted, vocabulary]`, or `None`
    /// when none are wanted.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    fn forward(&self, batch: &mut Batch<'_>) -> Result<Option<Array>, EngineError>;
}

/// A ragged batch: the new tokens of several sequences, one sequence after the other, and padding
/// tokens that belong to none (see [`padded_rows`](super::layers::padded_rows)).
pub(super) struct Batch<'a> {
    /// Token ids of all rows, `[tokens]`, `uint32`.
    pub(super) tokens: Array,
    /// Position of each token in its sequence.
    pub(super) positions: Vec<usize>,
    /// The sequences' shares, in order.
    pub(super) rows: Vec<BatchRow<'a>>,
    /// Indices into `tokens` of those whose logits are wanted, padded as well.
    pub(super) wanted: Vec<u32>,
}

/// One sequence's share of a [`Batch`].
pub(super) struct BatchRow<'a> {
    /// Range of its tokens within the batch.
    pub(super) start: i32,
    /// End of that range.
    pub(super) end: i32,
    /// Its cache.
    pub(super) cache: Append<'a>,
    /// Its attention.
    pub(super) attention: Attention,
}

/// Reads the hyperparameters of a GGUF file; returns them with the architecture's name.
///
/// # Errors
/// [`EngineError::Unsupported`] for an unknown architecture or variant, and
/// [`EngineError::InvalidModel`] when a hyperparameter is missing or contradicts another.
pub(super) fn plan(gguf: &GgufFile) -> Result<(String, Box<dyn Plan>), EngineError> {
    let name = gguf.metadata().string("general.architecture")?;
    let plan: Box<dyn Plan> = match name {
        "llama" => Box::new(llama::Config::read(gguf)?),
        other => {
            return Err(unsupported(
                gguf,
                format!("architecture `{other}` is not one of those the MLX engine runs: llama"),
            ));
        }
    };
    Ok((name.to_owned(), plan))
}

/// A positive integer among the hyperparameters, if the key is there. The ceiling lies far above
/// any real model and keeps products of sizes from overflowing.
fn size_opt(gguf: &GgufFile, key: &str) -> Result<Option<usize>, EngineError> {
    match gguf.metadata().u32_opt(key)? {
        Some(value @ 1..=0xFF_FFFF) => Ok(usize::try_from(value).ok()),
        Some(value) => Err(invalid(gguf, format!("`{key}` is {value}, expected 1 to 16777215"))),
        None => Ok(None),
    }
}

/// A positive integer among the hyperparameters.
fn size(gguf: &GgufFile, key: &str) -> Result<usize, EngineError> {
    size_opt(gguf, key)?.ok_or_else(|| invalid(gguf, format!("`{key}` is missing")))
}

fn invalid(gguf: &GgufFile, problem: String) -> EngineError {
    EngineError::InvalidModel { file: gguf.path().to_owned(), problem }
}

fn unsupported(gguf: &GgufFile, problem: String) -> EngineError {
    EngineError::Unsupported { file: gguf.path().to_owned(), problem }
}
