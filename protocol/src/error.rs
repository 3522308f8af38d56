//! The one list of errors: code, message, remediation, and whether a retry can help.
//!
//! Owns the codes and the error body that every edge carries; only the envelope differs between
//! RPC, HTTP and MCP. Does not know where an error arose.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::limits;
use crate::timeouts::Layer;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident, $wire:literal, $rpc:literal, $retryable:literal, $remediation:literal;)*) => {
        /// The kind of error, as a stable name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $wire)] $name,)*
        }

        impl ErrorCode {
            /// The code with this number in a JSON-RPC error object.
            #[must_use]
            pub fn of_rpc(number: i64) -> Option<Self> {
                Self::ALL.iter().copied().find(|code| i64::from(code.rpc_code()) == number)
            }

            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $wire,)* }
            }

            /// The number in a JSON-RPC error object.
            #[must_use]
            pub const fn rpc_code(self) -> i32 {
                match self { $(Self::$name => $rpc,)* }
            }

            /// Whether the same request can succeed later without being changed.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }

            /// The next step, when nothing more precise is known.
            #[must_use]
            pub const fn remediation(self) -> &'static str {
                match self { $(Self::$name => $remediation,)* }
            }
        }
    };
}

error_codes! {
    /// The frame is not JSON.
    ParseError, "PARSE_ERROR", -32700, false, "Send one JSON object per line, without line breaks inside it.";
    /// The frame is JSON but not a request.
    InvalidRequest, "INVALID_REQUEST", -32600, false, "Send a JSON-RPC 2.0 object with `jsonrpc`, `id`, `method` and `params`.";
    /// No such method.
    MethodNotFound, "METHOD_NOT_FOUND", -32601, false, "Check the method's spelling; README.md lists the methods.";
    /// The parameters do not fit the method.
    InvalidParams, "INVALID_PARAMS", -32602, false, "Correct the parameter that the message names.";
    /// A bug.
    Internal, "INTERNAL", -32603, true, "Try again; if it happens again, report it with the lines of `ingle logs`.";
    /// A layer's limit was reached.
    Timeout, "TIMEOUT", -32001, true, "Ask for fewer tokens, use a smaller model, or raise the class's timeout (`ingle timeouts` shows them).";
    /// The caller cancelled, or disconnected.
    Cancelled, "CANCELLED", -32002, true, "Send the request again if it is still wanted.";
    /// A queue or limit is full.
    Overloaded, "OVERLOADED", -32003, true, "Wait for `retry_after_ms`, then send the request again.";
    /// There is no model of this name here.
    ModelNotFound, "MODEL_NOT_FOUND", -32004, false, "Run `ingle models` to see what is here, or `ingle pull smollm2` to get the default model.";
    /// The model's files are broken.
    ModelInvalid, "MODEL_INVALID", -32005, false, "Fetch the model again; the message names the file and what is wrong with it.";
    /// The model's files are sound but cannot be run here.
    ModelUnsupported, "MODEL_UNSUPPORTED", -32006, false, "Use a model of a supported architecture and type; the message says which.";
    /// The model ended the daemon twice in a row.
    ModelCrashed, "MODEL_CRASHED", -32007, false, "Use another model; `ingle logs` shows what happened.";
    /// The memory budget has no room, and nothing can be evicted.
    InsufficientMemory, "INSUFFICIENT_MEMORY", -32021, true, "Unload or unpin a model, use a smaller one, ask for fewer tokens, or raise `memory.budget` in config.toml.";
    /// Prompt and output do not fit the model's context.
    ContextTooLong, "CONTEXT_TOO_LONG", -32019, false, "Shorten the prompt or ask for fewer tokens.";
    /// A frame is over the size limit.
    FrameTooLarge, "FRAME_TOO_LARGE", -32009, false, "Send a smaller request.";
    /// The engine failed while working on the request.
    EngineFailed, "ENGINE_FAILED", -32010, true, "Try again; if it happens again, `ingle logs` shows what happened.";
    /// The engine thread did not respond, and the daemon ends because of that.
    EngineStalled, "ENGINE_STALLED", -32022, true, "Send the request again: a new daemon is started when it is needed. `ingle logs` shows what the engine did.";
    /// The daemon ended before it answered.
    DaemonLost, "DAEMON_LOST", -32011, true, "Send the request again: the daemon is started when it is needed.";
    /// The daemon could not be reached or started.
    DaemonUnavailable, "DAEMON_UNAVAILABLE", -32012, true, "Run `ingle status`, then `ingle logs`, to see why the daemon does not run.";
    /// The daemon is going down.
    ShuttingDown, "SHUTTING_DOWN", -32013, true, "Send the request again: the next connection starts a new daemon.";
    /// Shim and daemon are of different protocol versions.
    VersionSkew, "VERSION_SKEW", -32014, false, "Run `ingle stop`; the next command starts the daemon that fits.";
    /// Another user owns the folder or the socket.
    PermissionDenied, "PERMISSION_DENIED", -32015, false, "Give the Ingle folder to the user who runs Ingle, or set INGLE_HOME to a folder of your own.";
    /// The bearer token is missing or wrong.
    Unauthorized, "UNAUTHORIZED", -32034, false, "Send `Authorization: Bearer` with the token; `ingle http --show-token` prints it.";
    /// A model could not be fetched.
    PullFailed, "PULL_FAILED", -32016, true, "Check the network and the free space, then run `ingle pull` again.";
    /// A setting is wrong.
    ConfigInvalid, "CONFIG_INVALID", -32017, false, "Correct the setting that the message names.";
    /// The request is valid but cannot be done in the present state.
    Conflict, "CONFLICT", -32018, true, "Wait until the model is idle, then try again.";
    /// There is no such job.
    JobNotFound, "JOB_NOT_FOUND", -32031, false, "Run `ingle jobs list` to see the jobs there are; old ones are cleaned up.";
    /// The file that holds the jobs cannot be opened, read or written.
    JobStoreUnavailable, "JOB_STORE_UNAVAILABLE", -32032, false, "The message names the file and what is wrong with it; everything but jobs goes on.";
    /// The daemon ended while the job ran.
    Interrupted, "INTERRUPTED", -32033, true, "Create the job again if its result is still wanted.";
}

