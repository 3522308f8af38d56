//! Invalid messages: unreadable JSON, invalid parameters, and methods that a revision removed.
//!
//! Owns the errors for them. rmcp treats a request with parameters that it cannot read as one of an
//! unknown method, which would mislead its author; and it still answers methods that the request's
//! own revision has removed.

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::jsonrpc::scan;
use ingle_protocol::mcp_tools;
use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, ClientRequest, CompleteRequestParams, GetMeta, GetPromptRequestParams,
    InitializeRequestParams, JsonRpcMessage, PaginatedRequestParams, ProtocolVersion,
    ReadResourceRequestParams, RequestId, SubscribeRequestParams, SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
};
use rmcp::service::RxJsonRpcMessage;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::truncate::{self, truncated};

/// Methods that revision 2026-07-28 removed. (`logging/setLevel` is not implemented in any
/// revision.)
const REMOVED_METHODS: &[&str] =
    &["initialize", "ping", "resources/subscribe", "resources/unsubscribe"];

/// The id of a request of revision 2026-07-28 with a removed method, and the error message.
pub(super) fn removed_method(
    message: &RxJsonRpcMessage<RoleServer>,
) -> Option<(RequestId, String)> {
    let JsonRpcMessage::Request(request) = message else { return None };
    let method = request.request.method();
    let revision = ProtocolVersion::V_2026_07_28;
    let is_removed = REMOVED_METHODS.contains(&method)
        && request.request.get_meta().protocol_version().as_ref() == Some(&revision);
    is_removed
        .then(|| (request.id.clone(), format!("revision {revision} has no method `{method}`")))
}

/// The id of a request with invalid parameters, and the error message.
pub(super) fn invalid_params(
    message: &RxJsonRpcMessage<RoleServer>,
) -> Option<(RequestId, String)> {
    let JsonRpcMessage::Request(request) = message else { return None };
    let ClientRequest::CustomRequest(custom) = &request.request else { return None };
    let check: fn(Value) -> Option<String> = match custom.method.as_str() {
        "initialize" => check::<InitializeRequestParams>,
        "tools/call" => check::<CallToolRequestParams>,
        "prompts/get" => check::<GetPromptRequestParams>,
        "resources/read" => check::<ReadResourceRequestParams>,
        "resources/subscribe" => check::<SubscribeRequestParams>,
        "resources/unsubscribe" => check::<UnsubscribeRequestParams>,
        "completion/complete" => check::<CompleteRequestParams>,
        "subscriptions/listen" => check::<SubscriptionsListenRequestParams>,
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" => {
            check::<PaginatedRequestParams>
        }
        _ => return None,
    };
    let problem = check(custom.params.clone().unwrap_or_else(|| json!({})));
    let problem = problem.unwrap_or_else(|| "they do not fit the method".to_owned());
    Some((request.id.clone(), format!("the parameters of `{}`: {problem}", custom.method)))
}

/// The id and error of the response to a message that rmcp cannot read because of `error`. `None`
/// if the message expects no response.
///
/// Strings, numbers and depths that JSON allows but our types cannot hold come mostly from models.
/// A call with one must not stay unanswered until the host's timeout.
pub(super) fn unreadable(
    text: &[u8],
    error: &serde_json::Error,
) -> Option<(Option<Box<RawValue>>, ErrorBody)> {
    // serde would read an array as the fields in their order.
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    let parts = serde_json::from_slice(text).ok().filter(|_| is_object);
    let unknown =
        || ErrorBody::new(ErrorCode::InvalidRequest, "the frame is JSON, but not an MCP message");
    let Some(MessageParts { id, method, result, error: failure }) = parts else {
        let Err(error) = serde_json::from_slice::<IgnoredAny>(text) else {
            let id = scan::request_id(text).and_then(|id| RawValue::from_string(id).ok());
            return Some((id, unknown()));
        };
        let message = format!("the frame is not JSON: {error}");
        return Some((None, ErrorBody::new(ErrorCode::ParseError, message)));
    };
    if method.is_none() && (result.is_some() || failure.is_some()) {
        // A response to a request of ours. An error under its id would end the host's own request.
        return None;
    }
    let Some(method) = method else { return Some((id, unknown())) };
    let id = id?;
    let method: String = serde_json::from_str(method.get()).unwrap_or_default();
    let problem = truncate::serde_message(error);
    let (problem, next) = match UNSUPPORTED_VALUES.iter().find(|(sign, ..)| problem.contains(sign))
    {
        Some((_, problem, next)) => ((*problem).to_owned(), *next),
        None => (problem, ErrorCode::InvalidParams.remediation()),
    };
    let message =
        mcp_tools::sentence(&format!("`{}` cannot be read: {problem}", truncated(&method)), next);
    let error = ErrorBody::new(ErrorCode::InvalidParams, message).with_remediation(next);
    Some((Some(id), error))
}

