//! Requests of known methods that make no sense: by their parameters, or in their revision.
//!
//! Owns what is wrong with them. rmcp takes a request whose parameters it cannot read for one of a
//! method it does not know, which would send whoever made it on a wrong track; and it answers
//! methods that the request's own revision no longer has.

use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, ClientRequest, CompleteRequestParams, GetMeta, GetPromptRequestParams,
    InitializeRequestParams, JsonRpcMessage, PaginatedRequestParams, ProtocolVersion,
    ReadResourceRequestParams, RequestId, SubscribeRequestParams, SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
};
use rmcp::service::RxJsonRpcMessage;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::brief;

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