/// One error as every edge carries it.
///
/// The parameter at fault, its problem and a more precise next step are kept as data, so that an
/// edge renames the parameter or words the next step for its own callers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[error("{message}")]
#[serde(from = "WireError", into = "WireError")]
pub struct ErrorBody {
    /// The kind of error.
    pub code: ErrorCode,
    /// The description, for a person.
    pub message: String,
    /// Figures and names behind the message; an object, or null.
    pub details: Value,
    /// Whether the same request can succeed later without being changed.
    pub retryable: bool,
    /// The daemon's name of the request, where it has one.
    pub request_id: Option<String>,
    /// What is wrong with the parameter that `details.field` names, where the message says no more.
    problem: Option<String>,
    /// A more precise next step than [`ErrorBody::usual_remediation`].
    remediation: Option<String>,
}

/// The same on the wire, where every field is filled in.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct WireError {
    code: ErrorCode,
    message: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    details: Value,
    remediation: String,
    retryable: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl From<ErrorBody> for WireError {
    fn from(error: ErrorBody) -> Self {
        Self {
            remediation: error.remediation().to_owned(),
            code: error.code,
            message: error.message,
            details: error.details,
            retryable: error.retryable,
            request_id: error.request_id,
        }
    }
}

impl From<WireError> for ErrorBody {
    fn from(wire: WireError) -> Self {
        let body = Self {
            code: wire.code,
            message: wire.message,
            details: wire.details,
            retryable: wire.retryable,
            request_id: wire.request_id,
            problem: None,
            remediation: None,
        };
        body.with_remediation(wire.remediation)
    }
}

