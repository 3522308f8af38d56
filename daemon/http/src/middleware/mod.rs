//! Request middleware: host check, authentication, CORS, request ids, panics and metrics.
//!
//! Owns the order of the layers, from the outermost to the handlers: request id, metrics, CORS, host,
//! token, panics. A request that one layer refuses does not reach the next. Does not know what the
//! paths do.
//!
//! `tower-http` gives the panic layer. Its layers for CORS and request ids do not fit: its CORS answers
//! every `OPTIONS` request with 200, also for an origin that is not allowed, and its request id keeps
//! an id that the client chose.

mod auth;
mod cors;
mod host;
mod metrics;
mod panic;
mod request_id;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use ingle_service::Service;
use ingle_service::metrics::UNKNOWN;

pub use metrics::SharedTimer;
pub use request_id::RequestId;

use crate::settings::HttpSettings;
use crate::token::Token;

/// The listener that accepted a connection.
#[derive(Debug, Clone)]
pub enum ListenerKind {
    /// The Unix socket. The operating system has told the peer's user.
    Unix,
    /// TCP.
    Tcp {
        /// The address of the listener.
        address: SocketAddr,
        /// The token that a client must send; none when absent.
        token: Option<Token>,
    },
}

/// Settings and state of the middleware of one listener.
#[derive(Debug)]
pub struct Middleware {
    service: Arc<Service>,
    settings: Arc<HttpSettings>,
    listener: ListenerKind,
}

impl Middleware {
    /// The middleware of one listener.
    #[must_use]
    pub fn new(service: Arc<Service>, settings: Arc<HttpSettings>, listener: ListenerKind) -> Self {
        Self { service, settings, listener }
    }

    /// `routes` behind all layers.
    pub(crate) fn wrap(self, routes: Router) -> Router {
        let state = Arc::new(self);
        // Each `layer` stands outside of those before it.
        routes
            .layer(panic::layer())
            .layer(from_fn_with_state(Arc::clone(&state), auth::check))
            .layer(from_fn_with_state(Arc::clone(&state), host::check))
            .layer(from_fn_with_state(Arc::clone(&state), cors::handle))
            .layer(from_fn_with_state(Arc::clone(&state), metrics::count))
            .layer(from_fn_with_state(state, request_id::assign))
    }
}

/// The route of a path for metrics and logs: never a name that a client made up.
fn route_name(path: &str) -> &'static str {
    match path {
        "/v1/chat/completions" => "/v1/chat/completions",
        "/v1/completions" => "/v1/completions",
        "/v1/embeddings" => "/v1/embeddings",
        "/v1/models" => "/v1/models",
        "/health" => "/health",
        "/metrics" => "/metrics",
        "/openapi.json" => "/openapi.json",
        path if path.starts_with("/v1/models/") => "/v1/models/{id}",
        _ => UNKNOWN,
    }
}
