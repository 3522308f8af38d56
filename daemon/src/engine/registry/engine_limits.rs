//! Settings of the engines' own memory.
//!
//! Owns when they are handed over. Knows nothing of models.

/// Settings of the engines' own memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct EngineLimits {
    /// Freed memory that MLX keeps for reuse, at most, in bytes.
    pub mlx_cache_bytes: Option<u64>,
    /// Memory that MLX may wire down, in bytes.
    pub mlx_wired_bytes: Option<u64>,
}

impl EngineLimits {
    /// Hands the settings to the engine of a load that has just begun: before its first model an
    /// engine is left alone, so that one that does not start harms nobody else.
    pub(super) fn apply(self, engine: &str) {
        #[cfg(feature = "mlx")]
        if engine == "mlx"
            && let Err(error) =
                crate::engine::mlx::set_limits(self.mlx_cache_bytes, self.mlx_wired_bytes)
        {
            tracing::warn!(%error, "a limit of the `mlx` settings could not be set");
        }
        #[cfg(not(feature = "mlx"))]
        let _ = engine;
    }
}
