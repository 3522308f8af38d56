//! Who may ask, and what every answer carries.
//!
//! Owns the checks of `Host`, token and origin, the request's name, and that a bug in one handler
//! answers that request and no other. Knows nothing of what the paths do.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HOST, HeaderName, ORIGIN, VARY,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use ingle_protocol::error::{ErrorBody, ErrorCode};

use super::problem::Problem;
use super::token::Token;
use crate::settings::HttpSettings;
use ingle_service::Service;
use ingle_service::metrics::{RequestTimer as Counting, Edge, UNKNOWN};

/// Paths that say nothing of the user's, and need no token.
const OPEN_PATHS: [&str; 2] = ["/health", "/openapi.json"];

/// A request that was let in, for its handler.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its name.
    pub id: String,
    /// Counts how it ends; whoever answers it takes it.
    counting: Arc<Mutex<Option<Counting>>>,
}

impl Asked {
    /// What counts the request's end, unless somebody has it already.
    pub(super) fn take(&self) -> Option<Counting> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// How requests come in.
#[derive(Debug, Clone)]
pub enum Via {
    /// By the Unix socket: the system has told who the peer is.
    Socket,
    /// By TCP.
    Tcp {
        /// Where the daemon listens.
        listen: SocketAddr,
        /// What a caller must show; nothing when absent.
        token: Option<Token>,
    },
}

/// The checks of one listener.
#[derive(Debug)]
pub struct Gate {
    service: Arc<Service>,
    settings: Arc<HttpSettings>,
    via: Via,
}

impl Gate {
    /// The gate of one way in.
    #[must_use]
    pub fn new(service: Arc<Service>, settings: Arc<HttpSettings>, via: Via) -> Self {
        Self { service, settings, via }
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let Via::Tcp { listen, token } = &self.via else { return Ok(()) };
        // What the request line says of the host counts more than the header.
        let host = request.uri().authority().map(|authority| authority.as_str());
        let host = host.or_else(|| request.headers().get(HOST)?.to_str().ok()).unwrap_or_default();
        if !is_our_host(host, *listen, &self.settings.allowed_hosts) {
            return Err(foreign_host(host));
        }
        match token {
            Some(token) if !OPEN_PATHS.contains(&request.uri().path()) => {
                let shown = request.headers().get(AUTHORIZATION);
                let shown = shown.and_then(|value| bearer(value.to_str().ok()?));
                match shown {
                    Some(shown) if token.is(shown) => Ok(()),
                    Some(_) => Err(unauthorized("the token is not this daemon's")),
                    None => Err(unauthorized("a token is wanted")),
                }
            }
            _ => Ok(()),
        }
    }

