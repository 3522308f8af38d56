//! The Ingle folder: its layout and its ownership.
//!
//! Owns the layout of `~/.ingle` and the checks on owner, mode and socket-path length. The folder
//! is found from HOME alone (`INGLE_HOME` and `INGLE_SOCKET` override): MCP hosts drop
//! XDG_RUNTIME_DIR and TMPDIR, and a shim must find the same daemon as a terminal.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::exit;
use ingle_protocol::error::{ErrorBody, ErrorCode};

/// Bytes of a socket's path, its final NUL included (`sun_path`).
pub const SOCKET_PATH_BYTES: usize = if cfg!(target_os = "macos") { 104 } else { 108 };

/// A problem with the Ingle folder.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Neither INGLE_HOME nor HOME names the folder.
    #[error("no home folder: HOME is not set and the user has no home")]
    NoHome,
    /// A path that must be absolute is not.
    #[error("{variable} is `{}`, which is not an absolute path", path.display())]
    NotAbsolute {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// The socket's path does not fit the operating system's limit.
    #[error(
        "the socket path `{}` has {bytes} bytes, and this system allows {}",
        path.display(),
        SOCKET_PATH_BYTES - 1
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The folder or socket belongs to another user.
    #[error("`{}` belongs to user {owner}, and Ingle runs as user {user}", path.display())]
    ForeignOwner {
        /// The path.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// The effective uid of this process.
        user: u32,
    },
    /// A path that should be a folder is a file.
    #[error("`{}` is not a folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl PathError {
    /// The exit code for this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoHome | Self::NotAbsolute { .. } | Self::TooLong { .. } => exit::CONFIG,
            Self::ForeignOwner { .. } => exit::NO_PERMISSION,
            Self::NotAFolder { .. } => exit::CANNOT_CREATE,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                exit::NO_PERMISSION
            }
            Self::Io { .. } => exit::CANNOT_CREATE,
        }
    }
}

impl From<&PathError> for ErrorBody {
    fn from(error: &PathError) -> Self {
        let (code, next) = match error {
            PathError::NoHome => (ErrorCode::ConfigInvalid, "Set HOME or INGLE_HOME."),
            PathError::NotAbsolute { .. } => {
                (ErrorCode::ConfigInvalid, "Give the variable an absolute path.")
            }
            PathError::TooLong { .. } => (
                ErrorCode::ConfigInvalid,
                "Set INGLE_HOME to a shorter path, or INGLE_SOCKET to a short path such as \
                 /tmp/ingle-you/ingled.sock.",
            ),
            PathError::ForeignOwner { .. } => {
                (ErrorCode::PermissionDenied, ErrorCode::PermissionDenied.remediation())
            }
            PathError::NotAFolder { .. } => {
                (ErrorCode::ConfigInvalid, "Move the file away, or set INGLE_HOME to a folder.")
            }
            PathError::Io { .. } => (
                ErrorCode::PermissionDenied,
                "Check the folder's permissions and the disk's free space.",
            ),
        };
        Self::new(code, error.to_string()).with_remediation(next)
    }
}

/// The paths of one Ingle installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    home: PathBuf,
    socket: PathBuf,
}

impl Paths {
    /// Finds the folder from `INGLE_HOME`, `INGLE_SOCKET` and HOME.
    ///
    /// # Errors
    /// When there is no home, an override is relative, or the socket's path is too long.
    pub fn from_env() -> Result<Self, PathError> {
        let home = match absolute("INGLE_HOME", std::env::var_os("INGLE_HOME"))? {
            Some(home) => home,
            None => {
                directories::BaseDirs::new().ok_or(PathError::NoHome)?.home_dir().join(".ingle")
            }
        };
        let socket = absolute("INGLE_SOCKET", std::env::var_os("INGLE_SOCKET"))?;
        Self::new(home, socket)
    }

    /// Paths under an explicit folder, with the socket elsewhere if a path is given.
    ///
    /// # Errors
    /// When the socket's path is too long.
    pub fn new(home: PathBuf, socket: Option<PathBuf>) -> Result<Self, PathError> {
        let socket = socket.unwrap_or_else(|| home.join("run").join("ingled.sock"));
        let bytes = socket.as_os_str().as_bytes().len();
        if bytes >= SOCKET_PATH_BYTES {
            return Err(PathError::TooLong { path: socket, bytes });
        }
        Ok(Self { home, socket })
    }

