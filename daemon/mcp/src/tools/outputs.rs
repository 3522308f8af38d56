//! What the tools give: one type for each structured result, and the forms it can have.
//!
//! Owns the members of results and their meaning. A result's text is for a model to read, its
//! structured content for a program; an error has both forms too.

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::embed::EmbedResult;
use ingle_protocol::wire::generate::GenerateResult;
use ingle_protocol::wire::jobs::{JobInfo, JobReply, JobResult};
use ingle_protocol::wire::models::{LoadedModel, ModelList};
use ingle_protocol::wire::status::{JobCounts, StatusReply};
use rmcp::model::{CallToolResult, ContentBlock};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::schema::Form;

/// A result of work, done or not.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Work {
    /// `done`; `running` or `queued` when the work goes on as the job `job_id`.
    status: String,
    /// The job, when the work is one: for job_wait, job_get and job_cancel.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    /// The model that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// All of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<String>,
    /// Why the text ended: `stop`, `length`, `tool_calls` or `soft_timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<String>,
    /// The seed of the draws.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// Numbers of one vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
    /// One vector of length 1 for each text, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    embeddings: Option<Vec<Vec<f64>>>,
    /// Tokens in and out.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Tokens>,
    /// How far unfinished work has come, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// What there is of the text so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial_text: Option<String>,
}

/// Tokens in and out.
#[derive(Debug, Serialize, JsonSchema)]
struct Tokens {
    /// Tokens of the prompt, or of all texts.
    prompt_tokens: usize,
    /// How many of them did not have to be read again.
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<usize>,
    /// Tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<usize>,
}

/// A text is there.
pub(super) const TEXT: Form = Form {
    required: &["status", "model", "text", "finish_reason"],
    optional: &["reasoning", "seed", "usage", "job_id"],
};
/// Vectors are there.
pub(super) const VECTORS: Form = Form {
    required: &["status", "model", "dimensions", "embeddings"],
    optional: &["usage", "job_id"],
};
/// The work goes on as a job.
pub(super) const RUNNING: Form =
    Form { required: &["status", "job_id", "progress", "message"], optional: &["partial_text"] };

impl Work {
    /// Work that has ended with `result`.
    ///
    /// # Errors
    /// `INTERNAL` for a stored result that this version of Ingle cannot read.
    pub(super) fn done(result: &JobResult, job_id: Option<String>) -> Result<Self, ErrorBody> {
        let work = match result {
            JobResult::Generate(result) => Self::generated(result),
            JobResult::Embed(result) => Self::embedded(result),
            JobResult::Unknown(_) => {
                let message = "the result was stored by another version of Ingle";
                let next = "Read it with `ingle jobs get --json`.";
                return Err(ErrorBody::new(ErrorCode::Internal, message).with_remediation(next));
            }
        };
        Ok(Self { status: "done".to_owned(), job_id, ..work })
    }

    fn generated(result: &GenerateResult) -> Self {
        let (choice, usage) = (result.first(), &result.usage);
        Self {
            model: Some(result.model.clone()),
            text: Some(choice.text.clone()),
            reasoning: choice.reasoning.clone(),
            finish_reason: Some(word(&choice.finish_reason)),
            seed: Some(choice.seed),
            usage: Some(Tokens {
                prompt_tokens: usage.prompt_tokens,
                cached_tokens: Some(usage.cached_tokens),
                completion_tokens: Some(usage.completion_tokens),
            }),
            ..Self::default()
        }
    }

    fn embedded(result: &EmbedResult) -> Self {
        let shortened = |vector: &Vec<f32>| vector.iter().copied().map(shortened).collect();
        Self {
            model: Some(result.model.clone()),
            dimensions: Some(result.dimensions),
            embeddings: Some(result.embeddings.iter().map(shortened).collect()),
            usage: Some(Tokens {
                prompt_tokens: result.usage.prompt_tokens,
                cached_tokens: None,
                completion_tokens: None,
            }),
            ..Self::default()
        }
    }

    /// What a model reads of work that has ended: its text, and what it must know of that.
    pub(super) fn texts(&self, has_structure: bool) -> Vec<String> {
        match (&self.text, &self.embeddings) {
            (Some(text), _) => [text.clone()].into_iter().chain(self.cut()).collect(),
            (None, Some(vectors)) => self.words_for(vectors, has_structure),
            (None, None) => Vec::new(),
        }
    }