/// The readable parts of a message with unreadable values.
#[derive(Deserialize)]
struct MessageParts {
    id: Option<Box<RawValue>>,
    method: Option<Box<RawValue>>,
    result: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

/// JSON values that our types cannot hold: words of serde's error, our description, and the next
/// step.
const UNSUPPORTED_VALUES: &[(&str, &str, &str)] = &[
    (
        "hex escape",
        "a string in it has half of a character, such as `\\ud83d` without its other half",
        "Send it again with the whole character in its place, or without it.",
    ),
    (
        "number out of range",
        "a number in it is larger than a 64-bit float can be",
        "Send it again with a smaller number.",
    ),
    (
        "recursion limit",
        "its lists and objects lie in each other more than 127 deep",
        "Send it again with values that are less deep.",
    ),
];

fn check<T: DeserializeOwned>(params: Value) -> Option<String> {
    serde_json::from_value::<T>(params).err().map(|error| truncate::serde_message(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(request: Value) -> Option<String> {
        let message = serde_json::from_value(request).unwrap();
        invalid_params(&message).map(|(_, problem)| problem)
    }

    #[test]
    fn invalid_parameters_differ_from_unknown_methods() {
        let request = |method, params| json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        for (method, params, named) in [
            ("tools/call", json!({}), "`name`"),
            ("tools/call", json!({ "name": "chat", "arguments": [] }), "tools/call"),
            ("initialize", json!({ "capabilities": {} }), "protocolVersion"),
            ("resources/read", json!({ "uri": 3 }), "a string"),
        ] {
            let problem = of(request(method, params.clone()));
            let problem = problem.unwrap_or_else(|| panic!("{method} with {params}"));
            assert!(problem.contains(named), "{problem}");
        }
        let wrong = json!({ "name": "chat", "arguments": "x".repeat(9_999) });
        let long = of(request("tools/call", wrong)).unwrap();
        assert!(long.len() < 1_000, "{long}");
        assert_eq!(of(request("tools/call", json!({ "name": "chat" }))), None);
        assert_eq!(of(request("no/such", json!({}))), None);
        assert_eq!(of(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })), None);
    }

    #[test]
    fn unreadable_value_is_answered_under_its_id() {
        let of = |text: &str| {
            let error = serde_json::from_str::<RxJsonRpcMessage<RoleServer>>(text).err()?;
            let (id, error) = unreadable(text.as_bytes(), &error)?;
            Some((id.map(|id| id.get().to_owned()), error))
        };
        let call = |id: &str, value: &str| {
            let params = format!(r#"{{"name":"chat","arguments":{{"prompt":{value}}}}}"#);
            format!(r#"{{"method":"tools/call","params":{params},"jsonrpc":"2.0","id":{id}}}"#)
        };
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for (id, value, named) in [
            ("7", r#""a \ud83d b""#, "half of a character"),
            (r#""seven""#, r#""\ud83d\u0041""#, "half of a character"),
            ("7.5", "1e999", "64-bit float"),
            ("0", deep.as_str(), "127 deep"),
        ] {
            let (found, error) = of(&call(id, value)).unwrap();
            assert_eq!((found.as_deref(), error.code), (Some(id), ErrorCode::InvalidParams));
            assert!(error.message.starts_with("`tools/call` cannot be read: "), "{error}");
            assert!(error.message.contains(named), "{error}");
            assert!(error.message.contains(error.remediation()), "hosts show the message: {error}");
        }
        // A notification expects no response.
        assert_eq!(of(r#"{"jsonrpc":"2.0","method":"x","params":{"a":1e999}}"#), None);
        assert_eq!(of(r#"{"jsonrpc":"2.0","id":3,"result":{"a":1e999}}"#), None);
        for (text, id, code) in [
            (r#"{"jsonrpc":"2.0","id":9}"#, Some("9"), ErrorCode::InvalidRequest),
            (r#"{"\ud83d":1,"method":"x","id":9}"#, Some("9"), ErrorCode::InvalidRequest),
            ("[7,8]", None, ErrorCode::InvalidRequest),
            ("{nonsense", None, ErrorCode::ParseError),
        ] {
            let (found, error) = of(text).unwrap();
            assert_eq!((found.as_deref(), error.code), (id, code), "{text}");
        }
    }

    #[test]
    fn removed_method_is_refused_in_its_revision_only() {
        let is_refused = |method: &str, revision: &str, mut params: Value| {
            params["_meta"] = json!({ "io.modelcontextprotocol/protocolVersion": revision });
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            removed_method(&serde_json::from_value(message).unwrap()).is_some()
        };
        for method in REMOVED_METHODS {
            assert!(is_refused(method, "2026-07-28", json!({})), "{method}");
            assert!(is_refused(method, "2026-07-28", json!({ "uri": "ingle://jobs" })), "{method}");
            assert!(!is_refused(method, "2025-11-25", json!({})), "{method}");
        }
        assert!(!is_refused("tools/list", "2026-07-28", json!({})));
        let plain = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        assert!(removed_method(&serde_json::from_value(plain).unwrap()).is_none());
    }
}