    /// The origin that a browser's page may read the answer from.
    fn origin(&self, request: &Request) -> Option<HeaderValue> {
        let allowed = &self.settings.cors_origins;
        let origin = request.headers().get(ORIGIN)?;
        let is_allowed =
            |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
        allowed.iter().any(is_allowed).then(|| origin.clone())
    }
}

/// Lets a request through, or answers it; and finishes every answer.
pub async fn pass(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = gate.service.next_request_id();
    let counting = gate.service.metrics().begin(Edge::Http, path_name(request.uri().path()));
    let asked = Asked { id: id.clone(), counting: Arc::new(Mutex::new(Some(counting))) };
    request.extensions_mut().insert(asked.clone());
    let (method, origin) = (request.method().clone(), gate.origin(&request));
    let is_preflight = method == Method::OPTIONS
        && origin.is_some()
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let wanted = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = match gate.check(&request) {
        // A browser asks first, and shows no token when it does.
        _ if is_preflight => preflight(wanted),
        Err(problem) => problem.into_response(),
        Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                let error = ErrorBody::new(ErrorCode::Internal, "the handler panicked");
                Problem::from(error).into_response()
            }
        },
    };
    let problem = response.extensions_mut().remove::<Arc<Problem>>();
    if let Some(counting) = asked.take() {
        counting.end(problem.as_ref().map_or(Ok(()), |problem| Err(problem.code())));
    }
    if let Some(problem) = problem {
        Arc::unwrap_or_clone(problem).render(&id, &mut response);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    if !gate.settings.cors_origins.is_empty() {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed =
            HeaderValue::from_static("x-request-id, retry-after, retry-after-ms, x-should-retry");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    let (status, elapsed_ms) = (response.status().as_u16(), begun.elapsed().as_millis());
    tracing::debug!(request = id, %method, status, elapsed_ms, "answered over HTTP");
    response
}

/// A path's name for metrics: never one that a caller made up.
fn path_name(path: &str) -> &'static str {
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

/// Lets a page send what it asks to: SDKs have headers of their own, and more with each release. No
/// header gives a page more than its origin does.
fn preflight(wanted: Option<HeaderValue>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    let usual = HeaderValue::from_static("authorization, content-type");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(usual));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(message: &str) -> Problem {
    Problem::from(ErrorBody::new(ErrorCode::Unauthorized, message))
}

fn foreign_host(host: &str) -> Problem {
    let message = if host.is_empty() {
        "the request names no host".to_owned()
    } else {
        format!("`{host}` is no name of this daemon")
    };
    let error = ErrorBody::new(ErrorCode::PermissionDenied, message).with_remediation(
        "Use 127.0.0.1 or localhost with the daemon's port, or add the name to http.allowed_hosts.",
    );
    Problem::from(error)
}

/// Whether a browser that was told this host can have meant us. A page of somebody else's whose name
/// was made to lead here (DNS rebinding) has a name; an address cannot be made to lead elsewhere.
fn is_our_host(host: &str, listen: SocketAddr, allowed: &[String]) -> bool {
    let (name, port) = split_port(host);
    if allowed
        .iter()
        .any(|allowed| allowed.eq_ignore_ascii_case(host) || allowed.eq_ignore_ascii_case(name))
    {
        return true;
    }
    if port.unwrap_or(80) != listen.port() {
        return false;
    }
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match address {
        Ok(address) => address.is_loopback() || !listen.ip().is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// `name:port` in two; an IPv6 address stands in brackets.
fn split_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port.parse().unwrap_or(0))),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_our_host() {
        let loopback = "127.0.0.1:11711".parse().unwrap();
        let open = "0.0.0.0:11711".parse().unwrap();
        let standard = "127.0.0.1:80".parse().unwrap();
        let allowed = ["mac.local".to_owned(), "box:8080".to_owned()];
        for (host, listen, is_ours) in [
            ("127.0.0.1:11711", loopback, true),
            ("localhost:11711", loopback, true),
            ("LOCALHOST:11711", loopback, true),
            ("[::1]:11711", loopback, true),
            ("localhost", standard, true),
            ("localhost", loopback, false),
            ("localhost:1", loopback, false),
            ("localhost:", loopback, false),
            ("evil.example:11711", loopback, false),
            ("localhost.evil.example:11711", loopback, false),
            ("192.168.1.2:11711", loopback, false),
            ("192.168.1.2:11711", open, true),
            ("mac.local:11711", loopback, true),
            ("mac.local", loopback, true),
            ("box:8080", loopback, true),
            ("box:8081", loopback, false),
            ("", loopback, false),
        ] {
            assert_eq!(is_our_host(host, listen, &allowed), is_ours, "{host} {listen}");
        }
    }

    #[test]
    fn a_page_may_send_the_headers_that_it_asks_for() {
        let allowed = |wanted| preflight(wanted).headers()[ACCESS_CONTROL_ALLOW_HEADERS].clone();
        assert_eq!(allowed(None), "authorization, content-type");
        let wanted = HeaderValue::from_static("authorization, x-stainless-new");
        assert_eq!(allowed(Some(wanted.clone())), wanted);
    }

    #[test]
    fn a_bearer_token_is_read_whatever_its_case() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("abc"), None);
    }
}
