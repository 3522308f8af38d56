//! `health`, `status` and `shutdown` of the daemon; all answer from cached state.

use serde::{Deserialize, Serialize};

use super::models::LoadedModel;
use super::{Method, NoParams};
use crate::timeouts::{Class, Layer};

/// The health of the daemon.
#[derive(Debug)]
pub struct Health;

impl Method for Health {
    const NAME: &'static str = "health";
    type Params = NoParams;
    type Output = HealthReply;
}

/// The health of the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HealthReply {
    /// In one word.
    pub state: HealthState,
    /// The phase of the engine thread.
    pub phase: Phase,
    /// Milliseconds since it last reported.
    pub heartbeat_age_ms: u64,
}

/// The state of the daemon in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It works.
    Ok,
    /// The engine thread has been silent for half of `engine.stall_s`, or has ended.
    Degraded,
    /// It refuses new work, and finishes work in flight.
    Draining,
}

/// The phase of the engine thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Phase {
    /// The engine thread is being set up.
    Starting,
    /// It waits for work.
    Idle,
    /// It takes over the weights of a model.
    Loading {
        /// The model.
        model: String,
        /// Share of the bytes in place, 0 to 1.
        fraction: f32,
    },
    /// Prefill.
    Prefill {
        /// The model.
        model: String,
    },
    /// Decode.
    Decode {
        /// The model.
        model: String,
    },
    /// It has ended.
    Stopped,
}

impl Phase {
    /// The names of all phases.
    pub const NAMES: [&str; 6] = ["starting", "idle", "loading", "prefill", "decode", "stopped"];

    /// Its name on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Loading { .. } => "loading",
            Self::Prefill { .. } => "prefill",
            Self::Decode { .. } => "decode",
            Self::Stopped => "stopped",
        }
    }
}

impl std::fmt::Display for Phase {
    /// The phase as an activity: "generating with `smollm2`".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Idle => f.write_str("waiting for work"),
            Self::Loading { model, .. } => write!(f, "loading `{model}`"),
            Self::Prefill { model } => write!(f, "reading a prompt with `{model}`"),
            Self::Decode { model } => write!(f, "generating with `{model}`"),
            Self::Stopped => f.write_str("ending"),
        }
    }
}

/// The status of the daemon.
#[derive(Debug)]
pub struct Status;

impl Method for Status {
    const NAME: &'static str = "status";
    type Params = NoParams;
    type Output = StatusReply;
}

/// The status of the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StatusReply {
    /// The daemon's build.
    pub build: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_s: u64,
    /// Its socket.
    pub socket: String,
    /// Its health.
    pub health: HealthReply,
    /// Connections open now, this one included.
    pub connections: usize,
    /// Generations running now.
    pub active: usize,
    /// Generations waiting now.
    pub queued: usize,
    /// Requests accepted since the start; several choices of one prompt count as one.
    pub generations: u64,
    /// Loads since the start.
    #[serde(default)]
    pub loads: u64,
    /// Resident memory of the daemon in bytes, as last sampled; 0 where unknown.
    pub resident_bytes: u64,
    /// Peak resident memory in bytes; 0 where unknown.
    #[serde(default)]
    pub peak_resident_bytes: u64,
    /// The memory budget in bytes; 0 before the engine has reported it.
    #[serde(default)]
    pub budget_bytes: u64,
    /// Bytes of the budget that models hold or have reserved.
    #[serde(default)]
    pub used_bytes: u64,
    /// Models in memory.
    pub models: Vec<LoadedModel>,
    /// Limits reached since the start, by class and layer, without zeros.
    #[serde(default)]
    pub timeouts: Vec<TimeoutCount>,
    /// Time to first token since the start; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Latency>,
    /// Time between two tokens of one choice; absent before the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inter_token: Option<Latency>,
    /// Jobs that have not ended.
    #[serde(default)]
    pub jobs: JobCounts,
    /// Models that are refused because they ended the daemon twice in a row.
    #[serde(default)]
    pub quarantined: Vec<QuarantinedModel>,
    /// Where HTTP is served.
    #[serde(default)]
    pub http: HttpStatus,
}

/// Where HTTP is served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HttpStatus {
    /// The Unix socket; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The base URL over TCP, such as `http://127.0.0.1:11711/v1`; absent when TCP is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The file with the bearer token for TCP; absent when none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Why TCP is off although it is configured, and the next step; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Percentiles of a duration, estimated from histogram buckets.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Latency {
    /// Number of measurements.
    pub count: u64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// The 95th percentile, in milliseconds.
    pub p95_ms: f64,
}

/// Count of timeouts of one layer and class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TimeoutCount {
    /// The class.
    pub class: Class,
    /// The layer that stopped the work.
    pub layer: Layer,
    /// The count.
    pub count: u64,
}

/// Jobs that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobCounts {
    /// Running.
    pub running: usize,
    /// Waiting for a worker.
    pub queued: usize,
}

/// A model that is refused because it ended the daemon twice in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct QuarantinedModel {
    /// The model.
    pub name: String,
    /// The crash, with its time and phase.
    pub reason: String,
}

/// Shuts the daemon down.
#[derive(Debug)]
pub struct Shutdown;

impl Method for Shutdown {
    const NAME: &'static str = "shutdown";
    type Params = ShutdownParams;
    type Output = ShutdownReply;
}

/// Parameters of `shutdown`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ShutdownParams {
    /// Cancel work in flight instead of finishing it.
    #[serde(default)]
    pub now: bool,
}

/// The drain has begun. The connection closes when the daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ShutdownReply {
    /// The process that is ending.
    pub pid: u32,
    /// Generations that it still finishes.
    pub active: usize,
}
