//! What a schema may be before it is compiled.
//!
//! Owns the bounds that llguidance does not have: on bytes, on what refers to what, and on the
//! alternatives that combine with each other. It copies a schema once for each combination, so that
//! three lists of thirty alternatives beside a long enumeration would take gigabytes.

use std::collections::HashMap;

use crate::limits;
use serde_json::Value;

/// The largest common multiple that llguidance's arithmetic takes: ten times as much fits 32 bits.
const MAX_MULTIPLE: u64 = 400_000_000;

/// Refuses schemas that are too large together, or could become so. Follows what refers to what, so
/// it needs a deep stack.
///
/// # Errors
/// What follows "`format`" in a message.
pub(super) fn check<'a>(schemas: impl IntoIterator<Item = &'a Value>) -> Result<(), String> {
    let (mut sum, mut all) = (Sum::default(), 0);
    for schema in schemas {
        let bytes = bytes(schema);
        all += bytes;
        if all > limits::FORMAT_BYTES {
            return Err(too_long("schema", all));
        }
        sum.add(schema, bytes)?;
    }
    Ok(())
}

/// The bytes of a schema as text.
pub(super) fn bytes(schema: &Value) -> usize {
    schema.to_string().len()
}

/// What several schemas can become together, but for their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    references: usize,
    alternatives: usize,
}

impl Sum {
    /// Adds a schema of so many [`bytes`], unless it is too large by itself or with the others. Needs a
    /// deep stack.
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
            return Err(format!("has values of `multipleOf` that together pass {MAX_MULTIPLE}"));
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
    format!("has a {what} of {bytes} bytes, and at most {} are taken", limits::FORMAT_BYTES)
}

struct Walk<'a> {
    root: &'a Value,
    /// Alternatives behind each reference; those of one that is being looked at count as one, as its
    /// own recursion does not combine with itself.
    known: HashMap<&'a str, usize>,
    references: usize,
    /// Every `multipleOf`, as a whole number and how many of its digits are behind the point.
    multiples: Vec<(u64, u32)>,
}

impl<'a> Walk<'a> {
    /// Looks at all there is, schema or not.
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

    /// How many schemas this one can become: alternatives add up, and what holds together
    /// multiplies.
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
                ("$ref", Value::String(target)) => self.behind(target),
                _ => 1,
            };
            product = product.saturating_mul(factor.max(1));
        }
        product
    }

    fn behind(&mut self, reference: &'a str) -> usize {
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

/// A positive number without its point, and how many digits were behind that; 0 for what has too
/// many of them.
fn decimal(number: f64) -> (u64, u32) {
    let text = number.to_string();
    let (whole, behind) = text.split_once('.').unwrap_or((&text, ""));
    let digits = u32::try_from(behind.len()).unwrap_or(u32::MAX);
    (format!("{whole}{behind}").parse().unwrap_or(0), digits)
}

/// The least common multiple, without the point; `None` when it is too large.
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