    /// The folder itself.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The settings file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.home.join("config.toml")
    }

    /// The settings file of variables. A `.env` of the working directory belongs to other programs
    /// and is never read.
    #[must_use]
    pub fn env_file(&self) -> PathBuf {
        self.home.join(".env")
    }

    /// The folder of socket and locks.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.home.join("run")
    }

    /// The lock that the daemon holds for its life; the file has its process id.
    #[must_use]
    pub fn daemon_lock(&self) -> PathBuf {
        self.run_dir().join("ingled.lock")
    }

    /// The lock that a launcher holds until its daemon is ready.
    #[must_use]
    pub fn start_lock(&self) -> PathBuf {
        self.run_dir().join("start.lock")
    }

    /// The journal of the engine thread, for the next daemon after a crash.
    #[must_use]
    pub fn crash_journal(&self) -> PathBuf {
        self.run_dir().join("engine.journal")
    }

    /// The list of models that crashed the daemon.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.home.join("quarantine.json")
    }

    /// The socket of HTTP: `http.sock` in the folder of the daemon's own, or named after that one
    /// where it is elsewhere.
    #[must_use]
    pub fn http_socket(&self) -> PathBuf {
        let run = self.run_dir();
        if self.socket.parent() == Some(&run) {
            return run.join("http.sock");
        }
        let mut name = self.socket.file_stem().unwrap_or_default().to_owned();
        name.push("-http.sock");
        self.socket.with_file_name(name)
    }

    /// The file of the bearer token for HTTP over TCP.
    #[must_use]
    pub fn http_token(&self) -> PathBuf {
        self.home.join("http.token")
    }

    /// The folder of log files.
    #[must_use]
    pub fn logs_dir(&self) -> PathBuf {
        self.home.join("logs")
    }

    /// The folder of models that Ingle fetched itself.
    #[must_use]
    pub fn models_dir(&self) -> PathBuf {
        self.home.join("models")
    }

    /// The database of jobs, next to two more files of SQLite. The job store creates the folder
    /// when it opens it: an unusable store must not keep the daemon from starting.
    #[must_use]
    pub fn job_store(&self) -> PathBuf {
        self.home.join("jobs").join("jobs.sqlite3")
    }

    /// The input history of conversations.
    #[must_use]
    pub fn chat_history(&self) -> PathBuf {
        self.home.join("chat_history")
    }

    /// Creates the folder and its subfolders with mode 0700, and checks that they are ours.
    ///
    /// # Errors
    /// When one belongs to another user, is not a folder, or cannot be created.
    pub fn prepare(&self) -> Result<(), PathError> {
        let mut folders =
            vec![self.home.clone(), self.run_dir(), self.logs_dir(), self.models_dir()];
        // A socket elsewhere gets its folder only if that does not exist: /tmp is not ours to
        // chmod.
        if let Some(parent) = self.socket.parent()
            && !parent.exists()
        {
            folders.push(parent.to_owned());
        }
        for folder in folders {
            private_folder(&folder)?;
        }
        self.check_socket()
    }

    /// Checks that the file at the socket's path, if any, is ours.
    ///
    /// # Errors
    /// When it belongs to another user.
    pub fn check_socket(&self) -> Result<(), PathError> {
        for path in [self.home(), self.socket()] {
            match fs::symlink_metadata(path) {
                Ok(metadata) => check_owner(path, &metadata)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(PathError::Io { path: path.to_owned(), source }),
            }
        }
        Ok(())
    }
}

fn absolute(variable: &'static str, value: Option<OsString>) -> Result<Option<PathBuf>, PathError> {
    match value.filter(|value| !value.is_empty()).map(PathBuf::from) {
        Some(path) if !path.is_absolute() => Err(PathError::NotAbsolute { variable, path }),
        other => Ok(other),
    }
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), PathError> {
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner == user {
        Ok(())
    } else {
        Err(PathError::ForeignOwner { path: path.to_owned(), owner, user })
    }
}

/// Creates `path` as a folder of ours with mode 0700, or narrows the mode of one of ours.
fn private_folder(path: &Path) -> Result<(), PathError> {
    let io_error = |source| PathError::Io { path: path.to_owned(), source };
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(PathError::NotAFolder { path: path.to_owned() });
        }
        other => other.map_err(io_error)?,
    }
    let metadata = fs::metadata(path).map_err(io_error)?;
    check_owner(path, &metadata)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_private_and_wide_modes_narrowed() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        let paths = Paths::new(home, None).unwrap();
        paths.prepare().unwrap();
        for subfolder in [paths.home().to_owned(), paths.run_dir(), paths.models_dir()] {
            assert_eq!(fs::metadata(subfolder).unwrap().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn long_socket_path_is_refused() {
        let home = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_BYTES)));
        let error = Paths::new(home, None).unwrap_err();
        assert!(matches!(error, PathError::TooLong { .. }), "{error}");
        assert_eq!(error.exit_code(), exit::CONFIG);
    }

    #[test]
    fn file_in_place_of_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::write(&home, "").unwrap();
        let error = Paths::new(home, None).unwrap().prepare().unwrap_err();
        assert_eq!(error.exit_code(), exit::CANNOT_CREATE, "{error}");
    }
}
