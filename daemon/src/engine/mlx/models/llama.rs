//! Llama: the architecture of Llama 1 to 3, SmolLM and Mistral, as GGUF's `llama`.
//!
//! Config and forward pass, nothing else. Tensor names are those of GGUF; the structure follows
//! mlx-lm's `models/llama.py`.

use mlx_rs::ops::indexing::{TryIndexOp, take_axis};
use mlx_rs::{Array, ops};

use super::{Batch, BatchRow, Model, Plan, invalid, size, size_opt, unsupported};
use crate::engine::backend::EngineError;
use crate::engine::mlx::kv_cache::Layout;
use crate::engine::mlx::layers::{Embedding, FusedLinear, LayerBuilder, Linear, RmsNorm, swiglu};
use crate::engine::mlx::rope::{Heads, Rope, rotate};
use crate::engine::mlx::weights::{Expected, Weights};
use crate::engine::mlx::{Device, dim};
use crate::formats::gguf::GgufFile;

/// Hyperparameters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: Heads,
    rope: Rope,
    norm_eps: f32,
    vocab_size: usize,
    context_tokens: usize,
}

impl Config {
    /// Reads and checks the `llama.*` keys.
    pub(super) fn read(gguf: &GgufFile) -> Result<Self, EngineError> {
        refuse_variants(gguf)?;
        let metadata = gguf.metadata();
        let hidden = size(gguf, "llama.embedding_length")?;
        let query = size(gguf, "llama.attention.head_count")?;
        let key_value = size_opt(gguf, "llama.attention.head_count_kv")?.unwrap_or(query);
        let head_dim = size_opt(gguf, "llama.attention.key_length")?.unwrap_or(hidden / query);
        let rotated = size_opt(gguf, "llama.rope.dimension_count")?.unwrap_or(head_dim);
        if query % key_value != 0 {
            let problem = format!("{query} query heads cannot share {key_value} key heads evenly");
            return Err(invalid(gguf, problem));
        }
        if head_dim == 0 || head_dim % 2 != 0 || rotated % 2 != 0 || rotated > head_dim {
            let problem = format!(
                "heads have {head_dim} elements of which {rotated} are rotated, expected even \
                 numbers, the second at most the first"
            );
            return Err(invalid(gguf, problem));
        }
        let vocab_size = match gguf.tensor("token_embd.weight") {
            Some(embedding) => embedding.shape[0],
            None => size(gguf, "llama.vocab_size")?,
        };
        Ok(Self {
            layers: size(gguf, "llama.block_count")?,
            hidden,
            intermediate: size(gguf, "llama.feed_forward_length")?,
            heads: Heads { query, key_value },
            rope: Rope {
                head_dim,
                rotated,
                base: metadata.f32_opt("llama.rope.freq_base")?.unwrap_or(10_000.0),
            },
            norm_eps: metadata.f32("llama.attention.layer_norm_rms_epsilon")?,
            vocab_size,
            context_tokens: size(gguf, "llama.context_length")?,
        })
    }
}

/// Refuses what shares the name `llama` but computes something else.
fn refuse_variants(gguf: &GgufFile) -> Result<(), EngineError> {
    let experts = gguf.metadata().u32_opt("llama.expert_count")?.unwrap_or(0);
    if experts > 0 {
        let problem = format!("a mixture of {experts} experts; only dense llama models run here");
        return Err(unsupported(gguf, problem));
    }
    let scaling = gguf.metadata().string_opt("llama.rope.scaling.type")?.unwrap_or("none");
    // Llama 3.1 and later carry their scaling as a tensor of factors instead of a key.
    if scaling != "none" || gguf.tensor("rope_freqs.weight").is_some() {
        let problem = "rope scaling; only llama models without it run here".to_owned();
        return Err(unsupported(gguf, problem));
    }
    Ok(())
}

