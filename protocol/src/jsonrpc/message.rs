//! The envelope of one message.
//!
//! Owns the fields that JSON-RPC defines. Values are borrowed and stay unread until they are asked
//! for: what a peer can write and no program can keep (half a surrogate pair, `1e999`, a depth of a
//! thousand) must not keep the id from being found.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::scan;

/// One message's envelope. Values are borrowed from the message and stay unread.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    fields: Fields<'a>,
    /// The method, where it is a string that can be kept.
    method: Option<Cow<'a, str>>,
}

/// The fields, each `Some` when it is there, null included: an `id` of null differs from an absent
/// one, because the request is answered under null.
#[derive(Debug, Clone, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Why a message cannot be read, and what can still be said of it.
#[derive(Debug)]
pub struct UnreadableMessage {
    /// The parser's error.
    pub error: serde_json::Error,
    /// The id of the request that it is, as it is written there, where that is certain.
    pub id: Option<String>,
    text_is_json: bool,
}

impl UnreadableMessage {
    pub(super) fn new(text: &[u8], error: serde_json::Error) -> Self {
        let text_is_json = serde_json::from_slice::<IgnoredAny>(text).is_ok();
        Self { error, id: scan::request_id(text), text_is_json }
    }

    /// Whether the text is JSON, of any depth and with any numbers and strings.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.text_is_json
    }
}

impl<'a> Message<'a> {
    /// Reads the envelope of a message that is an object.
    ///
    /// # Errors
    /// When the text is not JSON, not an object, or has one of the fields twice. A `method` that is
    /// not a string is no error here: see [`Self::check_method`].
    pub fn parse(text: &'a [u8]) -> Result<Self, UnreadableMessage> {
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        if first == Some(&b'[') {
            // Serde would read a list as the fields in their order.
            let error = serde::de::Error::custom("a list is not a message");
            return Err(UnreadableMessage::new(text, error));
        }
        let fields: Fields<'a> =
            serde_json::from_slice(text).map_err(|error| UnreadableMessage::new(text, error))?;
        let method = fields.method.and_then(|raw| string(raw).ok());
        Ok(Self { fields, method })
    }

    /// Whether the message says that it is of version 2.0.
    #[must_use]
    pub fn is_version_2(&self) -> bool {
        self.fields.jsonrpc.is_some_and(|raw| string(raw).is_ok_and(|version| version == "2.0"))
    }

    /// Checks that the method, if there is one, is a string that can be kept.
    ///
    /// # Errors
    /// The parser's error.
    pub fn check_method(&self) -> Result<(), serde_json::Error> {
        self.fields.method.map_or(Ok(()), |raw| string(raw).map(drop))
    }

    /// Whether the message has a method, of whatever type.
    #[must_use]
    pub fn has_method(&self) -> bool {
        self.fields.method.is_some()
    }

    /// The method of a request or notification, where it is a string that can be kept.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The id, as it is written.
    #[must_use]
    pub fn id(&self) -> Option<&'a RawValue> {
        self.fields.id
    }

    /// The parameters, unread.
    #[must_use]
    pub fn params(&self) -> Option<&'a RawValue> {
        self.fields.params
    }

    /// The result of a reply, unread; null counts as a result.
    #[must_use]
    pub fn result(&self) -> Option<&'a RawValue> {
        self.fields.result
    }

    /// The error of a reply; `None` where it is absent, null or cannot be kept.
    #[must_use]
    pub fn error(&self) -> Option<Value> {
        let value = serde_json::from_str(self.fields.error?.get()).ok()?;
        Some(value).filter(|value: &Value| !value.is_null())
    }

    /// Method and id, when it is a request.
    #[must_use]
    pub fn as_request(&self) -> Option<(&str, &'a RawValue)> {
        Some((self.method()?, self.id()?))
    }

    /// Method and id of every message that its receiver answers: a request, or one that only lacks
    /// its method and is refused for that.
    #[must_use]
    pub fn as_answerable(&self) -> Option<(&str, &'a RawValue)> {
        if !self.has_method() && self.has_outcome() {
            return None;
        }
        Some((self.method().unwrap_or_default(), self.id()?))
    }

    /// The id, when it is a reply.
    #[must_use]
    pub fn as_reply(&self) -> Option<&'a RawValue> {
        if self.has_method() { None } else { self.id() }
    }

    /// Whether it is a reply with a result.
    #[must_use]
    pub fn is_success(&self) -> bool {
        !self.has_method() && self.fields.result.is_some() && self.fields.error.is_none()
    }

    /// Whether it has a result or an error, null included.
    #[must_use]
    pub fn has_outcome(&self) -> bool {
        self.fields.result.is_some() || self.fields.error.is_some()
    }
}

/// Reads a string, borrowed where it has no escapes.
fn string(raw: &RawValue) -> Result<Cow<'_, str>, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(raw.get()).map(|text| text.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Message<'_> {
        Message::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn kinds_of_messages_are_distinguished() {
        let request = parse(r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#);
        assert_eq!(request.as_request().unwrap().1.get(), "null");
        assert!(request.is_version_2() && request.as_reply().is_none());
        let notification = parse(r#"{"method":"x"}"#);
        assert!(notification.as_request().is_none() && notification.as_reply().is_none());
        assert!(!notification.is_version_2());
        let reply = parse(r#"{"id":7,"result":null}"#);
        assert_eq!(reply.as_reply().unwrap().get(), "7");
        assert!(reply.is_success() && reply.as_answerable().is_none());
        let failure = parse(r#"{"id":7,"error":{"code":1}}"#);
        assert_eq!(failure.error().unwrap()["code"], 1);
        assert!(!failure.is_success() && failure.as_answerable().is_none());
        assert_eq!(parse(r#"{"id":7,"result":1,"error":null}"#).error(), None);
        assert!(parse(r#"{"id":9}"#).as_answerable().is_some());
    }

    #[test]
    fn values_that_cannot_be_kept_do_not_hide_the_id() {
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        for value in [r#""\ud83d""#, "1e999", &deep] {
            let text = format!(r#"{{"id":7,"method":"x","params":{value}}}"#);
            let message = parse(&text);
            assert_eq!(message.as_request().unwrap().1.get(), "7");
            assert_eq!(message.params().unwrap().get(), value);
        }
        let message = parse(r#"{"id":7,"method":"\ud83d"}"#);
        assert!(message.has_method() && message.method().is_none());
        assert!(message.check_method().is_err() && message.as_reply().is_none());
        assert_eq!(message.as_answerable().unwrap().1.get(), "7");
    }

    #[test]
    fn an_unreadable_message_keeps_its_id_where_it_is_certain() {
        for (text, id, is_json) in [
            ("{nonsense", None, false),
            ("5", None, true),
            (r#"[7,"x"]"#, None, true),
            (r#"{"id":1,"method":"x","id":2}"#, None, true),
            (r#"{"\ud83d":1,"id":1,"method":"x"}"#, Some("1"), true),
        ] {
            let unreadable = Message::parse(text.as_bytes()).unwrap_err();
            assert_eq!((unreadable.id.as_deref(), unreadable.is_json()), (id, is_json), "{text}");
        }
    }
}
