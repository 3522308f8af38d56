//! What a model will take, found out from its header alone.
//!
//! Owns the sizes that a load reserves before it begins. Reads no weights.

use ingle_protocol::wire::models::EngineKind;

use crate::engine::handle::{EngineModel, Weights};
#[cfg(any(feature = "gguf", feature = "mlx"))]
use crate::engine::role::Role;
use crate::engine::settings::EngineSettings;

/// What a model will take in its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The engine.
    pub engine: EngineKind,
    /// Bytes of its weights.
    pub weights: u64,
    /// Bytes it keeps besides, whatever is generated: buffers, and a KV cache that is allocated up
    /// front.
    pub overhead: u64,
    /// Bytes that pass through plain memory while it is loaded.
    pub staging: u64,
    /// Bytes of KV cache a token takes.
    pub kv_per_token: u64,
    /// Whether `overhead` has room for the KV cache of all tokens already.
    pub kv_up_front: bool,
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

    /// Bytes by which the model grows for a sequence of so many tokens.
    #[must_use]
    pub fn growth(&self, tokens: usize) -> u64 {
        if self.kv_up_front { 0 } else { self.kv_bytes(tokens) }
    }
}

/// What `model` will take. A header that does not say costs the estimate its KV cache, and nothing
/// else: what is wrong with the files is the load's to report.
#[must_use]
pub fn estimate(model: &EngineModel, settings: &EngineSettings) -> Estimate {
    let engine = model.engine;
    let tokens = |trained: Option<usize>| {
        const USUAL: usize = 2_048;
        settings.context_tokens(engine, trained.unwrap_or(USUAL))
    };
    match (engine, &model.weights) {
        #[cfg(feature = "gguf")]
        (EngineKind::Gguf, Weights::Gguf(gguf)) => {
            let context_tokens = tokens(kv::gguf_context(gguf));
            // llama.cpp keeps keys and values in 16 bits.
            let kv_per_token = kv::gguf_elements(gguf).unwrap_or(0).saturating_mul(2);
            Estimate {
                engine,
                weights: gguf.model_bytes(),
                overhead: crate::engine::gguf::overhead_bytes(
                    gguf,
                    model.role,
                    context_tokens,
                    kv_per_token,
                    settings,
                ),
                staging: 0,
                kv_per_token: if model.role == Role::Generates { kv_per_token } else { 0 },
                kv_up_front: true,
                context_tokens,
            }
        }
        #[cfg(feature = "mlx")]
        (_, Weights::Gguf(gguf)) => {
            let precision = crate::engine::mlx::weight_precision();
            let elements = gguf.tensors().iter().map(|tensor| tensor.elements() as u64);
            let weights = crate::engine::loader::loaded_bytes(gguf, precision);
            let kv_elements = kv::gguf_elements(gguf);
            let sizes = Sizes { weights, largest: elements.max().unwrap_or(0), kv_elements };
            sizes.on_mlx(precision, tokens(kv::gguf_context(gguf)))
        }
        #[cfg(feature = "mlx")]
        (_, Weights::Safetensors(folder)) => {
            let precision = crate::engine::mlx::weight_precision();
            let elements = folder.tensors().iter().map(|tensor| tensor.elements() as u64);
            let weights = crate::engine::loader::folder_loaded_bytes(folder, precision);
            let kv_elements = kv::folder_elements(folder);
            let sizes = Sizes { weights, largest: elements.max().unwrap_or(0), kv_elements };
            let estimate = sizes.on_mlx(precision, tokens(folder.context_tokens().ok()));
            match model.role {
                Role::Generates => estimate,
                Role::Embeds => Estimate {
                    overhead: crate::engine::mlx::pass_bytes(folder),
                    kv_per_token: 0,
                    ..estimate
                },
            }
        }
        (_, Weights::Sim(config)) => Estimate {
            engine,
            weights: config.weight_bytes,
            overhead: 0,
            staging: 0,
            kv_per_token: config.kv_bytes_per_token,
            kv_up_front: false,
            context_tokens: config.context_tokens,
        },
        // No engine of this build runs it, which the load says.
        #[cfg(not(feature = "mlx"))]
        _ => Estimate {
            engine,
            weights: 0,
            overhead: 0,
            staging: 0,
            kv_per_token: 0,
            kv_up_front: true,
            context_tokens: tokens(None),
        },
    }
}

/// What the header of a model for MLX says.
#[cfg(feature = "mlx")]
struct Sizes {
    /// Bytes of the weights in the engine.
    weights: u64,
    /// Elements of the largest tensor.
    largest: u64,
    kv_elements: Option<u64>,
}

#[cfg(feature = "mlx")]
impl Sizes {
    fn on_mlx(
        &self,
        precision: crate::engine::tensor::WeightPrecision,
        context_tokens: usize,
    ) -> Estimate {
        use crate::engine::tensor::WeightPrecision;
        let element_bytes = match precision {
            WeightPrecision::Float32 => 4,
            WeightPrecision::AsStored => 2,
        };
        // Tensors wait between the loader and the engine, and one more is in the making.
        let waiting = ingle_protocol::limits::LOADER_BYTES;
        let staging = waiting.saturating_add(self.largest.saturating_mul(4));
        Estimate {
            engine: EngineKind::Mlx,
            weights: self.weights,
            overhead: 0,
            staging: self.weights.min(staging),
            kv_per_token: self.kv_elements.unwrap_or(0).saturating_mul(element_bytes),
            kv_up_front: false,
            context_tokens,
        }
    }
}

