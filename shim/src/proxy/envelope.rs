//! What the proxy reads from a line: whether it asks, tells or answers, and under which id.
//!
//! Owns the reading of JSON-RPC envelopes, the comparing of ids, and the writing of error replies.
//! Must not look into parameters or results, but for the few members that routing needs: the id a
//! cancel names, the tool a call names, the protocol version an `initialize` settles on, and what a
//! subscription is about.

use std::borrow::Cow;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::scan;
use ingle_protocol::{limits, mcp_tools};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// One line, read as far as routing needs.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// One message.
    Single(Message<'a>),
    /// A batch. Elements that are no messages are left out: its receiver complains of them.
    Batch(Vec<Message<'a>>),
}

impl<'a> Line<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// `PARSE_ERROR` when it is not JSON, `INVALID_REQUEST` when it is and cannot be a message, with
    /// the ids that such an answer can be given under.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, Unusable> {
        let first = line.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'[') {
            return serde_json::from_slice(line).map(Self::Single).map_err(|error| Unusable {
                ids: scan::request_id(line).into_iter().collect(),
                ..Unusable::from(broken(&error))
            });
        }
        let elements: Vec<&RawValue> =
            serde_json::from_slice(line).map_err(|error| broken(&error))?;
        if elements.is_empty() {
            return Err(ErrorBody::new(ErrorCode::InvalidRequest, "the batch is empty").into());
        }
        // The daemon would refuse it as a whole, under no id that anybody waits for.
        if elements.len() > limits::BATCH_REQUESTS {
            let error = ErrorBody::batch_too_large(elements.len());
            let ids = elements.iter().filter_map(|raw| {
                let message: Message<'_> = serde_json::from_str(raw.get()).ok()?;
                Some(message.as_answerable()?.1.get().to_owned())
            });
            let ids = ids.take(limits::REFUSED_BATCH_REQUESTS).collect();
            return Err(Unusable { error, ids, in_batch: true });
        }
        let messages = elements.iter().filter_map(|raw| serde_json::from_str(raw.get()).ok());
        Ok(Self::Batch(messages.collect()))
    }

    /// Its messages.
    pub(crate) fn messages(&self) -> &[Message<'a>] {
        match self {
            Self::Single(message) => std::slice::from_ref(message),
            Self::Batch(messages) => messages,
        }
    }
}

/// Replies as one frame, newline included.
pub(crate) fn frame_of(replies: &[String], in_batch: bool) -> Vec<u8> {
    let replies = replies.join(",");
    let frame = if in_batch { format!("[{replies}]\n") } else { format!("{replies}\n") };
    frame.into_bytes()
}

/// A JSON-RPC error reply under an id that is JSON already.
pub(crate) fn error_reply(raw_id: &str, error: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{raw_id},"error":{error}}}"#)
}

/// A line that is answered here.
#[derive(Debug)]
pub(crate) struct Unusable {
    /// What is wrong with it.
    pub(crate) error: ErrorBody,
    /// Its requests, as the host wrote their ids; of a huge batch the first. None where they cannot
    /// be told.
    ids: Vec<String>,
    /// Whether these are of a batch.
    in_batch: bool,
}

impl From<ErrorBody> for Unusable {
    fn from(error: ErrorBody) -> Self {
        Self { error, ids: Vec::new(), in_batch: false }
    }
}

impl Unusable {
    /// A line of one request that is longer than a frame; its id, where it is known.
    pub(crate) fn too_long(id: Option<String>) -> Self {
        let message =
            format!("the line has more than the {} bytes of a frame", limits::FRAME_BYTES);
        let error = ErrorBody::new(ErrorCode::FrameTooLarge, message);
        Self { ids: id.into_iter().collect(), ..Self::from(error) }
    }

    /// The answer, newline included: under null only where no id is known, because nobody waits
    /// for that.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let Self { error, ids, in_batch } = self;
        let mut reply = error.to_rpc();
        // Hosts show no more than the message.
        reply["message"] = mcp_tools::sentence(&error.message, &error.remediation).into();
        if ids.is_empty() {
            return frame_of(&[error_reply("null", &reply)], false);
        }
        let replies: Vec<_> = ids.iter().map(|id| error_reply(id, &reply)).collect();
        frame_of(&replies, *in_batch)
    }
}

fn broken(error: &serde_json::Error) -> ErrorBody {
    match error.classify() {
        serde_json::error::Category::Data => ErrorBody::new(
            ErrorCode::InvalidRequest,
            format!("the line is not a JSON-RPC message: {error}"),
        ),
        _ => ErrorBody::new(ErrorCode::ParseError, format!("the line is not JSON: {error}")),
    }
}

