//! Our own additions to JSON-RPC: two notifications and one field of a request.
//!
//! Owns their names and parameters: [`CANCEL`] to the daemon, [`EVENT`] from it, and [`REMAINING`]
//! in a request that has waited on its way.

use serde::{Deserialize, Serialize};

use crate::jsonrpc::RequestId;
use crate::timeouts::Layer;

/// Notification to the daemon: `{"id": <request id>}`. The request ends with `CANCELLED`, unless
/// its answer is already on its way.
pub const CANCEL: &str = "$/cancel";

/// Notification from the daemon: `{"id": <request id>, "event": {...}}`, for requests that asked
/// to be streamed. The request's own reply is its one terminal event.
pub const EVENT: &str = "$/event";

/// First field of a request that has waited on its way: what is left of the sender's limit, in
/// milliseconds. A layer that passes bytes on can put it there without reading the rest.
pub const REMAINING: &str = "remaining_ms";

/// Parameters of [`CANCEL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelParams {
    /// The request to cancel.
    pub id: RequestId,
    /// The layer outside the daemon whose limit has run out, if that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<Layer>,
}

/// Parameters of [`EVENT`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventParams<E> {
    /// The request the event belongs to.
    pub id: RequestId,
    /// The event.
    pub event: E,
}

/// Reads the field [`REMAINING`], which is read only where a shim puts it: as the first field.
#[must_use]
pub fn remaining_ms(frame: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Remaining {
        remaining_ms: u64,
    }
    frame.strip_prefix(b"{\"")?.starts_with(REMAINING.as_bytes()).then_some(())?;
    let remaining: Remaining = serde_json::from_slice(frame).ok()?;
    Some(remaining.remaining_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_time_is_read_where_a_shim_puts_it() {
        for (frame, left) in [
            (r#"{"remaining_ms":70,"jsonrpc":"2.0","id":1,"method":"health"}"#, Some(70)),
            (r#"{"jsonrpc":"2.0","remaining_ms":70,"id":1,"method":"health"}"#, None),
            (r#"{"jsonrpc":"2.0","id":1,"method":"health"}"#, None),
        ] {
            assert_eq!(remaining_ms(frame.as_bytes()), left, "{frame}");
        }
    }
}