    /// That the text is not all there could be. Some hosts join what they show, so it is marked off.
    fn cut(&self) -> Option<String> {
        let tokens = self.usage.as_ref().and_then(|usage| usage.completion_tokens);
        let after = tokens.map_or(String::new(), |tokens| format!(" after {tokens} tokens"));
        let is_empty = self.text.as_ref().is_none_or(String::is_empty);
        match self.finish_reason.as_deref()? {
            "length" if is_empty && self.reasoning.is_some() => Some(format!(
                "[Cut off{after}, while the model was still thinking. Call again with a larger \
                 `max_tokens` to get an answer.]"
            )),
            "length" => Some(format!(
                "[Cut off{after}. Call again with a larger `max_tokens` to get all of it.]"
            )),
            "soft_timeout" => Some(format!(
                "[Ended early{after}, because the job's time was running out. For more, ask for \
                 the rest in another call.]"
            )),
            _ => None,
        }
    }

    /// Vectors in words. They are numbers for a program, and no text that a model should read, so
    /// they are one only where a host can show nothing else, and only within bounds.
    fn words_for(&self, vectors: &[Vec<f64>], has_structure: bool) -> Vec<String> {
        let count = match vectors.len() {
            1 => "1 vector".to_owned(),
            count => format!("{count} vectors"),
        };
        let numbers = vectors.first().map_or(0, Vec::len);
        let model = self.model.as_deref().unwrap_or_default();
        let words = format!("{count} of {numbers} numbers from `{model}`");
        if has_structure {
            return vec![format!("{words}; they are in the structured content.")];
        }
        match serde_json::to_string(self) {
            Ok(json) if json.len() <= limits::MCP_TEXT_BYTES => vec![format!("{words}:"), json],
            _ => vec![format!(
                "{words}: too many to be shown as text. They are in the structured content, which \
                 this host may not know; ask for fewer texts in one call."
            )],
        }
    }

    /// What there is of the text of work that goes on.
    pub(super) fn partial_text(&self) -> Option<&str> {
        self.partial_text.as_deref().filter(|text| !text.is_empty())
    }

    /// Work that goes on as a job.
    pub(super) fn running(reply: &JobReply) -> Self {
        let partial = reply.partial_result.as_ref();
        Self {
            status: reply.job.status.as_str().to_owned(),
            job_id: Some(reply.job.id.clone()),
            progress: Some(reply.job.progress),
            message: Some(reply.job.message.clone()),
            partial_text: partial.map(|partial| partial.text.clone()),
            ..Self::default()
        }
    }
}

/// The double with the fewest digits that still is this 32-bit float: half the bytes of the float
/// as an exact double.
fn shortened(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

/// Tokens of a text.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct TokenCount {
    /// The model whose tokens they are.
    pub(super) model: String,
    /// How many.
    pub(super) tokens: usize,
    /// Characters of the text.
    pub(super) characters: usize,
}

/// A count is there.
pub(super) const COUNT: Form = Form { required: &["model", "tokens", "characters"], optional: &[] };

/// The models of this machine.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Models {
    /// The model of calls that name none.
    default: String,
    /// All of them, by name.
    models: Vec<Model>,
}

/// One model.
#[derive(Debug, Serialize, JsonSchema)]
struct Model {
    /// The name to ask for it by.
    name: String,
    /// `available` (to be fetched with `ingle pull`), `on_disk`, `loading`, `loaded`, `broken` or
    /// `quarantined`.
    state: String,
    /// Bytes on disk, or to fetch.
    size_bytes: u64,
    /// `gguf`, `safetensors` or `sim`; empty while it is not here.
    format: String,
    /// One line about it, or what is wrong with it.
    description: String,
}

/// A list is there.
pub(super) const MODELS: Form = Form { required: &["default", "models"], optional: &[] };

impl From<ModelList> for Models {
    fn from(list: ModelList) -> Self {
        let models = list.models.into_iter().map(|entry| Model {
            state: word(&entry.state),
            name: entry.name,
            size_bytes: entry.size_bytes,
            format: entry.format,
            description: entry.description,
        });
        Self { default: list.default, models: models.collect() }
    }
}

/// An enum of the protocol's as its name on the wire.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// A load, done or not.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Load {
    /// `loaded`, or `loading` when it goes on.
    status: String,
    /// The model.
    model: String,
    /// What computes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
    /// Tokens of context.
    #[serde(skip_serializing_if = "Option::is_none")]
    context_tokens: Option<usize>,
    /// Bytes of its weights in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight_bytes: Option<u64>,
    /// Whether it stays whatever else needs room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<bool>,
    /// How far the load has come, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f32>,
}

/// The model is in memory.
pub(super) const LOADED: Form = Form {
    required: &["status", "model", "engine", "context_tokens", "weight_bytes"],
    optional: &["pinned"],
};
/// The load goes on.
pub(super) const LOADING: Form = Form { required: &["status", "model", "progress"], optional: &[] };

