//! What an engine failure tells the caller.
//!
//! Owns the one mapping from the engine's errors to the protocol's list.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use serde_json::json;

use crate::engine::backend::EngineError;
use crate::engine::handle::EngineFailure;

impl From<EngineError> for ErrorBody {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::InvalidModel { .. } | EngineError::Io { .. } => ErrorCode::ModelInvalid,
            EngineError::Unsupported { .. } => ErrorCode::ModelUnsupported,
            EngineError::Cancelled => ErrorCode::Cancelled,
            EngineError::NoCapacity { .. } | EngineError::KvFull { .. } => ErrorCode::Overloaded,
            EngineError::NotFinite { .. } | EngineError::Native(_) => ErrorCode::EngineFailed,
        };
        let details = match &error {
            EngineError::InvalidModel { file, .. }
            | EngineError::Unsupported { file, .. }
            | EngineError::Io { file, .. } => json!({ "file": file }),
            EngineError::NoCapacity { sequences } => {
                json!({ "sequences": sequences, "retry_after_ms": limits::RETRY_AFTER_MS })
            }
            EngineError::KvFull { tokens } => {
                json!({ "kv_tokens": tokens, "retry_after_ms": limits::RETRY_AFTER_MS })
            }
            _ => serde_json::Value::Null,
        };
        Self::new(code, error.to_string()).with_details(details)
    }
}

impl From<EngineFailure> for ErrorBody {
    fn from(failure: EngineFailure) -> Self {
        let message = failure.to_string();
        match failure {
            EngineFailure::Engine(error) => error.into(),
            EngineFailure::Timeout { layer, limit_ms, elapsed_ms, .. } => {
                Self::new(ErrorCode::Timeout, message).with_details(json!({
                    "layer": layer,
                    "limit_ms": limit_ms,
                    "elapsed_ms": elapsed_ms,
                }))
            }
            EngineFailure::Cancelled => Self::new(ErrorCode::Cancelled, message),
            EngineFailure::Overloaded { waiting } => Self::new(ErrorCode::Overloaded, message)
                .with_details(
                    json!({ "waiting": waiting, "retry_after_ms": limits::RETRY_AFTER_MS }),
                ),
            EngineFailure::Busy { active, .. } => {
                Self::new(ErrorCode::Conflict, message).with_details(json!({ "active": active }))
            }
            EngineFailure::ShuttingDown => Self::new(ErrorCode::ShuttingDown, message),
            EngineFailure::ThreadEnded => Self::new(ErrorCode::EngineFailed, message)
                .with_remediation(
                    "Send the request again: a new daemon is started when it is needed.",
                ),
        }
    }
}
