//! Text of tool results, for a model to read.
//!
//! Owns the text that accompanies the structured content. Does not run tools.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Serialize;
use serde_json::json;

use super::outputs::{GeneratedText, Vectors};
use crate::limits;

/// A result with structured content and texts. Without texts, the structure's JSON is the text.
pub(super) fn result<T: Serialize>(
    output: &T,
    texts: impl IntoIterator<Item = String>,
) -> Result<CallToolResult, ErrorBody> {
    let structure = serde_json::to_value(output)
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
    let texts: Vec<_> = texts.into_iter().map(ContentBlock::text).collect();
    if texts.is_empty() {
        return Ok(CallToolResult::structured(structure));
    }
    let mut result = CallToolResult::success(texts);
    result.structured_content = Some(structure);
    Ok(result)
}

/// An error as a tool result: the error and the next step.
pub(super) fn failure(error: &ErrorBody) -> CallToolResult {
    let mut result = CallToolResult::structured_error(json!({ "error": error }));
    let mut text = format!("{}: {}\n{}", error.code.as_str(), error.message, error.remediation());
    // A partial text is better than none.
    let partial = error.details["partial_result"]["text"].as_str().unwrap_or_default();
    if !partial.is_empty() {
        push_partial_text(&mut text, partial);
    }
    result.content = vec![ContentBlock::text(text)];
    result
}

/// Appends the partial text of unfinished work.
pub(super) fn push_partial_text(text: &mut String, partial: &str) {
    text.push_str("\n\nThe text so far:\n");
    text.push_str(partial);
}

/// A generated text, and a note if it is not complete.
pub(super) fn generated(output: &GeneratedText) -> impl Iterator<Item = String> {
    [output.text.clone()].into_iter().chain(cut_note(output))
}

/// A note that a text is not complete. It is in brackets, because some hosts join the texts of a
/// result.
fn cut_note(output: &GeneratedText) -> Option<String> {
    let after = format!(" after {} tokens", output.completion_tokens());
    match output.finish_reason.as_str() {
        "length" if output.text.is_empty() && output.reasoning.is_some() => Some(format!(
            "[Cut off{after}, while the model was still thinking. Call again with a larger \
             `max_tokens` to get an answer.]"
        )),
        "length" => Some(format!(
            "[Cut off{after}. Call again with a larger `max_tokens` to get all of it.]"
        )),
        "soft_timeout" => Some(format!(
            "[Ended early{after}, because the job's time was running out. For more, ask for the \
             rest in another call.]"
        )),
        _ => None,
    }
}

/// A description of vectors. The numbers are for a program, so they are text only for a host
/// without structured content, and within a limit.
pub(super) fn vectors(output: &Vectors, has_structure: bool) -> Vec<String> {
    let count = match output.embeddings.len() {
        1 => "1 vector".to_owned(),
        count => format!("{count} vectors"),
    };
    let numbers = output.embeddings.first().map_or(0, Vec::len);
    let description = format!("{count} of {numbers} numbers from `{}`", output.model);
    if has_structure {
        return vec![format!("{description}; they are in the structured content.")];
    }
    match serde_json::to_string(output) {
        Ok(json) if json.len() <= limits::MCP_TEXT_BYTES => vec![format!("{description}:"), json],
        _ => vec![format!(
            "{description}: too many to show as text. They are in the structured content, which \
             this host may not support; ask for fewer texts in one call."
        )],
    }
}
