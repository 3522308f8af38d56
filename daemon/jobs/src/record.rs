//! The record of a job, in memory and in the store alike.
//!
//! Owns the record, the text so far of its generation, and the translation to the wire type. Does
//! not know runs, the store or the edges.

use std::sync::Arc;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::{
    JobInfo, JobMetadata, JobParams, JobReply, JobReplyStatus, JobResult, JobStatus, JobTimeout,
    JobWarning, PartialResult,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::clock;
use super::state::as_seconds;

/// The version of the reply's structure.
const API_VERSION: &str = "v1";

/// The next step after a job's timeout, which has settings of its own.
const TIMEOUT_NEXT: &str = "Give the job more time (`timeout_s`, or `ingle jobs create --timeout`), \
                            allow retries (`retry`), or ask for fewer tokens.";

/// The outcome of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The result of its work.
    Result(JobResult),
    /// The error, if there is no result.
    Error(ErrorBody),
}

/// The text so far of each completion.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partial(pub Vec<String>);

impl Partial {
    /// Appends to the text of a choice.
    pub fn push(&mut self, choice: usize, text: &str) {
        if self.0.len() <= choice {
            self.0.resize(choice + 1, String::new());
        }
        self.0[choice].push_str(text);
    }

    /// The partial result for a caller, unless every text is empty.
    #[must_use]
    pub fn result(&self) -> Option<PartialResult> {
        let (first, others) = self.0.split_first()?;
        if self.0.iter().all(String::is_empty) {
            return None;
        }
        Some(PartialResult { text: first.clone(), alternatives: others.to_vec() })
    }
}

/// The record of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// The job's id.
    pub id: String,
    /// The status.
    pub status: JobStatus,
    /// The parameters; shared, because a prompt may be large.
    pub params: Arc<JobParams>,
    /// The class of its work.
    pub class: Class,
    /// W of the latest attempt, in milliseconds.
    pub work_ms: Option<u64>,
    /// The number of attempts so far.
    pub attempts: u32,
    /// The time of creation, in milliseconds since 1970 by the wall clock.
    pub created_ms: i64,
    /// The start of the first attempt.
    pub started_ms: Option<i64>,
    /// The time of its end.
    pub ended_ms: Option<i64>,
    /// Milliseconds of running, by the monotonic clock.
    pub duration_ms: u64,
    /// The request id of the latest attempt.
    pub request_id: Option<String>,
    /// The progress, 0 to 1.
    pub progress: f32,
    /// The progress in words.
    pub message: String,
    /// The warnings about its time.
    pub warnings: Vec<JobWarning>,
    /// The text so far.
    pub partial: Partial,
    /// The outcome, once it has ended.
    pub outcome: Option<Outcome>,
    /// The reason why its end is in memory only.
    pub not_stored: Option<String>,
}

impl JobRecord {
    /// The record of a job that waits for a worker.
    #[must_use]
    pub fn new(
        id: String,
        params: Arc<JobParams>,
        class: Class,
        work_ms: Option<u64>,
        created_ms: i64,
    ) -> Self {
        Self {
            id,
            status: JobStatus::Queued,
            params,
            class,
            work_ms,
            attempts: 0,
            created_ms,
            started_ms: None,
            ended_ms: None,
            duration_ms: 0,
            request_id: None,
            progress: 0.0,
            message: "waiting for a worker".to_owned(),
            warnings: Vec::new(),
            partial: Partial::default(),
            outcome: None,
            not_stored: None,
        }
    }

    /// Ends the job with a status and an outcome at `now_ms`.
    ///
    /// An error gets the details that the job knows.
    pub fn end(&mut self, status: JobStatus, outcome: Outcome, now_ms: i64) {
        self.status = status;
        self.ended_ms = Some(now_ms);
        if status == JobStatus::Done {
            self.progress = 1.0;
        }
        status.as_str().clone_into(&mut self.message);
        self.outcome = Some(match outcome {
            Outcome::Error(error) => Outcome::Error(self.with_details(error)),
            result @ Outcome::Result(_) => result,
        });
        // The result has the whole text, and the details of an error have the partial one.
        self.partial = Partial::default();
    }

    /// Adds the details of a job's error: its times, its partial result and its request id.
    fn with_details(&self, mut error: ErrorBody) -> ErrorBody {
        if !error.details.is_object() {
            error.details = json!({});
        }
        if error.code == ErrorCode::Timeout
            && let Some(work_ms) = self.work_ms
        {
            error.details["timeout_seconds"] = seconds(work_ms);
            error.details["attempts"] = json!(self.attempts);
            if self.class == Class::Job {
                error = error.with_remediation(TIMEOUT_NEXT);
            }
        }
        if let Some(partial) = self.partial.result() {
            error.details["partial_result"] = json!(partial);
        }
        if error.details.as_object().is_some_and(serde_json::Map::is_empty) {
            error.details = Value::Null;
        }
        if error.request_id.is_none() {
            error.request_id = Some(self.request_id_or_own());
        }
        error
    }

