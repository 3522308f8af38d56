//! What can be wrong with a GGUF file.

use std::path::{Path, PathBuf};

use crate::FileFault;

/// A problem of one GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct GgufError {
    /// The file at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: GgufErrorKind,
}

impl GgufError {
    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> FileFault {
        match self.kind {
            GgufErrorKind::Io(_) => FileFault::Io,
            GgufErrorKind::Version { .. } => FileFault::Unsupported,
            _ => FileFault::Invalid,
        }
    }
}

/// The problem itself. `what` fields name the part of the file, such as ``metadata key `x` ``.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufErrorKind {
    /// The operating system refused.
    #[error("cannot read the file: {0}")]
    Io(String),
    /// The first four bytes are wrong.
    #[error("not a GGUF file: it begins with {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// The bytes that are there.
        found: [u8; 4],
    },
    /// A version this reader does not know.
    #[error("GGUF version {found} is not supported, only little-endian versions 2 and 3 are")]
    Version {
        /// The version field.
        found: u32,
    },
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
    /// A name is used twice.
    #[error("{what} appears twice")]
    Duplicate {
        /// The key or tensor.
        what: String,
    },
    /// A metadata key that is needed is not there.
    #[error("metadata key `{key}` is missing, expected {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// A metadata key has another type than is needed.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// Type and, for numbers, value that were found.
        found: String,
        /// The type it should have.
        expected: &'static str,
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

impl GgufErrorKind {
    /// The error for the file at `path`.
    pub(super) fn at(self, path: &Path) -> GgufError {
        GgufError { path: path.to_owned(), kind: self }
    }
}
