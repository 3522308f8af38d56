//! What a caller's grammar may be before it is compiled.
//!
//! Owns reading a grammar as far as its parts: what is a schema in it (`%json`), what is a string, an
//! expression or a comment, and what are its rules. Bounds are on the rules alone; schemas have their own
//! ([`super::schema`]).

use crate::limits;
use serde_json::Value;

use super::schema;

/// The keyword that a schema follows.
const JSON: &str = "%json";

/// The grammar with every schema in it checked, and `rewritten`. Needs a deep stack, as
/// [`schema::check`] does.
///
/// # Errors
/// What follows "`format`" in a message, where it is too large or too deep, or a schema is.
pub(super) fn checked(lark: &str, rewritten: impl Fn(Value) -> Value) -> Result<String, String> {
    if lark.len() > limits::FORMAT_BYTES {
        return Err(schema::too_long("grammar", lark.len()));
    }
    let (mut made, mut rules, mut schemas) = (String::new(), String::new(), Vec::new());
    let mut rest = lark;
    while !rest.is_empty() {
        let part = Part::first(rest);
        let (text, behind) = rest.split_at(part.bytes);
        made.push_str(text);
        rest = behind;
        match part.kind {
            Kind::Opaque => {}
            Kind::Rules => rules.push_str(text),
            Kind::Json => {
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

/// Refuses rules that are too many or too deep.
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
            // A rule's brackets are closed where the next one begins.
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

/// A part of a grammar: how long it is, and what.
struct Part {
    bytes: usize,
    kind: Kind,
}

enum Kind {
    /// Brackets in it are those of rules, or are counted as if they were.
    Rules,
    /// Brackets in it are letters.
    Opaque,
    /// A schema follows it.
    Json,
}

impl Part {
    /// The first part of a text that is not empty. What llguidance's lexer would not take for one, and so
    /// refuses, is rules.
    fn first(text: &str) -> Self {
        let opaque = |bytes| Self { bytes, kind: Kind::Opaque };
        let rules = |bytes| Self { bytes, kind: Kind::Rules };
        let line = || text.split('\n').next().unwrap_or_default();
        let first = text.chars().next().map_or(1, char::len_utf8);
        match text.as_bytes() {
            [b'"', ..] => closed(line(), '"').map_or_else(|| rules(line().len()), opaque),
            [b'#', ..] | [b'/', b'/', ..] => opaque(line().len()),
            // Expressions go over lines. Their brackets are counted: they nest as those of rules do.
            [b'/', ..] => rules(closed(text, '/').unwrap_or(text.len())),
            // A special token's name.
            [b'<', ..] => {
                let end = text[1..].find(|c: char| matches!(c, '<' | '>') || c.is_whitespace());
                let end = end.filter(|&at| at > 0 && text[1 + at..].starts_with('>'));
                end.map_or_else(|| rules(first), |at| opaque(at + 2))
            }
            _ if text.starts_with(JSON) => Self { bytes: JSON.len(), kind: Kind::Json },
            _ => rules(first),
        }
    }
}

/// The length of what begins with a character and ends with its next `end`, unless a backslash is
/// before that.
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
    fn brackets_of_rules_are_counted_and_those_of_strings_and_schemas_are_not() {
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
    fn a_schema_is_one_only_where_a_grammar_has_one() {
        let lark = "start: \"%json\" b # %json\nb: %json{\"a\": 1}|/%json/";
        let made = checked(lark, |_| json!({ "b": 2 })).unwrap();
        assert_eq!(made, "start: \"%json\" b # %json\nb: %json {\"b\":2}|/%json/");
        assert!(checked("start: %json {", |schema| schema).unwrap_err().contains("no JSON"));
    }
}
