//! Hugging Face's additions to Jinja: `raise_exception`, `strftime_now` and `tojson`.
//!
//! Owns the functions and filters of the dialect. Does not know messages or clocks.

use std::sync::Arc;

use ingle_template_bounds::{Bounds, RenderError};
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, Value};

use super::json::to_json;
use super::strftime::strftime;

/// Adds the dialect's functions and filters, whose results count in `bounds`.
pub(super) fn add(env: &mut Environment<'static>, bounds: &Arc<Bounds>, unix_time_s: i64) {
    let shared = Arc::clone(bounds);
    env.add_function("raise_exception", move |message: String| -> Result<Value, Error> {
        Err(shared.end(RenderError::Failed(message)))
    });
    let shared = Arc::clone(bounds);
    env.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        // No directive of two bytes gives more than 24 bytes.
        shared.charge_text(format.len() * 12)?;
        Ok(strftime(format, unix_time_s))
    });
    let shared = Arc::clone(bounds);
    env.add_filter("tojson", move |value: &Value, options: Kwargs| -> Result<String, Error> {
        let indent: Option<usize> = options.get("indent")?;
        // The other options of Python's function keep their defaults.
        to_json(&shared, value, indent)
    });
}
