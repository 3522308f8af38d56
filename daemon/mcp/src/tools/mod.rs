//! MCP tools: dispatch, metrics and errors of tool calls.
//!
//! Owns the dispatch, and that every call is bounded. Each family of tools has a file: `generate`,
//! `embed`, `tokens`, `models` and `jobs`. [`arguments`] owns the input types, [`outputs`] the
//! output types, [`render`] the text of results, [`work`] the results of generation and embedding,
//! and [`catalogue`] the descriptions.
//!
//! An error that a model can act on, such as a wrong argument, is a tool result with `isError` and
//! the next step in its text. Only an unknown tool is a protocol error.

mod arguments;
mod call;
mod catalogue;
mod embed;
mod generate;
mod jobs;
mod models;
mod outputs;
mod render;
mod schema;
#[cfg(test)]
mod tests;
mod tokens;
mod work;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::mcp_tools;
use ingle_service::metrics::{Edge, Outcome, UNKNOWN};
use ingle_service::request::named;
use rmcp::model::{CallToolRequestParams, CallToolResult};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use tracing::Instrument;
use tracing::field::Empty;

use self::arguments::read;
use self::call::ToolCall;
pub(super) use self::catalogue::tool_list;
use super::context::HostContext;
use super::truncate::{truncated, truncated_error};

/// Calls a tool. Dropping the future cancels its work.
///
/// # Errors
/// An unknown tool.
pub(super) async fn call(
    host: &HostContext,
    request: CallToolRequestParams,
    context: &RequestContext<RoleServer>,
) -> Result<CallToolResult, ErrorData> {
    let id = host.service.next_request_id();
    let tool = mcp_tools::tool(&request.name);
    // A timer that is dropped counts the call as cancelled.
    let timer = host.service.metrics().begin(Edge::Mcp, metric_name(tool.name));
    let span = tracing::info_span!(
        "request",
        id,
        tool = metric_name(tool.name),
        class = Empty,
        model = Empty
    );
    if let Some(model) = request.arguments.as_ref().and_then(|known| known.get("model")?.as_str()) {
        span.record("model", &*truncated(model));
    }
    let call = ToolCall { host, id: &id, tool: tool.name, context };
    let outcome = dispatch(request, &call).instrument(span).await;
    timer.end(metric_outcome(&outcome));
    Ok(outcome?.unwrap_or_else(|error| render::failure(&named(for_tools(error), &id))))
}

/// The outer error is the host's fault, the inner one the call's.
async fn dispatch(
    request: CallToolRequestParams,
    call: &ToolCall<'_>,
) -> Result<Result<CallToolResult, ErrorBody>, ErrorData> {
    let name = request.name.as_ref();
    if mcp_tools::TOOLS.iter().all(|tool| tool.name != name) {
        let names: Vec<_> = mcp_tools::TOOLS.iter().map(|tool| tool.name).collect();
        let message =
            format!("unknown tool `{}`; the tools are {}", truncated(name), names.join(", "));
        return Err(ErrorData::invalid_params(message, None));
    }
    let arguments = request.arguments.unwrap_or_default();
    let outcome = async {
        let _permit = call.host.permit()?;
        match name {
            "chat" => generate::chat(read(name, arguments)?, call).await,
            "generate" => generate::generate(read(name, arguments)?, call).await,
            "complete_code" => generate::complete_code(read(name, arguments)?, call).await,
            "embed" => embed::embed(read(name, arguments)?, call).await,
            "count_tokens" => tokens::count(read(name, arguments)?, call).await,
            "list_models" => models::list(read(name, arguments)?, call).await,
            "load_model" => models::load(read(name, arguments)?, call).await,
            "unload_model" => models::unload(read(name, arguments)?, call).await,
            "server_status" => models::server_status(read(name, arguments)?, call),
            "job_wait" => jobs::wait(read(name, arguments)?, call).await,
            "job_get" => jobs::get(read(name, arguments)?, call).await,
            "job_list" => jobs::list(read(name, arguments)?, call).await,
            "job_cancel" => jobs::cancel(read(name, arguments)?, call).await,
            name => Err(ErrorBody::new(ErrorCode::Internal, format!("`{name}` has no handler"))),
        }
    };
    Ok(outcome.await)
}

/// A tool's name for metrics and logs: never a name that a host made up.
fn metric_name(known: &'static str) -> &'static str {
    if known.is_empty() { UNKNOWN } else { known }
}

/// The outcome of a call for metrics. A call that continues as a job is a success.
fn metric_outcome(outcome: &Result<Result<CallToolResult, ErrorBody>, ErrorData>) -> Outcome {
    match outcome {
        Ok(result) => result.as_ref().map(|_| ()).map_err(|error| error.code),
        Err(error) => {
            Err(ErrorCode::of_rpc(i64::from(error.code.0)).unwrap_or(ErrorCode::Internal))
        }
    }
}

/// The error for a model: the next step names tools, because a model has no terminal, and the
/// model's own text is truncated.
fn for_tools(error: ErrorBody) -> ErrorBody {
    let error = truncated_error(error);
    let next = mcp_tools::next_step(&error).into_owned();
    error.with_remediation(next)
}
