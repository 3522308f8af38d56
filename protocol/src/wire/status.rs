//! `health`, `status`, `shutdown`: the daemon about itself, always from cached state.

use serde::{Deserialize, Serialize};

use super::models::LoadedModel;
use super::{Method, NoParams};
use crate::timeouts::{Class, Layer};

/// Whether the daemon is well.
#[derive(Debug)]
pub struct Health;

impl Method for Health {
    const NAME: &'static str = "health";
    type Params = NoParams;
    type Output = HealthReply;
}

/// Whether the daemon is well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReply {
    /// In one word.
    pub state: HealthState,
    /// What the engine thread does.
    pub phase: Phase,
    /// Milliseconds since it last said so.
    pub heartbeat_age_ms: u64,
}

/// The daemon in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// All is well.
    Ok,
    /// The engine thread has been silent for half of `engine.stall_s`, or has ended.
    Degraded,
    /// New work is refused; work in flight is being finished.
    Draining,
}

/// What the engine thread does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Phase {
    /// The engine thread is being set up.
    Starting,
    /// It waits for work.
    Idle,
    /// It takes a model's weights over.
    Loading {
        /// The model.
        model: String,
        /// Share of the bytes in place, 0 to 1.
        fraction: f32,
    },
    /// It reads a prompt.
    Prefill {
        /// The model.
        model: String,
    },
    /// It generates.
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
    /// As what somebody does: "generating with `smollm2`".
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

/// Everything worth knowing at a glance.
#[derive(Debug)]
pub struct Status;

impl Method for Status {
    const NAME: &'static str = "status";
    type Params = NoParams;
    type Output = StatusReply;
}

/// Everything worth knowing at a glance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Requests accepted since the start; several texts for one prompt are one.
    pub generations: u64,
    /// Models loaded since the start, every load counted.
    #[serde(default)]
    pub loads: u64,
    /// Resident memory of the daemon in bytes, as last sampled; 0 where it is not known.
    pub resident_bytes: u64,
    /// The most it has been; 0 where it is not known.
    #[serde(default)]
    pub peak_resident_bytes: u64,
    /// The memory budget in bytes; 0 before the engine has said.
    #[serde(default)]
    pub budget_bytes: u64,
    /// Bytes of the budget that models hold or have reserved.
    #[serde(default)]
    pub used_bytes: u64,
    /// Models in memory.
    pub models: Vec<LoadedModel>,
    /// Limits reached since the start, by class and layer; none that is zero.
    #[serde(default)]
    pub timeouts: Vec<TimeoutCount>,
    /// From a request's acceptance to its first token, since the start; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Latency>,
    /// Between two tokens of one text; absent before the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inter_token: Option<Latency>,
    /// Jobs that have not ended.
    #[serde(default)]
    pub jobs: JobCounts,
    /// Models that are refused because they ended the daemon twice in a row.
    #[serde(default)]
    pub quarantined: Vec<QuarantinedModel>,
    /// Where HTTP is spoken.
    #[serde(default)]
    pub http: HttpStatus,
}

/// Where HTTP is spoken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpStatus {
    /// The Unix socket; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The base URL over TCP, such as `http://127.0.0.1:11711/v1`; absent when TCP is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The file with the token that TCP wants; absent when it wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Why TCP is off though the settings want it, and what to do; absent when it is as they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// How long something takes, read from the buckets it is counted in: about right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// How often it was measured.
    pub count: u64,
    /// What half of them stay below, in milliseconds.
    pub p50_ms: f64,
    /// What 95 % of them stay below, in milliseconds.
    pub p95_ms: f64,
}

/// How often one layer's limit was reached for one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutCount {
    /// The class.
    pub class: Class,
    /// Who stopped the work.
    pub layer: Layer,
    /// How often.
    pub count: u64,
}

/// Jobs that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounts {
    /// Running.
    pub running: usize,
    /// Waiting for a worker.
    pub queued: usize,
}

/// A model that is refused because it ended the daemon twice in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedModel {
    /// The model.
    pub name: String,
    /// What happened, when, and in which phase.
    pub reason: String,
}

/// Ends the daemon.
#[derive(Debug)]
pub struct Shutdown;

impl Method for Shutdown {
    const NAME: &'static str = "shutdown";
    type Params = ShutdownParams;
    type Output = ShutdownReply;
}

/// How to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownParams {
    /// Cancel work in flight instead of finishing it.
    #[serde(default)]
    pub now: bool,
}

/// The drain has begun. The connection closes when the daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownReply {
    /// The process that is ending.
    pub pid: u32,
    /// Generations it still finishes.
    pub active: usize,
}
