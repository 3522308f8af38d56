//! Error responses: statuses, headers and problem details.
//!
//! Owns the one table from error codes to statuses, and the body: RFC 9457 problem details that
//! also carry OpenAI's `error` object, so that SDKs show the message. Does not know where an error
//! arose.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::{Value, json};

/// The content type of every error.
pub const CONTENT: &str = "application/problem+json";

/// An error response without a body. The request id middleware renders the body, which names the
/// request.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    body: Box<ErrorBody>,
}

impl From<ErrorBody> for Problem {
    fn from(body: ErrorBody) -> Self {
        Self { status: status(body.code), body: Box::new(with_openai_names(body)) }
    }
}

/// Fields that have another name in OpenAI's API than in the service.
const OPENAI_NAMES: [(&str, &str); 3] = [
    ("format", "response_format"),
    ("template_options", "chat_template_kwargs"),
    ("prompt_tokens", "prompt"),
];

/// The error with OpenAI's name of the field at fault.
pub(super) fn with_openai_names(error: ErrorBody) -> ErrorBody {
    OPENAI_NAMES.iter().fold(error, |error, (ours, theirs)| error.with_field_renamed(ours, theirs))
}

/// The status of each code.
#[must_use]
pub fn status(code: ErrorCode) -> StatusCode {
    match code {
        // SDKs recognise a prompt that is too long by this status and OpenAI's own code.
        ErrorCode::ParseError | ErrorCode::InvalidRequest | ErrorCode::ContextTooLong => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::PermissionDenied => StatusCode::FORBIDDEN,
        ErrorCode::MethodNotFound | ErrorCode::ModelNotFound | ErrorCode::JobNotFound => {
            StatusCode::NOT_FOUND
        }
        ErrorCode::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::FrameTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        // The request's model is at fault, so sending the request again does not help.
        ErrorCode::InvalidParams
        | ErrorCode::ModelInvalid
        | ErrorCode::ModelUnsupported
        | ErrorCode::ModelCrashed => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal | ErrorCode::VersionSkew | ErrorCode::ConfigInvalid => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ErrorCode::PullFailed => StatusCode::BAD_GATEWAY,
        ErrorCode::Cancelled
        | ErrorCode::InsufficientMemory
        | ErrorCode::EngineFailed
        | ErrorCode::EngineStalled
        | ErrorCode::DaemonLost
        | ErrorCode::DaemonUnavailable
        | ErrorCode::ShuttingDown
        | ErrorCode::JobStoreUnavailable
        | ErrorCode::Interrupted => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl Problem {
    /// The same with another status than that of its code.
    #[must_use]
    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// The kind of error.
    pub(super) fn code(&self) -> ErrorCode {
        self.body.code
    }

    /// Fills in the response to the request `id`. Other headers of the response stay.
    pub(super) fn render(mut self, id: &str, response: &mut Response) {
        if self.body.request_id.is_none() {
            self.body.request_id = Some(id.to_owned());
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
        if let Some(wait_ms) = self.body.details["retry_after_ms"].as_u64() {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1_000)));
            headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(wait_ms));
        }
        // Without this header, OpenAI's SDKs retry a request that timed out or cannot succeed.
        if !self.body.retryable || self.body.code == ErrorCode::Timeout {
            let never = HeaderValue::from_static("false");
            headers.insert(HeaderName::from_static("x-should-retry"), never);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer realm=\"ingle\"");
            headers.insert(WWW_AUTHENTICATE, bearer);
        }
        *response.status_mut() = self.status;
        *response.body_mut() = Body::from(self.to_json().to_string());
    }

    /// The whole response as bytes, for a connection whose request is not read.
    pub(super) fn into_bytes(mut self, id: &str) -> Vec<u8> {
        self.body.request_id = Some(id.to_owned());
        let body = self.to_json().to_string();
        let mut response = Response::new(Body::empty());
        self.render(id, &mut response);
        let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
        for (name, value) in response.headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        let rest = format!(
            "x-request-id: {id}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        bytes.extend_from_slice(rest.as_bytes());
        bytes
    }

    /// The problem details.
    fn to_json(&self) -> Value {
        let ErrorBody { code, message, details, retryable, request_id, .. } = &*self.body;
        let name = code.as_str().to_ascii_lowercase();
        let mut problem = json!({
            "type": format!("urn:ingle:problem:{}", name.replace('_', "-")),
            "title": title(*code),
            "status": self.status.as_u16(),
            "detail": message,
            "instance": format!("urn:ingle:request:{}", request_id.as_deref().unwrap_or_default()),
            "code": code,
            "remediation": self.body.remediation(),
            "retryable": retryable,
            "request_id": request_id,
            "error": openai_error(&self.body),
        });
        if !details.is_null() {
            problem["details"] = details.clone();
        }
        for field in ["timeout_seconds", "layer"] {
            if !details[field].is_null() {
                problem[field] = details[field].clone();
            }
        }
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// The `error` object of OpenAI's API, for a problem's body and for a stream's error event.
pub(super) fn openai_error(error: &ErrorBody) -> Value {
    let kind = match status(error.code) {
        StatusCode::REQUEST_TIMEOUT => "timeout",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let code = match error.code {
        ErrorCode::ContextTooLong => "context_length_exceeded".to_owned(),
        ErrorCode::Unauthorized => "invalid_api_key".to_owned(),
        code => code.as_str().to_ascii_lowercase(),
    };
    let param = match error.code {
        ErrorCode::ModelNotFound
        | ErrorCode::ModelInvalid
        | ErrorCode::ModelUnsupported
        | ErrorCode::ModelCrashed => json!("model"),
        _ => error.details["field"].clone(),
    };
    json!({
        "message": format!("{}. {}", error.message.trim_end_matches('.'), error.remediation()),
        "type": kind,
        "param": param,
        "code": code,
    })
}

/// The title of a code, such as `Model not found`.
fn title(code: ErrorCode) -> String {
    let words = code.as_str().replace('_', " ").to_ascii_lowercase();
    let mut letters = words.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ingle_protocol::timeouts::Layer;

    fn rendered(error: ErrorBody) -> (Response, Value) {
        let problem = Problem::from(error);
        let shown = Problem { ..problem.clone() };
        let mut response = problem.clone().into_response();
        problem.render("7-1", &mut response);
        let mut shown = shown;
        shown.body.request_id = Some("7-1".to_owned());
        (response, shown.to_json())
    }

    #[test]
    fn every_code_has_an_error_status() {
        for &code in ErrorCode::ALL {
            let (response, shown) = rendered(ErrorBody::new(code, "it is so"));
            assert!(response.status().is_client_error() || response.status().is_server_error());
            assert_eq!(response.headers()[CONTENT_TYPE], CONTENT);
            assert_eq!(shown["status"], response.status().as_u16());
            assert_eq!(shown["request_id"], "7-1");
            assert!(shown["error"]["message"].as_str().unwrap().starts_with("it is so. "));
            let is_401 = response.status() == StatusCode::UNAUTHORIZED;
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), is_401);
        }
    }

    #[test]
    fn timeout_has_layer_and_overload_has_retry_after() {
        let (response, shown) = rendered(ErrorBody::timeout("it", Layer::Daemon, 1_500, 1_501));
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!((&shown["timeout_seconds"], &shown["layer"]), (&json!(1.5), &json!("daemon")));
        assert_eq!(shown["error"]["type"], "timeout");
        assert_eq!(response.headers()["x-should-retry"], "false");
        let busy = ErrorBody::overloaded("busy").with_details(json!({ "retry_after_ms": 1_200 }));
        let (response, _) = rendered(busy);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()["retry-after-ms"], "1200");
        assert!(!response.headers().contains_key("x-should-retry"));
    }

    #[test]
    fn response_bytes_are_complete() {
        let answer = Problem::from(ErrorBody::overloaded("too many")).into_bytes("7-1");
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{head}");
        assert!(head.contains("\r\nretry-after: "), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["request_id"], &body["status"]), (&json!("7-1"), &json!(429)));
    }

    #[test]
    fn field_at_fault_is_openai_param() {
        let (response, shown) = rendered(ErrorBody::invalid("messages[0].role", "is missing"));
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(shown["error"]["param"], "messages[0].role");
        let (_, renamed) = rendered(ErrorBody::invalid("format", "is wrong"));
        assert_eq!(renamed["detail"], "`response_format` is wrong");
        assert_eq!(renamed["error"]["param"], "response_format");
        assert_eq!(shown["title"], "Invalid params");
        assert_eq!(shown["type"], "urn:ingle:problem:invalid-params");
    }
}
