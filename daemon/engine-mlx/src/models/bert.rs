//! BERT (Devlin and others 2018) and RoBERTa (Liu and others 2019), which differ in where positions
//! begin: learned positions, attention in both directions, norms after each sum.
//!
//! Their hyperparameters and forward pass up to the tokens' vectors. Names are upstream's. Source:
//! transformers' `models/bert/modeling_bert.py` and `models/roberta/modeling_roberta.py`.

use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::{Array, Dtype};

use super::{Assembly, Encoder, Plan, TextBatch};
use crate::attention::attend_within;
use crate::device::{Device, dim};
use crate::error::MlxError;
use crate::layers::{Activation, Embedding, FusedLinear, LayerBuilder, LayerNorm, Linear};
use crate::weights::{Expected, Weights};
use ingle_formats::hf::{self, FolderError, ModelFolder};

/// More layers than any model has: a bound on the list of its tensors.
const MAX_LAYERS: usize = 1_024;

/// Hyperparameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    /// What all names begin with: some files hold the model as a part of a larger one.
    prefix: &'static str,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    activation: Activation,
    norm_eps: f32,
    vocab_size: usize,
    positions: usize,
    /// The position of a text's first token.
    first_position: usize,
    token_types: usize,
    context_tokens: usize,
}

impl Config {
    /// Reads and checks the keys.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] and [`EngineError::Unsupported`], naming the key.
    pub(super) fn from_folder(folder: &ModelFolder) -> Result<Self, MlxError> {
        let keys = folder.config();
        let positions = keys.string_opt("position_embedding_type")?;
        if positions.is_some_and(|kind| kind != "absolute") {
            return Err(keys.unsupported("position_embedding_type", "`absolute`").into());
        }
        for key in ["is_decoder", "add_cross_attention"] {
            if keys.flag_opt(key)?.unwrap_or(false) {
                return Err(keys.unsupported(key, "false").into());
            }
        }
        let has = |prefix: &str| folder.tensors().iter().any(|one| one.name.starts_with(prefix));
        let config = Self {
            prefix: ["bert.", "roberta."].into_iter().find(|prefix| has(prefix)).unwrap_or(""),
            layers: keys.size("num_hidden_layers")?,
            hidden: keys.size("hidden_size")?,
            intermediate: keys.size("intermediate_size")?,
            heads: keys.size("num_attention_heads")?,
            activation: activation(keys)?,
            norm_eps: norm_eps(keys)?,
            vocab_size: keys.size("vocab_size")?,
            positions: keys.size("max_position_embeddings")?,
            first_position: folder.first_position()?,
            token_types: keys.size_opt("type_vocab_size")?.unwrap_or(2),
            context_tokens: folder.context_tokens()?,
        };
        config.check().map_err(|problem| keys.invalid(problem))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let Self { layers, hidden, heads, .. } = self;
        if *layers > MAX_LAYERS {
            return Err(format!("{layers} layers, more than the {MAX_LAYERS} allowed"));
        }
        if !hidden.is_multiple_of(*heads) {
            return Err(format!(
                "a `hidden_size` of {hidden} cannot be shared evenly by {heads} attention heads"
            ));
        }
        Ok(())
    }

    fn embeddings(&self, part: &str) -> String {
        format!("{}embeddings.{part}", self.prefix)
    }

    fn layer(&self, layer: usize, part: &str) -> String {
        format!("{}encoder.layer.{layer}.{part}", self.prefix)
    }
}

