//! Work as a tool's result: what it gave, its error, or how to go on with it.
//!
//! Owns what a model is told of work besides its result. Many hosts show it a result's text only, so
//! what it must know is there: that a text was cut, what there is of one, and what to call next.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::jobs::{JobInfo, JobReply, JobReplyStatus};
use rmcp::model::CallToolResult;

use super::outputs::{self, Work, answer};
use crate::promote;

/// Who asked, and what they know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    /// The tool that was called.
    pub(super) tool: &'a str,
    /// Milliseconds that job_wait waits at most.
    pub(super) wait_ms: u64,
    /// Whether the host's revision of MCP has structured content.
    pub(super) has_structure: bool,
}

impl Asker<'_> {
    /// The result.
    ///
    /// # Errors
    /// The error that the work ended with.
    pub(super) fn result(self, reply: &JobReply) -> Result<CallToolResult, ErrorBody> {
        let job = &reply.job;
        match (&reply.status, &reply.result, &reply.error) {
            (JobReplyStatus::Success, Some(result), _) => {
                // Work that has ended within its own call is nobody's job.
                let is_job = matches!(self.tool, "job_wait" | "job_get");
                let work = Work::done(result, is_job.then(|| job.id.clone()))?;
                let texts = work.texts(self.has_structure);
                answer(&work, texts)
            }
            (_, _, Some(error)) => Err(self.error(error.clone(), job)),
            (_, _, None) => {
                let work = Work::running(reply);
                let mut text = promote::going_on(job, self.wait_ms);
                // Only who looks asks for it: one who waits would read it again and again.
                if let Some(so_far) = work.partial_text().filter(|_| self.tool == "job_get") {
                    outputs::push_so_far(&mut text, so_far);
                }
                answer(&work, [text])
            }
        }
    }

    /// Work that was ended from outside can be had again, by the tool that began it.
    fn error(self, error: ErrorBody, job: &JobInfo) -> ErrorBody {
        if !matches!(error.code, ErrorCode::Cancelled | ErrorCode::Interrupted) {
            return error;
        }
        let tool = match (self.tool, job.kind.as_str()) {
            ("job_wait" | "job_get", "generate") => {
                "the tool that began it (`chat`, `generate` or `complete_code`)".to_owned()
            }
            ("job_wait" | "job_get", kind) => format!("`{kind}`"),
            (tool, _) => format!("`{tool}`"),
        };
        error.with_remediation(format!(
            "Call {tool} again with the same arguments if the result is still wanted."
        ))
    }
}
