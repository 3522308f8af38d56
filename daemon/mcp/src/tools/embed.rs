//! Tool that computes vectors: `embed`.

use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::embed::{EmbedInput, EmbedParams};
use ingle_protocol::wire::jobs::JobWork;
use rmcp::model::CallToolResult;

use super::arguments::Embed;
use super::call::ToolCall;
use super::work;

/// Computes a vector for each text.
pub(super) async fn embed(
    arguments: Embed,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    call.check_length(arguments.texts.iter().map(String::as_str))?;
    let params = EmbedParams {
        model: arguments.model,
        input: arguments.texts.into_iter().map(EmbedInput::Text).collect(),
        ..EmbedParams::default()
    };
    let result = work::run(JobWork::Embed(params), call).await;
    result.map_err(|error| error.with_field_renamed("input", "texts"))
}
