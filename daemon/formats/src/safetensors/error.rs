//! What can be wrong with a safetensors file.

use std::path::{Path, PathBuf};

/// A problem of one safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct SafetensorsError {
    /// The file at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: SafetensorsErrorKind,
}

/// The problem itself. `what` fields name the part of the file, such as ``tensor `x` ``.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsErrorKind {
    /// The operating system refused.
    #[error("cannot read the file: {0}")]
    Io(String),
    /// The file ends too early.
    #[error("truncated: {what} needs bytes {start}..{end} but the file ends at {file_bytes}")]
    Truncated {
        /// The part that is cut.
        what: String,
        /// Its first byte.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// The file's length.
        file_bytes: u64,
    },
    /// A count or length is larger than this reader allows.
    #[error("{what} is {found}, more than the {limit} allowed")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The value in the file.
        found: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// Anything else that contradicts the format.
    #[error("{what}: {problem}")]
    Invalid {
        /// The part at fault.
        what: String,
        /// What was found and what was expected.
        problem: String,
    },
}

impl SafetensorsErrorKind {
    /// The error for the file at `path`.
    pub(super) fn at(self, path: &Path) -> SafetensorsError {
        SafetensorsError { path: path.to_owned(), kind: self }
    }
}
