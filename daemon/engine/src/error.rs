//! Engine errors, and the error that the caller gets.
//!
//! Owns the engines' error type and its one mapping to the protocol's error codes.

use std::path::PathBuf;

use crate::limits;
use ingle_formats::FileFault;
use ingle_formats::gguf::GgufError;
use ingle_formats::hf::FolderError;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::json;

use crate::sampling::{InvalidSetting, SampleError};

/// An error of an engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The model's files are inconsistent, or contradict the architecture.
    ///
    /// Names the file, the tensor or key, and the expected value.
    #[error("{}: {problem}", file.display())]
    InvalidModel {
        /// The file at fault.
        file: PathBuf,
        /// The found and the expected value.
        problem: String,
    },
    /// The files are valid, but this engine cannot run them.
    #[error("{}: {problem}", file.display())]
    Unsupported {
        /// The file at fault.
        file: PathBuf,
        /// The unsupported feature, and the supported ones.
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
    /// The operating system could not allocate the memory, whatever the budget is.
    #[error("{}: {problem}", file.display())]
    NoMemory {
        /// The file that was being loaded.
        file: PathBuf,
        /// The allocation that failed.
        problem: String,
    },
    /// The load or the pass was cancelled before it finished.
    #[error("it was cancelled")]
    Cancelled,
    /// All sequences of the generator are in use.
    #[error("all {sequences} sequences of the model are in use")]
    NoCapacity {
        /// Maximum number of sequences.
        sequences: usize,
    },
    /// The KV cache shared by all sequences of a model is full.
    #[error("the model's KV cache of {tokens} tokens is full")]
    KvFull {
        /// Its size in tokens.
        tokens: usize,
    },
    /// The logits of a row are NaN or infinite, so no token can be sampled.
    #[error("the model produced {what} instead of a number at position {position}")]
    NotFinite {
        /// `NaN` or `infinity`.
        what: &'static str,
        /// Position in the sequence, from 0.
        position: usize,
    },
    /// The constraint on the output could not be enforced any further.
    #[error("{0}")]
    Constraint(String),
    /// The numerics library reported an error.
    #[error("{0}")]
    Native(String),
}

impl EngineError {
    /// The error of a failed sampling at `position` of a sequence.
    #[must_use]
    pub fn of_sampling(error: SampleError, position: usize) -> Self {
        match error {
            SampleError::NotFinite { what } => Self::NotFinite { what, position },
            SampleError::Mask(problem) => Self::Constraint(problem),
        }
    }
}

impl EngineError {
    /// The error for a problem of `file`, by the kind of fault.
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
            // The budget allowed it, but the system had no memory.
            EngineError::NoMemory { .. } => body.with_remediation(
                "Unload a model (`ingle ps` lists them), end another program, or use a smaller \
                 model. With a lower `memory.budget` in config.toml the refusal comes earlier and \
                 names the models that hold memory.",
            ),
            EngineError::Constraint(_) => {
                body.with_remediation("Use a simpler schema or grammar, or try another seed.")
            }
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
