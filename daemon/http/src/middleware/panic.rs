//! Panic handling: a panic in a handler fails that request and no other.

use std::any::Any;

use axum::response::{IntoResponse, Response};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use tower_http::catch_panic::CatchPanicLayer;

use crate::problem::Problem;

/// The layer that answers a panic of a handler with `INTERNAL`.
pub(super) fn layer() -> CatchPanicLayer<fn(Box<dyn Any + Send>) -> Response> {
    CatchPanicLayer::custom(internal_error as fn(_) -> _)
}

/// The panic's message is in the log already; it may name paths, so the client does not get it.
fn internal_error(_panic: Box<dyn Any + Send>) -> Response {
    Problem::from(ErrorBody::new(ErrorCode::Internal, "the handler panicked")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::get;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    #[tokio::test]
    async fn handler_panic_becomes_an_internal_error() {
        async fn broken() -> Response {
            std::panic::panic_any("a bug");
        }
        let routes = Router::new().route("/", get(broken)).layer(layer());
        let service = TowerToHyperService::new(routes);
        let response = service.call(Request::new(Body::empty())).await.unwrap();
        let problem = response.extensions().get::<Arc<Problem>>().unwrap();
        assert_eq!(problem.code(), ErrorCode::Internal);
    }
}
