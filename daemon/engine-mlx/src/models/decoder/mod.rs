//! The decoder that most architectures share: pre-norm, rotary positions, grouped-query attention,
//! gated feed-forward.
//!
//! Owns its forward pass and its list of tensors. What an architecture has of the optional parts
//! (biases, norms of queries and keys, the output head) its own file says, in a [`Config`]. The
//! structure follows mlx-lm's `models/llama.py` and `models/qwen3.py`.

mod folder;
mod gguf;
mod names;

use mlx_rs::ops::indexing::{TryIndexOp, take_axis};
use mlx_rs::{Array, ops};

use super::{Assembly, Batch, BatchRow, IsWanted, Model, Plan};
use crate::device::{Device, dim};
use crate::error::MlxError;
use crate::kv_cache::Layout;
use crate::layers::{Embedding, FusedLinear, LayerBuilder, Linear, RmsNorm, swiglu};
use crate::rope::{Heads, Rope, rotate};
use crate::weights::{Expected, Weights};
use names::{Module, Names};

/// More layers than any model has: a bound on the list of its tensors.
const MAX_LAYERS: usize = 4_096;

/// Hyperparameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    names: Names,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: Heads,
    rope: Rope,
    norm_eps: f32,
    vocab_size: usize,
    context_tokens: usize,
    head: Head,
    parts: Parts,
}

/// What only some of the architectures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Parts {
    /// Biases of the projections to queries, keys and values.
    pub(super) qkv_bias: bool,
    /// A bias of the projection out of attention.
    pub(super) output_bias: bool,
    /// Biases of the feed-forward network.
    pub(super) mlp_bias: bool,
    /// A norm of each query and key head.
    pub(super) qk_norm: bool,
}

/// The output head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// A tensor of its own.
    Own,
    /// The embedding.
    Tied,
    /// A tensor of its own if the file has one, else the embedding.
    OwnIfThere,
}

impl Config {
    /// Refuses sizes that contradict each other; the error says which.
    fn check(&self) -> Result<(), String> {
        let Heads { query, key_value } = self.heads;
        if self.layers > MAX_LAYERS {
            return Err(format!("{} layers, more than the {MAX_LAYERS} allowed", self.layers));
        }
        if !query.is_multiple_of(key_value) {
            return Err(format!("{query} query heads cannot share {key_value} key heads evenly"));
        }
        let (head_dim, rotated) = (self.rope.head_dim, self.rope.rotated());
        if head_dim == 0 || head_dim % 2 != 0 || rotated % 2 != 0 || rotated > head_dim {
            return Err(format!(
                "heads have {head_dim} elements of which {rotated} are rotated, expected even \
                 numbers, the second at most the first"
            ));
        }
        Ok(())
    }
}

impl Plan<dyn Model> for Config {
    fn tensors(&self) -> Vec<Expected> {
        let Self { names, hidden, intermediate, vocab_size, heads, rope, parts, .. } = self;
        let (queries, keys) = (heads.query * rope.head_dim, heads.key_value * rope.head_dim);
        let top = |module| format!("{}.weight", names.top(module));
        let head = (top(Module::HEAD), &[*vocab_size, *hidden]);
        let mut tensors = vec![
            Expected::required(top(Module::EMBEDDING), &[*vocab_size, *hidden]),
            Expected::required(top(Module::NORM), &[*hidden]),
        ];
        match self.head {
            Head::Own => tensors.push(Expected::required(head.0, head.1)),
            Head::OwnIfThere => tensors.push(Expected::optional(head.0, head.1)),
            Head::Tied => {}
        }
        if *names == Names::Gguf {
            // Llama 3.1 and later: what each wavelength is stretched by.
            tensors.push(Expected::optional(names::ROPE_FACTORS, &[rope.rotated() / 2]));
        }
        for layer in 0..self.layers {
            let mut add = |module, shape: &[usize], has_bias| {
                let module = names.layer(layer, module);
                tensors.push(Expected::required(format!("{module}.weight"), shape));
                if has_bias {
                    tensors.push(Expected::required(format!("{module}.bias"), &shape[..1]));
                }
            };
            add(Module::ATTENTION_NORM, &[*hidden], false);
            add(Module::QUERY, &[queries, *hidden], parts.qkv_bias);
            add(Module::KEY, &[keys, *hidden], parts.qkv_bias);
            add(Module::VALUE, &[keys, *hidden], parts.qkv_bias);
            add(Module::ATTENTION_OUTPUT, &[*hidden, queries], parts.output_bias);
            if parts.qk_norm {
                add(Module::QUERY_NORM, &[rope.head_dim], false);
                add(Module::KEY_NORM, &[rope.head_dim], false);
            }
            add(Module::MLP_NORM, &[*hidden], false);
            add(Module::GATE, &[*intermediate, *hidden], parts.mlp_bias);
            add(Module::UP, &[*intermediate, *hidden], parts.mlp_bias);
            add(Module::DOWN, &[*hidden, *intermediate], parts.mlp_bias);
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
    ) -> Result<Box<dyn Assembly<dyn Model>>, MlxError> {
        let mut config = self.clone();
        if weights.has(names::ROPE_FACTORS) {
            let factors = weights.take_f32(names::ROPE_FACTORS)?;
            config.rope.stretch(factors.into_iter().map(f64::from));
        }
        let embedding = format!("{}.weight", config.names.top(Module::EMBEDDING));
        let embed_tokens = Embedding::new(weights.take(&embedding)?);
        let layers = Vec::with_capacity(config.layers);
        Ok(Box::new(Unfinished { config, device, embed_tokens, layers }))
    }
}

/// The model while its layers are made.
struct Unfinished {
    config: Config,
    device: Device,
    embed_tokens: Embedding,
    layers: Vec<TransformerBlock>,
}

impl Unfinished {
    fn builder<'a>(&self, weights: &'a mut Weights) -> LayerBuilder<'a> {
        LayerBuilder { weights, device: self.device, dtype: self.embed_tokens.dtype() }
    }
}

