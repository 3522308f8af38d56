//! OpenAI's API over HTTP, on a Unix socket and optionally on TCP.
//!
//! Owns what crosses HTTP: paths, types, statuses, server-sent events and authentication. It maps
//! between these and the service. Does not know engines.
//!
//! One request at a time is in flight on a connection (HTTP/1.1), and the end of a connection ends its
//! request. The end is noticed at once unless the client has pipelined further bytes; then it is
//! noticed by the next write.

pub mod body;
pub mod chat;
pub mod completions;
pub mod embeddings;
mod generations;
pub mod limits;
mod logprobs;
pub mod middleware;
pub mod models;
pub mod openapi;
pub mod problem;
pub mod server;
pub mod settings;
mod sse;
pub mod token;
pub mod types;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use body::BodyBudget;
use ingle_service::Service;
use ingle_service::request::RequestContext;
use middleware::Middleware;
use models::ModelListCache;
use problem::Problem;

/// State that all handlers share.
#[derive(Debug)]
pub struct Api {
    service: Arc<Service>,
    model_list: ModelListCache,
    /// Streams that have not ended.
    tracker: TaskTracker,
    /// The OpenAPI document.
    document: Bytes,
    /// Memory for request bodies.
    body_budget: BodyBudget,
}

impl Api {
    /// The API over a service. `tracker` counts its streams.
    #[must_use]
    pub fn new(service: Arc<Service>, tracker: TaskTracker) -> Self {
        let document = openapi::describe(service.requires_http_token());
        let body_budget = BodyBudget::new(limits::HTTP_BODIES_BYTES);
        Self { service, model_list: ModelListCache::default(), tracker, document, body_budget }
    }

    /// The context of the request `id`, accepted now. Over HTTP a client cannot request less time
    /// than its class has.
    fn context(&self, id: &str, class: Class, cancel: CancellationToken) -> RequestContext {
        let timeouts = self.service.work_timeouts();
        RequestContext::new(id.to_owned(), class, timeouts, None, cancel, Instant::now())
    }
}

/// All paths behind the middleware.
pub fn router(api: Arc<Api>, middleware: Middleware) -> Router {
    let routes = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/health", get(models::health))
        .route("/metrics", get(models::metrics))
        .route("/openapi.json", get(openapi::document))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(unknown_path)
        .with_state(api);
    middleware.wrap(routes)
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

/// Seconds since 1970.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The build, which OpenAI calls the system fingerprint.
fn fingerprint() -> String {
    format!("ingle-{}", ingle_protocol::BUILD)
}
