//! Requests of known methods with parameters that make no sense.
//!
//! Owns what is wrong with them. rmcp takes such a request for one of a method it does not know,
//! which would send whoever made it on a wrong track.

use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, ClientRequest, CompleteRequestParams, GetPromptRequestParams,
    InitializeRequestParams, JsonRpcMessage, PaginatedRequestParams, ReadResourceRequestParams,
    RequestId, SubscribeRequestParams, SubscriptionsListenRequestParams, UnsubscribeRequestParams,
};
use rmcp::service::RxJsonRpcMessage;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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
    serde_json::from_value::<T>(params).err().map(|error| error.to_string())
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
            ("tools/call", json!([1]), "tools/call"),
            ("initialize", json!({ "capabilities": {} }), "protocolVersion"),
            ("resources/read", json!({ "uri": 3 }), "a string"),
            ("tools/list", json!({ "cursor": 3 }), "tools/list"),
        ] {
            let problem = of(request(method, params)).unwrap();
            assert!(problem.contains(named), "{problem}");
        }
        assert_eq!(of(request("tools/call", json!({ "name": "chat" }))), None);
        assert_eq!(of(request("no/such", json!([]))), None);
        assert_eq!(of(json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })), None);
    }
}
