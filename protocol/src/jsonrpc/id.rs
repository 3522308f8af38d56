//! The id of a request.
//!
//! Owns which spellings are the same id. Pure.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// An id as a value, so that two spellings of it (`1` and `1.0`, or an escaped letter) are equal.
///
/// A reply that repeats an id to the letter takes it from the message: see
/// [`Message`](super::Message).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RequestId {
    /// A whole number.
    Integer(i128),
    /// Any other number, by its bits.
    Float(u64),
    /// A string.
    String(String),
    /// Null: the reply to a message whose id could not be read. Also what JSON-RPC does not allow
    /// as an id, such as a list.
    Null,
}

impl RequestId {
    /// Reads an id as it is written. A value that is not allowed as an id reads as null.
    #[must_use]
    pub fn read(raw: &RawValue) -> Self {
        let text = raw.get();
        if let Ok(number) = text.parse::<i64>() {
            return Self::Integer(number.into());
        }
        if let Ok(string) = serde_json::from_str::<String>(text) {
            return Self::String(string);
        }
        // A large whole number first: as a float it would lose digits.
        if let Ok(number) = text.parse::<u64>() {
            return Self::Integer(number.into());
        }
        text.parse::<f64>().map_or(Self::Null, Self::from_float)
    }

    /// Peers keep whole numbers of up to 64 bits exactly, and larger ones as a float.
    #[expect(clippy::cast_possible_truncation, reason = "only whole numbers within i64 are cast")]
    fn from_float(number: f64) -> Self {
        if number.fract() == 0.0 && number.abs() < 9e18 {
            Self::Integer(number as i128)
        } else {
            Self::Float(number.to_bits())
        }
    }

    /// Whether the daemon may be unable to repeat this id, and so answers under null.
    #[must_use]
    pub fn may_come_back_as_null(&self) -> bool {
        !matches!(self, Self::String(_) | Self::Integer(0..))
    }
}

impl From<i64> for RequestId {
    fn from(number: i64) -> Self {
        Self::Integer(number.into())
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // 64 bits where they are enough: not every serializer takes more.
            Self::Integer(number) => match (i64::try_from(*number), u64::try_from(*number)) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (_, Ok(number)) => serializer.serialize_u64(number),
                _ => serializer.serialize_i128(*number),
            },
            Self::Float(bits) => serializer.serialize_f64(f64::from_bits(*bits)),
            Self::String(text) => serializer.serialize_str(text),
            Self::Null => serializer.serialize_unit(),
        }
    }
}

/// Takes a number, a string or null, and refuses everything else.
impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = RequestId;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number, a string or null")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<RequestId, E> {
                Ok(RequestId::Integer(number.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<RequestId, E> {
                Ok(RequestId::Integer(number.into()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<RequestId, E> {
                Ok(RequestId::from_float(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RequestId, E> {
                Ok(RequestId::String(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<RequestId, E> {
                Ok(RequestId::String(text))
            }

            fn visit_unit<E: Error>(self) -> Result<RequestId, E> {
                Ok(RequestId::Null)
            }
        }

        deserializer.deserialize_any(IdVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> RequestId {
        RequestId::read(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn spellings_of_one_id_are_equal_and_types_are_not() {
        assert_eq!(id("1"), id("1.0"));
        assert_eq!(id(r#""aA""#), id(r#""a\u0041""#));
        assert_ne!(id("1"), id(r#""1""#));
        assert_eq!(id("18446744073709551615"), RequestId::Integer(u64::MAX.into()));
        assert_eq!(id("12345678901234567890123"), id("1.2345678901234568e22"));
        assert_ne!(id("1.5"), id("1.25"));
        for null in ["null", "[1]", "{}", "true", r#""\ud83d""#] {
            assert_eq!(id(null), RequestId::Null, "{null}");
        }
    }

    #[test]
    fn only_numbers_strings_and_null_are_deserialized() {
        for text in ["7", "-7", "1.5", "18446744073709551615", r#""a""#, "null"] {
            let read: RequestId = serde_json::from_str(text).unwrap();
            assert_eq!(read, id(text));
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
            let value = serde_json::to_value(&read).unwrap();
            assert_eq!(serde_json::from_value::<RequestId>(value).unwrap(), read);
        }
        for text in ["[1]", "{}", "true"] {
            assert!(serde_json::from_str::<RequestId>(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn both_readers_agree(number: i64, text in ".{0,6}") {
            for written in [number.to_string(), serde_json::to_string(&text).unwrap()] {
                prop_assert_eq!(serde_json::from_str::<RequestId>(&written).unwrap(), id(&written));
            }
        }
    }
}
