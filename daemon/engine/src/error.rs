//! What can go wrong at the engine edge, and what it tells a caller.
//!
//! Owns the engines' error type and its one mapping to the protocol's list of errors.

use std::path::PathBuf;

use crate::limits;
use ingle_formats::FileFault;
use ingle_formats::gguf::GgufError;
use ingle_formats::hf::FolderError;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::json;

use crate::sampling::{InvalidSetting, SampleError};

/// What can go wrong at the engine edge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The model's files contradict themselves or the architecture. Names file, tensor or key,
    /// and what was expected.
    #[error("{}: {problem}", file.display())]
    InvalidModel {
        /// The file at fault.
        file: PathBuf,
        /// What is wrong, and what was expected instead.
        problem: String,
    },
    /// The files are sound, but this engine cannot run them.
    #[error("{}: {problem}", file.display())]
    Unsupported {
        /// The file at fault.
        file: PathBuf,
        /// What is not supported, and what would be.
        problem: String,
    },
    /// A file could not be read.
    #[error("{}: {problem}", file.display())]
    Io {
        /// The file at fault.
        file: PathBuf,
        /// The operating system's reason.
        problem: String,
    },
    /// The system gave no memory for it, whatever the budget says.
    #[error("{}: {problem}", file.display())]
    NoMemory {
        /// The file that was being loaded.
        file: PathBuf,
        /// What there is no memory for.
        problem: String,
    },
    /// The load or the pass was cancelled before it finished.
    #[error("it was cancelled")]
    Cancelled,
    /// All sequences of the generator are taken.
    #[error("all {sequences} sequences of the model are in use")]
    NoCapacity {
        /// How many there are.
        sequences: usize,
    },
    /// The KV cache that all sequences of a model share has no room for more tokens.
    #[error("the model's KV cache of {tokens} tokens is full")]
    KvFull {
        /// How many it holds.
        tokens: usize,
    },
    /// The logits of a row were NaN or infinite, so no token can be drawn from them.
    #[error("the model produced {what} instead of a number at position {position}")]
    NotFinite {
        /// `NaN` or `infinity`.
        what: &'static str,
        /// Position in the sequence, from 0.
        position: usize,
    },
    /// The form that a text must have could not be enforced any further.
    #[error("{0}")]
    Constraint(String),
    /// The numerics library reported an error.
    #[error("{0}")]
    Native(String),
}

impl EngineError {
    /// No token could be drawn at `position` of a sequence.
    #[must_use]
    pub fn undrawn(error: SampleError, position: usize) -> Self {
        match error {
            SampleError::NotFinite { what } => Self::NotFinite { what, position },
            SampleError::Mask(problem) => Self::Constraint(problem),
        }
    }
}

impl EngineError {
    /// A problem of `file`, by whose fault it is.
    fn of_file(fault: FileFault, file: PathBuf, problem: String) -> Self {
        match fault {
            FileFault::Io => Self::Io { file, problem },
            FileFault::Unsupported => Self::Unsupported { file, problem },
            FileFault::Invalid => Self::InvalidModel { file, problem },
        }
    }
}

impl From<GgufError> for EngineError {
    fn from(error: GgufError) -> Self {
        Self::of_file(error.fault(), error.path, error.kind.to_string())
    }
}

impl From<FolderError> for EngineError {
    fn from(error: FolderError) -> Self {
        Self::of_file(error.fault(), error.path, error.kind.to_string())
    }
}

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

impl From<InvalidSetting> for ErrorBody {
    fn from(error: InvalidSetting) -> Self {
        Self::new(ErrorCode::InvalidParams, error.to_string())
            .with_details(json!({ "field": error.field }))
    }
}
