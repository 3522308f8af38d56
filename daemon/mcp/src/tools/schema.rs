//! Schemas of arguments and results: JSON Schema 2020-12, as plain as hosts and models like it.
//!
//! Owns how a Rust type becomes a schema. Knows no single tool.

use std::sync::Arc;

use rmcp::model::JsonObject;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// One of the forms that a result can have: the members it must have, and those it may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// Always there.
    pub(super) required: &'static [&'static str],
    /// There where they are known.
    pub(super) optional: &'static [&'static str],
}

/// The schema of a tool's arguments.
pub(super) fn input<T: JsonSchema>() -> Arc<JsonObject> {
    let mut schema = plain::<T>();
    schema.entry("properties").or_insert_with(|| json!({}));
    Arc::new(schema)
}

/// Why there is no result: the schema of the protocol's errors.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "it is there for its schema")]
struct Failure {
    /// What went wrong, as a stable name.
    code: String,
    /// What went wrong.
    message: String,
    /// What to do next.
    remediation: String,
    /// Whether the same call can succeed later.
    retryable: bool,
    /// The server's name of the request.
    request_id: Option<String>,
    /// Figures and names behind the message, such as `partial_result` and `timeout_seconds`.
    details: Option<Map<String, Value>>,
}

/// The schema of a tool's results, which have one of `forms`, each with the members of that name of
/// `T`, or are an error. It is an object with all members, so that a reader who knows no `anyOf`
/// still sees them.
pub(super) fn output<T: JsonSchema>(forms: &[Form]) -> Arc<JsonObject> {
    let mut all = plain::<T>();
    let known = all.remove("properties");
    let mut properties = Map::new();
    for name in forms.iter().flat_map(|form| form.required.iter().chain(form.optional)) {
        let schema = known.as_ref().and_then(|known| known.get(*name)).cloned();
        properties.insert((*name).to_owned(), schema.unwrap_or(Value::Bool(true)));
    }
    let mut failure = plain::<Failure>();
    failure.insert("description".to_owned(), json!("Why there is no result."));
    properties.insert("error".to_owned(), Value::Object(failure));
    let required = forms.iter().map(|form| form.required).chain([["error"].as_slice()]);
    let schema = json!({
        "type": "object",
        "properties": properties,
        "anyOf": required.map(|names| json!({ "required": names })).collect::<Vec<_>>(),
    });
    Arc::new(schema.as_object().cloned().unwrap_or_default())
}

/// A type's schema without references, and without what only a Rust program would make of it.
fn plain<T: JsonSchema>() -> JsonObject {
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

/// Takes out `format: "uint32"` and the like, which JSON Schema does not know and the MCP
/// Inspector warns of, and the `null` of optional members: they are left out, not null.
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
            if let Some(forms) = object.get_mut("anyOf").and_then(Value::as_array_mut) {
                forms.retain(|form| *form != json!({ "type": "null" }));
                if let [Value::Object(form)] = forms.as_slice() {
                    let form = form.clone();
                    object.remove("anyOf");
                    // What is said of the member itself counts more than what is said of its type.
                    for (key, value) in form {
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
