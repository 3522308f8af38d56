//! State of the middleware of one listener, and the names of routes.

use std::net::SocketAddr;
use std::sync::Arc;

use ingle_service::Service;
use ingle_service::metrics::UNKNOWN;

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
    pub(super) service: Arc<Service>,
    pub(super) settings: Arc<HttpSettings>,
    pub(super) listener: ListenerKind,
}

impl Middleware {
    /// The middleware of one listener.
    #[must_use]
    pub fn new(service: Arc<Service>, settings: Arc<HttpSettings>, listener: ListenerKind) -> Self {
        Self { service, settings, listener }
    }
}

/// The route of a path for metrics and logs: never a name that a client made up.
pub(super) fn route_name(path: &str) -> &'static str {
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
