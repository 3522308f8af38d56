//! The service: its parts, and what the edges may read of them.
//!
//! Owns [`Service`] and its construction. The calls themselves are in the module of each subject.

use std::sync::Arc;
use std::time::Instant;

use ingle_client::paths::Paths;
use ingle_protocol::timeouts::WorkTimeouts;
use ingle_protocol::wire::status::HttpStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::grammar_slots::GrammarSlots;
use crate::memory_watch::MemoryWatch;
use crate::metrics::Metrics;
use crate::model_cache::ModelCache;
use crate::request::RequestIds;
use crate::timeout_counters::TimeoutCounters;
use ingle_models::Puller;
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::watchdog::Watchdog;

/// The API of all edges. The daemon constructs one.
#[derive(Debug)]
pub struct Service {
    pub(crate) work_timeouts: WorkTimeouts,
    pub(crate) paths: Paths,
    pub(crate) engine: EngineHandle,
    pub(crate) models: ModelCache,
    pub(crate) puller: Puller,
    pub(crate) memory: MemoryWatch,
    pub(crate) watchdog: Watchdog,
    pub(crate) draining: CancellationToken,
    pub(crate) http: HttpStatus,
    pub(crate) request_ids: RequestIds,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) timeout_counters: Arc<TimeoutCounters>,
    pub(crate) grammar_slots: GrammarSlots,
    pub(crate) started_at: Instant,
}

/// The parts of a [`Service`] that depend on settings and on the machine.
#[derive(Debug)]
pub struct ServiceParts {
    /// W of every class.
    pub work_timeouts: WorkTimeouts,
    /// The paths of the Ingle folder.
    pub paths: Paths,
    /// The engine thread.
    pub engine: EngineHandle,
    /// The models on disk.
    pub models: ModelCache,
    /// The downloads of models.
    pub puller: Puller,
    /// The last sample of resident memory.
    pub memory: MemoryWatch,
    /// The watchdog of the engine thread.
    pub watchdog: Watchdog,
    /// Cancelled when the daemon begins to drain.
    pub draining: CancellationToken,
    /// The addresses of HTTP.
    pub http: HttpStatus,
}

impl Service {
    /// Builds the service of a daemon that starts now.
    #[must_use]
    pub fn new(parts: ServiceParts) -> Self {
        let ServiceParts {
            work_timeouts,
            paths,
            engine,
            models,
            puller,
            memory,
            watchdog,
            draining,
            http,
        } = parts;
        Self {
            work_timeouts,
            paths,
            engine,
            models,
            puller,
            memory,
            watchdog,
            draining,
            http,
            request_ids: RequestIds::new(std::process::id()),
            metrics: Arc::default(),
            timeout_counters: Arc::default(),
            grammar_slots: GrammarSlots::default(),
            started_at: Instant::now(),
        }
    }

    /// A new request id.
    #[must_use]
    pub fn next_request_id(&self) -> String {
        self.request_ids.next()
    }

    /// W of every class.
    #[must_use]
    pub const fn work_timeouts(&self) -> &WorkTimeouts {
        &self.work_timeouts
    }

    /// The token that is cancelled when the daemon begins to drain.
    #[must_use]
    pub const fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// The counts of requests and connections of all edges.
    #[must_use]
    pub const fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The counts of limits that were reached.
    #[must_use]
    pub fn timeout_counters(&self) -> &TimeoutCounters {
        &self.timeout_counters
    }

    /// Generations that run now.
    #[must_use]
    pub fn active_generations(&self) -> usize {
        self.engine.status().active
    }

    /// A counter that changes whenever the list of models or their states does.
    #[must_use]
    pub fn model_changes(&self) -> watch::Receiver<u64> {
        self.engine.model_changes()
    }

    /// Whether HTTP over TCP requires a token.
    #[must_use]
    pub const fn requires_http_token(&self) -> bool {
        self.http.token_file.is_some()
    }
}
