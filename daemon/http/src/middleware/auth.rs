//! Authentication: the bearer token of requests over TCP.
//!
//! Owns which paths need the token, and how it is read from the header. Does not know where the
//! token comes from.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ingle_protocol::error::{ErrorBody, ErrorCode};

use super::state::{ListenerKind, Middleware};
use crate::problem::Problem;
use crate::token::Token;

/// Paths that reveal nothing of the user's and need no token.
const OPEN_PATHS: [&str; 2] = ["/health", "/openapi.json"];

/// Refuses a request without the listener's token.
pub(super) async fn check(
    State(middleware): State<Arc<Middleware>>,
    request: Request,
    next: Next,
) -> Response {
    let ListenerKind::Tcp { token: Some(token), .. } = &middleware.listener else {
        return next.run(request).await;
    };
    match check_token(token, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check_token(token: &Token, request: &Request) -> Result<(), Problem> {
    if OPEN_PATHS.contains(&request.uri().path()) {
        return Ok(());
    }
    let header = request.headers().get(AUTHORIZATION);
    match header.and_then(|value| bearer_token(value.to_str().ok()?)) {
        Some(sent) if token.is(sent) => Ok(()),
        Some(_) => Err(unauthorized("the bearer token is not this daemon's")),
        None => Err(unauthorized("missing bearer token")),
    }
}

/// The token in the value of an `Authorization` header.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unauthorized(message: &str) -> Problem {
    Problem::from(ErrorBody::new(ErrorCode::Unauthorized, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_scheme_in_any_case_is_read() {
        assert_eq!(bearer_token("Bearer abc"), Some("abc"));
        assert_eq!(bearer_token("bearer  abc "), Some("abc"));
        assert_eq!(bearer_token("Basic abc"), None);
        assert_eq!(bearer_token("abc"), None);
    }
}
