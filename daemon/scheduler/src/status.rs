//! Engine status: the cached state of the engine thread.
//!
//! Owns the cell that health and status requests are answered from. The scheduler writes it and all
//! others read it, so that no request for status waits for the thread. Does not know wire formats.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ingle_protocol::wire::models::{EngineKind, LoadedModel};
use ingle_protocol::wire::status::Phase;
use tokio::sync::watch;

use super::quarantine::Deaths;
use ingle_engine::counters::EngineCounters;

/// The engine thread at its last heartbeat.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// Its phase.
    pub phase: Phase,
    /// Time of the heartbeat.
    pub beat_at: Instant,
    /// Running generations.
    pub active: usize,
    /// Waiting generations.
    pub queued: usize,
    /// Requests for embeddings that wait or run.
    pub embeddings: usize,
    /// Load commands that wait for memory.
    pub waiting_loads: usize,
    /// Requests queued since the start; all choices of a request count as one.
    pub accepted: u64,
    /// Successful loads since the start.
    pub loads: u64,
    /// Models in memory.
    pub models: Vec<LoadedModel>,
    /// Models being loaded.
    pub loading: Vec<String>,
    /// Engine of each model that is in memory, being loaded or waited for.
    pub engines: Vec<(String, EngineKind)>,
    /// Memory budget of all models together, in bytes.
    pub budget_bytes: u64,
    /// Bytes that the models hold or have reserved.
    pub used_bytes: u64,
    /// Models that are refused because they crashed the daemon twice in a row.
    pub quarantined: Vec<(String, Deaths)>,
    /// When each idle model will be unloaded; models that never expire are left out.
    pub expires: Vec<(String, Instant)>,
}

/// The shared status, and the counters.
///
/// The lock of the status is held for a copy only, never across work. The counters need no lock.
#[derive(Debug, Clone)]
pub struct StatusCell {
    status: Arc<Mutex<EngineStatus>>,
    counters: Arc<EngineCounters>,
    /// Counts the changes of the set of models in memory or being loaded.
    changes: watch::Sender<u64>,
}

impl StatusCell {
    /// The status before the first heartbeat.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let status = EngineStatus {
            phase: Phase::Starting,
            beat_at: now,
            active: 0,
            queued: 0,
            embeddings: 0,
            waiting_loads: 0,
            accepted: 0,
            loads: 0,
            models: Vec::new(),
            loading: Vec::new(),
            engines: Vec::new(),
            budget_bytes: 0,
            used_bytes: 0,
            quarantined: Vec::new(),
            expires: Vec::new(),
        };
        Self {
            status: Arc::new(Mutex::new(status)),
            counters: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// The thread's counters.
    #[must_use]
    pub fn counters(&self) -> &EngineCounters {
        &self.counters
    }

    /// A copy of the present status.
    #[must_use]
    pub fn read(&self) -> EngineStatus {
        self.lock().clone()
    }

    /// Phase and time of the last heartbeat.
    #[must_use]
    pub fn heartbeat(&self) -> (Phase, Instant) {
        let status = self.lock();
        (status.phase.clone(), status.beat_at)
    }

    /// Records a heartbeat: a new phase at `now`.
    pub fn beat(&self, phase: Phase, now: Instant) {
        let mut status = self.lock();
        status.phase = phase;
        status.beat_at = now;
    }

    /// Changes the status in place.
    pub fn update(&self, change: impl FnOnce(&mut EngineStatus)) {
        let mut status = self.lock();
        let before = resident(&status);
        change(&mut status);
        let has_changed = resident(&status) != before;
        drop(status);
        if has_changed {
            self.announce();
        }
    }

    /// Notifies the receivers of [`Self::changes`].
    pub fn announce(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Changes when a model is loaded, starts to load or is unloaded.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, EngineStatus> {
        // Plain data, consistent after every statement: a panic leaves no partial update.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hash of the set of models in memory or being loaded.
fn resident(status: &EngineStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    status.models.len().hash(&mut hasher);
    status.models.iter().for_each(|model| model.name.hash(&mut hasher));
    status.loading.hash(&mut hasher);
    hasher.finish()
}
