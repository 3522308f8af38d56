//! The start of the daemon: settings, locks, stale sockets, and the report to the launcher.
//!
//! Owns everything before the first thread, and the errors of a start. Does not know the parts that
//! `app` wires.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use ingle_client::exit;
use ingle_client::launch::{self, StartReport};
use ingle_client::paths::Paths;
use ingle_protocol::error::{ErrorBody, ErrorCode};

use crate::config::Config;

/// The reason why the daemon cannot start.
pub(crate) struct StartFailure {
    pub(crate) report: Box<StartReport>,
    pub(crate) exit_code: u8,
}

impl StartFailure {
    pub(crate) fn new(error: ErrorBody, exit_code: u8) -> Self {
        Self { report: Box::new(StartReport::Failed { error, exit_code }), exit_code }
    }

    pub(crate) fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot {what} `{}`: {error}", path.display());
        let next = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                "Free space on that disk, or set INGLE_HOME to a folder on another one."
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorCode::PermissionDenied.remediation()
            }
            _ => ErrorCode::DaemonUnavailable.remediation(),
        };
        let body = ErrorBody::new(ErrorCode::DaemonUnavailable, message).with_remediation(next);
        Self::new(body, exit::CANNOT_CREATE)
    }
}

/// The settings, and the locks of a daemon that may start.
pub(crate) struct Preparation {
    pub(crate) paths: Paths,
    pub(crate) config: Config,
    pub(crate) daemon_lock: File,
    /// Released when the daemon is ready. Absent if the launcher holds it.
    pub(crate) start_lock: Option<File>,
}

/// Reports the outcome of the start to the launcher or the terminal.
pub(crate) fn report(launched: bool, report: &StartReport) {
    if launched {
        let line = serde_json::to_string(report).unwrap_or_default();
        // A launcher that is gone needs no report.
        let _ = writeln!(io::stdout(), "{line}");
        return;
    }
    match report {
        StartReport::Ready { pid } => eprintln!("ingled is ready (process {pid})"),
        StartReport::AlreadyRunning { pid } => {
            let pid = pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            eprintln!("error: another ingled holds this Ingle folder{pid}");
            eprintln!("hint: use it, or end it with `ingle stop`.");
        }
        StartReport::Failed { error, .. } => {
            eprintln!("error: {}", error.message);
            eprintln!("hint: {}", error.remediation());
        }
    }
}

/// Reads the settings and takes the locks.
pub(crate) fn prepare(
    launched: bool,
    http: Option<SocketAddr>,
) -> Result<Preparation, StartFailure> {
    let path_failure = |error: ingle_client::paths::PathError| {
        StartFailure::new(ErrorBody::from(&error), error.exit_code())
    };
    // Only the daemon's user may read the files it writes, in any folder.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let paths = Paths::from_env().map_err(path_failure)?;
    paths.prepare().map_err(path_failure)?;
    let mut config = Config::load(&paths)
        .map_err(|error| StartFailure::new(ErrorBody::from(&error), exit::CONFIG))?;
    if let Some(listen) = http {
        config.http = config.http.listening_at(listen).map_err(|problem| {
            StartFailure::new(ErrorBody::new(ErrorCode::ConfigInvalid, problem), exit::CONFIG)
        })?;
    }
    if launched {
        // A session of its own, so that signals of the launcher's terminal do not reach the daemon.
        let _ = rustix::process::setsid();
    }
    let start_lock = if launched { None } else { Some(lock_start(&paths)?) };
    let daemon_lock = lock_daemon(&paths)?;
    if launched {
        launch::empty_stderr();
    }
    Ok(Preparation { paths, config, daemon_lock, start_lock })
}

/// Waits until a start in progress has ended, so that two starts never race.
fn lock_start(paths: &Paths) -> Result<File, StartFailure> {
    let path = paths.start_lock();
    launch::open_lock(&path)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|error| StartFailure::io("lock", &path, &error))
}

fn lock_daemon(paths: &Paths) -> Result<File, StartFailure> {
    let path = paths.daemon_lock();
    let fail = |error: &io::Error| StartFailure::io("lock", &path, error);
    let mut file = launch::open_lock(&path).map_err(|error| fail(&error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse().ok());
            return Err(StartFailure {
                report: Box::new(StartReport::AlreadyRunning { pid }),
                exit_code: exit::ALREADY_RUNNING,
            });
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(fail(&error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| fail(&error))?;
    Ok(file)
}

/// Removes the socket of a dead daemon.
///
/// The daemon lock is held, so only a daemon of another Ingle folder can still listen there.
pub(crate) fn clear_socket(path: &Path) -> Result<(), StartFailure> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let message = format!("another program listens at `{}`", path.display());
        let error = ErrorBody::new(ErrorCode::DaemonUnavailable, message)
            .with_remediation("Give each Ingle folder a socket of its own (INGLE_SOCKET).");
        return Err(StartFailure::new(error, exit::ALREADY_RUNNING));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StartFailure::io("remove the stale socket", path, &error))
        }
        _ => Ok(()),
    }
}

/// Closes standard output after the report, because the launcher's pipe must not stay open.
pub(crate) fn detach_stdout() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