impl Assembly<dyn Model> for Unfinished {
    fn step(&mut self, weights: &mut Weights) -> Result<bool, MlxError> {
        let next = self.layers.len();
        if next < self.config.layers {
            let layer = TransformerBlock::build(&self.config, next, &mut self.builder(weights))?;
            self.layers.push(layer);
        }
        Ok(self.layers.len() >= self.config.layers)
    }

    fn finish(self: Box<Self>, weights: &mut Weights) -> Result<Box<dyn Model>, MlxError> {
        let names = self.config.names;
        let head = names.top(Module::HEAD);
        let tied = !weights.has(&format!("{head}.weight"));
        let mut builder = self.builder(weights);
        let norm = builder.rms_norm(names.top(Module::NORM), None, self.config.norm_eps)?;
        let lm_head =
            if tied { self.embed_tokens.as_linear(self.device)? } else { builder.linear(head)? };
        let Self { config, embed_tokens, layers, .. } = *self;
        Ok(Box::new(Decoder { config, embed_tokens, layers, norm, lm_head }))
    }
}

/// The model.
struct Decoder {
    config: Config,
    embed_tokens: Embedding,
    layers: Vec<TransformerBlock>,
    norm: RmsNorm,
    lm_head: Linear,
}

impl Model for Decoder {
    fn layout(&self) -> Layout {
        Layout {
            layers: self.config.layers,
            kv_heads: self.config.heads.key_value,
            head_dim: self.config.rope.head_dim,
            dtype: self.embed_tokens.dtype(),
        }
    }

    fn forward(&self, batch: &mut Batch<'_>) -> Result<Option<Array>, MlxError> {
        let factors = self.config.rope.factors(&batch.positions, self.config.heads)?;
        let mut x = self.embed_tokens.forward(&batch.tokens)?;
        for layer in &self.layers {
            x = layer.forward(&x, &factors, &mut batch.rows)?;
        }
        // The head is the largest product of all: only for tokens that are sampled from.
        match &batch.wanted {
            IsWanted::Nothing => return Ok(None),
            IsWanted::All => {}
            IsWanted::Some(wanted) => {
                let wanted = Array::from_slice(wanted, &[dim(wanted.len())?]);
                x = take_axis(&x, wanted, 0)?;
            }
        }
        Ok(Some(self.lm_head.forward(&self.norm.forward(&x)?)?))
    }
}

/// One layer.
struct TransformerBlock {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl TransformerBlock {
    fn build(
        config: &Config,
        layer: usize,
        builder: &mut LayerBuilder<'_>,
    ) -> Result<Self, MlxError> {
        let name = |module| config.names.layer(layer, module);
        let eps = config.norm_eps;
        Ok(Self {
            input_layernorm: builder.rms_norm(&name(Module::ATTENTION_NORM), None, eps)?,
            self_attn: Attention::build(config, name, builder)?,
            post_attention_layernorm: builder.rms_norm(&name(Module::MLP_NORM), None, eps)?,
            mlp: Mlp {
                gate_proj: builder.linear(&name(Module::GATE))?,
                up_proj: builder.linear(&name(Module::UP))?,
                down_proj: builder.linear(&name(Module::DOWN))?,
                device: builder.device,
            },
        })
    }

