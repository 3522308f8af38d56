//! Request middleware: host check, authentication, CORS, request ids, panics and metrics.
//!
//! Owns the order of the layers, from the outermost to the handlers: request id, metrics, CORS,
//! host, token, panics. A request that one layer refuses does not reach the next. Does not know
//! what the paths do.
//!
//! `tower-http` gives the panic layer. Its layers for CORS and request ids do not fit: its CORS
//! answers every `OPTIONS` request with 200, also for an origin that is not allowed, and its
//! request id keeps an id that the client chose.

mod auth;
mod cors;
mod host;
mod metrics;
mod panic;
mod request_id;
mod state;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;

pub use metrics::SharedTimer;
pub use request_id::RequestId;
pub use state::{ListenerKind, Middleware};

/// `routes` behind all layers.
pub(crate) fn wrap(routes: Router, state: Middleware) -> Router {
    let state = Arc::new(state);
    // Each `layer` stands outside of those before it.
    routes
        .layer(panic::layer())
        .layer(from_fn_with_state(Arc::clone(&state), auth::check))
        .layer(from_fn_with_state(Arc::clone(&state), host::check))
        .layer(from_fn_with_state(Arc::clone(&state), cors::handle))
        .layer(from_fn_with_state(Arc::clone(&state), metrics::count))
        .layer(from_fn_with_state(state, request_id::assign))
}