impl ErrorBody {
    /// An error with the code's own remediation and retryability.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Value::Null,
            retryable: code.retryable(),
            request_id: None,
            problem: None,
            remediation: None,
        }
    }

    /// `INVALID_PARAMS` for the parameter `field`, such as `must be at least 1`.
    #[must_use]
    pub fn invalid(field: &str, problem: impl Into<String>) -> Self {
        Self::of_field(ErrorCode::InvalidParams, field, problem)
    }

    /// An error of the parameter `field`.
    #[must_use]
    pub fn of_field(code: ErrorCode, field: &str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        let message = format!("`{field}` {problem}");
        let body = Self::new(code, message).with_details(json!({ "field": field }));
        Self { problem: Some(problem), ..body }
    }

    /// A limit is reached: the caller is told when to come back.
    #[must_use]
    pub fn overloaded(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Overloaded, message)
            .with_details(json!({ "retry_after_ms": limits::RETRY_AFTER_MS }))
    }

    /// A request that is longer than a frame, and was not kept.
    #[must_use]
    pub fn frame_too_large() -> Self {
        let limit = limits::FRAME_BYTES;
        let message = format!("the request exceeds the frame limit of {limit} bytes");
        Self::new(ErrorCode::FrameTooLarge, message)
    }

    /// The reply in place of one that is longer than a frame.
    #[must_use]
    pub fn answer_too_large() -> Self {
        let message = format!("the reply exceeds the frame limit of {} bytes", limits::FRAME_BYTES);
        Self::new(ErrorCode::FrameTooLarge, message).with_remediation("Request less at a time.")
    }

    /// The reply to a batch that has too many requests.
    #[must_use]
    pub fn batch_too_large(requests: usize) -> Self {
        let most = limits::BATCH_REQUESTS;
        let message = format!("the batch has {requests} requests, and the limit is {most}");
        Self::new(ErrorCode::InvalidRequest, message)
            .with_remediation("Send smaller batches, or each request by itself.")
    }

    /// A timeout: the layer, its limit and the time taken, in milliseconds.
    #[must_use]
    pub fn timeout(what: &str, layer: Layer, limit_ms: u64, elapsed_ms: u64) -> Self {
        let layer_name = match layer {
            Layer::Work => "the engine",
            Layer::Daemon => "the daemon",
            Layer::Shim => "the shim",
            Layer::Client => "the client",
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds for people, of ten days at most")]
        let timeout_seconds = limit_ms as f64 / 1_000.0;
        let message = format!(
            "{what} took longer than {limit_ms} ms: {layer_name} stopped it after {elapsed_ms} ms"
        );
        Self::new(ErrorCode::Timeout, message).with_details(json!({
            "layer": layer,
            "limit_ms": limit_ms,
            "elapsed_ms": elapsed_ms,
            "timeout_seconds": timeout_seconds,
        }))
    }

    /// What to do next.
    #[must_use]
    pub fn remediation(&self) -> &str {
        self.remediation.as_deref().unwrap_or_else(|| self.usual_remediation())
    }

    /// The next step that was written for this error, where the code's own is not enough.
    #[must_use]
    pub fn own_remediation(&self) -> Option<&str> {
        self.remediation.as_deref()
    }

    /// What to do next after any error of this code and, for a timeout, of this layer.
    fn usual_remediation(&self) -> &'static str {
        let layer = || serde_json::from_value(self.details["layer"].clone()).ok();
        match self.code {
            ErrorCode::Timeout => layer().map_or(self.code.remediation(), timeout_remediation),
            code => code.remediation(),
        }
    }

    /// The parameter at fault.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.details["field"].as_str()
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// The same error for a caller that knows the parameter `ours` as `theirs`. An error of another
    /// parameter stays as it is.
    #[must_use]
    pub fn with_field_renamed(mut self, ours: &str, theirs: &str) -> Self {
        if self.field() == Some(ours) {
            self.details["field"] = json!(theirs);
            if let Some(problem) = &self.problem {
                self.message = format!("`{theirs}` {problem}");
            }
        }
        self
    }

    /// The same error with a more precise next step.
    #[must_use]
    pub fn with_remediation(mut self, remediation: impl Into<String>) -> Self {
        let remediation = remediation.into();
        self.remediation = (remediation != self.usual_remediation()).then_some(remediation);
        self
    }

    /// The same error, with another answer to whether a retry can help.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// The same error with the id of its request.
    #[must_use]
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }

    /// The error object of a JSON-RPC reply: `{code, message, data}`.
    #[must_use]
    pub fn to_rpc(&self) -> Value {
        json!({ "code": self.code.rpc_code(), "message": self.message, "data": self.rpc_data() })
    }

    /// The `data` field of a JSON-RPC error object.
    #[must_use]
    pub fn rpc_data(&self) -> Value {
        let mut data = json!({
            "code": self.code,
            "remediation": self.remediation(),
            "retryable": self.retryable,
        });
        if !self.details.is_null() {
            data["details"] = self.details.clone();
        }
        if let Some(request_id) = &self.request_id {
            data["request_id"] = json!(request_id);
        }
        data
    }

    /// Reads the error object of a JSON-RPC reply. An object that is not ours (another server's,
    /// or a newer daemon's code) keeps its message under [`ErrorCode::Internal`].
    #[must_use]
    pub fn from_rpc(error: &Value) -> Self {
        let message = error["message"].as_str().unwrap_or("unnamed error").to_owned();
        let data = &error["data"];
        let code = serde_json::from_value(data["code"].clone())
            .ok()
            .or_else(|| ErrorCode::of_rpc(error["code"].as_i64()?));
        let mut body = Self::new(code.unwrap_or(ErrorCode::Internal), message);
        if let Some(retryable) = data["retryable"].as_bool() {
            body.retryable = retryable;
        }
        body.details = data["details"].clone();
        body.request_id = data["request_id"].as_str().map(str::to_owned);
        match data["remediation"].as_str() {
            Some(remediation) => body.with_remediation(remediation),
            None => body,
        }
    }
}

