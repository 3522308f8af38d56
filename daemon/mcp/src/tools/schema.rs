//! JSON Schemas of arguments and results, in the simple subset that hosts and models handle.
//!
//! Owns how a Rust type becomes a schema. Does not know single tools.

use std::sync::Arc;

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema of a tool's arguments.
pub(super) fn input<T: JsonSchema>() -> Arc<JsonObject> {
    let mut schema = plain::<T>();
    schema.entry("properties").or_insert_with(|| json!({}));
    Arc::new(schema)
}

/// Schema of the protocol's errors.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Failure {
    /// The kind of error, as a stable name.
    code: String,
    /// Description of the error.
    message: String,
    /// The next step.
    remediation: String,
    /// Whether the same call can succeed later.
    retryable: bool,
    /// The server's id of the request.
    request_id: Option<String>,
    /// Figures and names behind the message, such as `partial_result` and `timeout_seconds`.
    details: Option<Map<String, Value>>,
}

/// The schema of a tool's results: one of `alternatives`, each a struct's schema, or an error.
///
/// It is one object with the fields of all alternatives, so that a reader that ignores `anyOf`
/// still sees them. Each alternative requires the fields of its struct that are not optional.
pub(super) fn output(alternatives: Vec<JsonObject>) -> Arc<JsonObject> {
    let mut properties = Map::new();
    let mut any_of = Vec::with_capacity(alternatives.len() + 1);
    for mut schema in alternatives {
        if let Some(Value::Object(fields)) = schema.remove("properties") {
            for (name, field) in fields {
                properties.entry(name).or_insert(field);
            }
        }
        let required = schema.remove("required").unwrap_or_else(|| json!([]));
        any_of.push(json!({ "required": required }));
    }
    let mut failure = plain::<Failure>();
    failure.insert("description".to_owned(), json!("The error, if the call failed."));
    properties.insert("error".to_owned(), Value::Object(failure));
    any_of.push(json!({ "required": ["error"] }));
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema.insert("anyOf".to_owned(), Value::Array(any_of));
    Arc::new(schema)
}

/// A type's schema without references, and without details that only matter to Rust.
pub(super) fn plain<T: JsonSchema>() -> JsonObject {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    let mut schema = schema.as_object().cloned().unwrap_or_default();
    schema.remove("title");
    schema.remove("description");
    schema
}

/// Removes `format: "uint32"` and the like, which JSON Schema does not define and the MCP Inspector
/// warns of, and the `null` of optional fields, which are absent instead of null.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let is_number = |kind: &Value| {
                let is = |kind: &Value| kind == "integer" || kind == "number";
                is(kind) || kind.as_array().is_some_and(|kinds| kinds.iter().any(is))
            };
            if object.get("type").is_some_and(is_number) {
                object.remove("format");
            }
            if let Some(kinds) = object.get_mut("type").and_then(Value::as_array_mut) {
                kinds.retain(|kind| kind != "null");
                if let [kind] = kinds.as_slice() {
                    let kind = kind.clone();
                    object.insert("type".to_owned(), kind);
                }
            }
            if let Some(schemas) = object.get_mut("anyOf").and_then(Value::as_array_mut) {
                schemas.retain(|schema| *schema != json!({ "type": "null" }));
                if let [Value::Object(schema)] = schemas.as_slice() {
                    let schema = schema.clone();
                    object.remove("anyOf");
                    // Keywords of the field take precedence over those of its type.
                    for (key, value) in schema {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}
