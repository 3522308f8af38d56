//! What can be wrong with a model folder.

use std::path::{Path, PathBuf};

use crate::FileFault;
use crate::safetensors::{SafetensorsError, SafetensorsErrorKind};

/// A problem of one model folder, or of one file in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct FolderError {
    /// The file or folder at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: FolderErrorKind,
}

impl FolderError {
    /// Whose fault it is.
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

/// The problem itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderErrorKind {
    /// The operating system refused.
    #[error("cannot read the file: {0}")]
    Io(String),
    /// A key of `config.json` that is needed is not there.
    #[error("`{key}` is missing, expected {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A key has another value than is needed.
    #[error("`{key}` is {found}, expected {expected}")]
    WrongValue {
        /// The key.
        key: String,
        /// What was found.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The files are sound, but nothing here reads such a model.
    #[error("{0}")]
    Unsupported(String),
    /// The files contradict the format or each other.
    #[error("{0}")]
    Invalid(String),
    /// A safetensors file is broken.
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
