//! What can be wrong with the job store, and what to do about each.

use std::io;
use std::path::{Path, PathBuf};

use ingle_protocol::error::{ErrorBody, ErrorCode};
use rusqlite::ErrorCode as Sqlite;

/// Why the job store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Its folder or file cannot be made or opened.
    #[error("the job store `{}` cannot be opened: {problem}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        problem: String,
    },
    /// A newer Ingle has written it.
    #[error(
        "the job store `{}` is of version {found}, and this Ingle knows versions up to {known}",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// It is not what it should be.
    #[error("the job store `{}` is damaged: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It cannot grow.
    #[error("the job store `{}` cannot be written: {problem}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// Something else.
    #[error("the job store `{}` failed: {problem}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What.
        problem: String,
    },
    /// The thread that holds it has ended.
    #[error("the thread that holds the job store `{}` has ended", path.display())]
    ThreadEnded {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// What a system call on the way to the file reported.
    #[must_use]
    pub fn open(path: &Path, error: &io::Error) -> Self {
        let (path, problem) = (path.to_owned(), error.to_string());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { path, problem }
            }
            _ => Self::Open { path, problem },
        }
    }

    /// What SQLite reported.
    #[must_use]
    pub fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        let (path, problem) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(Sqlite::DatabaseCorrupt | Sqlite::NotADatabase) => Self::Corrupt { path, problem },
            // A write over a file-size limit comes as an input or output error.
            Some(Sqlite::DiskFull | Sqlite::SystemIoFailure) => Self::Full { path, problem },
            Some(Sqlite::CannotOpen | Sqlite::PermissionDenied | Sqlite::ReadOnly) => {
                Self::Open { path, problem }
            }
            _ => match error {
                // A row that is not what this program writes.
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..) => Self::Corrupt { path, problem },
                _ => Self::Failed { path, problem },
            },
        }
    }
}

impl From<StoreError> for ErrorBody {
    fn from(error: StoreError) -> Self {
        let (next, retryable) = match &error {
            StoreError::Open { .. } => (
                "Check that the file and its folder are yours and can be written; the next call \
                 tries again.",
                false,
            ),
            StoreError::Newer { .. } => (
                "Upgrade Ingle, or move the file (and those with `-wal` and `-shm` behind its \
                 name) away: the next call begins a new one.",
                false,
            ),
            StoreError::Corrupt { .. } => (
                "Run `ingle stop`, move the file (and those with `-wal` and `-shm` behind its \
                 name) away, or put a copy that is sound in its place; nothing is deleted by \
                 itself.",
                false,
            ),
            StoreError::Full { .. } => (
                "Free space on that disk, or raise the limit on the file's size, then try again; \
                 results that are there already are kept in memory and stored once there is room.",
                true,
            ),
            StoreError::Failed { .. } | StoreError::ThreadEnded { .. } => (
                "Try again; if it happens again, run `ingle stop`: the next command starts a new \
                 daemon. `ingle logs` shows what happened.",
                true,
            ),
        };
        let mut body =
            Self::new(ErrorCode::JobStoreUnavailable, error.to_string()).with_remediation(next);
        body.retryable = retryable;
        body
    }
}
