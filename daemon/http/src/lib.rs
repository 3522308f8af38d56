//! The OpenAI-shaped HTTP edge, on a Unix socket and, where it is asked for, on TCP.
//!
//! Owns what crosses HTTP: paths, types, statuses, server-sent events, and who may ask. It maps
//! between these and the service, and knows nothing of engines. One request at a time is in flight
//! on a connection (HTTP/1.1), and a connection that ends ends its request. Its end is seen at once
//! unless its client has sent more than the one request; then it is seen by what is written to it.

pub mod body;
pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod gate;
pub mod limits;
mod logprobs;
pub mod models;
pub mod openapi;
pub mod problem;
mod run;
pub mod server;
pub mod settings;
mod sse;
mod stall;
pub mod token;
pub mod types;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::middleware;
use axum::routing::{get, post};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use body::Bodies;
use gate::Gate;
use ingle_service::Service;
use ingle_service::request::RequestContext;
use models::Listing;
use problem::Problem;

/// What every handler needs.
#[derive(Debug)]
pub struct Edge {
    service: Arc<Service>,
    listing: Listing,
    /// Streams that have not ended.
    tracker: TaskTracker,
    /// The API's description.
    document: Bytes,
    /// What bodies may hold.
    bodies: Bodies,
}

impl Edge {
    /// The edge over a service; its streams are counted by `tracker`.
    #[must_use]
    pub fn new(service: Arc<Service>, tracker: TaskTracker) -> Self {
        let document = openapi::describe(service.requires_http_token());
        let bodies = Bodies::new(limits::HTTP_BODIES_BYTES);
        Self { service, listing: Listing::default(), tracker, document, bodies }
    }

    /// The context of the request called `id`, which is accepted now. Over HTTP nobody can ask for
    /// less time than the class has.
    fn context(&self, id: &str, class: Class, cancel: CancellationToken) -> RequestContext {
        let timeouts = self.service.work_timeouts();
        RequestContext::new(id.to_owned(), class, timeouts, None, cancel, Instant::now())
    }
}

/// All paths, behind a gate.
pub fn router(edge: Arc<Edge>, gate: Gate) -> Router {
    let gate = Arc::new(gate);
    Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/health", get(models::health))
        .route("/metrics", get(models::metrics))
        .route("/openapi.json", get(openapi::document))
        .method_not_allowed_fallback(no_such_method)
        .fallback(no_such_path)
        .with_state(edge)
        .layer(middleware::from_fn_with_state(gate, gate::pass))
}

async fn no_such_path() -> Problem {
    let error = ErrorBody::new(ErrorCode::MethodNotFound, "there is no such path")
        .with_remediation("Check the path; /openapi.json lists them all.");
    Problem::from(error)
}

async fn no_such_method() -> Problem {
    let error = ErrorBody::new(ErrorCode::MethodNotFound, "the path takes another HTTP method")
        .with_remediation("Use a method that the `Allow` header names.");
    Problem::from(error).with_status(axum::http::StatusCode::METHOD_NOT_ALLOWED)
}

/// Seconds since 1970.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What answers: OpenAI's name for the build.
fn fingerprint() -> String {
    format!("ingle-{}", ingle_protocol::BUILD)
}
