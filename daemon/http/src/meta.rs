//! Health, metrics and the OpenAPI document: `GET /health`, `/metrics` and `/openapi.json`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use ingle_protocol::wire::status::HealthState;
use ingle_service::metrics::text;

use super::api::Api;
use super::body::json_response;
use super::problem::Problem;
use super::types::models::Health;

/// Reports the daemon's health: 200 if it accepts work, or else 503.
///
/// # Errors
/// None in practice: the report can always be serialized.
pub(crate) async fn health(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let health = api.service.health();
    let (status, code) = match health.state {
        HealthState::Ok => ("ok", StatusCode::OK),
        HealthState::Degraded => ("degraded", StatusCode::SERVICE_UNAVAILABLE),
        HealthState::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE),
    };
    let phase = health.phase.name();
    let heartbeat_age_ms = health.heartbeat_age_ms;
    let mut response = json_response(&Health { status, phase, heartbeat_age_ms })?;
    *response.status_mut() = code;
    Ok(response)
}

/// The daemon's metrics in Prometheus's text format.
pub(crate) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let mut response = Response::new(Body::from(api.service.metrics_text()));
    let kind = HeaderValue::from_static(text::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Returns the OpenAPI document.
pub(crate) async fn openapi(State(api): State<Arc<Api>>) -> Response {
    let mut response = Response::new(Body::from(api.document.clone()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
