//! Searches for the id of a request that cannot be read whole.
//!
//! Its frame is too long, or a value in it fits none of our types. Owns finding the id while the
//! bytes go by, in one pass that keeps nothing else. A reply under the wrong id would end another
//! request, so an id is given only where it is certain: the frame is one object from its first
//! bracket to its last, with a `method` and one `id` of its own. [`Scan`] takes the bytes for JSON;
//! [`request_id`] checks that they are.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::limits;

/// The state of the scan of one frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Brackets that are open.
    depth: usize,
    /// Inside a string, and whether the next byte of it is escaped.
    string: Option<bool>,
    /// The frame's own object has begun.
    has_begun: bool,
    /// More than one object, or two ids: no id is certain.
    is_other: bool,
    /// The part read so far of a key or a value of the frame's own object; of a long one its
    /// beginning, of an object or a list nothing.
    token: Vec<u8>,
    /// The key of the next value.
    key: Key,
    id: Option<Vec<u8>>,
    has_method: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Key {
    Id,
    Method,
    #[default]
    Other,
}

impl Scan {
    /// Reads the next bytes of the frame.
    pub fn take(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.step(byte));
    }

    /// The id as it is written, when the frame was a request and was read to its end.
    #[must_use]
    pub fn id(self) -> Option<String> {
        if self.depth > 0 || self.is_other || !self.has_method {
            return None;
        }
        let id = self.id.filter(|id| id.len() <= limits::SCANNED_ID_BYTES)?;
        match serde_json::from_slice(&id).ok()? {
            Value::String(_) | Value::Number(_) => String::from_utf8(id).ok(),
            _ => None,
        }
    }

    fn step(&mut self, byte: u8) {
        if let Some(is_escaped) = self.string {
            self.string = match byte {
                b'"' if !is_escaped => None,
                byte => Some(byte == b'\\' && !is_escaped),
            };
            return self.keep(byte);
        }
        if self.depth == 0 && !byte.is_ascii_whitespace() {
            self.is_other |= byte != b'{' || self.has_begun;
            self.has_begun = true;
        }
        match byte {
            b'"' => {
                self.string = Some(false);
                self.keep(byte);
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                if self.depth == 1 {
                    self.end_field();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if self.depth == 1 => {
                self.key = match self.token.as_slice() {
                    br#""id""# => Key::Id,
                    br#""method""# => Key::Method,
                    _ => Key::Other,
                };
                self.token.clear();
            }
            b',' if self.depth == 1 => self.end_field(),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            byte => self.keep(byte),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.depth == 1 && self.token.len() <= limits::SCANNED_ID_BYTES {
            self.token.push(byte);
        }
    }

    fn end_field(&mut self) {
        let value = std::mem::take(&mut self.token);
        match std::mem::take(&mut self.key) {
            // With two ids neither is certain.
            Key::Id if self.id.is_some() => self.is_other = true,
            Key::Id => self.id = Some(value),
            Key::Method => self.has_method = true,
            Key::Other => {}
        }
    }
}

/// The id of the request that a whole frame holds, as it is written there, although the frame
/// cannot be read: it is JSON, but a string, a number or a depth in it is more than can be kept.
#[must_use]
pub fn request_id(frame: &[u8]) -> Option<String> {
    serde_json::from_slice::<IgnoredAny>(frame).ok()?;
    let mut scan = Scan::default();
    scan.take(frame);
    scan.id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn id_of_a_request_is_found_anywhere() {
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        for (frame, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"id":8}}"#, Some("7")),
            (
                r#" {"method":"x","params":{"a":"\ud83d"},"jsonrpc":"2.0","id":"a\"b"} "#,
                Some(r#""a\"b""#),
            ),
            (r#"{"method":"x","params":1e999,"id" : -1.5 }"#, Some("-1.5")),
            (&format!(r#"{{"params":{deep},"id":1,"method":"x"}}"#), Some("1")),
            (r#"{"\ud83d":1,"id":1,"method":"x"}"#, Some("1")),
            // A notification, a reply, two ids, and values that JSON-RPC does not allow as an id.
            (r#"{"method":"x","params":{"id":1}}"#, None),
            (r#"{"id":1,"result":{"method":"x"}}"#, None),
            (r#"{"id":1,"method":"x","id":2}"#, None),
            (r#"{"id":null,"method":"x"}"#, None),
            (r#"{"id":[1],"method":"x"}"#, None),
            (r#"{"id":"\ud83d","method":"x"}"#, None),
            // An escaped key counts as another key.
            (r#"{"\u0069d":1,"method":"x"}"#, None),
            // A batch, and text that is not JSON.
            (r#"[{"id":1,"method":"x"}]"#, None),
            (r#"{"id":1,"method":"x"}{}"#, None),
            (r#"{"id":1,"method":"x""#, None),
            (r#""{"#, None),
        ] {
            assert_eq!(request_id(frame.as_bytes()).as_deref(), id, "{frame}");
        }
        let long = format!(r#"{{"id":"{}","method":"x"}}"#, "x".repeat(limits::SCANNED_ID_BYTES));
        assert_eq!(request_id(long.as_bytes()), None);
    }

    /// A value anywhere in a message, with ids in it that are not the message's.
    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            Just(r#"","id":9,"method":"x","#.to_owned()),
            Just(r#"}],"id":9}"#.to_owned()),
            Just("\\".to_owned()),
            Just("\\\"".to_owned()),
            ".{0,9}",
        ];
        let key = prop_oneof![Just("id".to_owned()), Just("method".to_owned()), ".{0,3}"];
        let leaf = prop_oneof![
            text.prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            Just(Value::Null)
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(key.clone(), inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn only_the_requests_own_id_is_found(
            id in prop::option::of(prop_oneof![(0_i64..9).prop_map(Value::from), ".{0,5}".prop_map(Value::from)]),
            fields in prop::collection::vec(("[a-z]{3,5}|", value()), 0..5),
            place in 0_usize..6,
            has_method: bool,
            cut in 1_usize..40,
        ) {
            let mut all: Vec<(String, Value)> = fields;
            all.extend(has_method.then(|| ("method".to_owned(), json!("tools/call"))));
            let place = place.min(all.len());
            if let Some(id) = &id {
                all.insert(place, ("id".to_owned(), id.clone()));
            }
            let fields = all.iter().map(|(key, value)| format!("{}:{value}", json!(key)));
            let frame = format!("{{{}}}", fields.collect::<Vec<_>>().join(","));
            let mut scan = Scan::default();
            frame.as_bytes().chunks(cut).for_each(|chunk| scan.take(chunk));
            let expected = id.filter(|_| has_method).map(|id| id.to_string());
            prop_assert_eq!(scan.id(), expected, "{}", frame);
        }

        #[test]
        fn any_bytes_are_scanned_safely(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut scan = Scan::default();
            scan.take(&bytes);
            let _ = scan.id();
            let _ = request_id(&bytes);
        }
    }
}
