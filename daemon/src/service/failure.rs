//! What an engine failure tells the caller.
//!
//! Owns the one mapping from the engine's errors to the protocol's list.

use std::time::SystemTime;

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
            EngineError::NoMemory { .. } => ErrorCode::InsufficientMemory,
            EngineError::Cancelled => ErrorCode::Cancelled,
            EngineError::NoCapacity { .. } | EngineError::KvFull { .. } => ErrorCode::Overloaded,
            EngineError::Constraint(_) => ErrorCode::InvalidParams,
            EngineError::NotFinite { .. } | EngineError::Native(_) => ErrorCode::EngineFailed,
        };
        let details = match &error {
            EngineError::InvalidModel { file, .. }
            | EngineError::Unsupported { file, .. }
            | EngineError::NoMemory { file, .. }
            | EngineError::Io { file, .. } => json!({ "file": file }),
            EngineError::NoCapacity { sequences } => {
                json!({ "sequences": sequences, "retry_after_ms": limits::RETRY_AFTER_MS })
            }
            EngineError::KvFull { tokens } => {
                json!({ "kv_tokens": tokens, "retry_after_ms": limits::RETRY_AFTER_MS })
            }
            EngineError::Constraint(_) => json!({ "field": "format" }),
            _ => serde_json::Value::Null,
        };
        let body = Self::new(code, error.to_string()).with_details(details);
        match error {
            // The budget had room, and the system had none.
            EngineError::NoMemory { .. } => body.with_remediation(
                "Unload a model (`ingle ps` lists them), end another program, or use a smaller \
                 model; a lower `memory.budget` in config.toml makes this come earlier and clearer.",
            ),
            EngineError::Constraint(_) => body
                .with_remediation("Ask for a simpler form, or for the same one with another seed."),
            _ => body,
        }
    }
}

impl From<EngineFailure> for ErrorBody {
    fn from(failure: EngineFailure) -> Self {
        let message = failure.to_string();
        match failure {
            EngineFailure::Engine(error) => error.into(),
            EngineFailure::Timeout { what, layer, limit_ms, elapsed_ms } => {
                Self::timeout(what, layer, limit_ms, elapsed_ms)
            }
            EngineFailure::Cancelled => Self::new(ErrorCode::Cancelled, message),
            EngineFailure::Overloaded { waiting, .. } => Self::new(ErrorCode::Overloaded, message)
                .with_details(
                    json!({ "waiting": waiting, "retry_after_ms": limits::RETRY_AFTER_MS }),
                ),
            EngineFailure::Busy { active, .. } => {
                Self::new(ErrorCode::Conflict, message).with_details(json!({ "active": active }))
            }
            EngineFailure::UnknownToken { token, vocab_size, .. } => {
                Self::new(ErrorCode::InvalidParams, message)
                    .with_details(json!({ "token": token, "vocab_size": vocab_size }))
                    .with_remediation(
                        "Leave that token out of the prompt; the tokenizer has tokens that the \
                         weights were never given.",
                    )
            }
            EngineFailure::InsufficientMemory(shortage) => {
                let holders = shortage.holders.iter().map(|holder| {
                    json!({ "model": holder.model, "bytes": holder.bytes, "state": holder.state })
                });
                Self::new(ErrorCode::InsufficientMemory, message).with_details(json!({
                    "needed_bytes": shortage.needed_bytes,
                    "free_bytes": shortage.free_bytes,
                    "budget_bytes": shortage.budget_bytes,
                    "holders": holders.collect::<Vec<_>>(),
                }))
            }
            EngineFailure::Quarantined { model, deaths } => {
                let last = &deaths.last;
                let next = format!(
                    "Use another model, fetch this one again, or give it one more chance with \
                     `ingle load --force {model}`; `ingle logs` shows what happened."
                );
                Self::new(ErrorCode::ModelCrashed, format!("{message}, {}", ago(last.at_unix_s)))
                    .with_remediation(next)
                    .with_details(json!({
                        "deaths": deaths.count,
                        "cause": last.cause,
                        "phase": last.phase,
                        "at_unix_s": last.at_unix_s,
                        "requests": last.requests,
                    }))
            }
            EngineFailure::Stalled(stall) => Self::new(ErrorCode::EngineStalled, message)
                .with_details(json!({ "phase": stall.phase, "silent_ms": stall.silent_ms })),
            EngineFailure::ShuttingDown => Self::new(ErrorCode::ShuttingDown, message),
            EngineFailure::ThreadEnded => Self::new(ErrorCode::EngineFailed, message)
                .with_remediation(
                    "Send the request again: a new daemon is started when it is needed.",
                ),
        }
    }
}

/// How long ago a time in seconds since 1970 was, for a person.
pub(super) fn ago(at_unix_s: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs().saturating_sub(at_unix_s));
    match seconds {
        0..120 => format!("{seconds} seconds ago"),
        120..7_200 => format!("{} minutes ago", seconds / 60),
        7_200..172_800 => format!("{} hours ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_memory_is_no_fault_of_the_file_and_a_full_queue_says_of_what() {
        let error = EngineError::NoMemory { file: "/m.gguf".into(), problem: "no room".into() };
        let body = ErrorBody::from(error);
        assert_eq!((body.code, body.retryable), (ErrorCode::InsufficientMemory, true));
        assert!(body.remediation.starts_with("Unload a model"), "{}", body.remediation);
        let body = ErrorBody::from(EngineFailure::Overloaded { waiting: 64, what: "loads" });
        assert_eq!(body.message, "64 loads are waiting already");
    }
}