    fn forward(
        &self,
        x: &Array,
        factors: &Array,
        rows: &mut [BatchRow<'_>],
    ) -> Result<Array, MlxError> {
        let attended = self.self_attn.forward(&self.input_layernorm.forward(x)?, factors, rows)?;
        let x = x.add(attended)?;
        let fed = self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?;
        Ok(x.add(fed)?)
    }
}

/// Grouped-query self-attention.
struct Attention {
    heads: Heads,
    head_dim: i32,
    qkv_proj: FusedLinear,
    /// Norms of each query and each key head.
    qk_norm: Option<(RmsNorm, RmsNorm)>,
    o_proj: Linear,
}

impl Attention {
    fn build(
        config: &Config,
        name: impl Fn(Module) -> String,
        builder: &mut LayerBuilder<'_>,
    ) -> Result<Self, MlxError> {
        let Config { heads, rope, norm_eps, .. } = config;
        let queries = rope.row_order(heads.query)?;
        let keys = rope.row_order(heads.key_value)?;
        let qk_norm = if config.parts.qk_norm {
            let order = rope.row_order(1)?;
            let mut norm = |module| builder.rms_norm(&name(module), order.as_ref(), *norm_eps);
            Some((norm(Module::QUERY_NORM)?, norm(Module::KEY_NORM)?))
        } else {
            None
        };
        Ok(Self {
            heads: *heads,
            head_dim: dim(rope.head_dim)?,
            qkv_proj: builder.fused_linear(&[
                (name(Module::QUERY), queries.as_ref()),
                (name(Module::KEY), keys.as_ref()),
                (name(Module::VALUE), None),
            ])?,
            qk_norm,
            o_proj: builder.linear(&name(Module::ATTENTION_OUTPUT))?,
        })
    }

    fn forward(
        &self,
        x: &Array,
        factors: &Array,
        rows: &mut [BatchRow<'_>],
    ) -> Result<Array, MlxError> {
        let shape = [x.dim(0), dim(self.heads.total())?, self.head_dim];
        let query_heads = dim(self.heads.query)?;
        let mut qkv = self.qkv_proj.forward(x)?.reshape(&shape)?;
        if let Some(norms) = &self.qk_norm {
            qkv = self.normalize(&qkv, norms)?;
        }
        let qkv = rotate(&qkv, factors)?.swap_axes(0, 1)?;
        let mut outputs = Vec::with_capacity(rows.len());
        let mut used = 0;
        for row in rows {
            used = row.end;
            let queries = qkv.try_index((..query_heads, row.start..row.end, ..))?;
            let keys_values = qkv.try_index((query_heads.., row.start..row.end, ..))?;
            let (keys, values) = row.cache.update(&keys_values)?;
            outputs.push(row.attention.attend(&queries, &keys, &values)?);
        }
        if used < x.dim(0) {
            let padding = [x.dim(0) - used, query_heads * self.head_dim];
            outputs.push(ops::zeros_dtype(&padding, x.dtype())?);
        }
        match outputs.as_slice() {
            [single] => self.o_proj.forward(single),
            several => self.o_proj.forward(&ops::concatenate(several, 0)?),
        }
    }

    /// Normalises the query and key heads of `[tokens, heads, head_dim]`; values stay.
    fn normalize(
        &self,
        qkv: &Array,
        (query_norm, key_norm): &(RmsNorm, RmsNorm),
    ) -> Result<Array, MlxError> {
        let queries = dim(self.heads.query)?;
        let keys = queries + dim(self.heads.key_value)?;
        let parts = [
            query_norm.forward(&qkv.try_index((.., ..queries, ..))?)?,
            key_norm.forward(&qkv.try_index((.., queries..keys, ..))?)?,
            qkv.try_index((.., keys.., ..))?,
        ];
        Ok(ops::concatenate(&parts, 1)?)
    }
}

/// The gated feed-forward network.
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    device: Device,
}

impl Mlp {
    fn forward(&self, x: &Array) -> Result<Array, MlxError> {
        let hidden = swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?, self.device)?;
        self.down_proj.forward(&hidden)
    }
}
