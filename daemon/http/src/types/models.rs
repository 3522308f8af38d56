//! Responses of `/v1/models` and `/health`.

use schemars::JsonSchema;
use serde::Serialize;

/// The installed models.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// All models, sorted by name.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Model {
    /// Name of the model in requests.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Time at which its files were written, in seconds since 1970.
    pub created: u64,
    /// Owner of its folder: `ingle`, `huggingface`, `lm_studio` or `folder`.
    pub owned_by: String,
}

/// Health of the daemon.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Health {
    /// `ok`, `degraded` or `draining`.
    pub status: &'static str,
    /// Phase of the engine thread.
    pub phase: &'static str,
    /// Milliseconds since the engine thread reported its phase.
    pub heartbeat_age_ms: u64,
}
