//! OpenAPI document of the API.
//!
//! Owns the table of operations. The schemas of requests and responses come from their types.

use axum::body::Bytes;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::problem::CONTENT;
use super::types::chat::ChatRequest;
use super::types::chat_response::{ChatChunk, ChatCompletion};
use super::types::completions::{Completion, CompletionRequest};
use super::types::embeddings::{EmbeddingList, EmbeddingRequest};
use super::types::models::{Health, Model, ModelList};
use super::types::problem::Problem;

/// The whole document. `requires_token` says whether clients over TCP need the token.
#[must_use]
pub fn describe(requires_token: bool) -> Bytes {
    let mut schemas = Schemas::new();
    // The schema for reading, because most problems have no `details`.
    let problem = schemas.request::<Problem>();
    let operations = Operations { problem, requires_token };
    // No response refers to this schema: it describes one event of a stream.
    schemas.response::<ChatChunk<'_>>();
    let paths = json!({
        "/v1/chat/completions": { "post": operations.post(
            "createChatCompletion",
            "Creates a response to a conversation.",
            schemas.request::<ChatRequest>(),
            schemas.response::<ChatCompletion>(),
            Some("Server-sent events with one `ChatChunk` each, then `[DONE]`."),
        ) },
        "/v1/completions": { "post": operations.post(
            "createCompletion",
            "Creates completions of prompts.",
            schemas.request::<CompletionRequest>(),
            schemas.response::<Completion<'_>>(),
            Some("Server-sent events with one `Completion` each, then `[DONE]`."),
        ) },
        "/v1/embeddings": { "post": operations.post(
            "createEmbedding",
            "Creates embedding vectors of texts.",
            schemas.request::<EmbeddingRequest>(),
            schemas.response::<EmbeddingList>(),
            None,
        ) },
        "/v1/models": { "get": operations.get(
            "listModels",
            "Lists the installed models.",
            json_of(schemas.response::<ModelList>()),
            &[408],
        ) },
        "/v1/models/{id}": {
            "parameters": [{
                "name": "id",
                "in": "path",
                "required": true,
                "description": "Name of the model, as listed. Slashes may be escaped or not.",
                "schema": { "type": "string", "minLength": 1 },
            }],
            "get": operations.get(
                "retrieveModel",
                "Describes one installed model.",
                json_of(schemas.response::<Model>()),
                &[404, 408],
            ),
        },
        "/health": { "get": operations.health(schemas.response::<Health>()) },
        "/metrics": { "get": operations.get(
            "metrics",
            "Returns the daemon's metrics in Prometheus's text format.",
            json!({ "text/plain": { "schema": { "type": "string" } } }),
            &[],
        ) },
        "/openapi.json": { "get": operations.open(
            "openapi", "Returns this document.", json_of(json!({ "type": "object" })),
        ) },
    });
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ingle",
            "version": ingle_protocol::BUILD,
            "description": "Local language models that stay loaded, behind OpenAI's API.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.all,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    });
    Bytes::from(document.to_string())
}

/// The schemas that the document's operations refer to.
struct Schemas {
    all: Map<String, Value>,
}

impl Schemas {
    fn new() -> Self {
        Self { all: Map::new() }
    }

    /// A reference to a type's schema for reading.
    fn request<T: JsonSchema>(&mut self) -> Value {
        self.add::<T>(settings().into_generator())
    }

    /// A reference to a type's schema for writing, in which fields that are always written are
    /// required.
    fn response<T: JsonSchema>(&mut self) -> Value {
        self.add::<T>(settings().for_serialize().into_generator())
    }

    fn add<T: JsonSchema>(&mut self, mut generator: SchemaGenerator) -> Value {
        let reference = generator.subschema_for::<T>().to_value();
        self.all.extend(generator.take_definitions(true));
        reference
    }
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.definitions_path = "/components/schemas".into();
    })
}

