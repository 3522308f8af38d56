//! Output types of the tools: one struct per kind of structured result.
//!
//! Owns the fields of results and their meaning. A tool's output schema is made from its structs,
//! so that required and optional fields are those of the types. [`super::render`] owns the text
//! that accompanies the structured content.

use ingle_protocol::wire::embed::EmbedResult;
use ingle_protocol::wire::generate::GenerateResult;
use ingle_protocol::wire::jobs::{JobInfo, JobReply};
use ingle_protocol::wire::models::{LoadedModel, ModelList};
use ingle_protocol::wire::status::{JobCounts, StatusReply};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// Finished generation.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct GeneratedText {
    /// `done`; `running` or `queued` if the work continues as the job `job_id`.
    status: String,
    /// Id of the job, if the work is one: for job_wait, job_get and job_cancel.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// Name of the model.
    model: String,
    /// The whole text.
    pub(super) text: String,
    /// Reasoning of the model before the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reasoning: Option<String>,
    /// Why the text ended: `stop`, `length`, `tool_calls` or `soft_timeout`.
    pub(super) finish_reason: String,
    /// Random seed of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// Token usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<TokenUsage>,
}

/// Finished embedding.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Vectors {
    /// `done`; `running` or `queued` if the work continues as the job `job_id`.
    status: String,
    /// Id of the job, if the work is one: for job_wait, job_get and job_cancel.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// Name of the model.
    pub(super) model: String,
    /// Length of a vector.
    dimensions: usize,
    /// One vector of unit length per text, in the order of the texts.
    pub(super) embeddings: Vec<Vec<f64>>,
    /// Token usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<TokenUsage>,
}

/// Work that continues as a job.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunningWork {
    /// `done`; `running` or `queued` if the work continues as the job `job_id`.
    status: String,
    /// Id of the job, if the work is one: for job_wait, job_get and job_cancel.
    job_id: String,
    /// Progress of unfinished work, 0 to 1.
    progress: f32,
    /// Description of the progress.
    message: String,
    /// The text so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_text: Option<String>,
}

/// Token usage.
#[derive(Debug, Serialize, JsonSchema)]
struct TokenUsage {
    /// Tokens of the prompt, or of all texts.
    prompt_tokens: usize,
    /// Prompt tokens that were in the KV cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<usize>,
    /// Tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<usize>,
}

impl GeneratedText {
    /// The output of `result`. `job_id` is the id of its job, if it was one.
    pub(super) fn new(result: &GenerateResult, job_id: Option<String>) -> Self {
        let (choice, usage) = (result.first(), &result.usage);
        Self {
            status: "done".to_owned(),
            job_id,
            model: result.model.clone(),
            text: choice.text.clone(),
            reasoning: choice.reasoning.clone(),
            finish_reason: wire_name(&choice.finish_reason),
            seed: Some(choice.seed),
            usage: Some(TokenUsage {
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: Some(usage.cached_tokens),
                completion_tokens: Some(usage.completion_tokens),
            }),
        }
    }

    /// Tokens generated.
    pub(super) fn completion_tokens(&self) -> usize {
        self.usage.as_ref().and_then(|usage| usage.completion_tokens).unwrap_or_default()
    }
}

impl Vectors {
    /// The output of `result`. `job_id` is the id of its job, if it was one.
    pub(super) fn new(result: &EmbedResult, job_id: Option<String>) -> Self {
        let rounded = |vector: &Vec<f32>| vector.iter().copied().map(shortest_double).collect();
        Self {
            status: "done".to_owned(),
            job_id,
            model: result.model.clone(),
            dimensions: result.dimensions,
            embeddings: result.embeddings.iter().map(rounded).collect(),
            usage: Some(TokenUsage {
                prompt_tokens: result.usage.prompt_tokens,
                cached_tokens: None,
                completion_tokens: None,
            }),
        }
    }
}

impl From<&JobReply> for RunningWork {
    fn from(reply: &JobReply) -> Self {
        let partial = reply.partial_result.as_ref();
        Self {
            status: reply.job.status.as_str().to_owned(),
            job_id: reply.job.id.clone(),
            progress: reply.job.progress,
            message: reply.job.message.clone(),
            partial_text: partial.map(|partial| partial.text.clone()),
        }
    }
}

impl RunningWork {
    /// The text so far, if there is any.
    pub(super) fn partial_text(&self) -> Option<&str> {
        self.partial_text.as_deref().filter(|text| !text.is_empty())
    }
}

/// The double with the fewest digits that still is this 32-bit float. Its JSON has half the bytes
/// of the exact double's.
fn shortest_double(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

/// Token count of a text.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TokenCount {
    /// Name of the model that the tokens belong to.
    pub(super) model: String,
    /// Number of tokens.
    pub(super) tokens: usize,
    /// Number of characters.
    pub(super) characters: usize,
}

/// The models of this machine.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Models {
    /// Name of the default model, for calls without `model`.
    default: String,
    /// All models, sorted by name.
    models: Vec<Model>,
}

