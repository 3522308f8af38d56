//! JSON in templates: values from JSON, and the filter `tojson`.
//!
//! Owns both conversions. Values are written as by Python's `json.dumps(value, ensure_ascii=False)`;
//! minijinja's own filter escapes for HTML.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, Value};
use serde_json::Value as Json;

use ingle_template_bounds::{BoundedText, Bounds, refuse};

/// The value as JSON: on one line, or on several with `indent` spaces for each level.
pub(super) fn to_json(
    bounds: &Bounds,
    value: &Value,
    indent: Option<usize>,
) -> Result<String, Error> {
    let mut out = BoundedText::new(bounds);
    write_json(&mut out, value, indent, 0).map_err(|error| match error {
        JsonError::Full => bounds.text_failed(),
        JsonError::Engine(error) => error,
    })?;
    Ok(out.into_text())
}

/// Converts JSON to a template's value. Fields keep their order, as in Python.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.as_str(), from_json(value))))
        }
    }
}

enum JsonError {
    /// The rendering has reached its limit on text.
    Full,
    /// minijinja failed.
    Engine(Error),
}

impl From<std::fmt::Error> for JsonError {
    fn from(_: std::fmt::Error) -> Self {
        Self::Full
    }
}

impl From<Error> for JsonError {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

fn write_json(
    out: &mut BoundedText<'_>,
    value: &Value,
    indent: Option<usize>,
    depth: usize,
) -> Result<(), JsonError> {
    let line = |out: &mut BoundedText<'_>, depth: usize| match indent {
        Some(width) => {
            out.write_str("\n")?;
            (0..depth.saturating_mul(width)).try_for_each(|_| out.write_str(" "))
        }
        None => Ok(()),
    };
    let comma = if indent.is_some() { "," } else { ", " };
    let is_map = value.kind() == ValueKind::Map;
    match value.kind() {
        ValueKind::Undefined => return Err(refuse("an undefined value has no JSON").into()),
        ValueKind::None => out.write_str("null")?,
        ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" })?,
        ValueKind::Number => write!(out, "{value}")?,
        ValueKind::String => write_json_string(out, value.as_str().unwrap_or_default())?,
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            out.write_str(if is_map { "{" } else { "[" })?;
            let mut empty = true;
            for item in value.try_iter()? {
                if !empty {
                    out.write_str(comma)?;
                }
                empty = false;
                line(out, depth + 1)?;
                if is_map {
                    let key = out.bounds().text_of(&item)?;
                    write_json_string(out, &key)?;
                    out.write_str(": ")?;
                    write_json(out, &value.get_item(&item)?, indent, depth + 1)?;
                } else {
                    write_json(out, &item, indent, depth + 1)?;
                }
            }
            if !empty {
                line(out, depth)?;
            }
            out.write_str(if is_map { "}" } else { "]" })?;
        }
        other => return Err(refuse(format!("a value of type {other} has no JSON")).into()),
    }
    Ok(())
}

fn write_json_string(out: &mut BoundedText<'_>, text: &str) -> Result<(), JsonError> {
    // serde_json escapes the same characters as Python: quotes, backslashes and control characters.
    let quoted = serde_json::to_string(text).map_err(|error| refuse(error.to_string()))?;
    Ok(out.write_str(&quoted)?)
}
