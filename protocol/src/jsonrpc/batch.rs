//! Lines: one message, or a batch of them.
//!
//! Owns the bound on batches, and which lines are refused as a whole. Pure.

use serde_json::value::RawValue;

use super::message::{Message, UnreadableMessage};
use super::refusal::Refusal;
use super::scan;
use crate::error::{ErrorBody, ErrorCode};
use crate::limits;

/// The elements of a line, unread.
#[derive(Debug)]
pub enum Elements<'a> {
    /// One message, or what should be one.
    Single(&'a [u8]),
    /// A batch of one element up to the limit.
    Batch(Vec<&'a RawValue>),
}

/// Parts a line into its elements.
///
/// # Errors
/// When the line is a batch that is not JSON, empty, or over [`limits::BATCH_REQUESTS`]; the last
/// is refused under the ids of its requests, because its sender waits for no answer under null.
pub fn split(line: &[u8]) -> Result<Elements<'_>, Refusal> {
    if line.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return Ok(Elements::Single(line));
    }
    let elements: Vec<&RawValue> =
        serde_json::from_slice(line).map_err(|error| Refusal::new(broken(&error)))?;
    if elements.is_empty() {
        let error = ErrorBody::new(ErrorCode::InvalidRequest, "the batch is empty");
        return Err(Refusal::new(error));
    }
    if elements.len() > limits::BATCH_REQUESTS {
        let ids = elements.iter().filter_map(|element| answerable_id(element));
        let ids = ids.take(limits::REFUSED_BATCH_REQUESTS).collect();
        return Err(Refusal::of_batch(ErrorBody::batch_too_large(elements.len()), ids));
    }
    Ok(Elements::Batch(elements))
}

/// The id under which the receiver would answer an element, as it is written.
fn answerable_id(element: &RawValue) -> Option<String> {
    let text = element.get().as_bytes();
    match Message::parse(text) {
        Ok(message) => Some(message.as_answerable()?.1.get().to_owned()),
        Err(_) => scan::request_id(text),
    }
}

/// One line, read as far as routing needs.
#[derive(Debug)]
pub enum Line<'a> {
    /// One message.
    Single(Message<'a>),
    /// A batch. Elements that are no messages are left out: their receiver refuses them.
    Batch(Vec<Message<'a>>),
}

impl<'a> Line<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// `PARSE_ERROR` when it is not JSON, `INVALID_REQUEST` when it is and cannot be a message,
    /// with the ids under which the refusal can be sent.
    pub fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        match split(line)? {
            Elements::Single(text) => usable(text).map(Self::Single).map_err(|unreadable| {
                let UnreadableMessage { error, id, .. } = unreadable;
                Refusal::new(broken(&error)).under(id)
            }),
            Elements::Batch(elements) => {
                let texts = elements.into_iter().map(|element| element.get().as_bytes());
                Ok(Self::Batch(texts.filter_map(|text| usable(text).ok()).collect()))
            }
        }
    }

    /// Its messages.
    #[must_use]
    pub fn messages(&self) -> &[Message<'a>] {
        match self {
            Self::Single(message) => std::slice::from_ref(message),
            Self::Batch(messages) => messages,
        }
    }
}

/// A message whose method, if it has one, can be compared with those that are known.
fn usable(text: &[u8]) -> Result<Message<'_>, UnreadableMessage> {
    let message = Message::parse(text)?;
    match message.check_method() {
        Ok(()) => Ok(message),
        Err(error) => Err(UnreadableMessage::new(text, error)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn lines_without_a_message_are_refused_by_kind() {
        let code = |line: &[u8]| Line::parse(line).unwrap_err().error.code;
        assert_eq!(code(b"{nonsense"), ErrorCode::ParseError);
        assert_eq!(code(b"\xff"), ErrorCode::ParseError);
        assert_eq!(code(b"5"), ErrorCode::InvalidRequest);
        assert_eq!(code(b"[]"), ErrorCode::InvalidRequest);
        assert_eq!(code(b"[1,"), ErrorCode::ParseError);
        let huge = format!("[{}1]", "1,".repeat(limits::BATCH_REQUESTS));
        assert_eq!(code(huge.as_bytes()), ErrorCode::InvalidRequest);
        assert_eq!(code(br#"{"method":5}"#), ErrorCode::InvalidRequest);
    }

    #[test]
    fn refusals_go_under_the_ids_of_the_requests() {
        let answers = |line: &str| {
            let answer = Line::parse(line.as_bytes()).unwrap_err().frame(ErrorBody::to_rpc);
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
        // An element that only the scan can read has an id all the same.
        let half = format!(r#"[{}{{"id":"a","method":"\ud83d"}}]"#, "7,".repeat(99));
        assert_eq!(answers(&half)[0]["id"], "a");
    }

    #[test]
    fn a_list_in_a_batch_is_no_message() {
        let line = Line::parse(br#"[["2.0",7,"x"],{"id":1,"method":"x"}]"#).unwrap();
        assert_eq!(line.messages().len(), 1);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused_with_one_frame(
            line in "[\\[{\"a-z0-9:,}\\] \\\\]{0,40}|.{0,40}",
        ) {
            if let Err(refusal) = Line::parse(line.as_bytes()) {
                let frame = refusal.frame(ErrorBody::to_rpc);
                prop_assert_eq!(frame.iter().filter(|byte| **byte == b'\n').count(), 1);
                prop_assert!(serde_json::from_slice::<Value>(&frame).is_ok());
            }
        }
    }
}
