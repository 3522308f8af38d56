//! Host check: refuses requests that name another host, against DNS rebinding.
//!
//! Owns which names and addresses are this daemon's. Requests over the Unix socket are not checked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ingle_protocol::error::{ErrorBody, ErrorCode};

use super::state::{ListenerKind, Middleware};
use crate::problem::Problem;

/// Refuses a request over TCP that names another host.
pub(super) async fn check(
    State(middleware): State<Arc<Middleware>>,
    request: Request,
    next: Next,
) -> Response {
    if let ListenerKind::Tcp { address, .. } = &middleware.listener {
        let host = requested_host(&request);
        if !is_own_host(host, *address, &middleware.settings.allowed_hosts) {
            return unexpected_host(host).into_response();
        }
    }
    next.run(request).await
}

/// The host that a request names. The request line counts more than the header.
fn requested_host(request: &Request) -> &str {
    let host = request.uri().authority().map(|authority| authority.as_str());
    host.or_else(|| request.headers().get(HOST)?.to_str().ok()).unwrap_or_default()
}

/// Whether `host` is a name of this daemon, which listens at `listen`.
///
/// With DNS rebinding, a foreign page resolves its own name to our address, so the request still
/// names the foreign host. An address in place of a name cannot be resolved to another one.
fn is_own_host(host: &str, listen: SocketAddr, allowed: &[String]) -> bool {
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

fn unexpected_host(host: &str) -> Problem {
    let message = if host.is_empty() {
        "missing Host header".to_owned()
    } else {
        format!("unexpected Host header `{host}`")
    };
    let error = ErrorBody::new(ErrorCode::PermissionDenied, message).with_remediation(
        "Use 127.0.0.1 or localhost with the daemon's port, or add the name to http.allowed_hosts.",
    );
    Problem::from(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_host_names_are_refused() {
        let loopback = "127.0.0.1:11711".parse().unwrap();
        let open = "0.0.0.0:11711".parse().unwrap();
        let standard = "127.0.0.1:80".parse().unwrap();
        let allowed = ["mac.local".to_owned(), "box:8080".to_owned()];
        for (host, listen, is_own) in [
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
            assert_eq!(is_own_host(host, listen, &allowed), is_own, "{host} {listen}");
        }
    }
}
