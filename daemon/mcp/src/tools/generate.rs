//! Tools that generate text: `chat`, `generate` and `complete_code`.

use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::generate::GenerateParams;
use ingle_protocol::wire::jobs::JobWork;
use rmcp::model::CallToolResult;

use super::arguments::{Chat, CompleteCode, Generate};
use super::call::ToolCall;
use super::work;

/// Responds to a prompt or a conversation.
pub(super) async fn chat(
    arguments: Chat,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    let prompt_field = arguments.prompt_field();
    let result = run(arguments.params()?, call).await;
    result.map_err(|error| error.with_field_renamed("messages", prompt_field))
}

/// Continues a raw text.
pub(super) async fn generate(
    arguments: Generate,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    run(arguments.params(), call).await
}

/// Fills a gap in code.
pub(super) async fn complete_code(
    arguments: CompleteCode,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    run(arguments.params(), call).await
}

async fn run(params: GenerateParams, call: &ToolCall<'_>) -> Result<CallToolResult, ErrorBody> {
    let messages = params.messages.iter().flatten().map(|message| message.content.as_str());
    let texts = [params.prompt.as_deref(), params.suffix.as_deref()];
    call.check_length(messages.chain(texts.into_iter().flatten()))?;
    work::run(JobWork::Generate(params), call).await
}
