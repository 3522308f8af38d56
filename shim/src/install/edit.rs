//! Edits of one field in a JSON text.
//!
//! Owns the position of a new field, its layout, which follows its neighbours, and the text that is
//! cut when it is removed. The rest is never serialised again: comments, order, white space, line
//! breaks and trailing commas around it stay unchanged. Pure: text in, text out.

use std::ops::Range;

use serde_json::Value;

use super::jsonc::{Comment, Document, Field, Node};

/// A value to write: like [`Value`], with its fields in the given order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum JsonText {
    /// A value on one line.
    Flat(Value),
    /// An object with one field per line.
    Object(Vec<(String, JsonText)>),
}

impl JsonText {
    /// Renders it as a file of its own.
    pub(crate) fn pretty(&self) -> String {
        self.render(&Layout { eol: "\n", unit: "  ".to_owned() }, Some(""))
    }

    /// Renders it with fields on lines of their own after `indent`, or all on one line.
    fn render(&self, layout: &Layout<'_>, indent: Option<&str>) -> String {
        match (self, indent) {
            (Self::Flat(value), _) => flat(value),
            (Self::Object(fields), _) if fields.is_empty() => "{}".to_owned(),
            (Self::Object(fields), Some(indent)) => {
                let inner = format!("{indent}{}", layout.unit);
                let lines = fields.iter().map(|(key, new_value)| {
                    format!("{inner}{}", layout.field(key, new_value, Some(&inner)))
                });
                let eol = layout.eol;
                let lines = lines.collect::<Vec<_>>().join(&format!(",{eol}"));
                format!("{{{eol}{lines}{eol}{indent}}}")
            }
            (Self::Object(fields), None) => {
                let fields =
                    fields.iter().map(|(key, new_value)| layout.field(key, new_value, None));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// Renders a value on one line, with a space after commas and colons.
fn flat(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            format!("[{}]", values.iter().map(flat).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), flat(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// The layout of a text.
struct Layout<'a> {
    eol: &'a str,
    /// The indentation of one level.
    unit: String,
}

impl<'a> Layout<'a> {
    fn of(text: &'a str) -> Self {
        let eol = match text.find('\n') {
            Some(newline) if text[..newline].ends_with('\r') => "\r\n",
            _ => "\n",
        };
        // The first field on a line of its own is one level deep.
        let mut indents = text.lines().filter_map(|line| {
            let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
            (line[indent..].starts_with('"') && indent > 0).then(|| line[..indent].to_owned())
        });
        Self { eol, unit: indents.next().unwrap_or_else(|| "  ".to_owned()) }
    }

    fn field(&self, key: &str, new_value: &JsonText, indent: Option<&str>) -> String {
        format!("{}: {}", Value::from(key), new_value.render(self, indent))
    }
}

/// Inserts `key` into `object`, after its last field.
pub(crate) fn insert(
    text: &str,
    document: &Document,
    object: &Node,
    key: &str,
    new_value: &JsonText,
) -> String {
    let layout = Layout::of(text);
    match object.fields() {
        Some([.., last]) => {
            insert_after_last(text, document, object, last, &layout, key, new_value)
        }
        _ => insert_first(text, document, object, &layout, key, new_value),
    }
}

fn insert_after_last(
    text: &str,
    document: &Document,
    object: &Node,
    last: &Field,
    layout: &Layout<'_>,
    key: &str,
    new_value: &JsonText,
) -> String {
    let first_key = object.fields().and_then(|fields| fields.first());
    let first_key = first_key.map_or(last.key_span.start, |first| first.key_span.start);
    let lead = &text[object.span.start + 1..first_key];
    let on_lines = lead.contains('\n');
    let trailing = if last.comma.is_some() { "," } else { "" };
    let after = last.comma.map_or(last.value.span.end, |comma| comma + 1);
    let (before, field) = if on_lines {
        let indent = indent_of(text, last.key_span.start)
            .or_else(|| indent_of(text, first_key))
            .unwrap_or(&layout.unit);
        (format!("{}{indent}", layout.eol), layout.field(key, new_value, Some(indent)))
    } else {
        let space = if is_tight(text, object) { "" } else { " " };
        (space.to_owned(), layout.field(key, new_value, None))
    };
    // A comment after the last field, on its line, stays with it.
    let place = if on_lines { end_of_comments(text, document, after) } else { after };
    let comma = if last.comma.is_some() { "" } else { "," };
    let end = last.value.span.end;
    let (head, comments, tail) = (&text[..end], &text[end..place], &text[place..]);
    format!("{head}{comma}{comments}{before}{field}{trailing}{tail}")
}

fn insert_first(
    text: &str,
    document: &Document,
    object: &Node,
    layout: &Layout<'_>,
    key: &str,
    new_value: &JsonText,
) -> String {
    let (begin, end) = (object.span.start + 1, object.span.end - 1);
    // A text of one line stays on one line, unless it is empty.
    if !text.trim_end().contains('\n') && document.root.fields().is_some_and(|all| !all.is_empty())
    {
        let field = layout.field(key, new_value, None);
        return format!("{}{field}{}", &text[..end], &text[end..]);
    }
    let outer = line_indent(text, object.span.start);
    let indent = format!("{outer}{}", layout.unit);
    let field = layout.field(key, new_value, Some(&indent));
    let eol = layout.eol;
    let inside = |comment: &&Comment| (begin..end).contains(&comment.span.start);
    let place = document.comments.iter().rfind(inside).map_or(begin, |last| last.span.end);
    let gap = &text[place..end];
    let closing = if gap.contains('\n') { gap.to_owned() } else { format!("{eol}{outer}") };
    format!("{}{eol}{indent}{field}{closing}{}", &text[..place], &text[end..])
}

/// Replaces the value of a field.
pub(crate) fn replace(text: &str, field: &Field, new_value: &JsonText) -> String {
    let layout = Layout::of(text);
    let indent = indent_of(text, field.key_span.start);
    let value = new_value.render(&layout, indent);
    let Range { start, end } = field.value.span;
    format!("{}{value}{}", &text[..start], &text[end..])
}

/// Removes the field at `place` of `object`.
pub(crate) fn remove(text: &str, document: &Document, object: &Node, place: usize) -> String {
    let fields = object.fields().unwrap_or_default();
    let Some(field) = fields.get(place) else { return text.to_owned() };
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut end = field.value.span.end;
    match field.comma {
        Some(comma) if text[end..comma].trim().is_empty() => end = comma + 1,
        // A comment before the comma stays, so the comma is cut separately.
        Some(comma) => cuts.push(comma..comma + 1),
        None => {
            let before = place.checked_sub(1).and_then(|before| fields[before].comma);
            cuts.extend(before.map(|comma| comma..comma + 1));
        }
    }
    let key = field.key_span.start;
    let mut begin = text[..key].trim_end().len();
    // Spaces at the end of a comment belong to it, and `begin` is before them.
    let follows_comment = document.comments.iter().any(|comment| {
        comment.to_end_of_line && comment.span.start < begin && begin <= comment.span.end
    });
    let rest_of_line = text[end..].split('\n').next().unwrap_or_default();
    if follows_comment && !rest_of_line.trim().is_empty() {
        // The text that follows must not become part of the comment.
        begin = text[..key].rfind('\n').map_or(begin, |newline| newline + 1);
    }
    cuts.push(begin..end);
    cuts.sort_by_key(|cut| cut.start);
    let mut rest = String::with_capacity(text.len());
    let mut at = 0;
    for cut in cuts {
        rest.push_str(&text[at..cut.start]);
        at = cut.end;
    }
    rest.push_str(&text[at..]);
    if fields.len() == 1 {
        // No field is left: braces around white space become `{}`.
        let (open, removed) = (object.span.start + 1, text.len() - rest.len());
        let close = object.span.end - 1 - removed;
        if rest[open..close].trim().is_empty() {
            rest.replace_range(open..close, "");
        }
    }
    rest
}

/// The white space between the start of the line and `at`, if there is nothing else.
fn indent_of(text: &str, at: usize) -> Option<&str> {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let lead = &text[line..at];
    lead.trim_start_matches([' ', '\t']).is_empty().then_some(lead)
}

/// The white space at the start of the line of `at`.
fn line_indent(text: &str, at: usize) -> &str {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let lead = text[line..at].len() - text[line..at].trim_start_matches([' ', '\t']).len();
    &text[line..line + lead]
}

/// Whether the object's own fields have no space after their commas.
fn is_tight(text: &str, object: &Node) -> bool {
    let fields = object.fields().unwrap_or_default();
    let commas = fields.iter().filter_map(|field| field.comma);
    let mut commas = commas.filter(|&comma| !text[comma + 1..].starts_with('}'));
    commas.next().map_or_else(
        || fields.first().is_some_and(|first| text[..first.value.span.start].ends_with(':')),
        |comma| !text[comma + 1..].starts_with([' ', '\t']),
    )
}

/// The end of the last comment after `at` on its line, or `at` where there is none.
fn end_of_comments(text: &str, document: &Document, at: usize) -> usize {
    let mut end = at;
    for comment in document.comments.iter().filter(|comment| comment.span.start >= at) {
        let Range { start, end: comment_end } = comment.span;
        if !text[end..start].chars().all(|c| c == ' ' || c == '\t')
            || text[start..comment_end].contains('\n')
        {
            break;
        }
        end = comment_end;
    }
    end
}
