//! Errors of model folders.

use std::path::{Path, PathBuf};

use crate::FileFault;
use crate::safetensors::{SafetensorsError, SafetensorsErrorKind};

/// A problem of one model folder, or of one file in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct FolderError {
    /// The file or folder.
    pub path: PathBuf,
    /// The problem.
    pub kind: FolderErrorKind,
}

impl FolderError {
    /// The class of the problem.
    #[must_use]
    pub fn fault(&self) -> FileFault {
        match self.kind {
            FolderErrorKind::Io(_) | FolderErrorKind::Safetensors(SafetensorsErrorKind::Io(_)) => {
                FileFault::Io
            }
            FolderErrorKind::Unsupported(_) => FileFault::Unsupported,
            _ => FileFault::Invalid,
        }
    }
}

/// Kind of a problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderErrorKind {
    /// The operating system returned an error.
    #[error("cannot read the file: {0}")]
    Io(String),
    /// A required key of `config.json` is missing.
    #[error("`{key}` is missing, expected {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// The expected value.
        expected: &'static str,
    },
    /// A key has the wrong value.
    #[error("`{key}` is {found}, expected {expected}")]
    WrongValue {
        /// The key.
        key: String,
        /// The value in the file.
        found: String,
        /// The expected value.
        expected: &'static str,
    },
    /// The files are valid, but no engine reads such a model.
    #[error("{0}")]
    Unsupported(String),
    /// The files violate the format or contradict each other.
    #[error("{0}")]
    Invalid(String),
    /// A safetensors file is invalid.
    #[error(transparent)]
    Safetensors(SafetensorsErrorKind),
}

impl FolderErrorKind {
    /// The error for the file or folder at `path`.
    pub(super) fn at(self, path: &Path) -> FolderError {
        FolderError { path: path.to_owned(), kind: self }
    }
}

impl From<SafetensorsError> for FolderError {
    fn from(error: SafetensorsError) -> Self {
        let kind = match error.kind {
            SafetensorsErrorKind::Io(problem) => FolderErrorKind::Io(problem),
            kind => FolderErrorKind::Safetensors(kind),
        };
        Self { path: error.path, kind }
    }
}
