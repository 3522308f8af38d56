//! Annotations of a schema, such as descriptions, and their removal.
//!
//! Owns the places of subschemas in a schema, so that a property called `description` stays. Values in
//! unknown places are left unchanged.

use serde_json::Value;

/// Keywords that constrain no value.
const ANNOTATIONS: [&str; 9] = [
    "title",
    "description",
    "default",
    "example",
    "examples",
    "$comment",
    "deprecated",
    "readOnly",
    "writeOnly",
];

/// The schema without annotations. Recurses as deep as the schema is.
pub(super) fn without(schema: &Value) -> Value {
    let Value::Object(keywords) = schema else { return schema.clone() };
    let kept = keywords.iter().filter(|(keyword, _)| !ANNOTATIONS.contains(&keyword.as_str()));
    let kept = kept.map(|(keyword, value)| {
        let value = match (keyword.as_str(), value) {
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas"
                | "dependencies",
                Value::Object(named),
            ) => named.iter().map(|(name, schema)| (name.clone(), without(schema))).collect(),
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                schemas.iter().map(without).collect()
            }
            (
                "items"
                | "additionalItems"
                | "additionalProperties"
                | "unevaluatedItems"
                | "unevaluatedProperties"
                | "propertyNames"
                | "contains"
                | "not"
                | "if"
                | "then"
                | "else",
                schema,
            ) => without(schema),
            (_, value) => value.clone(),
        };
        (keyword.clone(), value)
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn without_removes_annotations_but_no_properties() {
        let schema = json!({
            "title": "t", "description": "d", "type": "object",
            "properties": {
                "description": { "type": "string", "description": "d", "default": "x" },
                "title": { "enum": [{ "title": "a" }], "examples": [1] },
                "items": { "type": "array", "items": { "description": "d", "const": { "default": 1 } } },
            },
            "required": ["description"],
            "anyOf": [{ "description": "d", "not": { "title": "t", "type": "null" } }],
            "$defs": { "default": { "$comment": "c", "type": "integer" } },
            "additionalProperties": false,
            "x-kept": { "description": "d" },
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "description": { "type": "string" },
                "title": { "enum": [{ "title": "a" }] },
                "items": { "type": "array", "items": { "const": { "default": 1 } } },
            },
            "required": ["description"],
            "anyOf": [{ "not": { "type": "null" } }],
            "$defs": { "default": { "type": "integer" } },
            "additionalProperties": false,
            "x-kept": { "description": "d" },
        });
        assert_eq!(without(&schema).to_string(), expected.to_string(), "and in the same order");
    }
}
