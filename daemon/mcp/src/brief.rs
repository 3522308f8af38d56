//! What a host wrote, in our messages: enough to know it by, never whole.
//!
//! Owns how it is shortened. A wrong value may be a prompt, and a message may end up in a log.

use std::borrow::Cow;

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::Value;

/// A text as it is if it is short, or its beginning and its end.
pub(super) fn brief(text: &str) -> Cow<'_, str> {
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

/// A problem of serde's, with what was found shortened: what was expected comes from our types.
pub(super) fn problem(error: &impl ToString) -> String {
    let text = error.to_string();
    match text.rsplit_once(EXPECTED) {
        Some((found, expected)) => format!("{}{EXPECTED}{}", brief(found), brief(expected)),
        None => brief(&text).into_owned(),
    }
}

/// An error of the service's about a name that a host wrote, with that name shortened. What the
/// service itself names, such as the path of a model's file, stays whole.
pub(super) fn shortened(mut error: ErrorBody) -> ErrorBody {
    use ErrorCode as Code;
    if !matches!(error.code, Code::ModelNotFound | Code::JobNotFound | Code::InvalidParams) {
        return error;
    }
    for member in ["model", "path", "job_id"] {
        let Some(long) = error.details[member].as_str().map(str::to_owned) else { continue };
        if let Cow::Owned(short) = brief(&long) {
            error.message = error.message.replace(&long, &short);
            if let Some(next) = error.own_remediation() {
                let next = next.replace(&long, &short);
                error = error.with_remediation(next);
            }
            error.details[member] = Value::from(short);
        }
    }
    error
}

/// What stands between what serde found and what it expected.
pub(super) const EXPECTED: &str = ", expected ";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_long_name_is_shortened_wherever_an_error_says_it() {
        let name = "x".repeat(4_000);
        let error = |code, member: &str| {
            ErrorBody::new(code, format!("the model `{name}` is not here"))
                .with_details(json!({ member: name, "suggestion": null }))
                .with_remediation(format!("Run `ingle pull {name}`."))
        };
        for member in ["model", "path"] {
            let short = shortened(error(ErrorCode::ModelNotFound, member));
            assert!(serde_json::to_string(&short).unwrap().len() < 1_000, "{short:?}");
            assert!(short.message.starts_with("the model `xxx"), "{short}");
        }
        let ours = error(ErrorCode::ModelInvalid, "path");
        assert_eq!(shortened(ours.clone()), ours);
        let plain = ErrorBody::new(ErrorCode::ModelNotFound, "no");
        assert_eq!(shortened(plain.clone()), plain);
    }

    #[test]
    fn a_long_text_is_shortened_between_characters() {
        assert_eq!(brief("as it is"), "as it is");
        let long = format!("begin {} end", "é".repeat(10_000));
        let short = brief(&long);
        assert!(short.starts_with("begin é") && short.ends_with("é end"), "{short}");
        assert_eq!(short.chars().count(), limits::MCP_QUOTED_CHARS + 5);
        let problem = problem(&format!("invalid type: string \"{long}\", expected u32"));
        assert!(problem.starts_with("invalid type: string \"begin"), "{problem}");
        assert!(problem.ends_with("end\", expected u32"), "{problem}");
        assert!(problem.chars().count() < 2 * limits::MCP_QUOTED_CHARS, "{problem}");
    }
}
