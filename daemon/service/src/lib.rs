//! One API under all edges: generate, embed, tokenize, models, status.
//!
//! Owns what a request means: defaults, validation, which model, what an engine failure tells the
//! caller. Knows nothing of RPC, MCP or HTTP envelopes.

mod answer;
mod bounds;
pub mod counters;
pub mod embed;
mod engine_choice;
mod flights;
pub mod forms;
pub mod generate;
pub mod limits;
pub mod memory_watch;
pub mod metrics;
pub mod models;
mod opened;
mod prompt;
pub mod request;
pub mod status;
pub mod system_memory;
pub mod validate;

use std::sync::Arc;
use std::time::Instant;

use ingle_client::paths::Paths;
use ingle_protocol::timeouts::WorkTimeouts;
use ingle_protocol::wire::status::HttpStatus;
use tokio_util::sync::CancellationToken;

use crate::memory_watch::MemoryWatch;
use crate::metrics::Metrics;
use crate::request::RequestNames;
use counters::TimeoutCounters;
use forms::Forms;
use ingle_models::Puller;
use ingle_scheduler::handle::EngineHandle;
use ingle_scheduler::watchdog::Watchdog;
use models::Models;

/// Everything the edges call. Made once by `app`.
#[derive(Debug)]
pub struct Service {
    /// W of every class.
    pub work_timeouts: WorkTimeouts,
    /// Where everything lives.
    pub paths: Paths,
    /// Names requests.
    pub names: RequestNames,
    /// The engine thread.
    pub engine: EngineHandle,
    /// Models on disk.
    pub models: Models,
    /// Fetches models.
    pub puller: Puller,
    /// What the edges count.
    pub metrics: Arc<Metrics>,
    /// Limits reached.
    pub timeout_counters: Arc<TimeoutCounters>,
    /// Resident memory, as last sampled.
    pub memory: MemoryWatch,
    /// How many forms of texts are prepared at once.
    pub forms: Forms,
    /// How long the engine thread has been silent.
    pub watchdog: Watchdog,
    /// Cancelled when the daemon begins to drain.
    pub draining: CancellationToken,
    /// Where HTTP is spoken.
    pub http: HttpStatus,
    /// When the daemon started.
    pub started_at: Instant,
}
