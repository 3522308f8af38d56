//! Model architectures, one file each, and their common parts.
//!
//! Adding one is a file and a match arm in [`plan`] or [`encoder_plan`]; removing one is the same
//! backwards.

mod bert;
mod decoder;
mod llama;
mod qwen2;
mod qwen3;

use mlx_rs::{Array, Dtype};

use super::attention::Attention;
use super::kv_cache::{Append, Layout};
use super::weights::{Expected, Weights};
use crate::device::Device;
use crate::error::MlxError;
use ingle_engine::error::EngineError;
use ingle_formats::gguf::GgufFile;
use ingle_formats::hf::ModelFolder;

/// What a model is read from.
pub(super) enum Source<'a> {
    /// A GGUF file.
    Gguf(&'a GgufFile),
    /// A folder with a `config.json` and safetensors.
    Folder(&'a ModelFolder),
}

/// A model whose hyperparameters are known and whose tensors are on their way. It becomes an `M`.
pub(super) trait Plan<M: ?Sized> {
    /// Every tensor the architecture has.
    fn tensors(&self) -> Vec<Expected>;
    /// Token ids that it knows.
    fn vocab_size(&self) -> usize;
    /// Tokens the model was made for.
    fn context_tokens(&self) -> usize;
    /// Starts to make the model from its tensors, which are all there.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when a tensor is stored in an unusable way.
    fn assembly(
        &self,
        weights: &mut Weights,
        device: Device,
    ) -> Result<Box<dyn Assembly<M>>, MlxError>;
}

/// An `M` in the making. It is made in pieces, because stacking and reordering the weights of all
/// layers at once would hold other models' streams up.
pub(super) trait Assembly<M: ?Sized> {
    /// Makes the next piece, a layer; true when there is none left.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when a tensor is missing or stored in an unusable way.
    fn step(&mut self, weights: &mut Weights) -> Result<bool, MlxError>;
    /// The model, once every piece has been made.
    ///
    /// # Errors
    /// As [`Assembly::step`].
    fn finish(self: Box<Self>, weights: &mut Weights) -> Result<Box<M>, MlxError>;
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
    fn forward(&self, batch: &mut Batch<'_>) -> Result<Option<Array>, MlxError>;
}

/// An encoder: tokens in, a vector for each of them out.
pub(super) trait Encoder {
    /// Numbers of a vector.
    fn dimensions(&self) -> usize;
    /// The type of its activations, and of the mask it wants.
    fn dtype(&self) -> Dtype;
    /// Queues one pass; nothing is computed yet. Returns `[texts, len, dimensions]`, in which the
    /// rows of padding mean nothing.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    fn forward(&self, batch: &TextBatch) -> Result<Array, MlxError>;
}

/// Several whole texts, each padded at its end to the same length.
pub(super) struct TextBatch {
    /// How many.
    pub(super) texts: i32,
    /// Tokens of each, with its padding.
    pub(super) len: i32,
    /// Token ids of one text after the other, `[texts * len]`, `uint32`.
    pub(super) tokens: Array,
    /// What is added to the scores of each text's tokens as keys, `[texts, 1, 1, len]`: 0, or so
    /// little for padding that nothing attends to it. `None` when there is no padding.
    pub(super) mask: Option<Array>,
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
    /// Those whose logits are wanted.
    pub(super) wanted: IsWanted,
}

/// The tokens of a [`Batch`] whose logits are wanted, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IsWanted {
    /// None.
    Nothing,
    /// All, padding included.
    All,
    /// Those with these indices, padded as well.
    Some(Vec<u32>),
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

/// A model's hyperparameters, and its architecture's name.
pub(super) type Named<M> = (String, Box<dyn Plan<M>>);

/// Reads a model's hyperparameters; returns them with the architecture's name.
///
/// # Errors
/// [`EngineError::Unsupported`] for an unknown architecture or variant, and
/// [`EngineError::InvalidModel`] when a hyperparameter is missing or contradicts another.
pub(super) fn plan(source: &Source<'_>) -> Result<Named<dyn Model>, MlxError> {
    let (key, name, file) = match source {
        Source::Gguf(gguf) => {
            let key = "general.architecture";
            (key, gguf.metadata().string(key)?.to_owned(), gguf.path())
        }
        Source::Folder(folder) => {
            ("model_type", folder.config().string("model_type")?, folder.config().path())
        }
    };
    let plan = match name.as_str() {
        "llama" | "mistral" => llama::config(source, &name)?,
        "qwen2" => qwen2::config(source, &name)?,
        "qwen3" => qwen3::config(source, &name)?,
        other => {
            return Err(EngineError::Unsupported {
                file: file.to_owned(),
                problem: format!(
                    "`{key}` is `{other}`, which is not one of the architectures that the MLX \
                     engine runs: llama, mistral, qwen2, qwen3"
                ),
            }
            .into());
        }
    };
    Ok((name, Box::new(plan)))
}

/// The same for a model that embeds.
///
/// # Errors
/// As [`plan`].
pub(super) fn encoder_plan(folder: &ModelFolder) -> Result<Named<dyn Encoder>, MlxError> {
    let name = folder.config().string("model_type")?;
    let plan = match name.as_str() {
        "bert" | "roberta" | "xlm-roberta" => bert::Config::from_folder(folder)?,
        _ => return Err(folder.config().unsupported("model_type", ENCODERS).into()),
    };
    Ok((name, Box::new(plan)))
}

/// What a folder of another architecture is answered.
const ENCODERS: &str = "`bert`, `roberta`, `xlm-roberta`; others embed as GGUF files";