/// One message's envelope. Values are borrowed from the line and stay unread.
#[derive(Debug, Deserialize)]
pub(crate) struct Message<'a> {
    /// `Some` when the member is there, null included.
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// An `id` of null differs from an absent one: the request is answered under null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Message<'a> {
    /// The method of a request or notification.
    pub(crate) fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// Method and id, when it is a request.
    pub(crate) fn as_request(&self) -> Option<(&str, &'a RawValue)> {
        Some((self.method.as_deref()?, self.id?))
    }

    /// Method and id of whatever the daemon answers: a request, or what only lacks its method and is
    /// refused for that.
    pub(crate) fn as_answerable(&self) -> Option<(&str, &'a RawValue)> {
        if self.method.is_none() && (self.result.is_some() || self.error.is_some()) {
            return None;
        }
        Some((self.method.as_deref().unwrap_or_default(), self.id?))
    }

    /// Its parameters, unread.
    pub(crate) fn params(&self) -> Option<&'a RawValue> {
        self.params
    }

    /// The id, when it is a reply.
    pub(crate) fn as_reply(&self) -> Option<&'a RawValue> {
        if self.method.is_none() { self.id } else { None }
    }

    /// The id that a cancel notification names: `requestId` in MCP, `id` in our own RPC.
    pub(crate) fn cancelled_id(&self) -> Option<Id> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, alias = "requestId")]
            id: &'a RawValue,
        }
        let params: Params<'_> = serde_json::from_str(self.params?.get()).ok()?;
        Some(Id::read(params.id))
    }

    /// The tool that a `tools/call` names.
    pub(crate) fn tool(&self) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow)]
            name: Cow<'a, str>,
        }
        let params: Params<'a> = serde_json::from_str(self.params?.get()).ok()?;
        Some(params.name)
    }

    /// Whether it is a reply with a result.
    pub(crate) fn is_success(&self) -> bool {
        self.method.is_none() && self.result.is_some() && self.error.is_none()
    }

    /// The resource that a `resources/subscribe` or `resources/unsubscribe` names.
    pub(crate) fn uri(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Params {
            uri: String,
        }
        let params: Params = serde_json::from_str(self.params?.get()).ok()?;
        Some(params.uri)
    }

    /// The id of the `subscriptions/listen` that a notification belongs to.
    pub(crate) fn subscription(&self) -> Option<Id> {
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
        let params: Params<'_> = serde_json::from_str(self.params?.get()).ok()?;
        Some(Id::read(params.meta.id))
    }

    /// What the acknowledgement of a `subscriptions/listen` says that the host will hear of: whether
    /// lists of resources are among it, and the addresses of resources.
    pub(crate) fn acknowledged(&self) -> (bool, Vec<String>) {
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
        let params = self.params.and_then(|raw| serde_json::from_str::<Params>(raw.get()).ok());
        let Some(Params { notifications: told }) = params else { return (false, Vec::new()) };
        (told.resources_list_changed == Some(true), told.resource_subscriptions.unwrap_or_default())
    }

    /// The protocol version in the result of an `initialize`.
    pub(crate) fn protocol_version(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Settled {
            #[serde(rename = "protocolVersion")]
            version: String,
        }
        let settled: Settled = serde_json::from_str(self.result?.get()).ok()?;
        Some(settled.version)
    }
}

/// An id as a value, so that two spellings of it (`1` and `1.0`, or an escaped letter) are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Id {
    /// A whole number.
    Integer(i128),
    /// Any other number, by its bits.
    Float(u64),
    /// A string.
    Text(String),
    /// Null, or something that JSON-RPC allows nobody to use as an id.
    Other,
}

impl Id {
    /// Reads an id.
    pub(crate) fn read(raw: &RawValue) -> Self {
        let text = raw.get();
        if let Ok(number) = text.parse::<i64>() {
            return Self::Integer(number.into());
        }
        if let Ok(string) = serde_json::from_str::<String>(text) {
            return Self::Text(string);
        }
        match text.parse::<f64>() {
            Ok(number) => Self::from_float(number, text),
            Err(_) => Self::Other,
        }
    }

