//! OpenAI's API over HTTP, on a Unix socket and optionally on TCP.
//!
//! Owns what crosses HTTP: paths, types, statuses, server-sent events and authentication. It maps
//! between these and the service. Does not know engines.
//!
//! One request at a time is in flight on a connection (HTTP/1.1), and the end of a connection ends
//! its request. The end is noticed at once unless the client has pipelined further bytes; then it
//! is noticed by the next write.

pub mod api;
pub mod body;
pub mod chat;
pub mod completions;
pub mod embeddings;
mod generations;
pub mod limits;
mod logprobs;
mod meta;
pub mod middleware;
mod model_list;
pub mod models;
pub mod openapi;
pub mod problem;
pub mod server;
pub mod settings;
mod sse;
pub mod token;
pub mod types;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use ingle_protocol::error::{ErrorBody, ErrorCode};

use api::Api;
use middleware::Middleware;
use problem::Problem;

/// All paths behind the middleware.
pub fn router(api: Arc<Api>, middleware: Middleware) -> Router {
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/health", get(meta::health))
        .route("/metrics", get(meta::metrics))
        .route("/openapi.json", get(meta::openapi))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown_path)
        .with_state(api);
    middleware::wrap(routes, middleware)
}

async fn unknown_path() -> Problem {
    let error = ErrorBody::new(ErrorCode::MethodNotFound, "unknown path")
        .with_remediation("Check the path; /openapi.json lists all paths.");
    Problem::from(error)
}

async fn method_not_allowed() -> Problem {
    let error = ErrorBody::new(ErrorCode::MethodNotFound, "the path takes another HTTP method")
        .with_remediation("Use a method of the `Allow` header.");
    Problem::from(error).with_status(axum::http::StatusCode::METHOD_NOT_ALLOWED)
}
