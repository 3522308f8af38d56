//! `jobs.*`: work that outlives the connection that started it.
//!
//! Owns the parameters of a job, its record for readers, and its events. Every method that reads
//! one job gives the same envelope: `status` is `success`, `error` or `pending`, and `job` has the
//! rest.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::Method;
use super::embed::{EmbedParams, EmbedResult};
use super::generate::{GenerateParams, GenerateResult};
use crate::deadline::Budget;
use crate::error::ErrorBody;
use crate::timeouts::Class;

/// Starts a job.
#[derive(Debug)]
pub struct CreateJob;

impl Method for CreateJob {
    const NAME: &'static str = "jobs.create";
    type Params = JobParams;
    type Output = JobReply;
}

/// The work of a job, and its time limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JobParams {
    /// The work.
    pub work: JobWork,
    /// W of the job: seconds, or `"none"`; `timeouts.job` when absent. It may be longer than any
    /// class's. Waiting for a worker does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<JobTimeout>,
    /// Soft timeout in seconds, less than `timeout_s`: after it the job gets a warning and ends its
    /// text with the next sentence. Only a `generate` has a text to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_timeout_s: Option<f64>,
    /// Whether to run it again after a timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<JobRetry>,
}

/// The work of a job, as the method of the same name takes it; without a `budget`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one a job, which holds far more")]
pub enum JobWork {
    /// A completion. `stream` has no meaning here.
    Generate(GenerateParams),
    /// Embeddings.
    Embed(EmbedParams),
}

impl JobWork {
    /// Its name on the wire.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Generate(_) => "generate",
            Self::Embed(_) => "embed",
        }
    }

    /// The model it names.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Generate(params) => params.model.as_deref(),
            Self::Embed(params) => params.model.as_deref(),
        }
    }
}

/// The result of a job's work, as the method of the same name gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum JobResult {
    /// The result of a `generate`.
    Generate(GenerateResult),
    /// The result of an `embed`.
    Embed(EmbedResult),
    /// A result that another version of Ingle stored and this one cannot read.
    Unknown(Value),
}

/// The text so far of a job that has no result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PartialResult {
    /// The text so far of the first completion.
    pub text: String,
    /// The same of the other completions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<String>,
}

/// W of a job: seconds on the wire, or the word `none`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum JobTimeout {
    /// Seconds.
    Seconds(f64),
    /// No timeout: only the engine's stall limit applies.
    None,
}

impl Serialize for JobTimeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Seconds(seconds) => serializer.serialize_f64(*seconds),
            Self::None => serializer.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for JobTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(seconds) => seconds.as_f64().map(Self::Seconds),
            Value::String(word) if word == "none" => Some(Self::None),
            _ => None,
        }
        .ok_or_else(|| D::Error::custom("a job's timeout is a number of seconds, or \"none\""))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for JobTimeout {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JobTimeout".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["number", "string"] })
    }
}

/// Retries after a timeout, with more time each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JobRetry {
    /// Maximum number of retries.
    pub times: u32,
    /// The factor on the time with each retry, 1 to 10; 2 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
}

/// The status of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// It waits for a worker.
    Queued,
    /// A worker runs it.
    Running,
    /// The job has a result.
    Done,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its timeout passed.
    TimedOut,
    /// The daemon ended while it ran.
    Interrupted,
}

impl JobStatus {
    /// Every status.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Interrupted,
    ];

    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether the status is final.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

impl std::str::FromStr for JobStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|status| status.as_str()).collect();
            format!("not one of {}", names.join(", "))
        })
    }
}

/// A warning to a job about its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobWarning {
    /// Its soft timeout has passed: it ends with the next sentence.
    SoftTimeout,
    /// 80 % of its time is gone.
    EightyPercent,
    /// An attempt timed out, and another began.
    Retry,
}

/// One job, without its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: JobStatus,
    /// `generate` or `embed`.
    pub kind: String,
    /// The class of its work: `job`, except for a call that became a job.
    pub class: Class,
    /// The model it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// W of the present or last attempt.
    pub timeout_s: JobTimeout,
    /// Attempts begun.
    pub attempts: u32,
    /// When it was created, in UTC, as in RFC 3339.
    pub created_at: String,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Milliseconds it has run, all attempts together.
    pub duration_ms: u64,
    /// Progress, 0 to 1.
    pub progress: f32,
    /// Progress in words.
    pub message: String,
    /// Warnings about its time, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<JobWarning>,
    /// Why this record is in memory only, if it is: it is stored as soon as that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_stored: Option<String>,
}

/// The outcome of a job, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobReplyStatus {
    /// The job has a result.
    Success,
    /// The job ended without a result.
    Error,
    /// The job has not ended.
    Pending,
}

/// One job, as RPC, HTTP and MCP show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobReply {
    /// The outcome.
    pub status: JobReplyStatus,
    /// The result of the method of the same name, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why there is none; `details` has `partial_result` where there is any, and after a timeout
    /// `timeout_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The text so far of a job that has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial_result: Option<PartialResult>,
    /// Who, when, how long.
    pub metadata: JobMetadata,
    /// The job itself.
    pub job: JobInfo,
}

