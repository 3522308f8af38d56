//! Launcher: connects to the daemon, and starts it when none runs.
//!
//! Owns the start lock, the spawning of `ingled` and the reading of its one-line report. Readiness
//! is that message, never a sleep. Does not know the messages of the connection.
//!
//! Two locks make polling unnecessary. A launcher holds `start.lock` until the daemon is ready; the
//! daemon holds `ingled.lock` for life. A launcher that finds no socket takes the start lock, which
//! waits for a start under way, and then tries the socket once more.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::exit;
use crate::paths::Paths;
use crate::socket::{self, Stream};
use ingle_protocol::error::{ErrorBody, ErrorCode};

/// Flag of `ingled serve`: its launcher holds the start lock and reads its report.
pub const LAUNCHED_FLAG: &str = "--launched";

/// The one line a launched daemon writes to its standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum StartReport {
    /// The socket accepts connections.
    Ready {
        /// The daemon's process id.
        pid: u32,
    },
    /// Another daemon holds this Ingle folder.
    AlreadyRunning {
        /// That daemon's process id, where its lock file says.
        pid: Option<u32>,
    },
    /// The daemon cannot run.
    Failed {
        /// The reason and the next step.
        error: ErrorBody,
        /// The daemon's exit code.
        exit_code: u8,
    },
}

/// A failed launch: the error for the user, and the exit code.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{body}")]
pub struct LaunchError {
    /// The error.
    pub body: ErrorBody,
    /// The exit code.
    pub exit_code: u8,
}

impl LaunchError {
    fn unavailable(message: String) -> Self {
        Self {
            body: ErrorBody::new(ErrorCode::DaemonUnavailable, message),
            exit_code: exit::UNAVAILABLE,
        }
    }
}

impl From<crate::paths::PathError> for LaunchError {
    fn from(error: crate::paths::PathError) -> Self {
        Self { body: ErrorBody::from(&error), exit_code: error.exit_code() }
    }
}

/// Connects to the daemon of `paths`; starts `program` when none runs.
///
/// # Errors
/// When the folder is not ours, or the daemon cannot be started within
/// [`crate::limits::START_MS`].
pub async fn connect_or_start(paths: &Paths, program: &Path) -> Result<Stream, LaunchError> {
    paths.check_socket()?;
    if let Ok(stream) = socket::connect(paths.socket()).await {
        return Ok(stream);
    }
    paths.prepare()?;
    let (report_tx, report) = oneshot::channel();
    let (thread_paths, thread_program) = (paths.clone(), program.to_owned());
    // A thread of its own rather than the runtime's pool: waiting for a lock cannot be cancelled,
    // and a runtime waits for its pool when it is dropped.
    std::thread::Builder::new()
        .name("launch".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || start(&thread_paths, &thread_program, report_tx))
        .map_err(|error| LaunchError::unavailable(format!("cannot start a thread: {error}")))?;
    // Another launcher may use its whole time before it releases the lock.
    let limit = Duration::from_millis(2 * crate::limits::START_MS);
    let report = tokio::time::timeout(limit, report)
        .await
        .map_err(|_| {
            LaunchError::unavailable(format!(
                "the daemon did not start within {} s",
                limit.as_secs()
            ))
        })?
        .map_err(|_| LaunchError::unavailable("the launcher stopped".to_owned()))??;
    if let StartReport::Failed { error, exit_code } = report {
        return Err(LaunchError { body: error, exit_code });
    }
    socket::connect(paths.socket()).await.map_err(|error| {
        LaunchError::unavailable(format!(
            "the daemon runs but does not accept connections at `{}`: {error}",
            paths.socket().display()
        ))
    })
}

/// The path of the daemon's program: in the folder of this one, or else on PATH.
#[must_use]
pub fn daemon_program() -> PathBuf {
    let neighbour = std::env::current_exe()
        .and_then(|program| program.canonicalize())
        .ok()
        .and_then(|program| Some(program.parent()?.join("ingled")))
        .filter(|program| program.is_file());
    neighbour.unwrap_or_else(|| PathBuf::from("ingled"))
}

/// Opens a lock file of the Ingle folder without emptying it.
///
/// # Errors
/// When the file cannot be made.
pub fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)
}

fn start(paths: &Paths, program: &Path, report: oneshot::Sender<Result<StartReport, LaunchError>>) {
    let lock = match open_lock(&paths.start_lock()).and_then(|file| file.lock().map(|()| file)) {
        Ok(file) => file,
        Err(error) => {
            let path = paths.start_lock();
            let message = format!("cannot lock `{}`: {error}", path.display());
            let _ = report.send(Err(LaunchError::unavailable(message)));
            return;
        }
    };
    // The launcher that held the lock before has probably started the daemon.
    if UnixStream::connect(paths.socket()).is_ok() {
        let _ = report.send(Ok(StartReport::AlreadyRunning { pid: None }));
        return;
    }
    let (child, outcome) = start_daemon(paths, program);
    drop(lock);
    // When the caller has given up, the daemon still runs, and the next launcher finds it.
    let _ = report.send(outcome);
    if let Some(mut child) = child {
        // Collects the daemon's exit status when it ends, so that no zombie remains under a shim
        // that outlives it. The thread costs a stack of a few pages.
        let _ = child.wait();
    }
}