impl From<LoadedModel> for Load {
    fn from(model: LoadedModel) -> Self {
        Self {
            status: "loaded".to_owned(),
            model: model.name,
            engine: Some(model.engine),
            context_tokens: Some(model.context_tokens),
            weight_bytes: Some(model.weight_bytes),
            pinned: Some(model.pinned),
            progress: None,
        }
    }
}

impl Load {
    /// A load that goes on.
    pub(super) fn under_way(model: String, progress: f32) -> Self {
        let status = "loading".to_owned();
        Self { status, model, progress: Some(progress), ..Self::default() }
    }
}

/// What was unloaded.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Unloaded {
    /// The model.
    pub(super) model: String,
    /// Whether it was in memory, or on its way there.
    pub(super) was_loaded: bool,
}

/// It is not in memory now.
pub(super) const UNLOADED: Form = Form { required: &["model", "was_loaded"], optional: &[] };

/// The server at a glance.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Server {
    /// `ok`, `degraded` or `draining`.
    state: String,
    /// What the engine does.
    doing: String,
    /// The server's build.
    build: String,
    /// Seconds since its start.
    uptime_s: u64,
    /// Generations running now.
    active: usize,
    /// Generations waiting now.
    queued: usize,
    /// Jobs running now.
    running_jobs: usize,
    /// Jobs waiting now.
    queued_jobs: usize,
    /// Models in memory.
    loaded_models: Vec<String>,
    /// Bytes that all models may take together; 0 while unknown.
    budget_bytes: u64,
    /// Bytes that they hold or have reserved.
    used_bytes: u64,
    /// Resident memory of the server in bytes; 0 where it is not known.
    resident_bytes: u64,
}

/// A status is there.
pub(super) const STATUS: Form = Form {
    required: &[
        "state",
        "doing",
        "build",
        "uptime_s",
        "active",
        "queued",
        "running_jobs",
        "queued_jobs",
        "loaded_models",
        "budget_bytes",
        "used_bytes",
        "resident_bytes",
    ],
    optional: &[],
};

impl Server {
    /// What `status` and the jobs' edge say.
    pub(super) fn new(status: StatusReply, jobs: JobCounts) -> Self {
        Self {
            state: word(&status.health.state),
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

/// Jobs, the newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct JobLines {
    /// Without their results: job_get has these.
    pub(super) jobs: Vec<JobLine>,
}

/// One job.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct JobLine {
    /// Its id.
    pub(super) job_id: String,
    /// `queued`, `running`, `done`, `failed`, `cancelled`, `timed_out` or `interrupted`.
    pub(super) status: String,
    /// `generate` or `embed`.
    kind: String,
    /// The model it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// When it was made, as RFC 3339 says, in UTC.
    created_at: String,
    /// Milliseconds it has run.
    duration_ms: u64,
    /// How far it has come, 0 to 1.
    progress: f32,
    /// The same in words.
    message: String,
}

/// A list is there.
pub(super) const JOBS: Form = Form { required: &["jobs"], optional: &[] };
/// It says how the job stands.
pub(super) const JOB: Form = Form {
    required: &["job_id", "status", "kind", "created_at", "duration_ms", "progress", "message"],
    optional: &["model"],
};

impl From<JobInfo> for JobLine {
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

/// A result as structure and as texts; the structure's JSON is the text where there is no better one.
pub(super) fn answer<T: Serialize>(
    result: &T,
    texts: impl IntoIterator<Item = String>,
) -> Result<CallToolResult, ErrorBody> {
    let structure = serde_json::to_value(result)
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
    let texts: Vec<_> = texts.into_iter().map(ContentBlock::text).collect();
    if texts.is_empty() {
        return Ok(CallToolResult::structured(structure));
    }
    let mut answer = CallToolResult::success(texts);
    answer.structured_content = Some(structure);
    Ok(answer)
}

/// What there is of a text, behind what else is said.
pub(super) fn push_so_far(text: &mut String, so_far: &str) {
    text.push_str("\n\nThe text so far:\n");
    text.push_str(so_far);
}

/// An error as a model reads it: what happened and what to do.
pub(super) fn failure(error: &ErrorBody) -> CallToolResult {
    let mut result = CallToolResult::structured_error(json!({ "error": error }));
    let mut text = format!("{}: {}\n{}", error.code.as_str(), error.message, error.remediation());
    // What was written before a limit was reached is better than nothing.
    let so_far = error.details["partial_result"]["text"].as_str().unwrap_or_default();
    if !so_far.is_empty() {
        push_so_far(&mut text, so_far);
    }
    result.content = vec![ContentBlock::text(text)];
    result
}
