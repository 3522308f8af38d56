//! Fields of messages that routing needs, beyond the envelope.
//!
//! Owns reading the id a cancel names, the tool a call names, the protocol version an `initialize`
//! settles on, and what a subscription is about. Does not look further into parameters or results.

use std::borrow::Cow;

use ingle_protocol::jsonrpc::{Message, Refusal, RequestId};
use ingle_protocol::mcp_tools;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The refusal of a line, as a frame. Hosts show no more than the message, so it names the next
/// step as well.
pub(super) fn refusal_frame(refusal: &Refusal) -> Vec<u8> {
    refusal.frame(|error| {
        let mut reply = error.to_rpc();
        reply["message"] = mcp_tools::sentence(&error.message, error.remediation()).into();
        reply
    })
}

/// The id that a cancel notification names: `requestId` in MCP, `id` in our own RPC.
pub(super) fn cancelled_id(message: &Message<'_>) -> Option<RequestId> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, alias = "requestId")]
        id: &'a RawValue,
    }
    let params: Params<'_> = serde_json::from_str(message.params()?.get()).ok()?;
    Some(RequestId::read(params.id))
}

/// The tool that a `tools/call` names.
pub(super) fn tool<'a>(message: &Message<'a>) -> Option<Cow<'a, str>> {
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
    }
    let params: Params<'a> = serde_json::from_str(message.params()?.get()).ok()?;
    Some(params.name)
}

/// The resource that a `resources/subscribe` or `resources/unsubscribe` names.
pub(super) fn uri(message: &Message<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Params {
        uri: String,
    }
    let params: Params = serde_json::from_str(message.params()?.get()).ok()?;
    Some(params.uri)
}

/// The id of the `subscriptions/listen` that a notification belongs to.
pub(super) fn subscription(message: &Message<'_>) -> Option<RequestId> {
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
        id: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "_meta")]
        meta: Meta<'a>,
    }
    let params: Params<'_> = serde_json::from_str(message.params()?.get()).ok()?;
    Some(RequestId::read(params.meta.id))
}

/// The scope of an acknowledged `subscriptions/listen`: whether it covers the list of resources,
/// and the addresses of single resources.
pub(super) fn acknowledged(message: &Message<'_>) -> (bool, Vec<String>) {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Filter {
        resources_list_changed: Option<bool>,
        resource_subscriptions: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct Params {
        notifications: Filter,
    }
    let params = message.params().and_then(|raw| serde_json::from_str::<Params>(raw.get()).ok());
    let Some(Params { notifications: filter }) = params else { return (false, Vec::new()) };
    (filter.resources_list_changed == Some(true), filter.resource_subscriptions.unwrap_or_default())
}

/// The protocol version in the result of an `initialize`.
pub(super) fn protocol_version(message: &Message<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct InitializeResult {
        #[serde(rename = "protocolVersion")]
        version: String,
    }
    let settled: InitializeResult = serde_json::from_str(message.result()?.get()).ok()?;
    Some(settled.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn fields_are_read_where_they_are() {
        let message = |text: &'static str| Message::parse(text.as_bytes()).unwrap();
        let reply = message(r#"{"id":7,"result":{"protocolVersion":"a"}}"#);
        assert_eq!(protocol_version(&reply).as_deref(), Some("a"));
        assert_eq!(tool(&reply), None);
        for cancel in [r#"{"params":{"id":7}}"#, r#"{"params":{"requestId":7.0}}"#] {
            assert_eq!(cancelled_id(&message(cancel)), Some(RequestId::from(7)));
        }
        let call = message(r#"{"method":"tools/call","params":{"name":"ch\u0061t"}}"#);
        assert_eq!(tool(&call).as_deref(), Some("chat"));
    }

    #[test]
    fn a_refusal_shows_the_next_step_in_its_message() {
        let frame = refusal_frame(&Refusal::too_long(Some("9".to_owned())));
        let reply: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(reply["id"], 9);
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(message.contains("exceeds the frame limit") && message.ends_with("request."));
    }
}