/// The next step after a timeout of a layer.
const fn timeout_remediation(layer: Layer) -> &'static str {
    match layer {
        Layer::Work => ErrorCode::Timeout.remediation(),
        Layer::Daemon => {
            "The engine was busy with other work or did not answer: `ingle status` shows what it \
             does. Try again, or raise the class's timeout in the configuration."
        }
        Layer::Shim => {
            "The daemon did not answer in time: see `ingle status`. `ingle stop --now` ends a \
             daemon that is stuck, and the next request starts a new one."
        }
        Layer::Client => {
            "Neither the daemon nor the shim answered: see `ingle status` and `ingle logs`."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_has_a_number_and_a_next_step() {
        let numbers: HashSet<i32> = ErrorCode::ALL.iter().map(|code| code.rpc_code()).collect();
        assert_eq!(numbers.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!(code.remediation().ends_with('.'), "{}", code.as_str());
        }
    }

    #[test]
    fn error_round_trips_through_rpc() {
        let body = ErrorBody::new(ErrorCode::Timeout, "too slow")
            .with_details(json!({ "timeout_seconds": 60 }))
            .with_request_id("r-1");
        assert_eq!(ErrorBody::from_rpc(&body.to_rpc()), body);
    }

    #[test]
    fn field_rename_renders_the_message_anew() {
        let body = ErrorBody::invalid("format", "has 2 roots, and `format` may have 1");
        let renamed = body.clone().with_field_renamed("format", "response_format");
        assert_eq!(renamed.field(), Some("response_format"));
        assert_eq!(renamed.message, "`response_format` has 2 roots, and `format` may have 1");
        assert_eq!(body.clone().with_field_renamed("tools", "functions"), body);
    }

    #[test]
    fn usual_remediation_follows_code_and_layer() {
        let late = ErrorBody::timeout("it", Layer::Shim, 200, 201);
        assert_eq!(late.own_remediation(), None);
        assert!(late.remediation().contains("ingle stop --now"));
        let stored = serde_json::to_value(&late).unwrap();
        assert_eq!(serde_json::from_value::<ErrorBody>(stored).unwrap(), late);
        let precise = late.with_remediation("Free a slot.");
        assert_eq!(precise.own_remediation(), Some("Free a slot."));
    }

    #[test]
    fn foreign_error_keeps_its_message() {
        let body = ErrorBody::from_rpc(&json!({ "code": -1, "message": "no" }));
        assert_eq!((body.code, body.message.as_str()), (ErrorCode::Internal, "no"));
    }
}
