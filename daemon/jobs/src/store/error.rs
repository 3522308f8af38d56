//! The errors of the job store, and the next step for each.

use std::io;
use std::path::{Path, PathBuf};

use ingle_protocol::error::{ErrorBody, ErrorCode};
use rusqlite::ErrorCode as Sqlite;

/// The reason why the job store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Its folder or file cannot be created or opened.
    #[error("the job store `{}` cannot be opened: {problem}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        problem: String,
    },
    /// A newer version of Ingle has written it.
    #[error(
        "the job store `{}` has version {found}, and this Ingle reads versions up to {known}",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this Ingle reads.
        known: i64,
    },
    /// Its contents are damaged, or another program's.
    #[error("the job store `{}` is damaged: {problem}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The damage.
        problem: String,
    },
    /// It cannot grow.
    #[error("the job store `{}` cannot be written: {problem}", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The system's error.
        problem: String,
    },
    /// Any other error.
    #[error("the job store `{}` failed: {problem}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// The error.
        problem: String,
    },
    /// Its thread has ended.
    #[error("the thread of the job store `{}` has ended", path.display())]
    ThreadEnded {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    /// The error of a system call on the file or its folder.
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

    /// The error of SQLite.
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
                // A row whose values this program does not write.
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
                "Check that you own the file and its folder and may write them; the next call tries \
                 again.",
                false,
            ),
            StoreError::Newer { .. } => (
                "Upgrade Ingle, or move the file (and those with `-wal` and `-shm` behind its \
                 name) away: the next call creates a new one.",
                false,
            ),
            StoreError::Corrupt { .. } => (
                "Run `ingle stop`, move the file (and those with `-wal` and `-shm` behind its \
                 name) away, or restore a good copy; Ingle deletes nothing.",
                false,
            ),
            StoreError::Full { .. } => (
                "Free space on that disk, or raise the limit on the file's size, then try again; \
                 results so far are kept in memory and stored once there is space.",
                true,
            ),
            StoreError::Failed { .. } | StoreError::ThreadEnded { .. } => (
                "Try again; if it happens again, run `ingle stop`: the next command starts a new \
                 daemon. `ingle logs` shows the cause.",
                true,
            ),
        };
        let mut body =
            Self::new(ErrorCode::JobStoreUnavailable, error.to_string()).with_remediation(next);
        body.retryable = retryable;
        body
    }
}