fn json_of(schema: Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

/// The parts that all operations share.
struct Operations {
    problem: Value,
    requires_token: bool,
}

impl Operations {
    fn post(
        &self,
        id: &str,
        summary: &str,
        body: Value,
        response: Value,
        events: Option<&str>,
    ) -> Value {
        let mut content = json_of(response);
        if let Some(events) = events {
            // Without a type: tools disagree on whether it would be the type of the stream or of an
            // event.
            content["text/event-stream"] = json!({ "schema": { "description": events } });
        }
        let statuses = [400, 404, 408, 409, 413, 415, 422, 429];
        let mut operation = self.get(id, summary, content, &statuses);
        operation["requestBody"] = json!({ "required": true, "content": json_of(body) });
        operation
    }

    fn get(&self, id: &str, summary: &str, content: Value, statuses: &[u16]) -> Value {
        let mut operation = self.open(id, summary, content);
        let token: &[u16] = if self.requires_token { &[401] } else { &[] };
        for &status in token.iter().chain(statuses) {
            operation["responses"][status.to_string()] = self.error(status);
        }
        if self.requires_token {
            operation["security"] = json!([{ "token": [] }]);
        }
        operation
    }

    /// An operation that needs no token.
    fn open(&self, id: &str, summary: &str, content: Value) -> Value {
        let mut responses = json!({ "200": {
            "description": "Success.",
            "headers": { "x-request-id": { "schema": { "type": "string" } } },
            "content": content,
        } });
        for status in [403, 500, 503] {
            responses[status.to_string()] = self.error(status);
        }
        json!({ "operationId": id, "summary": summary, "responses": responses })
    }

    fn health(&self, health: Value) -> Value {
        let content = json_of(health);
        let summary = "Reports whether the daemon accepts work.";
        let mut operation = self.open("health", summary, content.clone());
        operation["responses"]["503"] =
            json!({ "description": "The daemon does not accept work.", "content": content });
        operation
    }

    fn error(&self, status: u16) -> Value {
        let description = match status {
            400 => "The body is not JSON, or the prompt does not fit the model's context.",
            401 => "The bearer token is missing or wrong.",
            403 => "The `Host` header names another host.",
            404 => "The model does not exist.",
            408 => "The request timed out.",
            409 => "The request conflicts with the present state.",
            413 => "The body is too large.",
            415 => "The content type is not JSON.",
            422 => "A field is invalid, or the model does not support the request.",
            429 => "A queue is full. Retry later.",
            500 => "Internal error.",
            _ => "The daemon is unavailable.",
        };
        let mut error = json!({
            "description": description,
            "content": { CONTENT: { "schema": self.problem } },
        });
        if status == 429 {
            error["headers"] = json!({ "retry-after": { "schema": { "type": "integer" } } });
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reference in `value`.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    found.push(reference.clone());
                }
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn references_resolve_and_written_fields_are_required() {
        let document: Value = serde_json::from_slice(&describe(true)).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let schemas = &document["components"]["schemas"];
        let required = |name: &str| schemas[name]["required"].to_string();
        assert_eq!(required("ChatRequest"), r#"["messages"]"#);
        assert!(required("ChatCompletion").contains("usage"));
        assert!(!required("AnswerMessage").contains("tool_calls"), "{}", required("AnswerMessage"));
        assert!(required("Problem").contains("request_id"));
        assert!(!required("Problem").contains("details"), "{}", required("Problem"));
        for name in ["ChatRequest", "CompletionRequest"] {
            let fields = &schemas[name]["properties"];
            assert_eq!(
                (&fields["n"]["maximum"], &fields["temperature"]["maximum"]),
                (&json!(8), &json!(100.0))
            );
            assert_eq!(fields["min_p"]["description"], ingle_protocol::sampling::MIN_P.description);
        }
        let open = serde_json::from_slice::<Value>(&describe(false)).unwrap();
        assert!(open["paths"]["/v1/models"]["get"]["responses"]["401"].is_null());
    }
}
