//! Requests that cannot be read, and those of known methods that make no sense: by their parameters,
//! or in their revision.
//!
//! Owns what is wrong with them. rmcp takes a request whose parameters it cannot read for one of a
//! method it does not know, which would send whoever made it on a wrong track; and it answers
//! methods that the request's own revision no longer has.

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

use super::brief::{self, brief};

/// Methods that revision 2026-07-28 has taken away. (Nobody answers `logging/setLevel` anyway.)
const REMOVED: &[&str] = &["initialize", "ping", "resources/subscribe", "resources/unsubscribe"];

/// The id of a request that says it is of revision 2026-07-28, which no longer has its method.
pub(super) fn removed(message: &RxJsonRpcMessage<RoleServer>) -> Option<(RequestId, String)> {
    let JsonRpcMessage::Request(request) = message else { return None };
    let method = request.request.method();
    let revision = ProtocolVersion::V_2026_07_28;
    let is_gone = REMOVED.contains(&method)
        && request.request.get_meta().protocol_version().as_ref() == Some(&revision);
    is_gone.then(|| (request.id.clone(), format!("revision {revision} has no method `{method}`")))
}

/// The id of a request whose parameters cannot be read, and what is wrong with them.
pub(super) fn problem(message: &RxJsonRpcMessage<RoleServer>) -> Option<(RequestId, String)> {
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
    let problem = problem.unwrap_or_else(|| "they are not what the method takes".to_owned());
    Some((request.id.clone(), format!("the parameters of `{}`: {problem}", custom.method)))
}

/// A message that is not one of rmcp's, for which it gave `error`: under which id it is answered, and
/// what with. `None` where nobody waits for an answer.
///
/// Strings, numbers and depths that JSON allows and no program of ours can keep are in what a model
/// has written, mostly: its call must not stay unanswered until the host gives up.
pub(super) fn unreadable(
    text: &[u8],
    error: &serde_json::Error,
) -> Option<(Option<Box<RawValue>>, ErrorBody)> {
    // A list would be read as the members in their order.
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    let unread = serde_json::from_slice(text).ok().filter(|_| is_object);
    let unknown =
        || ErrorBody::new(ErrorCode::InvalidRequest, "the frame is JSON, but not an MCP message");
    let Some(Unread { id, method, result, error: failure }) = unread else {
        let Err(error) = serde_json::from_slice::<IgnoredAny>(text) else {
            let id = scan::request_id(text).and_then(|id| RawValue::from_string(id).ok());
            return Some((id, unknown()));
        };
        let message = format!("the frame is not JSON: {error}");
        return Some((None, ErrorBody::new(ErrorCode::ParseError, message)));
    };
    if method.is_none() && (result.is_some() || failure.is_some()) {
        // An answer to a request of ours. One of ours under its id would end the host's own request.
        return None;
    }
    let Some(method) = method else { return Some((id, unknown())) };
    let id = id?;
    let method: String = serde_json::from_str(method.get()).unwrap_or_default();
    let problem = brief::problem(error);
    let (problem, next) = match REASONS.iter().find(|(sign, ..)| problem.contains(sign)) {
        Some((_, problem, next)) => ((*problem).to_owned(), *next),
        None => (problem, ErrorCode::InvalidParams.remediation()),
    };
    let message =
        mcp_tools::sentence(&format!("`{}` cannot be read: {problem}", brief(&method)), next);
    let error = ErrorBody::new(ErrorCode::InvalidParams, message).with_remediation(next);
    Some((Some(id), error))
}

/// What can be read of a message whose values cannot.
#[derive(Deserialize)]
struct Unread {
    id: Option<Box<RawValue>>,
    method: Option<Box<RawValue>>,
    result: Option<IgnoredAny>,
    error: Option<IgnoredAny>,
}

/// What JSON allows and nobody here can keep: serde's word for it, ours, and what to do.
const REASONS: &[(&str, &str, &str)] = &[
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
    serde_json::from_value::<T>(params).err().map(|error| brief::problem(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(request: Value) -> Option<String> {
        let message = serde_json::from_value(request).unwrap();
        problem(&message).map(|(_, problem)| problem)
    }

    #[test]
    fn wrong_parameters_are_told_from_unknown_methods() {
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
    fn what_cannot_be_kept_is_answered_under_the_id_of_its_request() {
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
            assert!(
                error.message.contains(&error.remediation()),
                "hosts show the message: {error}"
            );
        }
        // Nobody waits for an answer to a notification.
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
    fn a_method_is_gone_in_the_revision_that_took_it_away_only() {
        let is_gone = |method: &str, revision: &str, mut params: Value| {
            params["_meta"] = json!({ "io.modelcontextprotocol/protocolVersion": revision });
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            removed(&serde_json::from_value(message).unwrap()).is_some()
        };
        for method in REMOVED {
            assert!(is_gone(method, "2026-07-28", json!({})), "{method}");
            assert!(is_gone(method, "2026-07-28", json!({ "uri": "ingle://jobs" })), "{method}");
            assert!(!is_gone(method, "2025-11-25", json!({})), "{method}");
        }
        assert!(!is_gone("tools/list", "2026-07-28", json!({})));
        let plain = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        assert!(removed(&serde_json::from_value(plain).unwrap()).is_none());
    }
}
