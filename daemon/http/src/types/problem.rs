//! Schema of error responses for the OpenAPI document. `crate::problem` makes the responses.

use ingle_protocol::error::ErrorCode;
use schemars::JsonSchema;
use serde_json::{Map, Value};

/// RFC 9457 problem details, with OpenAI's `error` object.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct Problem {
    /// The kind of problem as a URN.
    r#type: String,
    /// The kind of problem, for a person.
    title: String,
    /// The status code.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// Description of the error.
    detail: String,
    /// The request as a URN.
    instance: String,
    /// The kind of problem as a stable name.
    #[schemars(extend("enum" = codes()))]
    code: String,
    /// The next step.
    remediation: String,
    /// Whether the same request can succeed later without being changed.
    retryable: bool,
    /// The daemon's id of the request; also in the header `x-request-id`.
    request_id: String,
    /// Figures and names behind the message. `field` is the path of the field at fault.
    details: Option<Map<String, Value>>,
    /// For a timeout: the limit that was reached.
    timeout_seconds: Option<f64>,
    /// For a timeout: the layer of the limit, `work` or `daemon`.
    layer: Option<String>,
    /// The same error for OpenAI's SDKs.
    error: OpenAiError,
}

/// OpenAI's error object.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct OpenAiError {
    /// Description of the error, and the next step.
    message: String,
    /// The kind of error.
    r#type: String,
    /// The path of the field at fault.
    param: Option<String>,
    /// The kind of problem.
    code: String,
}

fn codes() -> Value {
    ErrorCode::ALL.iter().map(|code| Value::from(code.as_str())).collect()
}
