//! Bounds on a schema before it is compiled.
//!
//! Owns the bounds that llguidance lacks: on bytes, on references, and on combined alternatives.
//! llguidance copies a schema once for each combination, so that three lists of thirty alternatives
//! next to a long enumeration would take gigabytes.

use std::collections::HashMap;

use crate::limits;
use serde_json::Value;

/// Maximum common multiple for llguidance's arithmetic: ten times as much fits 32 bits.
const MAX_MULTIPLE: u64 = 400_000_000;

/// Refuses schemas that are too large together, or become so when compiled.
///
/// Follows references, so it needs a deep stack.
///
/// # Errors
/// The problem, as the rest of a sentence that begins with "`format`".
pub(super) fn check<'a>(schemas: impl IntoIterator<Item = &'a Value>) -> Result<(), String> {
    let (mut cost, mut all) = (SchemaCost::default(), 0);
    for schema in schemas {
        let bytes = bytes(schema);
        all += bytes;
        if all > limits::FORMAT_BYTES {
            return Err(too_long("schema", all));
        }
        cost.add(schema, bytes)?;
    }
    Ok(())
}

/// The size of a schema's JSON text, in bytes.
pub(super) fn bytes(schema: &Value) -> usize {
    schema.to_string().len()
}

/// Total cost of several schemas, except for their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SchemaCost {
    references: usize,
    alternatives: usize,
}

impl SchemaCost {
    /// Adds a schema of this many [`bytes`], unless it is too large alone or with the others.
    ///
    /// Needs a deep stack.
    ///
    /// # Errors
    /// As [`check`].
    pub(super) fn add(&mut self, schema: &Value, bytes: usize) -> Result<(), String> {
        if bytes > limits::FORMAT_BYTES {
            return Err(too_long("schema", bytes));
        }
        let references = self.references;
        let mut walk =
            Walk { root: schema, known: HashMap::new(), references, multiples: Vec::new() };
        walk.visit(schema)?;
        let alternatives = self.alternatives.saturating_add(walk.alternatives(schema));
        if alternatives > limits::FORMAT_ALTERNATIVES {
            return Err(too_many_alternatives());
        }
        if least_common(&walk.multiples).is_none() {
            return Err(format!(
                "has values of `multipleOf` with a common multiple above {MAX_MULTIPLE}"
            ));
        }
        *self = Self { references: walk.references, alternatives };
        Ok(())
    }
}

fn too_many_alternatives() -> String {
    let most = limits::FORMAT_ALTERNATIVES;
    format!("has a schema in which more than {most} alternatives are combined")
}

pub(super) fn too_long(what: &str, bytes: usize) -> String {
    format!("has a {what} of {bytes} bytes, and at most {} are allowed", limits::FORMAT_BYTES)
}

struct Walk<'a> {
    root: &'a Value,
    /// Alternatives of each reference's target. A target that is being counted counts as one, because
    /// its recursion does not combine with itself.
    known: HashMap<&'a str, usize>,
    references: usize,
    /// Every `multipleOf`, as a whole number and the number of its decimal places.
    multiples: Vec<(u64, u32)>,
}

impl<'a> Walk<'a> {
    /// Visits every value, whether it is a schema or not.
    fn visit(&mut self, value: &'a Value) -> Result<(), String> {
        match value {
            Value::Object(members) => {
                if let Some(multiple) = members.get("multipleOf").and_then(Value::as_f64) {
                    self.multiples.push(decimal(multiple));
                }
                self.references += usize::from(members.contains_key("$ref"));
                if self.references > limits::FORMAT_REFERENCES {
                    let most = limits::FORMAT_REFERENCES;
                    return Err(format!("has a schema with more than {most} references"));
                }
                if self.alternatives(value) > limits::FORMAT_ALTERNATIVES {
                    return Err(too_many_alternatives());
                }
                members.values().try_for_each(|member| self.visit(member))
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.visit(item)),
            _ => Ok(()),
        }
    }

    /// The number of schemas that this one becomes: alternatives add up, conjunctions multiply.
    fn alternatives(&mut self, schema: &'a Value) -> usize {
        let Some(members) = schema.as_object() else { return 1 };
        let mut product = 1_usize;
        for (keyword, value) in members {
            let factor = match (keyword.as_str(), value) {
                ("anyOf" | "oneOf", Value::Array(options)) => options
                    .iter()
                    .map(|option| self.alternatives(option))
                    .fold(0, usize::saturating_add),
                ("allOf", Value::Array(parts)) => {
                    parts.iter().map(|part| self.alternatives(part)).fold(1, usize::saturating_mul)
                }
                ("$ref", Value::String(target)) => self.target_alternatives(target),
                _ => 1,
            };
            product = product.saturating_mul(factor.max(1));
        }
        product
    }

    fn target_alternatives(&mut self, reference: &'a str) -> usize {
        if let Some(&known) = self.known.get(reference) {
            return known;
        }
        self.known.insert(reference, 1);
        let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let alternatives = target.map_or(1, |target| self.alternatives(target));
        self.known.insert(reference, alternatives);
        alternatives
    }
}

/// A positive number without its decimal point, and the number of its decimal places.
///
/// The number is 0 if it has too many digits.
fn decimal(number: f64) -> (u64, u32) {
    let text = number.to_string();
    let (whole, behind) = text.split_once('.').unwrap_or((&text, ""));
    let digits = u32::try_from(behind.len()).unwrap_or(u32::MAX);
    (format!("{whole}{behind}").parse().unwrap_or(0), digits)
}

/// The least common multiple, without the decimal point; `None` if it is too large.
fn least_common(multiples: &[(u64, u32)]) -> Option<u64> {
    let digits = multiples.iter().map(|&(_, digits)| digits).max().unwrap_or(0);
    let mut common = 1_u64;
    for &(number, own) in multiples {
        let number = number.checked_mul(10_u64.checked_pow(digits - own)?)?;
        let (mut a, mut b) = (common, number);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        common = (common / a.max(1)).checked_mul(number)?;
        if !(1..=MAX_MULTIPLE).contains(&common) {
            return None;
        }
    }
    Some(common)
}
