//! `jobs.*`: work that outlives the connection that started it.
//!
//! Owns what a job is given, how it is seen from outside, and its events. Every reading of one job
//! is the same envelope (SPEC section 3): `status` is `success`, `error` or `pending`, and `job`
//! says the rest.

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

/// What a job does, and how much time it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobParams {
    /// The work.
    pub work: JobWork,
    /// W of the job: seconds, or `"none"`; `timeouts.job` when absent. It may be longer than any
    /// class's. Waiting for a worker does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<JobTimeout>,
    /// Seconds after which the job is warned and ends its text with the next sentence; less than
    /// `timeout_s`. Only a `generate` has a text to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_timeout_s: Option<f64>,
    /// Whether to run it again after a timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<JobRetry>,
}

/// The work of a job, as the method of the same name takes it; without a `budget`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one a job, which holds far more")]
pub enum JobWork {
    /// Text from messages or a prompt. `stream` has no meaning here.
    Generate(GenerateParams),
    /// Texts to vectors.
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
    /// So many seconds.
    Seconds(f64),
    /// Only the engine's stall limit guards it.
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

/// Running again after a timeout, with more time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRetry {
    /// How often at most.
    pub times: u32,
    /// What the time is multiplied by each time, 1 to 10; 2 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// It waits for a worker.
    Queued,
    /// A worker is at it.
    Running,
    /// It has a result.
    Done,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its time was over.
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

    /// Whether it changes no more.
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

/// What a job was told about its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobWarning {
    /// Its soft timeout has passed: it ends with the next sentence.
    SoftTimeout,
    /// 80 % of its time is gone.
    EightyPercent,
    /// An attempt timed out, and another one began.
    Retry,
}

/// One job, without its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// Where it stands.
    pub status: JobStatus,
    /// `generate` or `embed`.
    pub kind: String,
    /// The class of its work: `job`, but for a call that became one.
    pub class: Class,
    /// The model it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// W of the present or last attempt.
    pub timeout_s: JobTimeout,
    /// Attempts begun.
    pub attempts: u32,
    /// When it was made, as RFC 3339 says, in UTC.
    pub created_at: String,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Milliseconds it has run, all attempts together.
    pub duration_ms: u64,
    /// How far it has come, 0 to 1.
    pub progress: f32,
    /// The same in words.
    pub message: String,
    /// What it was told about its time, each word once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<JobWarning>,
    /// Why what is shown here is in memory only, if it is: it is stored as soon as that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_stored: Option<String>,
}

/// How a reading of a job went, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobReplyStatus {
    /// It has a result.
    Success,
    /// It ended without one.
    Error,
    /// It has not ended.
    Pending,
}

/// One job as every edge shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobReply {
    /// In one word.
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
    /// The rest.
    pub job: JobInfo,
}

/// Who, when, how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMetadata {
    /// The daemon's name of the last attempt; the job's own before there was one.
    pub request_id: String,
    /// When the job ended, or now, as RFC 3339 says, in UTC.
    pub timestamp: String,
    /// Milliseconds it has run.
    pub duration_ms: u64,
    /// Of this form.
    pub api_version: String,
}

/// Names one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobId {
    /// Its name.
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

/// Waits until a job has ended, or the caller's time is over: then the reply is `pending`.
#[derive(Debug)]
pub struct WaitJob;

impl Method for WaitJob {
    const NAME: &'static str = "jobs.wait";
    type Params = WaitParams;
    type Output = JobReply;
}

/// Which job to wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    /// Its name.
    pub id: String,
    /// Whether events are wanted before the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// How long to wait: `work_ms`, at most `timeouts.simple`. Wait again for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// What a waiting caller hears before the reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum JobEvent {
    /// How far it has come; the first one comes at once.
    Progress {
        /// Where it stands.
        status: JobStatus,
        /// How far it has come, 0 to 1.
        progress: f32,
        /// The same in words.
        message: String,
    },
    /// What it was told about its time; each word once.
    Warning {
        /// What.
        warning: JobWarning,
        /// The same in words.
        message: String,
    },
}

/// Ends a job. One that has ended stays as it is, and the reply says how.
#[derive(Debug)]
pub struct CancelJob;

impl Method for CancelJob {
    const NAME: &'static str = "jobs.cancel";
    type Params = JobId;
    type Output = JobReply;
}

/// Lists jobs, the newest first.
#[derive(Debug)]
pub struct ListJobs;

impl Method for ListJobs {
    const NAME: &'static str = "jobs.list";
    type Params = ListJobsParams;
    type Output = JobList;
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListJobsParams {
    /// Only these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<JobStatus>,
    /// At most so many; 100 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Jobs, the newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobList {
    /// Without their results.
    pub jobs: Vec<JobInfo>,
}

/// Forgets jobs that have ended.
#[derive(Debug)]
pub struct DeleteJobs;

impl Method for DeleteJobs {
    const NAME: &'static str = "jobs.delete";
    type Params = DeleteJobsParams;
    type Output = JobsDeleted;
}

/// Which jobs to forget: exactly one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteJobsParams {
    /// This one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// All that have ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_ended: bool,
}

/// The jobs are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsDeleted {
    /// How many.
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
