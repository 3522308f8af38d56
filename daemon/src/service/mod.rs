//! One API under all edges: generate, embed, tokenize, models, status.
//!
//! Owns what a request means: defaults, validation, which model, what an engine failure tells the
//! caller. Knows nothing of RPC, MCP or HTTP envelopes.

mod answer;
mod bounds;
pub mod counters;
pub mod embed;
mod engine_choice;
pub mod failure;
mod flights;
pub mod forms;
pub mod generate;
pub mod metrics;
pub mod models;
mod opened;
mod prompt;
pub mod status;
mod validate;

use std::sync::Arc;
use std::time::Instant;

use ingle_client::paths::Paths;
use ingle_protocol::wire::status::HttpStatus;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::handle::EngineHandle;
use crate::memory_watch::MemoryWatch;
use crate::metrics::Metrics;
use crate::models::Puller;
use crate::request::RequestNames;
use crate::watchdog::Watchdog;
use counters::TimeoutCounters;
use forms::Forms;
use models::Models;

/// Everything the edges call. Made once by `app`.
#[derive(Debug)]
pub struct Service {
    /// Settings.
    pub config: Arc<Config>,
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
    pub timeouts: Arc<TimeoutCounters>,
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
