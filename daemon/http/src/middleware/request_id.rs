//! Request ids: names each request in its span, its response header and its error body.
//!
//! Owns the span of a request, and the mapping of a [`Problem`] to its response body, which names
//! the request.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::HeaderName;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;
use tracing::field::Empty;

use super::state::{Middleware, route_name};
use crate::problem::Problem;

/// The daemon's id of a request.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Gives a request its id. An id that the client sends does not count: ours is unique.
pub(super) async fn assign(
    State(middleware): State<Arc<Middleware>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = middleware.service.next_request_id();
    request.extensions_mut().insert(RequestId(id.clone()));
    // A handler records the model when it knows it.
    let route = route_name(request.uri().path());
    let span = tracing::info_span!("request", id, route, model = Empty);
    handle(id, request, next).instrument(span).await
}

async fn handle(id: String, request: Request, next: Next) -> Response {
    let began_at = Instant::now();
    let method = request.method().clone();
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Arc<Problem>>() {
        Arc::unwrap_or_clone(problem).render(&id, &mut response);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    }
    let (status, elapsed_ms) = (response.status().as_u16(), began_at.elapsed().as_millis());
    tracing::debug!(%method, status, elapsed_ms, "HTTP response");
    response
}
