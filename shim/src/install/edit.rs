//! Changing one member of a JSON text and nothing else.
//!
//! Owns where a member goes, how it is laid out so that it looks like its neighbours, and what is
//! cut when it is taken out again. Nothing is serialised anew: comments, order, white space, line
//! breaks and trailing commas around it stay as they are. Pure: text in, text out.

use std::ops::Range;

use serde_json::Value;

use super::jsonc::{Comment, Document, Member, Node};

/// A value to be written: like [`Value`], with members in the order given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Form {
    /// A value that goes on one line.
    Flat(Value),
    /// An object, one member a line.
    Object(Vec<(String, Form)>),
}

impl Form {
    /// As JSON laid out by itself, as a person would write it.
    pub(crate) fn pretty(&self) -> String {
        self.render(&Layout { eol: "\n", unit: "  ".to_owned() }, Some(""))
    }

    /// With members on lines of their own behind `indent`, or all on one line.
    fn render(&self, layout: &Layout<'_>, indent: Option<&str>) -> String {
        match (self, indent) {
            (Self::Flat(value), _) => flat(value),
            (Self::Object(members), _) if members.is_empty() => "{}".to_owned(),
            (Self::Object(members), Some(indent)) => {
                let inner = format!("{indent}{}", layout.unit);
                let lines = members.iter().map(|(key, form)| {
                    format!("{inner}{}", layout.member(key, form, Some(&inner)))
                });
                let eol = layout.eol;
                let lines = lines.collect::<Vec<_>>().join(&format!(",{eol}"));
                format!("{{{eol}{lines}{eol}{indent}}}")
            }
            (Self::Object(members), None) => {
                let members = members.iter().map(|(key, form)| layout.member(key, form, None));
                format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// One line, with a space behind commas and colons.
fn flat(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            format!("[{}]", values.iter().map(flat).collect::<Vec<_>>().join(", "))
        }
        Value::Object(members) => {
            let members = members.iter();
            let members = members
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), flat(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// How a text is laid out.
struct Layout<'a> {
    eol: &'a str,
    /// What a level is indented by.
    unit: String,
}

impl<'a> Layout<'a> {
    fn of(text: &'a str) -> Self {
        let eol = match text.find('\n') {
            Some(newline) if text[..newline].ends_with('\r') => "\r\n",
            _ => "\n",
        };
        // The first member that stands on a line of its own is one level deep.
        let mut indents = text.lines().filter_map(|line| {
            let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
            (line[indent..].starts_with('"') && indent > 0).then(|| line[..indent].to_owned())
        });
        Self { eol, unit: indents.next().unwrap_or_else(|| "  ".to_owned()) }
    }

    fn member(&self, key: &str, form: &Form, indent: Option<&str>) -> String {
        format!("{}: {}", Value::from(key), form.render(self, indent))
    }
}

/// The text with `key` put into `object`, behind its last member.
pub(crate) fn insert(
    text: &str,
    document: &Document,
    object: &Node,
    key: &str,
    form: &Form,
) -> String {
    let layout = Layout::of(text);
    match object.members() {
        Some([.., last]) => insert_behind(text, document, object, last, &layout, key, form),
        _ => insert_first(text, document, object, &layout, key, form),
    }
}

fn insert_behind(
    text: &str,
    document: &Document,
    object: &Node,
    last: &Member,
    layout: &Layout<'_>,
    key: &str,
    form: &Form,
) -> String {
    let first_key = object.members().and_then(|members| members.first());
    let first_key = first_key.map_or(last.key_span.start, |first| first.key_span.start);
    let lead = &text[object.span.start + 1..first_key];
    let on_lines = lead.contains('\n');
    let trailing = if last.comma.is_some() { "," } else { "" };
    let behind = last.comma.map_or(last.value.span.end, |comma| comma + 1);
    let (before, member) = if on_lines {
        let indent = indent_of(text, last.key_span.start)
            .or_else(|| indent_of(text, first_key))
            .unwrap_or(&layout.unit);
        (format!("{}{indent}", layout.eol), layout.member(key, form, Some(indent)))
    } else {
        let space = if is_tight(text, object) { "" } else { " " };
        (space.to_owned(), layout.member(key, form, None))
    };
    // A remark behind the last member, on its line, stays with it.
    let place = if on_lines { end_of_remarks(text, document, behind) } else { behind };
    let comma = if last.comma.is_some() { "" } else { "," };
    let end = last.value.span.end;
    let (head, remarks, tail) = (&text[..end], &text[end..place], &text[place..]);
    format!("{head}{comma}{remarks}{before}{member}{trailing}{tail}")
}

fn insert_first(
    text: &str,
    document: &Document,
    object: &Node,
    layout: &Layout<'_>,
    key: &str,
    form: &Form,
) -> String {
    let (begin, end) = (object.span.start + 1, object.span.end - 1);
    // A text that is one line stays one, unless it holds nothing yet.
    if !text.trim_end().contains('\n') && document.root.members().is_some_and(|all| !all.is_empty())
    {
        let member = layout.member(key, form, None);
        return format!("{}{member}{}", &text[..end], &text[end..]);
    }
    let outer = line_indent(text, object.span.start);
    let indent = format!("{outer}{}", layout.unit);
    let member = layout.member(key, form, Some(&indent));
    let eol = layout.eol;
    let inside = |comment: &&Comment| (begin..end).contains(&comment.span.start);
    let place = document.comments.iter().rfind(inside).map_or(begin, |last| last.span.end);
    let gap = &text[place..end];
    let closing = if gap.contains('\n') { gap.to_owned() } else { format!("{eol}{outer}") };
    format!("{}{eol}{indent}{member}{closing}{}", &text[..place], &text[end..])
}

/// The text with the value of a member replaced.
pub(crate) fn replace(text: &str, member: &Member, form: &Form) -> String {
    let layout = Layout::of(text);
    let indent = indent_of(text, member.key_span.start);
    let value = form.render(&layout, indent);
    let Range { start, end } = member.value.span;
    format!("{}{value}{}", &text[..start], &text[end..])
}

/// The text without the member at `place` of `object`.
pub(crate) fn remove(text: &str, document: &Document, object: &Node, place: usize) -> String {
    let members = object.members().unwrap_or_default();
    let Some(member) = members.get(place) else { return text.to_owned() };
    let mut cuts: Vec<Range<usize>> = Vec::new();
    let mut end = member.value.span.end;
    match member.comma {
        Some(comma) if text[end..comma].trim().is_empty() => end = comma + 1,
        // What a remark stands before goes alone.
        Some(comma) => cuts.push(comma..comma + 1),
        None => {
            let before = place.checked_sub(1).and_then(|before| members[before].comma);
            cuts.extend(before.map(|comma| comma..comma + 1));
        }
    }
    let key = member.key_span.start;
    let mut begin = text[..key].trim_end().len();
    // Spaces at a remark's end are its own, and `begin` stands before them.
    let after_remark = document.comments.iter().any(|remark| {
        remark.to_end_of_line && remark.span.start < begin && begin <= remark.span.end
    });
    let rest_of_line = text[end..].split('\n').next().unwrap_or_default();
    if after_remark && !rest_of_line.trim().is_empty() {
        // What follows must not become part of the remark.
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
    if members.len() == 1 {
        // Nothing is left: two braces around white space become two braces.
        let (open, removed) = (object.span.start + 1, text.len() - rest.len());
        let close = object.span.end - 1 - removed;
        if rest[open..close].trim().is_empty() {
            rest.replace_range(open..close, "");
        }
    }
    rest
}

/// The white space a line begins with, if nothing else stands between it and `at`.
fn indent_of(text: &str, at: usize) -> Option<&str> {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let lead = &text[line..at];
    lead.trim_start_matches([' ', '\t']).is_empty().then_some(lead)
}

/// The white space at the beginning of the line that `at` stands in.
fn line_indent(text: &str, at: usize) -> &str {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let lead = text[line..at].len() - text[line..at].trim_start_matches([' ', '\t']).len();
    &text[line..line + lead]
}

/// Whether the object's own members have no space behind their commas.
fn is_tight(text: &str, object: &Node) -> bool {
    let members = object.members().unwrap_or_default();
    let commas = members.iter().filter_map(|member| member.comma);
    let mut commas = commas.filter(|&comma| !text[comma + 1..].starts_with('}'));
    commas.next().map_or_else(
        || members.first().is_some_and(|first| text[..first.value.span.start].ends_with(':')),
        |comma| !text[comma + 1..].starts_with([' ', '\t']),
    )
}

/// The end of the last comment that stands behind `at` on its line, or `at` where there is none.
fn end_of_remarks(text: &str, document: &Document, at: usize) -> usize {
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
