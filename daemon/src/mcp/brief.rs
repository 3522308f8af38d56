//! What a host wrote, in our messages: enough to know it by, never whole.
//!
//! Owns how it is shortened. A wrong value may be a prompt, and a message may end up in a log.

use std::borrow::Cow;

use ingle_protocol::limits;

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

/// What stands between what serde found and what it expected.
pub(super) const EXPECTED: &str = ", expected ";

#[cfg(test)]
mod tests {
    use super::*;

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
