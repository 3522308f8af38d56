//! JSON-RPC 2.0 envelopes, as far as a pump or a client must read them.
//!
//! Owns the three shapes a line can have, and the notifications of our own: [`CANCEL`] to the
//! daemon, [`EVENT`] from it. The daemon's dispatch is jsonrpsee's and does not use this.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::timeouts::Layer;

/// Notification to the daemon: `{"id": <request id>}`. The request ends with `CANCELLED`, unless
/// its answer is already on its way.
pub const CANCEL: &str = "$/cancel";

/// Notification from the daemon: `{"id": <request id>, "event": {...}}`, for requests that asked
/// to be streamed. The request's own reply is its one terminal event.
pub const EVENT: &str = "$/event";

/// First member of a request that has waited on its way: what is left of the sender's limit, in
/// milliseconds. A layer that passes bytes on can put it there without reading the rest.
pub const REMAINING: &str = "remaining_ms";

/// The id of a request: a number or a string, or null where a broken request had none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(i64),
    /// A string.
    String(String),
    /// No id: the reply to a frame that could not be read.
    Null,
}

/// What a pump must know of a message to route it: nothing of its parameters or result.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// Present on requests and replies.
    #[serde(default, deserialize_with = "present")]
    pub id: Option<Id>,
    /// Present on requests and notifications.
    pub method: Option<String>,
    /// Present on requests and notifications, mostly.
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
    /// Present on successful replies.
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    /// Present on failed replies.
    pub error: Option<Value>,
}

/// An `id` of null differs from an absent one: `"id": null` is a (broken) request's reply.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Id>, D::Error> {
    Id::deserialize(deserializer).map(Some)
}

/// Parameters of [`CANCEL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelParams {
    /// The request to cancel.
    pub id: Id,
    /// The layer outside the daemon whose limit has run out, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<Layer>,
}

/// Parameters of [`EVENT`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventParams<E> {
    /// The request the event belongs to.
    pub id: Id,
    /// What happened.
    pub event: E,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_id_is_told_from_no_id() {
        let with: Envelope = serde_json::from_str(r#"{"id":null,"error":{}}"#).unwrap();
        let without: Envelope = serde_json::from_str(r#"{"method":"x"}"#).unwrap();
        assert_eq!(with.id, Some(Id::Null));
        assert_eq!(without.id, None);
    }
}