    /// Ends a job that an earlier daemon left running.
    pub fn interrupt(&mut self, now_ms: i64) {
        self.end(JobStatus::Interrupted, Outcome::Error(interrupted()), now_ms);
    }

    fn request_id_or_own(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| self.id.clone())
    }

    /// The job's description, without its result.
    #[must_use]
    pub fn info(&self) -> JobInfo {
        JobInfo {
            id: self.id.clone(),
            status: self.status,
            kind: self.params.work.kind().to_owned(),
            class: self.class,
            model: self.params.work.model().map(str::to_owned),
            timeout_s: self
                .work_ms
                .map_or(JobTimeout::None, |work_ms| JobTimeout::Seconds(as_seconds(work_ms))),
            attempts: self.attempts,
            created_at: clock::rfc3339(self.created_ms),
            started_at: self.started_ms.map(clock::rfc3339),
            ended_at: self.ended_ms.map(clock::rfc3339),
            duration_ms: self.duration_ms,
            progress: self.progress,
            message: self.message.clone(),
            warnings: self.warnings.clone(),
            not_stored: self.not_stored.clone(),
        }
    }

    /// The reply about the job at `now_ms`, for every edge.
    #[must_use]
    pub fn reply(&self, now_ms: i64) -> JobReply {
        let (status, result, error) = match &self.outcome {
            Some(Outcome::Result(result)) => (JobReplyStatus::Success, Some(result.clone()), None),
            Some(Outcome::Error(error)) => (JobReplyStatus::Error, None, Some(error.clone())),
            None => (JobReplyStatus::Pending, None, None),
        };
        JobReply {
            status,
            result,
            error,
            partial_result: self.partial.result(),
            metadata: JobMetadata {
                request_id: self.request_id_or_own(),
                timestamp: clock::rfc3339(self.ended_ms.unwrap_or(now_ms)),
                duration_ms: self.duration_ms,
                api_version: API_VERSION.to_owned(),
            },
            job: self.info(),
        }
    }
}

/// The error of a job whose daemon has ended.
#[must_use]
pub fn interrupted() -> ErrorBody {
    ErrorBody::new(ErrorCode::Interrupted, "the daemon ended while the job ran")
}

/// Milliseconds as seconds; whole seconds as an integer.
fn seconds(ms: u64) -> Value {
    if ms.is_multiple_of(1_000) { json!(ms / 1_000) } else { json!(as_seconds(ms)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ingle_protocol::wire::generate::GenerateParams;
    use ingle_protocol::wire::jobs::JobWork;

    fn record() -> JobRecord {
        let work = JobWork::Generate(GenerateParams::default());
        let params = JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None };
        JobRecord::new("j-1".to_owned(), Arc::new(params), Class::Job, Some(60_000), 0)
    }

    /// The exact JSON, which clients depend on.
    #[test]
    fn timed_out_job_has_the_documented_reply() {
        let mut job = record();
        job.request_id = Some("7-1".to_owned());
        job.attempts = 1;
        job.duration_ms = 60_010;
        job.partial.push(0, "so ");
        job.partial.push(0, "far");
        let error = ErrorBody::new(ErrorCode::Timeout, "the work took longer than 60000 ms");
        job.end(JobStatus::TimedOut, Outcome::Error(error), 1_000);
        let mut reply = serde_json::to_value(job.reply(5_000)).unwrap();
        assert_eq!(reply["job"]["status"], "timed_out");
        reply.as_object_mut().unwrap().remove("job");
        let expected = json!({
            "status": "error",
            "error": {
                "code": "TIMEOUT",
                "message": "the work took longer than 60000 ms",
                "details": {
                    "timeout_seconds": 60, "attempts": 1, "partial_result": { "text": "so far" },
                },
                "remediation": TIMEOUT_NEXT,
                "retryable": true,
                "request_id": "7-1",
            },
            "metadata": {
                "request_id": "7-1", "timestamp": "1970-01-01T00:00:01.000Z",
                "duration_ms": 60_010, "api_version": "v1",
            },
        });
        assert_eq!(reply, expected);
    }

    #[test]
    fn partial_result_needs_text() {
        let mut job = record();
        assert_eq!(job.reply(0).partial_result, None);
        job.partial.push(1, "second");
        let partial =
            PartialResult { text: String::new(), alternatives: vec!["second".to_owned()] };
        assert_eq!(job.reply(0).partial_result, Some(partial));
        job.interrupt(9);
        let Some(Outcome::Error(error)) = &job.outcome else { panic!("no error") };
        assert_eq!(error.details["partial_result"]["alternatives"][0], "second");
        assert_eq!(error.request_id.as_deref(), Some("j-1"));
    }
}
