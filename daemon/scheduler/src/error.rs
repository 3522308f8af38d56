//! Engine failures: why a command failed, and the error that the caller gets.
//!
//! Owns the failure type and its one mapping to the protocol's error codes.

use std::time::SystemTime;

use crate::limits;
use ingle_engine::error::EngineError;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Layer;
use serde_json::json;

use crate::ledger::Shortage;
use crate::quarantine::Deaths;
use crate::stall::Stall;

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineFailure {
    /// The engine reported an error.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A limit of the timeout ladder was reached.
    #[error("{what} took longer than {limit_ms} ms")]
    Timeout {
        /// The activity that took too long.
        what: &'static str,
        /// The layer whose limit was reached.
        layer: Layer,
        /// The limit, in milliseconds.
        limit_ms: u64,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// The caller cancelled or went away.
    #[error("the request was cancelled")]
    Cancelled,
    /// A queue is full.
    #[error("{waiting} {what} are waiting already")]
    Overloaded {
        /// Number of waiting items.
        waiting: usize,
        /// What the items are.
        what: &'static str,
    },
    /// The model is in use, or requests wait for another version of it.
    #[error("the model `{model}` is in use by {active} requests")]
    Busy {
        /// The model.
        model: String,
        /// Number of requests that run on it or wait for it.
        active: usize,
    },
    /// The prompt has a token outside the model's vocabulary.
    #[error(
        "the prompt has token {token}, and the weights of `{model}` end at {}",
        vocab_size.saturating_sub(1)
    )]
    UnknownToken {
        /// The model.
        model: String,
        /// The token.
        token: u32,
        /// Number of tokens in the model's output head.
        vocab_size: usize,
    },
    /// The model or its KV cache cannot fit into the memory budget.
    #[error("{0}")]
    InsufficientMemory(Box<Shortage>),
    /// The model has crashed the daemon twice in a row.
    #[error("the model `{model}` {deaths}")]
    Quarantined {
        /// The model.
        model: String,
        /// Count and details of the crashes.
        deaths: Box<Deaths>,
    },
    /// The engine thread does not respond.
    #[error("{0}")]
    Stalled(Stall),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The engine thread has ended.
    #[error("the engine thread has ended")]
    ThreadEnded,
}

impl EngineFailure {
    /// Logs the failure in the current span: a cancellation as a detail, all else for operators.
    pub fn log(&self, event: &'static str) {
        match self {
            Self::Cancelled => tracing::debug!(failure = %self, "{event}"),
            _ => tracing::info!(failure = %self, "{event}"),
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

/// Age of a Unix time, for people.
pub fn ago(at_unix_s: u64) -> String {
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
    fn no_memory_and_full_queue_name_their_cause() {
        let error = EngineError::NoMemory { file: "/m.gguf".into(), problem: "no room".into() };
        let body = ErrorBody::from(error);
        assert_eq!((body.code, body.retryable), (ErrorCode::InsufficientMemory, true));
        assert!(body.remediation().starts_with("Unload a model"), "{}", body.remediation());
        let body = ErrorBody::from(EngineFailure::Overloaded { waiting: 64, what: "loads" });
        assert_eq!(body.message, "64 loads are waiting already");
    }
}