    /// Peers keep whole numbers of up to 64 bits exactly and anything past that as a float.
    #[expect(clippy::cast_possible_truncation, reason = "only whole numbers within i64 are cast")]
    fn from_float(number: f64, text: &str) -> Self {
        if let Ok(number) = text.parse::<u64>() {
            Self::Integer(number.into())
        } else if number.fract() == 0.0 && number.abs() < 9e18 {
            Self::Integer(number as i128)
        } else {
            Self::Float(number.to_bits())
        }
    }

    /// Whether a daemon may be unable to repeat this id, and so answers under null.
    pub(crate) fn may_come_back_as_null(&self) -> bool {
        !matches!(self, Self::Text(_) | Self::Integer(0..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id(text: &str) -> Id {
        Id::read(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn spellings_of_one_id_are_equal_and_types_are_not() {
        assert_eq!(id("1"), id("1.0"));
        assert_eq!(id(r#""aA""#), id(r#""a\u0041""#));
        assert_ne!(id("1"), id(r#""1""#));
        assert_eq!(id("18446744073709551615"), Id::Integer(u64::MAX.into()));
        assert_eq!(id("12345678901234567890123"), id("1.2345678901234568e22"));
        assert_ne!(id("1.5"), id("1.25"));
        assert_eq!(id("null"), Id::Other);
    }

    #[test]
    fn requests_notifications_and_replies_are_told_apart() {
        let line = br#"{"jsonrpc":"2.0","id":null,"method":"x"}"#;
        let line = Line::parse(line).unwrap();
        assert_eq!(line.messages()[0].as_request().unwrap().1.get(), "null");
        let line = Line::parse(br#"{"method":"x"}"#).unwrap();
        assert!(
            line.messages()[0].as_request().is_none() && line.messages()[0].as_reply().is_none()
        );
        let line = Line::parse(br#"{"id":7,"result":{"protocolVersion":"a"}}"#).unwrap();
        assert_eq!(line.messages()[0].as_reply().unwrap().get(), "7");
        assert_eq!(line.messages()[0].protocol_version().as_deref(), Some("a"));
    }

    #[test]
    fn lines_that_are_no_messages_are_named() {
        let code = |line: &[u8]| Line::parse(line).unwrap_err().error.code;
        assert_eq!(code(b"{nonsense"), ErrorCode::ParseError);
        assert_eq!(code(b"\xff"), ErrorCode::ParseError);
        assert_eq!(code(b"5"), ErrorCode::InvalidRequest);
        assert_eq!(code(b"[]"), ErrorCode::InvalidRequest);
        let huge = format!("[{}1]", "1,".repeat(limits::BATCH_REQUESTS));
        assert_eq!(code(huge.as_bytes()), ErrorCode::InvalidRequest);
        assert_eq!(code(br#"{"method":5}"#), ErrorCode::InvalidRequest);
    }

    #[test]
    fn what_is_answered_here_is_answered_under_the_ids_there_are() {
        let answers = |line: &str| {
            let answer = Line::parse(line.as_bytes()).unwrap_err().answer();
            serde_json::from_slice::<Value>(&answer).unwrap()
        };
        let half = answers(r#"{"jsonrpc":"2.0","id":"a","method":"\ud83d"}"#);
        assert_eq!((&half["id"], &half["error"]["code"]), (&json!("a"), &json!(-32700)));
        let wrong = answers(r#"{"jsonrpc":"2.0","id":3,"method":5}"#);
        assert_eq!((&wrong["id"], &wrong["error"]["code"]), (&json!(3), &json!(-32600)));
        assert!(answers("{nonsense")["id"].is_null());
        let batch = |requests: usize| {
            let requests = (0..requests).map(|id| format!(r#"{{"id":{id},"method":"ping"}}"#));
            format!("[7,{}]", requests.collect::<Vec<_>>().join(","))
        };
        let refused = answers(&batch(limits::BATCH_REQUESTS));
        let refused = refused.as_array().unwrap();
        assert_eq!(refused.len(), limits::BATCH_REQUESTS);
        for (id, answer) in refused.iter().enumerate() {
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(id), &json!(-32600)));
        }
        let huge = answers(&batch(10 * limits::REFUSED_BATCH_REQUESTS));
        assert_eq!(huge.as_array().unwrap().len(), limits::REFUSED_BATCH_REQUESTS);
        let notifications = format!(r#"[{}7]"#, r#"{"method":"x"},"#.repeat(99));
        assert!(answers(&notifications)["id"].is_null());
        let long = Unusable::too_long(Some("9".to_owned())).answer();
        assert!(String::from_utf8(long).unwrap().contains(r#""id":9,"#));
    }
}
