//! What the configuration tells the engines.
//!
//! Owns the settings and their defaults. Knows nothing of the file they come from.

use std::time::Duration;

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

/// Settings of the engines; checked by whoever fills them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// The engine for models that more than one can run; the format's own when absent.
    pub prefer: Option<EngineKind>,
    /// Threads to compute on; as many as there are physical cores when absent.
    pub threads: Option<u32>,
    /// Layers of a GGUF model that go to the GPU; what llama.cpp thinks best when absent.
    pub gpu_layers: Option<u32>,
    /// Tokens of one sequence of a GGUF model at most, however many it was trained with.
    pub gguf_context_tokens: usize,
    /// Freed memory that MLX keeps for reuse, at most, in bytes; a default of its own when absent.
    pub mlx_cache_bytes: Option<u64>,
    /// Memory that MLX keeps from being paged out, in bytes; none when absent.
    pub mlx_wired_bytes: Option<u64>,
    /// How long a load may stand still before it is given up.
    pub load_stall: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            prefer: None,
            threads: None,
            gpu_layers: None,
            gguf_context_tokens: 8_192,
            mlx_cache_bytes: None,
            mlx_wired_bytes: None,
            load_stall: Duration::from_millis(limits::ENGINE_STALL_MS),
        }
    }
}

impl EngineSettings {
    /// Tokens of one sequence on `engine`, for a model trained with `trained`. llama.cpp allocates
    /// its KV cache at once, so there the whole of a long context would cost gigabytes.
    #[must_use]
    pub fn context_tokens(&self, engine: EngineKind, trained: usize) -> usize {
        match engine {
            EngineKind::Gguf => trained.min(self.gguf_context_tokens),
            EngineKind::Mlx | EngineKind::Sim => trained,
        }
    }
}
