//! The error inside the MLX engine: MLX's own, or one of the engine edge.

use ingle_engine::error::EngineError;
use ingle_formats::gguf::GgufError;
use ingle_formats::hf::FolderError;
use mlx_rs::error::Exception;

/// Wraps the edge's error, so that MLX's exceptions convert to it with `?`.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) struct MlxError(#[from] EngineError);

impl From<Exception> for MlxError {
    fn from(exception: Exception) -> Self {
        Self(EngineError::Native(format!("MLX: {}", exception.what())))
    }
}

impl From<MlxError> for EngineError {
    fn from(error: MlxError) -> Self {
        error.0
    }
}

impl From<GgufError> for MlxError {
    fn from(error: GgufError) -> Self {
        Self(error.into())
    }
}

impl From<FolderError> for MlxError {
    fn from(error: FolderError) -> Self {
        Self(error.into())
    }
}