/// One model.
#[derive(Debug, Serialize, JsonSchema)]
struct Model {
    /// Name of the model in calls.
    name: String,
    /// `available` (`ingle pull` downloads it), `on_disk`, `loading`, `loaded`, `broken` or
    /// `quarantined`.
    state: String,
    /// Size on disk, or of the download, in bytes.
    size_bytes: u64,
    /// `gguf`, `safetensors` or `sim`; empty while it is not installed.
    format: String,
    /// A short description, or the fault of a broken model.
    description: String,
}

impl From<ModelList> for Models {
    fn from(list: ModelList) -> Self {
        let models = list.models.into_iter().map(|entry| Model {
            state: wire_name(&entry.state),
            name: entry.name,
            size_bytes: entry.size_bytes,
            format: entry.format,
            description: entry.description,
        });
        Self { default: list.default, models: models.collect() }
    }
}

/// The wire name of a protocol enum's value.
fn wire_name<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        _ => String::new(),
    }
}

/// A model in memory.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ResidentModel {
    /// `loaded`, or `loading` if the load continues.
    status: String,
    /// Name of the model.
    model: String,
    /// Engine that runs the model.
    engine: String,
    /// Context length in tokens.
    context_tokens: usize,
    /// Size of its weights in memory, in bytes.
    weight_bytes: u64,
    /// Whether the model stays loaded under memory pressure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<bool>,
}

/// A model whose load continues.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct LoadingModel {
    /// `loaded`, or `loading` if the load continues.
    status: String,
    /// Name of the model.
    model: String,
    /// Progress of the load, 0 to 1.
    progress: f32,
}

impl From<LoadedModel> for ResidentModel {
    fn from(model: LoadedModel) -> Self {
        Self {
            status: "loaded".to_owned(),
            model: model.name,
            engine: model.engine,
            context_tokens: model.context_tokens,
            weight_bytes: model.weight_bytes,
            pinned: Some(model.pinned),
        }
    }
}

impl LoadingModel {
    /// A load at `progress`.
    pub(super) fn new(model: String, progress: f32) -> Self {
        Self { status: "loading".to_owned(), model, progress }
    }
}

/// A model that was unloaded.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct UnloadedModel {
    /// Name of the model.
    pub(super) model: String,
    /// Whether the model was loaded or loading.
    pub(super) was_loaded: bool,
}

/// State of the server.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct ServerStatus {
    /// `ok`, `degraded` or `draining`.
    state: String,
    /// Phase of the engine.
    doing: String,
    /// The server's build.
    build: String,
    /// Seconds since the server's start.
    uptime_s: u64,
    /// Number of running generations.
    active: usize,
    /// Number of waiting generations.
    queued: usize,
    /// Number of running jobs.
    running_jobs: usize,
    /// Number of waiting jobs.
    queued_jobs: usize,
    /// Names of the loaded models.
    loaded_models: Vec<String>,
    /// Memory budget of all models in bytes; 0 while it is not known.
    budget_bytes: u64,
    /// Bytes of the budget that are used or reserved.
    used_bytes: u64,
    /// Resident memory of the server in bytes; 0 if it is not known.
    resident_bytes: u64,
}

impl ServerStatus {
    /// The service's status and the counts of jobs.
    pub(super) fn new(status: StatusReply, jobs: JobCounts) -> Self {
        Self {
            state: wire_name(&status.health.state),
            doing: status.health.phase.to_string(),
            build: status.build,
            uptime_s: status.uptime_s,
            active: status.active,
            queued: status.queued,
            running_jobs: jobs.running,
            queued_jobs: jobs.queued,
            loaded_models: status.models.into_iter().map(|model| model.name).collect(),
            budget_bytes: status.budget_bytes,
            used_bytes: status.used_bytes,
            resident_bytes: status.resident_bytes,
        }
    }
}

/// A list of jobs, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct JobSummaries {
    /// The jobs without their results, which job_get returns.
    pub(super) jobs: Vec<JobSummary>,
}

/// State of one job.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct JobSummary {
    /// Id of the job.
    job_id: String,
    /// `queued`, `running`, `done`, `failed`, `cancelled`, `timed_out` or `interrupted`.
    status: String,
    /// `generate` or `embed`.
    kind: String,
    /// Name of the model, if the job names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Time of creation in UTC, in RFC 3339 format.
    created_at: String,
    /// Milliseconds of running.
    duration_ms: u64,
    /// Progress, 0 to 1.
    progress: f32,
    /// Description of the progress.
    message: String,
}

impl From<JobInfo> for JobSummary {
    fn from(job: JobInfo) -> Self {
        Self {
            job_id: job.id,
            status: job.status.as_str().to_owned(),
            kind: job.kind,
            model: job.model,
            created_at: job.created_at,
            duration_ms: job.duration_ms,
            progress: job.progress,
            message: job.message,
        }
    }
}