/// Sizes of the KV cache.
#[cfg(any(feature = "gguf", feature = "mlx"))]
mod kv {
    use crate::formats::gguf::GgufFile;
    #[cfg(feature = "mlx")]
    use crate::formats::hf::ModelFolder;

    /// Elements of the keys and values of one token in all layers. Heads may be given once, or for
    /// every layer, of which recurrent ones have none.
    pub(super) fn gguf_elements(gguf: &GgufFile) -> Option<u64> {
        let metadata = gguf.metadata();
        let architecture = metadata.string("general.architecture").ok()?;
        let list = |key: &str| metadata.u32_list(&format!("{architecture}.{key}")).ok();
        let number = |key: &str| list(key)?.first().map(|&value| u64::from(value));
        let heads = list("attention.head_count")?;
        let most = heads.iter().copied().max()?.max(1);
        let kv_heads = list("attention.head_count_kv").filter(|list| !list.is_empty());
        let kv_heads = kv_heads.unwrap_or(heads);
        let head_dim = number("embedding_length")? / u64::from(most);
        let keys = number("attention.key_length").unwrap_or(head_dim);
        let values = number("attention.value_length").unwrap_or(head_dim);
        let all_heads: u64 = match kv_heads.as_slice() {
            [same] => number("block_count")?.checked_mul(u64::from(*same))?,
            each => each.iter().map(|&heads| u64::from(heads)).sum(),
        };
        all_heads.checked_mul(keys.checked_add(values)?)
    }

    /// The same of a model folder.
    #[cfg(feature = "mlx")]
    pub(super) fn folder_elements(folder: &ModelFolder) -> Option<u64> {
        let config = folder.config();
        let number = |key: &str| config.size_opt(key).ok().flatten().map(|value| value as u64);
        let heads = number("num_attention_heads")?;
        let kv_heads = number("num_key_value_heads").unwrap_or(heads);
        let head_dim = number("head_dim").or_else(|| number("hidden_size")?.checked_div(heads))?;
        number("num_hidden_layers")?.checked_mul(kv_heads)?.checked_mul(2 * head_dim)
    }

    /// Tokens of context the model was trained with.
    pub(super) fn gguf_context(gguf: &GgufFile) -> Option<usize> {
        let metadata = gguf.metadata();
        let architecture = metadata.string("general.architecture").ok()?;
        let tokens = metadata.u32_opt(&format!("{architecture}.context_length")).ok()??;
        usize::try_from(tokens).ok()
    }
}

#[cfg(test)]
#[cfg(feature = "gguf")]
mod tests {
    use super::*;
    use crate::formats::gguf::testing::GgufWriter;

    /// A model of 4 layers, 64 wide, with 8 heads.
    fn model(architecture: &str, role: Role, keys: impl Fn(GgufWriter) -> GgufWriter) -> Estimate {
        let key = |name| format!("{architecture}.{name}");
        let writer = GgufWriter::new()
            .string("general.architecture", architecture)
            .u32(&key("block_count"), 4)
            .u32(&key("embedding_length"), 64)
            .u32(&key("context_length"), 1_000)
            .strings("tokenizer.ggml.tokens", &vec!["a"; 500]);
        let model = EngineModel {
            name: "a".to_owned(),
            version: String::new(),
            engine: EngineKind::Gguf,
            role,
            weights: Weights::Gguf(keys(writer).open().unwrap().into()),
        };
        estimate(&model, &EngineSettings::default())
    }

    #[test]
    fn heads_may_be_given_for_each_layer() {
        let kv_per_token = |keys: &dyn Fn(GgufWriter) -> GgufWriter| {
            model("llama", Role::Generates, keys).kv_per_token
        };
        let heads = |writer: GgufWriter| writer.u32("llama.attention.head_count", 8);
        // Keys and values of 8 elements a head, of 2 bytes each.
        assert_eq!(kv_per_token(&heads), 4 * 8 * (8 + 8) * 2);
        let shared = |writer| heads(writer).u32("llama.attention.head_count_kv", 2);
        assert_eq!(kv_per_token(&shared), 4 * 2 * (8 + 8) * 2);
        let by_layer =
            |writer| heads(writer).i32_array("llama.attention.head_count_kv", &[2, 0, 4, 0]);
        assert_eq!(kv_per_token(&by_layer), 6 * (8 + 8) * 2);
        let all_by_layer = |writer: GgufWriter| {
            writer.i32_array("llama.attention.head_count", &[8, 0, 8, 8]).u32("llama.vocab_size", 9)
        };
        assert_eq!(kv_per_token(&all_by_layer), 24 * (8 + 8) * 2);
    }

    #[test]
    fn an_embedding_model_computes_whole_texts_at_once() {
        let overhead = |architecture: &str| {
            let heads = format!("{architecture}.attention.head_count");
            let estimate = model(architecture, Role::Embeds, |writer| writer.u32(&heads, 8));
            assert_eq!(estimate.growth(100), 0);
            estimate.overhead
        };
        let (hidden, logits, kv) =
            (1_000 * 64 * 16 * 4, 1_000 * 500 * 4, 1_000 * 4 * 8 * (8 + 8) * 2);
        assert_eq!(overhead("bert"), hidden + logits);
        assert_eq!(overhead("qwen3"), hidden + 2 * logits + kv);
    }
}
