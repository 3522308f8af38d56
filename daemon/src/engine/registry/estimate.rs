//! What a model will take, found out from its header alone.
//!
//! Owns the sizes that a load reserves before it begins. Reads no weights.

#[cfg(feature = "mlx")]
use ingle_protocol::limits;

use crate::engine::handle::{EngineModel, Weights};
#[cfg(feature = "mlx")]
use crate::engine::loader;
use crate::formats::gguf::GgufFile;

/// What a model will take in its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
    /// The engine.
    pub engine: &'static str,
    /// Bytes of its weights.
    pub weights: u64,
    /// Bytes it keeps besides, whatever is generated: contexts allocated up front, buffers.
    pub overhead: u64,
    /// Bytes that pass through plain memory while it is loaded.
    pub staging: u64,
    /// Bytes of KV cache a token takes.
    pub kv_per_token: u64,
    /// Tokens of context.
    pub context_tokens: usize,
}

impl Estimate {
    /// Bytes the model takes once it is loaded.
    #[must_use]
    pub fn loaded_bytes(&self) -> u64 {
        self.weights.saturating_add(self.overhead)
    }

    /// Bytes its load may take at its height.
    #[must_use]
    pub fn load_bytes(&self) -> u64 {
        self.loaded_bytes().saturating_add(self.staging)
    }

    /// Bytes of KV cache that a sequence of so many tokens takes.
    #[must_use]
    pub fn kv_bytes(&self, tokens: usize) -> u64 {
        self.kv_per_token.saturating_mul(tokens.min(self.context_tokens) as u64)
    }
}

/// What `model` will take. A header that does not say costs the estimate its KV cache, and nothing
/// else: what is wrong with the file is the load's to report.
#[must_use]
pub fn estimate(model: &EngineModel) -> Estimate {
    match &model.weights {
        Weights::Gguf(gguf) => gguf_estimate(gguf),
        Weights::Sim(config) => Estimate {
            engine: "sim",
            weights: config.weight_bytes,
            overhead: 0,
            staging: 0,
            kv_per_token: config.kv_bytes_per_token,
            context_tokens: config.context_tokens,
        },
    }
}

#[cfg(feature = "mlx")]
fn gguf_estimate(gguf: &GgufFile) -> Estimate {
    use crate::engine::tensor::WeightPrecision;
    let precision = super::super::mlx::weight_precision();
    let weights = loader::loaded_bytes(gguf, precision);
    // Tensors wait between the loader and the engine, and one more is in the making.
    let largest = gguf.tensors().iter().map(|tensor| tensor.elements() as u64 * 4).max();
    let element_bytes = match precision {
        WeightPrecision::Float32 => 4,
        WeightPrecision::AsStored => 2,
    };
    Estimate {
        engine: "mlx",
        weights,
        overhead: 0,
        staging: weights.min(limits::LOADER_BYTES.saturating_add(largest.unwrap_or(0))),
        kv_per_token: kv_elements_per_token(gguf).unwrap_or(0).saturating_mul(element_bytes),
        context_tokens: context_tokens(gguf),
    }
}

#[cfg(not(feature = "mlx"))]
fn gguf_estimate(gguf: &GgufFile) -> Estimate {
    let context_tokens = context_tokens(gguf);
    let kv_per_token = kv_elements_per_token(gguf).unwrap_or(0).saturating_mul(2);
    Estimate {
        engine: "gguf",
        weights: gguf.tensor_bytes(),
        kv_per_token,
        context_tokens,
        ..Estimate::default()
    }
}

/// Elements of the keys and values of one token in all layers.
fn kv_elements_per_token(gguf: &GgufFile) -> Option<u64> {
    let metadata = gguf.metadata();
    let architecture = metadata.string("general.architecture").ok()?;
    let number = |key: &str| {
        let value = metadata.u32_opt(&format!("{architecture}.{key}")).ok()??;
        Some(u64::from(value))
    };
    let heads = number("attention.head_count")?.max(1);
    let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
    let head_dim = number("embedding_length")? / heads;
    let keys = number("attention.key_length").unwrap_or(head_dim);
    let values = number("attention.value_length").unwrap_or(head_dim);
    number("block_count")?.checked_mul(kv_heads)?.checked_mul(keys + values)
}

fn context_tokens(gguf: &GgufFile) -> usize {
    let metadata = gguf.metadata();
    let tokens = metadata.string("general.architecture").ok().and_then(|architecture| {
        metadata.u32_opt(&format!("{architecture}.context_length")).ok().flatten()
    });
    usize::try_from(tokens.unwrap_or(2_048)).unwrap_or(usize::MAX)
}