fn activation(keys: &hf::Config) -> Result<Activation, FolderError> {
    match keys.string_opt("hidden_act")?.as_deref() {
        None | Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some(_) => {
            Err(keys.unsupported("hidden_act", "`gelu`, `gelu_new`, `gelu_pytorch_tanh`, `relu`"))
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a small number, stored with few digits")]
fn norm_eps(keys: &hf::Config) -> Result<f32, FolderError> {
    let eps = keys.number_opt("layer_norm_eps")?.unwrap_or(1e-12) as f32;
    if eps >= 0.0 && eps.is_finite() {
        Ok(eps)
    } else {
        Err(keys.invalid(format!("`layer_norm_eps` is {eps}, expected a number from 0")))
    }
}

impl Plan<dyn Encoder> for Config {
    fn tensors(&self) -> Vec<Expected> {
        let (hidden, inner) = (self.hidden, self.intermediate);
        let mut tensors = Vec::new();
        for (name, rows) in [
            ("word_embeddings", self.vocab_size),
            ("position_embeddings", self.positions),
            ("token_type_embeddings", self.token_types),
        ] {
            let name = self.embeddings(&format!("{name}.weight"));
            tensors.push(Expected::required(name, &[rows, hidden]));
        }
        let mut add = |module: String, shape: &[usize]| {
            tensors.push(Expected::required(format!("{module}.weight"), shape));
            tensors.push(Expected::required(format!("{module}.bias"), &shape[..1]));
        };
        add(self.embeddings("LayerNorm"), &[hidden]);
        for layer in 0..self.layers {
            for part in [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ] {
                add(self.layer(layer, part), &[hidden, hidden]);
            }
            add(self.layer(layer, "attention.output.LayerNorm"), &[hidden]);
            add(self.layer(layer, "intermediate.dense"), &[inner, hidden]);
            add(self.layer(layer, "output.dense"), &[hidden, inner]);
            add(self.layer(layer, "output.LayerNorm"), &[hidden]);
        }
        tensors
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn assembly(
        &self,
        weights: &mut Weights,
        device: Device,
    ) -> Result<Box<dyn Assembly<dyn Encoder>>, MlxError> {
        let weight = |name: &str| self.embeddings(&format!("{name}.weight"));
        let words = Embedding::new(weights.take(&weight("word_embeddings"))?);
        let mut builder = LayerBuilder { weights, device, dtype: words.dtype() };
        let norm = builder.layer_norm(&self.embeddings("LayerNorm"), self.norm_eps)?;
        let positions = weights.take_dense(&weight("position_embeddings"))?;
        let positions = positions.try_index((dim(self.first_position)?.., ..))?;
        let types = weights.take_dense(&weight("token_type_embeddings"))?;
        // Every token of a single text is of type 0.
        let positions = positions.add(types.try_index((..1, ..))?)?.as_dtype(words.dtype())?;
        positions.eval()?;
        let layers = Vec::with_capacity(self.layers);
        Ok(Box::new(Bert { config: self.clone(), device, words, positions, norm, layers }))
    }
}

/// The model, and the model while its layers are made.
struct Bert {
    config: Config,
    device: Device,
    words: Embedding,
    /// Position and type together, `[positions, hidden]`.
    positions: Array,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

impl Assembly<dyn Encoder> for Bert {
    fn step(&mut self, weights: &mut Weights) -> Result<bool, MlxError> {
        let next = self.layers.len();
        if next < self.config.layers {
            let (device, dtype) = (self.device, self.words.dtype());
            let mut builder = LayerBuilder { weights, device, dtype };
            self.layers.push(Layer::build(&self.config, next, &mut builder)?);
        }
        Ok(self.layers.len() >= self.config.layers)
    }

    fn finish(self: Box<Self>, _weights: &mut Weights) -> Result<Box<dyn Encoder>, MlxError> {
        Ok(self)
    }
}

impl Encoder for Bert {
    fn dimensions(&self) -> usize {
        self.config.hidden
    }

    fn dtype(&self) -> Dtype {
        self.words.dtype()
    }

    fn forward(&self, batch: &TextBatch) -> Result<Array, MlxError> {
        let (texts, len, hidden) = (batch.texts, batch.len, dim(self.config.hidden)?);
        let words = self.words.forward(&batch.tokens)?.reshape(&[texts, len, hidden])?;
        let embedded = words.add(self.positions.try_index((..len, ..))?)?;
        let mut x = self.norm.forward(&embedded.reshape(&[texts * len, hidden])?)?;
        for layer in &self.layers {
            x = layer.forward(&x, batch)?;
        }
        Ok(x.reshape(&[texts, len, hidden])?)
    }
}

/// One layer; activations are `[tokens, hidden]`.
struct Layer {
    heads: i32,
    head_dim: i32,
    scale: f32,
    device: Device,
    query_key_value: FusedLinear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    activation: Activation,
    output: Linear,
    output_norm: LayerNorm,
}

impl Layer {
    #[expect(clippy::cast_precision_loss, reason = "the size of a head")]
    fn build(
        config: &Config,
        layer: usize,
        builder: &mut LayerBuilder<'_>,
    ) -> Result<Self, MlxError> {
        let name = |part: &str| config.layer(layer, part);
        let head_dim = config.hidden / config.heads;
        let eps = config.norm_eps;
        Ok(Self {
            heads: dim(config.heads)?,
            head_dim: dim(head_dim)?,
            scale: 1.0 / (head_dim as f32).sqrt(),
            device: builder.device,
            query_key_value: builder.fused_linear(&[
                (name("attention.self.query"), None),
                (name("attention.self.key"), None),
                (name("attention.self.value"), None),
            ])?,
            attention_output: builder.linear(&name("attention.output.dense"))?,
            attention_norm: builder.layer_norm(&name("attention.output.LayerNorm"), eps)?,
            intermediate: builder.linear(&name("intermediate.dense"))?,
            activation: config.activation,
            output: builder.linear(&name("output.dense"))?,
            output_norm: builder.layer_norm(&name("output.LayerNorm"), eps)?,
        })
    }

    fn forward(&self, x: &Array, batch: &TextBatch) -> Result<Array, MlxError> {
        let attended = self.attention_output.forward(&self.attend(x, batch)?)?;
        let x = self.attention_norm.forward(&attended.add(x)?)?;
        let inner = self.activation.forward(&self.intermediate.forward(&x)?, self.device)?;
        self.output_norm.forward(&self.output.forward(&inner)?.add(&x)?)
    }

    fn attend(&self, x: &Array, batch: &TextBatch) -> Result<Array, MlxError> {
        let (texts, len, heads, head_dim) = (batch.texts, batch.len, self.heads, self.head_dim);
        let qkv = self.query_key_value.forward(x)?;
        let qkv = qkv.reshape(&[texts, len, 3, heads, head_dim])?;
        let qkv = qkv.transpose_axes(&[2, 0, 3, 1, 4])?;
        let part = |index: i32| qkv.try_index(index);
        let scale = Array::from_f32(self.scale).as_dtype(x.dtype())?;
        let queries = part(0)?.multiply(scale)?;
        let mask = batch.mask.as_ref();
        let mixed = attend_within(&queries, &part(1)?, &part(2)?, mask, self.device)?;
        let by_token = mixed.swap_axes(1, 2)?;
        Ok(by_token.reshape(&[texts * len, heads * head_dim])?)
    }
}
