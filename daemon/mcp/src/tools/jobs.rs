//! Tools for jobs: `job_wait`, `job_get`, `job_list` and `job_cancel`.

use ingle_protocol::deadline::Budget;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::limits;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::{JobEvent, JobStatus, ListJobsParams, WaitParams};
use rmcp::model::CallToolResult;
use tokio::sync::mpsc;

use super::arguments::{Job, JobList};
use super::call::ToolCall;
use super::outputs::{JobSummaries, JobSummary};
use super::render::result;
use super::work;

/// Jobs of a list without `limit`. It is small because a model reads all of them.
const LISTED_JOBS: usize = 20;

/// Waits for a job.
pub(super) async fn wait(arguments: Job, call: &ToolCall<'_>) -> Result<CallToolResult, ErrorBody> {
    // The reply is due as for any other call.
    let budget = Budget { work_ms: Some(call.host.timeout.due_ms()), remaining_ms: None };
    let request = call.request(Class::Workflow, Some(budget));
    let params = WaitParams { id: arguments.job_id, stream: true, budget: None };
    let (sender, mut events) = mpsc::channel(limits::PROGRESS_EVENTS);
    let mut progress = call.progress();
    let send_progress = async {
        while let Some(event) = events.recv().await {
            if let JobEvent::Progress { progress: share, message, .. } = event {
                progress.send(share, &message).await;
            }
        }
        // The end of the events is not the reply, which `wait` returns.
        std::future::pending().await
    };
    let reply = tokio::select! {
        reply = call.host.jobs.wait(&params, sender, &request) => reply?,
        never = send_progress => never,
    };
    work::result(call.tool_context(), &reply)
}

/// Returns the state or result of a job without waiting.
pub(super) async fn get(arguments: Job, call: &ToolCall<'_>) -> Result<CallToolResult, ErrorBody> {
    let request = call.request(Class::Simple, None);
    let reply = call.host.jobs.get(&arguments.job_id, &request).await?;
    work::result(call.tool_context(), &reply)
}

/// Lists jobs.
pub(super) async fn list(
    arguments: JobList,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    let limit = Some(arguments.limit.unwrap_or(LISTED_JOBS));
    let params = ListJobsParams { status: arguments.status, limit };
    let request = call.request(Class::Simple, None);
    let listed = call.host.jobs.list(params, &request).await?;
    let jobs = listed.jobs.into_iter().map(JobSummary::from).collect();
    result(&JobSummaries { jobs }, None)
}

/// Cancels a job.
pub(super) async fn cancel(
    arguments: Job,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    let request = call.request(Class::Simple, None);
    let reply = call.host.jobs.cancel(&arguments.job_id, &request).await?;
    let text = match reply.job.status {
        JobStatus::Cancelled => "The job was cancelled.",
        JobStatus::Queued | JobStatus::Running => {
            "The job has not ended yet; call job_cancel again, or job_get to see its state."
        }
        _ => "The job had already ended; job_get shows its result.",
    };
    result(&JobSummary::from(reply.job), Some(text.to_owned()))
}