impl Plan for Config {
    fn tensors(&self) -> Vec<Expected> {
        let Self { hidden, intermediate, vocab_size, heads, rope, .. } = self;
        let (queries, keys) = (heads.query * rope.head_dim, heads.key_value * rope.head_dim);
        let mut tensors = vec![
            Expected::required("token_embd.weight", &[*vocab_size, *hidden]),
            Expected::required("output_norm.weight", &[*hidden]),
            // Absent when the head is tied to the embedding.
            Expected::optional("output.weight", &[*vocab_size, *hidden]),
        ];
        for layer in 0..self.layers {
            let blk = |name: &str, shape: &[usize]| {
                Expected::required(format!("blk.{layer}.{name}.weight"), shape)
            };
            tensors.extend([
                blk("attn_norm", &[*hidden]),
                blk("attn_q", &[queries, *hidden]),
                blk("attn_k", &[keys, *hidden]),
                blk("attn_v", &[keys, *hidden]),
                blk("attn_output", &[*hidden, queries]),
                blk("ffn_norm", &[*hidden]),
                blk("ffn_gate", &[*intermediate, *hidden]),
                blk("ffn_up", &[*intermediate, *hidden]),
                blk("ffn_down", &[*hidden, *intermediate]),
            ]);
        }
        tensors
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn build(&self, weights: &mut Weights, device: Device) -> Result<Box<dyn Model>, EngineError> {
        let embed_tokens = Embedding::new(weights.take("token_embd.weight")?);
        let tied = !weights.has("output.weight");
        let mut builder = LayerBuilder { weights, device, dtype: embed_tokens.dtype() };
        let layers = (0..self.layers)
            .map(|layer| TransformerBlock::build(self, layer, &mut builder))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Box::new(Llama {
            config: self.clone(),
            layers,
            norm: builder.rms_norm("output_norm.weight", self.norm_eps)?,
            lm_head: if tied {
                embed_tokens.as_linear(device)?
            } else {
                builder.linear("output.weight")?
            },
            embed_tokens,
        }))
    }
}

/// The model.
struct Llama {
    config: Config,
    embed_tokens: Embedding,
    layers: Vec<TransformerBlock>,
    norm: RmsNorm,
    lm_head: Linear,
}

impl Model for Llama {
    fn layout(&self) -> Layout {
        Layout {
            layers: self.config.layers,
            kv_heads: self.config.heads.key_value,
            head_dim: self.config.rope.head_dim,
            dtype: self.embed_tokens.dtype(),
        }
    }

    fn forward(&self, batch: &mut Batch<'_>) -> Result<Option<Array>, EngineError> {
        let factors = self.config.rope.factors(&batch.positions, self.config.heads)?;
        let mut x = self.embed_tokens.forward(&batch.tokens)?;
        for layer in &self.layers {
            x = layer.forward(&x, &factors, &mut batch.rows)?;
        }
        if batch.wanted.is_empty() {
            return Ok(None);
        }
        // The head is the largest product of all: only for tokens that are sampled from.
        if batch.wanted.len() < batch.positions.len() {
            let wanted = Array::from_slice(&batch.wanted, &[dim(batch.wanted.len())?]);
            x = take_axis(&x, wanted, 0)?;
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
    ) -> Result<Self, EngineError> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let qkv = ["attn_q", "attn_k", "attn_v"].map(name);
        Ok(Self {
            input_layernorm: builder.rms_norm(&name("attn_norm"), config.norm_eps)?,
            self_attn: Attention {
                heads: config.heads,
                head_dim: dim(config.rope.head_dim)?,
                qkv_proj: builder.fused_linear(&qkv)?,
                o_proj: builder.linear(&name("attn_output"))?,
            },
            post_attention_layernorm: builder.rms_norm(&name("ffn_norm"), config.norm_eps)?,
            mlp: Mlp {
                gate_proj: builder.linear(&name("ffn_gate"))?,
                up_proj: builder.linear(&name("ffn_up"))?,
                down_proj: builder.linear(&name("ffn_down"))?,
                device: builder.device,
            },
        })
    }

    fn forward(
        &self,
        x: &Array,
        factors: &Array,
        rows: &mut [BatchRow<'_>],
    ) -> Result<Array, EngineError> {
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
    o_proj: Linear,
}

impl Attention {
    fn forward(
        &self,
        x: &Array,
        factors: &Array,
        rows: &mut [BatchRow<'_>],
    ) -> Result<Array, EngineError> {
        let shape = [x.dim(0), dim(self.heads.total())?, self.head_dim];
        let query_heads = dim(self.heads.query)?;
        let qkv = rotate(&self.qkv_proj.forward(x)?.reshape(&shape)?, factors)?.swap_axes(0, 1)?;
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
}

/// The gated feed-forward network.
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
    device: Device,
}

impl Mlp {
    fn forward(&self, x: &Array) -> Result<Array, EngineError> {
        let hidden = swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?, self.device)?;
        self.down_proj.forward(&hidden)
    }
}
