//! What the engine thread says of itself.
//!
//! Owns the cached status that health and status answer from: the worker writes it, everybody
//! reads it, and nobody ever asks the thread. Knows nothing of the wire.

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
    /// What it does.
    pub phase: Phase,
    /// When it last said so.
    pub beat_at: Instant,
    /// Generations running.
    pub active: usize,
    /// Generations waiting.
    pub queued: usize,
    /// Requests for embeddings that wait or run.
    pub embeddings: usize,
    /// Loads that wait for memory, and that no request asked for.
    pub waiting_loads: usize,
    /// Requests taken into a queue since the start; several texts for one prompt are one.
    pub accepted: u64,
    /// Loads that have succeeded since the start.
    pub loads: u64,
    /// Models in memory.
    pub models: Vec<LoadedModel>,
    /// Models being loaded.
    pub loading: Vec<String>,
    /// What runs each model that is in memory, on its way there or waited for.
    pub engines: Vec<(String, EngineKind)>,
    /// What all models may take together, in bytes.
    pub budget_bytes: u64,
    /// What they hold or have reserved, in bytes.
    pub used_bytes: u64,
    /// Models that are refused because they ended the daemon twice in a row.
    pub quarantined: Vec<(String, Deaths)>,
    /// When each idle model will be unloaded; those that stay are left out.
    pub expires: Vec<(String, Instant)>,
}

/// The shared cell. Its lock is held for a copy and never across work. Beside it stand the counters,
/// which need none.
#[derive(Debug, Clone)]
pub struct StatusCell {
    status: Arc<Mutex<EngineStatus>>,
    counters: Arc<EngineCounters>,
    /// Counts the changes of which models are in memory or on their way there.
    changes: watch::Sender<u64>,
}

impl StatusCell {
    /// A thread that has not said anything yet.
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

    /// What the thread counts.
    #[must_use]
    pub fn counters(&self) -> &EngineCounters {
        &self.counters
    }

    /// A copy of the present status.
    #[must_use]
    pub fn read(&self) -> EngineStatus {
        self.lock().clone()
    }

    /// The last heartbeat.
    #[must_use]
    pub fn heartbeat(&self) -> (Phase, Instant) {
        let status = self.lock();
        (status.phase.clone(), status.beat_at)
    }

    /// A heartbeat: a new phase at `now`.
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

    /// Wakes whoever wants to know which models there are.
    pub fn announce(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Changes whenever a model comes into memory, begins to, or leaves it.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, EngineStatus> {
        // Plain data that is whole after every statement: a panic cannot have torn it.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tells two sets of models in memory apart.
fn resident(status: &EngineStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    status.models.len().hash(&mut hasher);
    status.models.iter().for_each(|model| model.name.hash(&mut hasher));
    status.loading.hash(&mut hasher);
    hasher.finish()
}