/// Request id and times of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobMetadata {
    /// The daemon's id of the last attempt; the job's own id before the first.
    pub request_id: String,
    /// When the job ended, or now, in UTC, as in RFC 3339.
    pub timestamp: String,
    /// Milliseconds it has run.
    pub duration_ms: u64,
    /// Version of this envelope.
    pub api_version: String,
}

/// Names one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JobId {
    /// Its id.
    pub id: String,
}

/// Reads one job.
#[derive(Debug)]
pub struct GetJob;

impl Method for GetJob {
    const NAME: &'static str = "jobs.get";
    type Params = JobId;
    type Output = JobReply;
}

/// Waits until a job has ended, or the caller's time is up: then the reply is `pending`.
#[derive(Debug)]
pub struct WaitJob;

impl Method for WaitJob {
    const NAME: &'static str = "jobs.wait";
    type Params = WaitParams;
    type Output = JobReply;
}

/// The job to wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    /// Its id.
    pub id: String,
    /// Whether events precede the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// The time to wait: `work_ms`, at most `timeouts.simple`. Wait again for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// An event for a waiting caller, before the reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobEvent {
    /// Progress; the first event comes at once.
    Progress {
        /// Its status.
        status: JobStatus,
        /// Progress, 0 to 1.
        progress: f32,
        /// Progress in words.
        message: String,
    },
    /// A warning about its time; each comes once.
    Warning {
        /// The warning.
        warning: JobWarning,
        /// Progress in words.
        message: String,
    },
}

/// Cancels a job. A job that has ended stays unchanged, and the reply has its outcome.
#[derive(Debug)]
pub struct CancelJob;

impl Method for CancelJob {
    const NAME: &'static str = "jobs.cancel";
    type Params = JobId;
    type Output = JobReply;
}

/// Lists jobs, newest first.
#[derive(Debug)]
pub struct ListJobs;

impl Method for ListJobs {
    const NAME: &'static str = "jobs.list";
    type Params = ListJobsParams;
    type Output = JobList;
}

/// The jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ListJobsParams {
    /// Only jobs of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<JobStatus>,
    /// Maximum number of jobs to list; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// The jobs, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobList {
    /// The jobs, without their results.
    pub jobs: Vec<JobInfo>,
}

/// Deletes jobs that have ended.
#[derive(Debug)]
pub struct DeleteJobs;

impl Method for DeleteJobs {
    const NAME: &'static str = "jobs.delete";
    type Params = DeleteJobsParams;
    type Output = JobsDeleted;
}

/// The jobs to delete: exactly one of the two fields is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeleteJobsParams {
    /// The id of one job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether to delete all jobs that have ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_ended: bool,
}

/// The reply: the jobs are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobsDeleted {
    /// The number of deleted jobs.
    pub deleted: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::generate::Timings;
    use serde_json::json;

    #[test]
    fn a_timeout_is_seconds_or_the_word_none() {
        for (text, expected) in
            [(json!(30), JobTimeout::Seconds(30.0)), (json!("none"), JobTimeout::None)]
        {
            assert_eq!(serde_json::from_value::<JobTimeout>(text).unwrap(), expected);
        }
        for bad in [json!("30s"), json!(null), json!(true)] {
            serde_json::from_value::<JobTimeout>(bad).unwrap_err();
        }
    }

    #[test]
    fn result_is_read_by_its_fields() {
        let read = |result: Value| serde_json::from_value::<JobResult>(result).unwrap();
        let usage = json!({ "prompt_tokens": 1, "completion_tokens": 1 });
        let generated = json!({
            "request_id": "1-1", "model": "m", "usage": usage, "timings": Timings::default(),
            "choices": [{ "text": "a", "finish_reason": "stop", "seed": u64::MAX }],
        });
        let JobResult::Generate(result) = read(generated) else { panic!("no completion") };
        assert_eq!((result.first().text.as_str(), result.first().seed), ("a", u64::MAX));
        let embedded = json!({
            "request_id": "1-1", "model": "m", "dimensions": 2, "embeddings": [[0.1, -1.0]],
            "usage": { "prompt_tokens": 1 },
        });
        let JobResult::Embed(result) = read(embedded) else { panic!("no vectors") };
        assert_eq!(result.embeddings, [[0.1, -1.0]]);
        let other = json!({ "pixels": [1, 2] });
        assert_eq!(read(other.clone()), JobResult::Unknown(other));
    }

    #[test]
    fn work_is_named_by_its_method() {
        let params = json!({ "work": { "generate": { "prompt": "x" } }, "timeout_s": "none" });
        let params: JobParams = serde_json::from_value(params).unwrap();
        assert_eq!(params.work.kind(), "generate");
        let both = json!({ "work": { "generate": {}, "embed": {} } });
        serde_json::from_value::<JobParams>(both).unwrap_err();
    }
}
