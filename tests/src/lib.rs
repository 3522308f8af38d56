//! Runs the real binaries in private homes.
//!
//! Owns finding the binaries, temporary Ingle folders, starting and ending daemons, and leaving no
//! process behind. Readiness is always a message; nothing here sleeps to wait for it. Does not know
//! the daemon's internals: it links the protocol crate only.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness that cannot do its work has failed the test that uses it"
)]

pub mod exposition;
pub mod http;
pub mod raw;
pub mod shim;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ingle_client::client::Client;
use ingle_client::launch::{LAUNCHED_FLAG, StartReport, open_lock};
use ingle_client::paths::Paths;
use ingle_protocol::wire::NoParams;
use ingle_protocol::wire::status::{Status, StatusReply};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The path of one of the two binaries, built in the same profile as this test.
///
/// # Panics
/// When the binary has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    // target/<profile>/deps/<test>
    let folder =
        test.parent().and_then(Path::parent).expect("a test lies in target/<profile>/deps");
    let path = folder.join(name);
    assert!(path.is_file(), "`{}` is not built; run ./test, which builds it", path.display());
    path
}

/// A file of this crate.
#[must_use]
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A private home. Dropping it ends the daemon that runs in it.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    paths: Paths,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// An empty home, with a path short enough for a socket.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("ingle-").tempdir().expect("a folder");
        let paths = Paths::new(folder.path().join(".ingle"), None).expect("a short path");
        paths.prepare().expect("a folder of our own");
        Self { folder, paths }
    }

    /// A home with one sim model, which is the default.
    #[must_use]
    pub fn with_sim(config: Value) -> Self {
        let home = Self::new();
        home.add_sim("sim", config);
        home.write("config.toml", "default_model = \"sim\"\n");
        home
    }

    /// The paths of this home.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The home folder itself, the value of HOME.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a sim model; `config` holds everything but the model type.
    pub fn add_sim(&self, name: &str, config: Value) {
        let mut config = config;
        config["model_type"] = json!("sim");
        self.write(&format!("models/{name}/config.json"), &config.to_string());
    }

    /// Adds SmolLM2 as a link to the folder that the test script has fetched.
    ///
    /// # Panics
    /// When the model has not been fetched.
    pub fn add_smollm2(&self) {
        self.add_fetched("smollm2");
    }

    /// Adds the embedding model MiniLM in the same way.
    ///
    /// # Panics
    /// When the model has not been fetched.
    pub fn add_minilm(&self) {
        self.add_fetched("minilm");
    }

    fn add_fetched(&self, name: &str) {
        let models = std::env::var_os("INGLE_TEST_MODELS")
            .expect("INGLE_TEST_MODELS names the folder of test models; run ./test, which sets it");
        let source = Path::new(&models).join(name);
        let source = fs::canonicalize(&source)
            .unwrap_or_else(|error| panic!("`{}`: {error}; run ./test", source.display()));
        let target = self.paths.models_dir().join(name);
        std::os::unix::fs::symlink(source, target).expect("a link to the model");
    }

    /// Writes a file in the Ingle folder.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.paths.home().join(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// A command whose environment has HOME and PATH only, as an MCP host would spawn it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(binary(program));
        command.env_clear().env("HOME", self.folder.path());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// Runs `ingle` to its end with empty standard input.
    ///
    /// # Panics
    /// When `ingle` cannot be run.
    #[must_use]
    pub fn ingle<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        let mut command = self.command("ingle");
        command.args(arguments).stdin(Stdio::null());
        let output = command.output().expect("`ingle` runs");
        Finished {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts a daemon and waits for its report.
    ///
    /// # Panics
    /// When the daemon does not become ready.
    #[must_use]
    pub fn daemon(&self) -> Daemon {
        let (mut child, report) = self.try_daemon();
        match report {
            Some(StartReport::Ready { .. }) => Daemon { child },
            other => {
                let status = child.wait();
                panic!("the daemon is not ready: {other:?}, {status:?}")
            }
        }
    }

    /// Starts a daemon and reads its report, be it ready or an error.
    ///
    /// # Panics
    /// When the binary cannot be run.
    #[must_use]
    pub fn try_daemon(&self) -> (Child, Option<StartReport>) {
        let mut command = self.command("ingled");
        command.args(["serve", LAUNCHED_FLAG]).stdin(Stdio::null()).stdout(Stdio::piped());
        let stderr = fs::File::create(self.folder.path().join("stderr")).expect("a file");
        let mut child = command.stderr(stderr).spawn().expect("`ingled` runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a report");
        (child, serde_json::from_str(&line).ok())
    }

    /// Runs `ingle status` until this many generations are running.
    ///
    /// # Panics
    /// When that does not happen within a minute.
    pub fn wait_active(&self, active: u64) {
        let give_up_at = Instant::now() + STATE_LIMIT;
        while self.ingle(["status", "--json"]).ok().json()["active"] != active {
            assert!(Instant::now() < give_up_at, "never {active} generations running");
        }
    }

    /// A client of the running daemon.
    ///
    /// # Panics
    /// When no daemon runs.
    pub async fn client(&self) -> Client {
        Client::connect(self.paths.socket()).await.expect("the daemon answers")
    }

    /// The process id of the daemon that holds this home, if one does.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<Pid> {
        let lock = open_lock(&self.paths.daemon_lock()).ok()?;
        if lock.try_lock().is_ok() {
            return None;
        }
        let text = fs::read_to_string(self.paths.daemon_lock()).ok()?;
        Pid::from_raw(text.trim().parse().ok()?)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A daemon that a shim started is not a child of this process.
        if let Some(pid) = self.daemon_pid() {
            let _ = kill_process(pid, Signal::CONT);
            let _ = kill_process(pid, Signal::KILL);
            // The lock is released when the process has ended.
            if let Ok(lock) = open_lock(&self.paths.daemon_lock()) {
                let _ = lock.lock();
            }
        }
    }
}

/// Seconds to wait for a state before the test fails.
const STATE_LIMIT: Duration = Duration::from_secs(60);

/// Asks for the daemon's status until it is as wanted.
///
/// Each request is a round trip and its answer decides, so no sleep time is guessed.
///
/// # Panics
/// When that does not happen within a minute.
pub async fn status_when(client: &Client, wanted: impl Fn(&StatusReply) -> bool) -> StatusReply {
    let give_up_at = Instant::now() + STATE_LIMIT;
    loop {
        let status = client.call::<Status>(&NoParams {}).await.expect("the daemon answers");
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < give_up_at, "not the state that was waited for: {status:?}");
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its exit code; -1 after a signal.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Its output as JSON.
    ///
    /// # Panics
    /// When the output is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Returns the program's output if it succeeded.
    ///
    /// # Panics
    /// When it failed.
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

/// A daemon this test started itself. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Sends the daemon a signal.
    ///
    /// # Panics
    /// When the process has already ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the daemon is there");
    }

    /// Its process id.
    ///
    /// # Panics
    /// Never: a child has a process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for the daemon to end.
    ///
    /// # Panics
    /// When the system cannot report the exit status.
    #[must_use]
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
