//! Errors of GGUF files.

use std::path::{Path, PathBuf};

use crate::FileFault;

/// A problem of one GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub kind: GgufErrorKind,
}

impl GgufError {
    /// The class of the problem.
    #[must_use]
    pub fn fault(&self) -> FileFault {
        match self.kind {
            GgufErrorKind::Io(_) => FileFault::Io,
            GgufErrorKind::Version { .. } => FileFault::Unsupported,
            _ => FileFault::Invalid,
        }
    }
}

/// Kind of a problem. `what` fields name the part of the file, such as ``metadata key `x` ``.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufErrorKind {
    /// The operating system returned an error.
    #[error("cannot read the file: {0}")]
    Io(String),
    /// The first four bytes are wrong.
    #[error("not a GGUF file: it begins with {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// The bytes in the file.
        found: [u8; 4],
    },
    /// This reader does not support the version.
    #[error("GGUF version {found} is not supported, only little-endian versions 2 and 3 are")]
    Version {
        /// The version field.
        found: u32,
    },
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
    /// A name is used twice.
    #[error("{what} appears twice")]
    Duplicate {
        /// The key or tensor.
        what: String,
    },
    /// A required metadata key is missing.
    #[error("metadata key `{key}` is missing, expected {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// The expected type.
        expected: &'static str,
    },
    /// A metadata key has the wrong type.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// The type in the file, with the value of a number.
        found: String,
        /// The expected type.
        expected: &'static str,
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

impl GgufErrorKind {
    /// The error for the file at `path`.
    pub(super) fn at(self, path: &Path) -> GgufError {
        GgufError { path: path.to_owned(), kind: self }
    }
}
