//! Errors of safetensors files.

use std::path::{Path, PathBuf};

/// A problem of one safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct SafetensorsError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub kind: SafetensorsErrorKind,
}

/// Kind of a problem. `what` fields name the part of the file, such as ``tensor `x` ``.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SafetensorsErrorKind {
    /// The operating system returned an error.
    #[error("cannot read the file: {0}")]
    Io(String),
    /// The file ends too early.
    #[error("truncated: {what} needs bytes {start}..{end} but the file ends at {file_bytes}")]
    Truncated {
        /// The truncated part.
        what: String,
        /// The part's first byte.
        start: u64,
        /// One past the part's last byte.
        end: u64,
        /// The file's length.
        file_bytes: u64,
    },
    /// A count or length is larger than this reader allows.
    #[error("{what} is {found}, more than the {limit} allowed")]
    TooLarge {
        /// The count or length.
        what: String,
        /// The value in the file.
        found: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// Any other violation of the format.
    #[error("{what}: {problem}")]
    Invalid {
        /// The invalid part.
        what: String,
        /// The value in the file and the expected one.
        problem: String,
    },
}

impl SafetensorsErrorKind {
    /// The error for the file at `path`.
    pub(super) fn at(self, path: &Path) -> SafetensorsError {
        SafetensorsError { path: path.to_owned(), kind: self }
    }
}
