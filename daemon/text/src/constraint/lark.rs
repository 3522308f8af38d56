//! Bounds on a client's Lark grammar before it is compiled.
//!
//! Owns splitting a grammar into schemas (`%json`), strings, expressions, comments and rules. The bounds
//! here apply to the rules only; schemas have their own ([`super::schema`]).

use crate::limits;
use serde_json::Value;

use super::schema;

/// The keyword before a schema.
const JSON: &str = "%json";

/// Checks the grammar and its schemas, and returns it with every schema `rewritten`.
///
/// Needs a deep stack, as [`schema::check`] does.
///
/// # Errors
/// The problem, as the rest of a sentence that begins with "`format`", if the grammar or a schema is too
/// large or too deep.
pub(super) fn checked(lark: &str, rewritten: impl Fn(Value) -> Value) -> Result<String, String> {
    if lark.len() > limits::FORMAT_BYTES {
        return Err(schema::too_long("grammar", lark.len()));
    }
    let (mut made, mut rules, mut schemas) = (String::new(), String::new(), Vec::new());
    let mut rest = lark;
    while !rest.is_empty() {
        let part = LarkPart::first(rest);
        let (text, behind) = rest.split_at(part.bytes);
        made.push_str(text);
        rest = behind;
        match part.kind {
            PartKind::Opaque => {}
            PartKind::Rules => rules.push_str(text),
            PartKind::Json => {
                let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
                let Some(Ok(schema)) = values.next() else {
                    return Err(format!("has a grammar with {JSON} and no JSON after it"));
                };
                rest = &rest[values.byte_offset()..];
                made.push(' ');
                made.push_str(&rewritten(schema.clone()).to_string());
                schemas.push(schema);
            }
        }
    }
    check_rules(&rules)?;
    schema::check(&schemas)?;
    Ok(made)
}

/// Refuses too many or too deep rules.
fn check_rules(rules: &str) -> Result<(), String> {
    let count = rules.lines().filter(|line| line.contains(':')).count();
    if count > limits::FORMAT_REFERENCES {
        return Err(format!("has a grammar of more than {} rules", limits::FORMAT_REFERENCES));
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in rules.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            // The brackets of a rule are closed where the next rule begins.
            b'\n' => depth = depth.min(limits::FORMAT_DEPTH / 2),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > limits::FORMAT_DEPTH {
        return Err(format!("has brackets more than {} deep", limits::FORMAT_DEPTH));
    }
    Ok(())
}

/// A part of a grammar: its length and kind.
struct LarkPart {
    bytes: usize,
    kind: PartKind,
}

enum PartKind {
    /// Rules, or text whose brackets count like those of rules.
    Rules,
    /// Text whose brackets do not count.
    Opaque,
    /// The keyword before a schema.
    Json,
}

impl LarkPart {
    /// The first part of a text that is not empty.
    ///
    /// Text that llguidance's lexer refuses counts as rules.
    fn first(text: &str) -> Self {
        let opaque = |bytes| Self { bytes, kind: PartKind::Opaque };
        let rules = |bytes| Self { bytes, kind: PartKind::Rules };
        let line = || text.split('\n').next().unwrap_or_default();
        let first = text.chars().next().map_or(1, char::len_utf8);
        match text.as_bytes() {
            [b'"', ..] => closed(line(), '"').map_or_else(|| rules(line().len()), opaque),
            [b'#', ..] | [b'/', b'/', ..] => opaque(line().len()),
            // Expressions may span lines. Their brackets count, because they nest like those of rules.
            [b'/', ..] => rules(closed(text, '/').unwrap_or(text.len())),
            // The name of a special token.
            [b'<', ..] => {
                let end = text[1..].find(|c: char| matches!(c, '<' | '>') || c.is_whitespace());
                let end = end.filter(|&at| at > 0 && text[1 + at..].starts_with('>'));
                end.map_or_else(|| rules(first), |at| opaque(at + 2))
            }
            _ if text.starts_with(JSON) => Self { bytes: JSON.len(), kind: PartKind::Json },
            _ => rules(first),
        }
    }
}

/// The length of the text up to the next `end` after its first character; a backslash escapes.
fn closed(text: &str, end: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == end => return Some(at + c.len_utf8()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_brackets_of_rules_are_counted() {
        let many = "(".repeat(300);
        let deep = (0..90).fold(json!({}), |inner, _| json!({ "items": inner }));
        for (lark, is_fine) in [
            (format!("start: \"{many}\""), true),
            (format!("start: \"\\\"{many}\" \"a\" # {many}"), true),
            (format!("start: \"a\" // {many}\n"), true),
            (format!("start: a\na: %json {{\"description\": \"{many}\"}}"), true),
            (format!("start: %json {deep} | %json {deep}"), true),
            (format!("start: <{many}>"), true),
            (format!("start: {many}\"a\""), false),
            (format!("start: /{many}/"), false),
            // A quote or a mark that begins no string or comment hides nothing.
            (format!("start: /\"/ {many} /\"/"), false),
            (format!("start: <\"> {many} <\">"), false),
            (format!("start: /a#/ {many}"), false),
            (format!("start: \"#\" {many}"), false),
            (format!("start: \"a\n{many}\""), false),
            (format!("start: < {many} >"), false),
        ] {
            let outcome = checked(&lark, |schema| schema);
            assert_eq!(outcome.is_ok(), is_fine, "{lark}: {outcome:?}");
        }
    }

    #[test]
    fn schemas_in_strings_and_comments_are_ignored() {
        let lark = "start: \"%json\" b # %json\nb: %json{\"a\": 1}|/%json/";
        let made = checked(lark, |_| json!({ "b": 2 })).unwrap();
        assert_eq!(made, "start: \"%json\" b # %json\nb: %json {\"b\":2}|/%json/");
        assert!(checked("start: %json {", |schema| schema).unwrap_err().contains("no JSON"));
    }
}