/// Spawns the daemon and reads its report. When another daemon holds the folder and does not
/// listen, because it is draining, waits for it to end and tries again.
fn start_daemon(
    paths: &Paths,
    program: &Path,
) -> (Option<Child>, Result<StartReport, LaunchError>) {
    let give_up_at = Instant::now() + Duration::from_millis(crate::limits::START_MS);
    loop {
        let earlier = std::fs::metadata(stderr_file(paths)).map_or(0, |metadata| metadata.len());
        let (mut child, mut stdout) = match spawn(paths, program) {
            Ok(spawned) => spawned,
            Err(error) => {
                let message = format!("cannot run `{}`: {error}", program.display());
                let mut failure = LaunchError::unavailable(message);
                let next = "Install `ingled` next to `ingle`, or put it on PATH.";
                failure.body = failure.body.with_remediation(next);
                return (None, Err(failure));
            }
        };
        let outcome = read_report(&mut child, &mut stdout, paths, earlier);
        if !matches!(outcome, Ok(StartReport::AlreadyRunning { .. })) {
            return (Some(child), outcome);
        }
        let _ = child.wait();
        match wait_for_holder(paths, give_up_at) {
            Ok(HolderState::Listens) => return (None, outcome),
            Ok(HolderState::Ended) => {}
            Err(failure) => return (None, Err(failure)),
        }
    }
}

/// The state of the daemon that holds the folder.
enum HolderState {
    /// It listens.
    Listens,
    /// It has ended.
    Ended,
}

/// Waits until the daemon that holds the folder listens or ends. It polls, because no message comes
/// and taking a lock has no timeout.
fn wait_for_holder(paths: &Paths, give_up_at: Instant) -> Result<HolderState, LaunchError> {
    const POLL: Duration = Duration::from_millis(50);
    while Instant::now() < give_up_at {
        if UnixStream::connect(paths.socket()).is_ok() {
            return Ok(HolderState::Listens);
        }
        if open_lock(&paths.daemon_lock()).is_ok_and(|lock| lock.try_lock().is_ok()) {
            return Ok(HolderState::Ended);
        }
        std::thread::sleep(POLL);
    }
    let pid = std::fs::read_to_string(paths.daemon_lock()).unwrap_or_default();
    let message = format!(
        "the daemon that holds this Ingle folder (process {}) does not listen at `{}`",
        pid.trim(),
        paths.socket().display()
    );
    let mut failure = LaunchError::unavailable(message);
    let next = format!("End it with `kill {}`; the next command starts another.", pid.trim());
    failure.body = failure.body.with_remediation(next);
    Err(failure)
}

fn spawn(paths: &Paths, program: &Path) -> io::Result<(Child, ChildStdout)> {
    // Descriptors inherited from the host must not live on in the daemon.
    close_fds::set_fds_cloexec(3, &[]);
    // Not truncated here: another daemon may run and write to it. This one truncates it once the
    // folder is its own.
    let stderr =
        OpenOptions::new().create(true).append(true).mode(0o600).open(stderr_file(paths))?;
    let mut child = Command::new(program)
        .arg("serve")
        .arg(LAUNCHED_FLAG)
        .env("INGLE_HOME", paths.home())
        .env("INGLE_SOCKET", paths.socket())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no pipe to the daemon"))?;
    Ok((child, stdout))
}

/// The file of a launched daemon's standard error, for the message of a panic or an abort.
fn stderr_file(paths: &Paths) -> PathBuf {
    paths.logs_dir().join("ingled.stderr")
}

/// Reads the daemon's one line, and kills a daemon that does not write it in time. `earlier` is the
/// length of its standard error's file before it was started.
fn read_report(
    child: &mut Child,
    stdout: &mut ChildStdout,
    paths: &Paths,
    earlier: u64,
) -> Result<StartReport, LaunchError> {
    let give_up_at = Instant::now() + Duration::from_millis(crate::limits::START_MS);
    let mut line = Vec::new();
    let mut chunk = [0_u8; 1024];
    while !line.ends_with(b"\n") && line.len() < 64 * 1024 {
        let left = give_up_at.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut fds = [PollFd::new(&*stdout, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => {
                // No client can wait for it: it never reported ready.
                let _ = child.kill();
                return Err(LaunchError::unavailable(format!(
                    "the daemon was started but was not ready within {} s",
                    crate::limits::START_MS / 1_000
                )));
            }
            _ => {}
        }
        match stdout.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => line.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    serde_json::from_slice(&line).map_err(|_| {
        let stderr = stderr_since(&stderr_file(paths), earlier).unwrap_or_default();
        let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        LaunchError::unavailable(format!("the daemon ended before it was ready: {last}"))
    })
}

/// The end of the file, without the `earlier` bytes if they are still there.
fn stderr_since(file: &Path, earlier: u64) -> io::Result<String> {
    const BYTES: u64 = 64 * 1024;
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    // A file that is shorter has been truncated.
    let own = if earlier <= length { earlier } else { 0 };
    file.seek(SeekFrom::Start(own.max(length.saturating_sub(BYTES))))?;
    let mut text = Vec::new();
    file.take(BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Truncates the file of a launched daemon's standard error, once the folder is its own. The output
/// of an earlier daemon has been read or is no longer useful.
pub fn empty_stderr() {
    let stderr = rustix::stdio::stderr();
    let is_file = rustix::fs::fstat(stderr).is_ok_and(|file| {
        rustix::fs::FileType::from_raw_mode(file.st_mode) == rustix::fs::FileType::RegularFile
    });
    if is_file {
        // On failure the file only grows a little longer.
        let _ = rustix::fs::ftruncate(stderr, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_output_of_this_daemon_is_quoted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "old\nnew\n").unwrap();
        for (earlier, text) in [(0, "old\nnew\n"), (4, "new\n"), (8, ""), (9, "old\nnew\n")] {
            assert_eq!(stderr_since(file.path(), earlier).unwrap(), text);
        }
    }
}
