//! Tool that counts tokens: `count_tokens`.

use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::tokens::TokenizeParams;
use rmcp::model::CallToolResult;

use super::arguments::CountTokens;
use super::call::ToolCall;
use super::outputs::TokenCount;
use super::render::result;

/// Counts the tokens of a text.
pub(super) async fn count(
    arguments: CountTokens,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    let characters = call.check_length([arguments.text.as_str()])?;
    let params = TokenizeParams {
        model: arguments.model,
        text: Some(arguments.text),
        ..TokenizeParams::default()
    };
    let request = call.request(Class::Simple, None);
    let counted = call.host.service.tokenize(params, &request).await?;
    let (model, tokens) = (counted.model, counted.tokens.len());
    let text = format!("{tokens} tokens of `{model}` ({characters} characters)");
    result(&TokenCount { model, tokens, characters }, Some(text))
}
