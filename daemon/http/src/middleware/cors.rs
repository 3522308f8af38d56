//! CORS: which web pages may read responses, and the preflight response.
//!
//! Owns the comparison of origins and the CORS headers. The allowed origins are a setting.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::state::Middleware;

/// Response headers that a page may read besides the ones that every page may.
const EXPOSED: &str = "x-request-id, retry-after, retry-after-ms, x-should-retry";

/// Answers preflight requests, and adds the CORS headers to all responses.
pub(super) async fn handle(
    State(middleware): State<Arc<Middleware>>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = &middleware.settings.cors_origins;
    let origin = allowed_origin(&request, allowed);
    let is_preflight = request.method() == Method::OPTIONS
        && origin.is_some()
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if is_preflight {
        // A browser sends no token with a preflight request, so this comes before authentication.
        preflight(request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    if !allowed.is_empty() {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    response
}

/// The request's origin, if its pages may read the response.
fn allowed_origin(request: &Request, allowed: &[String]) -> Option<HeaderValue> {
    let origin = request.headers().get(ORIGIN)?;
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin.as_bytes();
    allowed.iter().any(is_allowed).then(|| origin.clone())
}

/// The preflight response. It allows every header that the page requests: SDKs send headers of
/// their own, and more with each release. No header gives a page more rights than its origin does.
fn preflight(requested_headers: Option<HeaderValue>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    let usual = HeaderValue::from_static("authorization, content-type");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested_headers.unwrap_or(usual));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preflight_allows_the_requested_headers() {
        let allowed = |headers| preflight(headers).headers()[ACCESS_CONTROL_ALLOW_HEADERS].clone();
        assert_eq!(allowed(None), "authorization, content-type");
        let requested = HeaderValue::from_static("authorization, x-stainless-new");
        assert_eq!(allowed(Some(requested.clone())), requested);
    }
}
