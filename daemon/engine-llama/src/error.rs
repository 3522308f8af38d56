//! Conversion of llama.cpp's errors.

use ingle_engine::error::EngineError;

/// Converts llama.cpp's error to the engine's.
pub(crate) fn native(error: llama_guard::Error) -> EngineError {
    EngineError::Native(format!("llama.cpp: {error}"))
}
