//! Results of generation and embedding: a result, an error, or a job that continues.
//!
//! Owns the text about work besides its output. Many hosts show a model the text only, so the text
//! contains everything that the model needs: whether the output is complete, the partial output,
//! and the next call.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::mcp_tools;
use ingle_protocol::wire::jobs::{
    JobInfo, JobParams, JobReply, JobReplyStatus, JobResult, JobWork,
};
use rmcp::model::CallToolResult;
use tracing::Span;

use super::call::{ToolCall, ToolContext};
use super::outputs::{GeneratedText, RunningWork, Vectors};
use super::render;
use crate::promote;

/// Runs work, which continues as a job after the host's timeout.
pub(super) async fn run(work: JobWork, call: &ToolCall<'_>) -> Result<CallToolResult, ErrorBody> {
    let class = match &work {
        JobWork::Embed(params) => mcp_tools::embed_class(params.input.len()),
        JobWork::Generate(_) => mcp_tools::tool(call.tool).class,
    };
    Span::current().record("class", class.as_str());
    let params = JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None };
    let (host, progress) = (call.host, call.progress());
    let reply = promote::run(&host.jobs, params, class, host.timeout, progress).await?;
    result(call.tool_context(), &reply)
}

/// The tool result of a job's reply.
///
/// # Errors
/// The error that the work ended with.
pub(super) fn result(
    context: ToolContext<'_>,
    reply: &JobReply,
) -> Result<CallToolResult, ErrorBody> {
    let job = &reply.job;
    match (&reply.status, &reply.result, &reply.error) {
        (JobReplyStatus::Success, Some(result), _) => {
            // Work that has ended within its own call was not stored, so it has no job.
            let is_job = matches!(context.tool, "job_wait" | "job_get");
            done(result, is_job.then(|| job.id.clone()), context.has_structure)
        }
        (_, _, Some(error)) => Err(with_tool(error.clone(), job, context.tool)),
        (_, _, None) => {
            let running = RunningWork::from(reply);
            let mut text = promote::running_job_text(job, context.wait_ms);
            // Only job_get shows the partial text: with job_wait, a model would read it again and
            // again.
            if let Some(partial) = running.partial_text().filter(|_| context.tool == "job_get") {
                render::push_partial_text(&mut text, partial);
            }
            render::result(&running, [text])
        }
    }
}

/// The tool result of finished work. `job_id` is the id of its job, if it was one.
fn done(
    result: &JobResult,
    job_id: Option<String>,
    has_structure: bool,
) -> Result<CallToolResult, ErrorBody> {
    match result {
        JobResult::Generate(result) => {
            let text = GeneratedText::new(result, job_id);
            render::result(&text, render::generated(&text))
        }
        JobResult::Embed(result) => {
            let vectors = Vectors::new(result, job_id);
            render::result(&vectors, render::vectors(&vectors, has_structure))
        }
        JobResult::Unknown(_) => {
            let message = "the result was stored by another version of Ingle";
            let next = "Read it with `ingle jobs get --json`.";
            Err(ErrorBody::new(ErrorCode::Internal, message).with_remediation(next))
        }
    }
}

/// The error of a job with the tool to call again, if the work was ended from outside.
fn with_tool(error: ErrorBody, job: &JobInfo, tool: &str) -> ErrorBody {
    if !matches!(error.code, ErrorCode::Cancelled | ErrorCode::Interrupted) {
        return error;
    }
    let tool = match (tool, job.kind.as_str()) {
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
