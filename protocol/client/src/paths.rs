//! The Ingle folder: where everything lives, and who may own it.
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

/// What is wrong with the Ingle folder.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Neither INGLE_HOME nor HOME says where the folder is.
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
    /// Something else stands where a folder should be.
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
    /// The exit code that says this.
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

/// Where everything of one Ingle installation lives.
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

    /// A folder given by name, and a socket elsewhere if one is given.
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

    /// The settings.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.home.join("config.toml")
    }

    /// Settings as variables. A `.env` of the working directory is somebody else's and is never read.
    #[must_use]
    pub fn env_file(&self) -> PathBuf {
        self.home.join(".env")
    }

    /// Socket and locks.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.home.join("run")
    }

    /// Held by the daemon for its life; holds its process id.
    #[must_use]
    pub fn daemon_lock(&self) -> PathBuf {
        self.run_dir().join("ingled.lock")
    }

    /// Held by whoever starts a daemon, until that daemon is ready.
    #[must_use]
    pub fn start_lock(&self) -> PathBuf {
        self.run_dir().join("start.lock")
    }

    /// What the engine thread is about to do, for the daemon that comes after a crash.
    #[must_use]
    pub fn crash_journal(&self) -> PathBuf {
        self.run_dir().join("engine.journal")
    }

    /// Models that have ended the daemon.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.home.join("quarantine.json")
    }

    /// The socket that HTTP is spoken on: `http.sock` beside the daemon's own, or named after that
    /// one where it was put elsewhere.
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

    /// What HTTP over TCP must be shown.
    #[must_use]
    pub fn http_token(&self) -> PathBuf {
        self.home.join("http.token")
    }

    /// Log files.
    #[must_use]
    pub fn logs_dir(&self) -> PathBuf {
        self.home.join("logs")
    }

    /// Models that Ingle fetched itself.
    #[must_use]
    pub fn models_dir(&self) -> PathBuf {
        self.home.join("models")
    }

    /// The file that holds the jobs; two more of SQLite's lie beside it. Its folder is made by whoever
    /// opens it: a store that cannot be must not keep the daemon from starting.
    #[must_use]
    pub fn job_store(&self) -> PathBuf {
        self.home.join("jobs").join("jobs.sqlite3")
    }

    /// Interactive sessions' input history.
    #[must_use]
    pub fn chat_history(&self) -> PathBuf {
        self.home.join("chat_history")
    }

    /// Makes the folder and its rooms with mode 0700, and checks that they are ours.
    ///
    /// # Errors
    /// When a room belongs to somebody else, is no folder, or cannot be made.
    pub fn prepare(&self) -> Result<(), PathError> {
        let mut rooms = vec![self.home.clone(), self.run_dir(), self.logs_dir(), self.models_dir()];
        // A socket elsewhere gets its folder only if that does not exist: /tmp is not ours to chmod.
        if let Some(parent) = self.socket.parent()
            && !parent.exists()
        {
            rooms.push(parent.to_owned());
        }
        for room in rooms {
            private_folder(&room)?;
        }
        self.check_socket()
    }

    /// Checks that what stands at the socket's path, if anything, is ours.
    ///
    /// # Errors
    /// When it belongs to somebody else.
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

/// Makes `path` a folder of ours with mode 0700. A folder of ours with a wider mode is narrowed.
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
    fn rooms_are_made_private_and_a_wide_folder_is_narrowed() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        let paths = Paths::new(home, None).unwrap();
        paths.prepare().unwrap();
        for room in [paths.home().to_owned(), paths.run_dir(), paths.models_dir()] {
            assert_eq!(fs::metadata(room).unwrap().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_socket_path_the_system_cannot_bind_is_refused_with_its_length() {
        let home = PathBuf::from(format!("/{}", "x".repeat(SOCKET_PATH_BYTES)));
        let error = Paths::new(home, None).unwrap_err();
        assert!(matches!(error, PathError::TooLong { .. }), "{error}");
        assert_eq!(error.exit_code(), exit::CONFIG);
    }

    #[test]
    fn a_file_in_the_folders_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        fs::write(&home, "").unwrap();
        let error = Paths::new(home, None).unwrap().prepare().unwrap_err();
        assert_eq!(error.exit_code(), exit::CANNOT_CREATE, "{error}");
    }
}
