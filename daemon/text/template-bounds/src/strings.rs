//! Python's string methods, limited where they can make large values from small ones.
//!
//! Owns the string functions that filters and methods share. Does not know the environment.

use minijinja::{Error, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::bounds::Bounds;
use super::refuse;

/// Calls one of Python's methods of strings, lists and dicts, bounded where the result may be large.
pub(crate) fn call_method(
    bounds: &Bounds,
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let text = |index: usize| arguments.get(index).and_then(Value::as_str);
    match (value.as_str(), method) {
        (Some(string), "replace") => match (text(0), text(1)) {
            (Some(from), Some(to)) => {
                let rest = arguments.get(2..).unwrap_or_default();
                replace(bounds, string, from, to, rest).map(Value::from)
            }
            _ => Err(refuse("replace takes two strings")),
        },
        (Some(joiner), "join") => match arguments {
            [list] => join(bounds, joiner, list, None).map(Value::from),
            _ => Err(refuse("join takes one list")),
        },
        (Some(string), "split") => {
            bounds.check_items(part_count(string, arguments))?;
            unknown_method_callback(state, value, method, arguments)
        }
        (Some(string), "splitlines") => {
            bounds.check_items(line_count(string))?;
            unknown_method_callback(state, value, method, arguments)
        }
        // Widths and precisions in a format make strings of any length.
        (Some(_), "format") => Err(refuse("the method `format` is not supported")),
        _ => unknown_method_callback(state, value, method, arguments),
    }
}

/// The number of characters of a string.
pub(crate) fn characters(text: &str, _: &[Value]) -> usize {
    text.chars().count()
}

/// The maximum number of lines that splitting gives.
pub(crate) fn line_count(text: &str) -> usize {
    text.matches(['\n', '\r']).count() + 1
}

/// The maximum number of parts that splitting gives.
pub(crate) fn part_count(text: &str, arguments: &[Value]) -> usize {
    match arguments.first().and_then(Value::as_str) {
        Some(separator) => text.matches(separator).count() + 1,
        None => text.split_whitespace().count(),
    }
}

/// Replaces `from` by `to` in `text`; `rest` may hold the maximum number of replacements.
pub(crate) fn replace(
    bounds: &Bounds,
    text: &str,
    from: &str,
    to: &str,
    rest: &[Value],
) -> Result<String, Error> {
    let count = match rest {
        [] => usize::MAX,
        // In Python a negative count means no limit.
        [count] => {
            count.as_i64().map_or(usize::MAX, |count| count.try_into().unwrap_or(usize::MAX))
        }
        _ => return Err(refuse("replace takes at most three arguments")),
    };
    let matches = text.matches(from).count().min(count);
    bounds.charge_text(text.len().saturating_add(matches.saturating_mul(to.len())))?;
    Ok(text.replacen(from, to, count))
}

/// Joins the texts of the items, or of one attribute of each, with `joiner` between them.
pub(crate) fn join(
    bounds: &Bounds,
    joiner: &str,
    list: &Value,
    attribute: Option<&str>,
) -> Result<String, Error> {
    let mut text = String::new();
    for (index, item) in list.try_iter()?.enumerate() {
        if index > 0 {
            bounds.charge_text(joiner.len())?;
            text.push_str(joiner);
        }
        let item = match attribute {
            Some(name) => item.get_attr(name)?,
            None => item,
        };
        text.push_str(&bounds.text_of(&item)?);
    }
    Ok(text)
}

/// Indents the lines of `text` by `width` spaces, as Jinja's filter does.
pub(crate) fn indent(
    bounds: &Bounds,
    text: &str,
    width: usize,
    first: bool,
    blank: bool,
) -> Result<String, Error> {
    let lines = text.split('\n').count();
    bounds.charge_text(text.len().saturating_add(lines.saturating_mul(width)))?;
    let margin = " ".repeat(width);
    let mut out = String::new();
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if (index > 0 || first) && (blank || !line.is_empty()) {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}
