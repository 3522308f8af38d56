//! `/v1/models` and `/health`.

use schemars::JsonSchema;
use serde::Serialize;

/// The models that are here.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// All of them, by name.
    pub data: Vec<Model>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Model {
    /// The name to ask for it by.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When its files were written, in seconds since 1970.
    pub created: u64,
    /// Whose folder it is in: `ingle`, `huggingface`, `lm_studio` or `folder`.
    pub owned_by: String,
}

/// How the daemon is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Health {
    /// `ok`, `degraded` or `draining`.
    pub status: &'static str,
    /// What the engine thread does.
    pub phase: &'static str,
    /// Milliseconds since it last said so.
    pub heartbeat_age_ms: u64,
}
