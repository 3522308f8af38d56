//! `models.list`, `models.load`, `models.unload`, `models.pull`.

use serde::{Deserialize, Serialize};

use super::{Method, NoParams};
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
pub struct ModelList {
    /// The model of calls that name none.
    pub default: String,
    /// All of them, by name.
    pub models: Vec<ModelEntry>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// The name to ask for it by.
    pub name: String,
    /// `gguf`, `safetensors` or `sim`; empty while it is not here.
    pub format: String,
    /// Bytes on disk, or to fetch.
    pub size_bytes: u64,
    /// Where it stands.
    pub state: ModelState,
    /// Whose folder it is in: `ingle`, `huggingface`, `lm_studio` or `folder` (one of the settings);
    /// empty while it is not here.
    #[serde(default)]
    pub source: String,
    /// Its file or folder; absent while it is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// One line about it, or what is wrong with it.
    pub description: String,
}

/// Where a model stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// Loads a model, or waits for the load under way.
#[derive(Debug)]
pub struct LoadModel;

impl Method for LoadModel {
    const NAME: &'static str = "models.load";
    const CLASS: Class = Class::Workflow;
    type Params = ModelParams;
    type Output = LoadedModel;
}

/// Names a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelParams {
    /// Name or path; the default model when absent. A model of a library is named `org/name`, or by
    /// `name` alone; `:choice` names one of several GGUF files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether [`ProgressEvent`]s are wanted before the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// One model in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// Its name.
    pub name: String,
    /// Its engine: `mlx` or `sim`.
    pub engine: String,
    /// Its architecture.
    pub architecture: String,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
    /// Bytes of its sequences' KV caches.
    pub kv_bytes: u64,
    /// Tokens of context.
    pub context_tokens: usize,
    /// Generations running on it.
    pub active: usize,
    /// Milliseconds its load took.
    pub load_ms: f64,
}

/// Drops a model from memory.
#[derive(Debug)]
pub struct UnloadModel;

impl Method for UnloadModel {
    const NAME: &'static str = "models.unload";
    type Params = ModelParams;
    type Output = UnloadResult;
}

/// What was unloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnloadResult {
    /// The model.
    pub model: String,
    /// Whether it was loaded at all.
    pub was_loaded: bool,
}

/// Fetches a model into the Ingle folder. Two callers share one fetch.
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

/// What to fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullParams {
    /// A name of the catalogue, `[hf:]org/name[:choice][@revision]` for a repository of Hugging
    /// Face's, or a path of a GGUF file or model folder to take over.
    pub model: String,
    /// The name to give the model; the catalogue's, the repository's or the file's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether [`ProgressEvent`]s are wanted before the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
}

/// What is here now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullResult {
    /// The name to ask for it by.
    pub model: String,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// SHA-256 of the model file, in hexadecimal; empty when there are several.
    pub sha256: String,
    /// Whether it was here already.
    pub already_here: bool,
}

/// How far a load or pull has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ProgressEvent {
    /// It goes on.
    Progress {
        /// What is being done, such as `downloading` or `verifying`.
        phase: String,
        /// Bytes done.
        done_bytes: u64,
        /// Bytes in all; 0 while unknown.
        total_bytes: u64,
    },
}
