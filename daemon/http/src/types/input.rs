//! Prompt input: one text or several, as text or as tokens.
//!
//! Owns its deserialization. The type of the first entry decides the type of the others, so that
//! millions of token ids are read into one list without a second copy.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

const EXPECTED: &str =
    "a string or an array of strings (for completions, of token ids or of arrays of these, too)";

/// One input or several, as text or as tokens of the model's own vocabulary.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Input {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(#[schemars(length(min = 1, max = 64))] Vec<String>),
    /// The tokens of one text.
    Tokens(#[schemars(length(min = 1))] Vec<u32>),
    /// The tokens of several texts.
    TokenLists(#[schemars(length(min = 1, max = 64), inner(length(min = 1)))] Vec<Vec<u32>>),
}

/// One text or several, for the schema of embeddings.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Texts {
    /// One text.
    One(#[schemars(length(min = 1))] String),
    /// Several texts.
    Several(#[schemars(length(min = 1, max = 2048), inner(length(min = 1)))] Vec<String>),
}

/// An entry of an array.
enum Entry {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
        Ok(Input::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Input, A::Error> {
        Ok(match entries.next_element()? {
            // An empty list has no type. The handlers refuse it.
            None => Input::Texts(Vec::new()),
            Some(Entry::Text(first)) => Input::Texts(rest(first, &mut entries)?),
            Some(Entry::Token(first)) => Input::Tokens(rest(first, &mut entries)?),
            Some(Entry::Tokens(first)) => Input::TokenLists(rest(first, &mut entries)?),
        })
    }
}

/// All entries, which have the type of the first.
fn rest<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    first: T,
    entries: &mut A,
) -> Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(entry) = entries.next_element()? {
        all.push(entry);
    }
    Ok(all)
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Entry, E> {
        Ok(Entry::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<Entry, E> {
        let token = u32::try_from(token);
        token.map(Entry::Token).map_err(|_| E::custom("a token id has at most 32 bits"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Entry, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = entries.next_element()? {
            tokens.push(token);
        }
        Ok(Entry::Tokens(tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use serde_json::json;

    #[test]
    fn first_entry_decides_the_type() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        for (value, expected) in [
            (json!("a"), Input::Text("a".to_owned())),
            (json!(["a", "b"]), Input::Texts(texts(&["a", "b"]))),
            (json!([]), Input::Texts(Vec::new())),
            (json!([1, 2]), Input::Tokens(vec![1, 2])),
            (json!([[1], [], [2, 3]]), Input::TokenLists(vec![vec![1], vec![], vec![2, 3]])),
        ] {
            let text = value.to_string();
            assert_eq!(serde_json::from_str::<Input>(&text).unwrap(), expected, "{text}");
        }
        for text in ["1", "null", "{}", "[1, \"a\"]", "[\"a\", 1]", "[-1]", "[1.5]", "[4294967296]"]
        {
            serde_json::from_str::<Input>(text).unwrap_err();
        }
        let wrong = serde_json::from_str::<Input>("7").unwrap_err().to_string();
        assert!(wrong.contains("expected a string or an array of strings"), "{wrong}");
    }

    #[test]
    fn schemas_state_the_limits() {
        let schema = |schema: schemars::Schema| schema.to_value().to_string();
        let max = |items: usize| format!("\"maxItems\":{items}");
        assert!(schema(schemars::schema_for!(Input)).contains(&max(limits::HTTP_COMPLETIONS)));
        assert!(
            schema(schemars::schema_for!(Texts))
                .contains(&max(ingle_service::limits::EMBED_INPUTS))
        );
    }
}
