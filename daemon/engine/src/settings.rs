//! Engine settings and their defaults.
//!
//! Owns the values that engines read. Does not know the configuration file.

use std::time::Duration;

use crate::limits;
use ingle_protocol::wire::models::EngineKind;

/// Settings of the engines; the daemon's configuration validates them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Engine for models that several engines can run (default: the format's own engine).
    pub prefer: Option<EngineKind>,
    /// Number of compute threads (default: the number of physical cores).
    pub threads: Option<u32>,
    /// Layers of a GGUF model on the GPU (default: llama.cpp decides).
    pub gpu_layers: Option<u32>,
    /// Maximum tokens of one sequence of a GGUF model, if it was trained with more.
    pub gguf_context_tokens: usize,
    /// Maximum freed memory that MLX keeps for reuse, in bytes (default: the MLX engine decides).
    pub mlx_cache_bytes: Option<u64>,
    /// Memory that MLX keeps from being paged out, in bytes (default: none).
    pub mlx_wired_bytes: Option<u64>,
    /// Maximum time without progress before a load fails.
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
    /// Maximum tokens of one sequence on `engine`, for a model trained with `trained`.
    ///
    /// llama.cpp allocates its whole KV cache up front, so a long context would cost gigabytes.
    #[must_use]
    pub fn context_tokens(&self, engine: EngineKind, trained: usize) -> usize {
        match engine {
            EngineKind::Gguf => trained.min(self.gguf_context_tokens),
            EngineKind::Mlx | EngineKind::Sim => trained,
        }
    }
}
