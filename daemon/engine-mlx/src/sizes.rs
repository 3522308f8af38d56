//! Memory estimate of a model in MLX, from its header alone.

use crate::limits;
use ingle_engine::estimate::{self, Estimate};
use ingle_engine::loader;
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
use ingle_engine::tensor::WeightPrecision;
use ingle_protocol::wire::models::EngineKind;

use crate::device::weight_precision;
use crate::embedder::pass_bytes;

/// What `model` will take.
pub(crate) fn estimate(model: &EngineModel, settings: &EngineSettings) -> Estimate {
    let precision = weight_precision();
    let tokens = |trained: Option<usize>| {
        settings.context_tokens(EngineKind::Mlx, trained.unwrap_or(Estimate::USUAL_TOKENS))
    };
    match &model.weights {
        Weights::Gguf(gguf) => {
            let elements = gguf.tensors().iter().map(|tensor| tensor.elements() as u64);
            let weights = loader::loaded_bytes(gguf, precision);
            let kv_elements = estimate::gguf_kv_elements(gguf);
            let sizes = Sizes { weights, largest: elements.max().unwrap_or(0), kv_elements };
            sizes.estimate(precision, tokens(estimate::gguf_context_tokens(gguf)))
        }
        Weights::Safetensors(folder) => {
            let elements = folder.tensors().iter().map(|tensor| tensor.elements() as u64);
            let weights = loader::folder_loaded_bytes(folder, precision);
            let kv_elements = estimate::folder_kv_elements(folder);
            let sizes = Sizes { weights, largest: elements.max().unwrap_or(0), kv_elements };
            let estimate = sizes.estimate(precision, tokens(folder.context_tokens().ok()));
            match model.role {
                Role::Generates => estimate,
                Role::Embeds => {
                    Estimate { overhead: pass_bytes(folder), kv_per_token: 0, ..estimate }
                }
            }
        }
        // Present when the sim engine is built in.
        #[allow(unreachable_patterns, reason = "reachable only in builds with the sim engine")]
        _ => Estimate::unknown(EngineKind::Mlx, tokens(None)),
    }
}

/// What the header of a model for MLX says.
struct Sizes {
    /// Bytes of the weights in the engine.
    weights: u64,
    /// Elements of the largest tensor.
    largest: u64,
    /// Elements of the KV cache a token takes.
    kv_elements: Option<u64>,
}

impl Sizes {
    fn estimate(&self, precision: WeightPrecision, context_tokens: usize) -> Estimate {
        let element_bytes = match precision {
            WeightPrecision::Float32 => 4,
            WeightPrecision::AsStored => 2,
        };
        // Tensors wait between the loader and the engine, and one more is in the making.
        let waiting = limits::LOADER_BYTES;
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
