//! Request metrics: counts each request by its route, outcome and duration.
//!
//! Owns when a request ends. The end of a stream is the end of its request, so a stream takes the
//! timer from here.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use ingle_service::metrics::{Edge, RequestTimer};

use super::state::{Middleware, route_name};
use crate::problem::Problem;

/// The timer of one request, which its stream can take over.
#[derive(Debug, Clone)]
pub struct SharedTimer(Arc<Mutex<Option<RequestTimer>>>);

impl SharedTimer {
    /// The timer, if it was not taken before.
    pub(crate) fn take(&self) -> Option<RequestTimer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Counts a request. A request that its client leaves counts as cancelled when the timer is
/// dropped.
pub(super) async fn count(
    State(middleware): State<Arc<Middleware>>,
    mut request: Request,
    next: Next,
) -> Response {
    let timer = middleware.service.metrics().begin(Edge::Http, route_name(request.uri().path()));
    let timer = SharedTimer(Arc::new(Mutex::new(Some(timer))));
    request.extensions_mut().insert(timer.clone());
    let response = next.run(request).await;
    if let Some(timer) = timer.take() {
        let problem = response.extensions().get::<Arc<Problem>>();
        timer.end(problem.map_or(Ok(()), |problem| Err(problem.code())));
    }
    response
}
