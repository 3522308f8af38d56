//! `GET /openapi.json`: the API's description.
//!
//! Owns the table of operations. Requests and answers are described by their types, from which the
//! schemas are made.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::Edge;
use super::problem::CONTENT;
use super::types::chat::ChatRequest;
use super::types::chat_answers::{ChatChunk, ChatCompletion};
use super::types::completions::{Completion, CompletionRequest};
use super::types::embeddings::{EmbeddingList, EmbeddingRequest};
use super::types::models::{Health, Model, ModelList};
use super::types::problem::Problem;

/// The API's description.
pub async fn document(State(edge): State<Arc<Edge>>) -> Response {
    let mut response = Response::new(Body::from(edge.document.clone()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The whole document. `wants_token` says whether TCP does.
#[must_use]
pub fn describe(wants_token: bool) -> Bytes {
    let mut schemas = Schemas::new();
    // Most problems have no details: as it is read, and not as it is written, they may be absent.
    let problem = schemas.request::<Problem>();
    let operations = Operations { problem, wants_token };
    // They are in no answer by themselves: an event of a stream is one of them.
    schemas.answer::<ChatChunk<'_>>();
    let paths = json!({
        "/v1/chat/completions": { "post": operations.post(
            "createChatCompletion",
            "Answers a conversation.",
            schemas.request::<ChatRequest>(),
            schemas.answer::<ChatCompletion>(),
            Some("Events with a `ChatChunk` each, then `[DONE]`."),
        ) },
        "/v1/completions": { "post": operations.post(
            "createCompletion",
            "Continues prompts.",
            schemas.request::<CompletionRequest>(),
            schemas.answer::<Completion<'_>>(),
            Some("Events with a `Completion` each, then `[DONE]`."),
        ) },
        "/v1/embeddings": { "post": operations.post(
            "createEmbedding",
            "Turns texts into vectors.",
            schemas.request::<EmbeddingRequest>(),
            schemas.answer::<EmbeddingList>(),
            None,
        ) },
        "/v1/models": { "get": operations.get(
            "listModels", "Lists the models that are here.", json_of(schemas.answer::<ModelList>()), &[408],
        ) },
        "/v1/models/{id}": {
            "parameters": [{
                "name": "id",
                "in": "path",
                "required": true,
                "description": "Its name, as listed; slashes may be escaped or not.",
                "schema": { "type": "string", "minLength": 1 },
            }],
            "get": operations.get(
                "retrieveModel", "One of the models.", json_of(schemas.answer::<Model>()), &[404, 408],
            ),
        },
        "/health": { "get": operations.health(schemas.answer::<Health>()) },
        "/metrics": { "get": operations.get(
            "metrics",
            "The daemon's metrics, as Prometheus reads them.",
            json!({ "text/plain": { "schema": { "type": "string" } } }),
            &[],
        ) },
        "/openapi.json": { "get": operations.open(
            "openapi", "This document.", json_of(json!({ "type": "object" })),
        ) },
    });
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ingle",
            "version": ingle_protocol::BUILD,
            "description": "Language models that stay warm, in the shape of OpenAI's API.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.all,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    });
    Bytes::from(document.to_string())
}

/// The schemas of all types so far.
struct Schemas {
    all: Map<String, Value>,
}

impl Schemas {
    fn new() -> Self {
        Self { all: Map::new() }
    }

    /// A reference to the schema of what is read.
    fn request<T: JsonSchema>(&mut self) -> Value {
        self.add::<T>(settings().into_generator())
    }

    /// A reference to the schema of what is written: what may be left out is told from what may not.
    fn answer<T: JsonSchema>(&mut self) -> Value {
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

/// What all operations have in common.
struct Operations {
    problem: Value,
    wants_token: bool,
}

impl Operations {
    fn post(
        &self,
        id: &str,
        about: &str,
        body: Value,
        answer: Value,
        events: Option<&str>,
    ) -> Value {
        let mut content = json_of(answer);
        if let Some(events) = events {
            // Without a type: readers of the document differ in whether it is the stream's or an
            // event's.
            content["text/event-stream"] = json!({ "schema": { "description": events } });
        }
        let statuses = [400, 404, 408, 409, 413, 415, 422, 429];
        let mut operation = self.get(id, about, content, &statuses);
        operation["requestBody"] = json!({ "required": true, "content": json_of(body) });
        operation
    }

    fn get(&self, id: &str, about: &str, content: Value, statuses: &[u16]) -> Value {
        let mut operation = self.open(id, about, content);
        let token: &[u16] = if self.wants_token { &[401] } else { &[] };
        for &status in token.iter().chain(statuses) {
            operation["responses"][status.to_string()] = self.error(status);
        }
        if self.wants_token {
            operation["security"] = json!([{ "token": [] }]);
        }
        operation
    }

    /// An operation that wants no token.
    fn open(&self, id: &str, about: &str, content: Value) -> Value {
        let mut responses = json!({ "200": {
            "description": "It is done.",
            "headers": { "x-request-id": { "schema": { "type": "string" } } },
            "content": content,
        } });
        for status in [403, 500, 503] {
            responses[status.to_string()] = self.error(status);
        }
        json!({ "operationId": id, "summary": about, "responses": responses })
    }

    fn health(&self, health: Value) -> Value {
        let content = json_of(health);
        let about = "Whether the daemon takes work.";
        let mut operation = self.open("health", about, content.clone());
        operation["responses"]["503"] =
            json!({ "description": "It takes none.", "content": content });
        operation
    }

    fn error(&self, status: u16) -> Value {
        let description = match status {
            400 => "The body is no JSON, or the prompt does not fit the model's context.",
            401 => "The token is missing or wrong.",
            403 => "The `Host` header names somebody else.",
            404 => "There is no such model.",
            408 => "The time for this kind of request is over.",
            409 => "It cannot be done in the present state.",
            413 => "The body is too large.",
            415 => "The body is not announced as JSON.",
            422 => "A member is not what it should be, or the model cannot do this.",
            429 => "A queue is full: come back later.",
            500 => "A bug.",
            _ => "The daemon cannot work now.",
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
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    found.push(reference.clone());
                }
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_what_is_written_is_required() {
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
        assert_eq!(schemas["ChatRequest"]["properties"]["n"]["maximum"], 8);
        let open = serde_json::from_slice::<Value>(&describe(false)).unwrap();
        assert!(open["paths"]["/v1/models"]["get"]["responses"]["401"].is_null());
    }
}
