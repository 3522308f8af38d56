//! `models.list`, `models.load`, `models.unload`, `models.pull`.

use serde::{Deserialize, Serialize};

use super::{Method, NoParams};
use crate::keep_alive::KeepAlive;
use crate::limits;
use crate::timeouts::Class;

/// All models that are here or in the catalogue.
#[derive(Debug)]
pub struct ListModels;

impl Method for ListModels {
    const NAME: &'static str = "models.list";
    type Params = NoParams;
    type Output = ModelList;
}

/// The models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelList {
    /// The default model.
    pub default: String,
    /// The models, by name.
    pub models: Vec<ModelEntry>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelEntry {
    /// The name to use in requests.
    pub name: String,
    /// `gguf`, `safetensors` or `sim`; empty while it is not here.
    pub format: String,
    /// Bytes on disk, or to fetch.
    pub size_bytes: u64,
    /// Its state.
    pub state: ModelState,
    /// The library that it is in: `ingle`, `huggingface`, `lm_studio` or `folder` (one of the
    /// settings); empty while it is not here.
    #[serde(default)]
    pub source: String,
    /// Its file or folder; absent while it is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// One line about it, or its problem.
    pub description: String,
}

/// The state of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// In the catalogue, not on disk.
    Available,
    /// On disk.
    OnDisk,
    /// Being loaded.
    Loading,
    /// In memory.
    Loaded,
    /// On disk, and its files cannot be read.
    Broken,
    /// On disk, and refused because it ended the daemon twice in a row.
    Quarantined,
}

/// The engine of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// llama.cpp.
    Gguf,
    /// MLX.
    Mlx,
    /// The simulated engine, for tests.
    Sim,
}

impl EngineKind {
    /// Every engine.
    pub const ALL: [Self; 3] = [Self::Gguf, Self::Mlx, Self::Sim];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gguf => "gguf",
            Self::Mlx => "mlx",
            Self::Sim => "sim",
        }
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|engine| engine.as_str() == name)
            .ok_or_else(|| format!("there is no engine `{name}`; there are gguf, mlx and sim"))
    }
}

/// Loads a model, or waits for the load under way.
#[derive(Debug)]
pub struct LoadModel;

impl Method for LoadModel {
    const NAME: &'static str = "models.load";
    const CLASS: Class = Class::Workflow;
    type Params = LoadParams;
    type Output = LoadedModel;
}

/// The model to load, and how long it stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LoadParams {
    /// Name or path; the default model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The engine to run it on; its present one, or else its format's, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// Its keep-alive after the last use; the configured one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<KeepAlive>,
    /// Whether it is never evicted and never expires; as it was, or as configured, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// Whether to load a model that ended the daemon twice in a row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Whether [`ProgressEvent`]s precede the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// Estimates the memory of a load, without loading.
#[derive(Debug)]
pub struct EstimateModel;

impl Method for EstimateModel {
    const NAME: &'static str = "models.estimate";
    type Params = LoadParams;
    type Output = LoadEstimate;
}

/// The memory of a load, and the evictions it would need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoadEstimate {
    /// The model.
    pub model: String,
    /// The engine that would run it.
    pub engine: String,
    /// Whether it is in memory, or on its way there.
    pub is_loaded: bool,
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Further bytes that it always takes.
    pub overhead_bytes: u64,
    /// Bytes that pass through ordinary memory during the load.
    pub staging_bytes: u64,
    /// Bytes of KV cache for a thousand tokens.
    pub kv_bytes_per_1k_tokens: u64,
    /// Tokens of context.
    pub context_tokens: usize,
    /// Bytes of KV cache for one sequence with a full context.
    pub kv_bytes_full_context: u64,
    /// The memory budget in bytes.
    pub budget_bytes: u64,
    /// Bytes of the budget in use.
    pub used_bytes: u64,
    /// Bytes of the budget that are free.
    pub free_bytes: u64,
    /// Whether the load fits.
    pub fit: Fit,
    /// The evictions, in order.
    pub evictions: Vec<Eviction>,
    /// Why it would wait or be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortage: Option<String>,
}

/// Whether a load fits the memory budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// It fits now.
    Now,
    /// It fits after the evictions that `evictions` names, which the load does by itself.
    AfterEvictions,
    /// It fits once a model that is in use becomes idle.
    WhenIdle,
    /// It does not fit while the pinned models stay and the budget is unchanged.
    Never,
}

/// Memory that is freed for a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Eviction {
    /// The model that is evicted.
    pub model: String,
    /// Whether the whole model is evicted, not only its prompt cache.
    pub unloads: bool,
    /// Bytes that are freed.
    pub bytes: u64,
}

/// Names a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ModelParams {
    /// Name or path; the default model when absent. A model of a library is named `org/name`, or by
    /// `name` alone; `:choice` names one of several GGUF files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether [`ProgressEvent`]s precede the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// One model in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LoadedModel {
    /// Its name.
    pub name: String,
    /// Its engine: `gguf`, `mlx` or `sim`.
    pub engine: String,
    /// Its architecture.
    pub architecture: String,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
    /// Bytes of its sequences' KV caches, prompt cache included.
    pub kv_bytes: u64,
    /// Bytes of the prompt cache.
    #[serde(default)]
    pub prompt_cache_bytes: u64,
    /// Tokens of context.
    pub context_tokens: usize,
    /// Generations running on it.
    pub active: usize,
    /// Milliseconds that its load took.
    pub load_ms: f64,
    /// Whether it is never evicted and never expires.
    #[serde(default)]
    pub pinned: bool,
    /// Its keep-alive after the last use.
    #[serde(default)]
    pub keep_alive: KeepAlive,
    /// Seconds until it expires; absent while it is in use, and when it never expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
}

/// Unloads a model from memory.
#[derive(Debug)]
pub struct UnloadModel;

impl Method for UnloadModel {
    const NAME: &'static str = "models.unload";
    type Params = ModelParams;
    type Output = UnloadResult;
}

/// The model that was unloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UnloadResult {
    /// The model.
    pub model: String,
    /// Whether it was in memory, or on its way there.
    pub was_loaded: bool,
}

/// Fetches a model into the Ingle folder. Concurrent callers share one fetch.
#[derive(Debug)]
pub struct PullModel;

impl Method for PullModel {
    const NAME: &'static str = "models.pull";
    const CLASS: Class = Class::Workflow;
    /// Downloads have a limit of their own.
    const WORK_MS: Option<u64> = Some(limits::PULL_MS);
    type Params = PullParams;
    type Output = PullResult;
}

/// The model to fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PullParams {
    /// A name of the catalogue, `[hf:]org/name[:choice][@revision]` for a repository on Hugging
    /// Face, or the path of a GGUF file or model folder to import.
    pub model: String,
    /// The name to give the model; the catalogue's, the repository's or the file's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether [`ProgressEvent`]s precede the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// The model that was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PullResult {
    /// The name to use in requests.
    pub model: String,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// SHA-256 of the model file, in hexadecimal; empty when there are several.
    pub sha256: String,
    /// Whether it was here already.
    pub already_here: bool,
}

/// Progress of a load or pull.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProgressEvent {
    /// Progress.
    Progress {
        /// The phase, such as `downloading` or `verifying`.
        phase: String,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes in all; 0 while unknown.
        total_bytes: u64,
    },
}
