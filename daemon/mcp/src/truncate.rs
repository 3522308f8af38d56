//! Truncation of a host's text that our messages quote.
//!
//! Owns how text is truncated: enough is left to recognise it. An invalid value may be a prompt,
//! and a message may end up in a log.

use std::borrow::Cow;

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::Value;

/// The text itself if it is short, or else its beginning and its end.
pub(super) fn truncated(text: &str) -> Cow<'_, str> {
    let most = limits::MCP_QUOTED_CHARS;
    // Bytes are at least as many as characters, and quicker to count.
    if text.len() <= most || text.chars().count() <= most {
        return Cow::Borrowed(text);
    }
    let tail = most / 4;
    let end = text.char_indices().nth(most - tail).map_or(text.len(), |(at, _)| at);
    let begin = text.char_indices().nth_back(tail - 1).map_or(0, |(at, _)| at);
    Cow::Owned(format!("{} ... {}", &text[..end], &text[begin..]))
}

/// The message of a serde error with the found value truncated. The expected value comes from our
/// types.
pub(super) fn serde_message(error: &impl ToString) -> String {
    let text = error.to_string();
    match text.rsplit_once(EXPECTED) {
        Some((found, expected)) => format!("{}{EXPECTED}{}", truncated(found), truncated(expected)),
        None => truncated(&text).into_owned(),
    }
}

/// An error of the service with the host's names truncated. Names that the service adds, such as
/// the path of a model's file, stay whole.
pub(super) fn truncated_error(mut error: ErrorBody) -> ErrorBody {
    use ErrorCode as Code;
    if !matches!(error.code, Code::ModelNotFound | Code::JobNotFound | Code::InvalidParams) {
        return error;
    }
    for field in ["model", "path", "job_id"] {
        let Some(long) = error.details[field].as_str().map(str::to_owned) else { continue };
        if let Cow::Owned(short) = truncated(&long) {
            error.message = error.message.replace(&long, &short);
            if let Some(next) = error.own_remediation() {
                let next = next.replace(&long, &short);
                error = error.with_remediation(next);
            }
            error.details[field] = Value::from(short);
        }
    }
    error
}

/// Stands between the found and the expected value in a serde error.
pub(super) const EXPECTED: &str = ", expected ";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn long_name_is_truncated_everywhere() {
        let name = "x".repeat(4_000);
        let error = |code, field: &str| {
            ErrorBody::new(code, format!("the model `{name}` is not here"))
                .with_details(json!({ field: name, "suggestion": null }))
                .with_remediation(format!("Run `ingle pull {name}`."))
        };
        for field in ["model", "path"] {
            let short = truncated_error(error(ErrorCode::ModelNotFound, field));
            assert!(serde_json::to_string(&short).unwrap().len() < 1_000, "{short:?}");
            assert!(short.message.starts_with("the model `xxx"), "{short}");
        }
        let ours = error(ErrorCode::ModelInvalid, "path");
        assert_eq!(truncated_error(ours.clone()), ours);
        let plain = ErrorBody::new(ErrorCode::ModelNotFound, "no");
        assert_eq!(truncated_error(plain.clone()), plain);
    }

    #[test]
    fn long_text_is_truncated_between_characters() {
        assert_eq!(truncated("as it is"), "as it is");
        let long = format!("begin {} end", "é".repeat(10_000));
        let short = truncated(&long);
        assert!(short.starts_with("begin é") && short.ends_with("é end"), "{short}");
        assert_eq!(short.chars().count(), limits::MCP_QUOTED_CHARS + 5);
        let problem = serde_message(&format!("invalid type: string \"{long}\", expected u32"));
        assert!(problem.starts_with("invalid type: string \"begin"), "{problem}");
        assert!(problem.ends_with("end\", expected u32"), "{problem}");
        assert!(problem.chars().count() < 2 * limits::MCP_QUOTED_CHARS, "{problem}");
    }
}
