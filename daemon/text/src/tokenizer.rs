//! Tokenizer trait, and a tokenizer without a vocabulary.
//!
//! Owns the interface for the rest of the daemon. Does not know file formats or engines.

use std::borrow::Cow;

use super::TextError;

/// Treatment of names of special tokens in a text, such as `<|im_end|>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They become special tokens: for rendered templates.
    Parse,
    /// They stay ordinary text: for text that must not control the model.
    AsText,
}

/// Converts strings to token ids and back. Ids are below `vocab_size`.
pub trait Tokenizer: Send + Sync {
    /// The ids of `text`; nothing is added before or after.
    ///
    /// # Errors
    /// [`TextError::Encode`] when the vocabulary cannot express the text.
    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError>;

    /// The ids of a text to embed, with the tokens that the model needs around it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text, SpecialTokens::AsText)
    }

    /// The exact bytes of a token, which need not be complete UTF-8 characters.
    ///
    /// `None` for special tokens, which have no text, and for unknown ids.
    fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>>;

    /// The name of a special token in the vocabulary; `None` for all other tokens.
    fn special_name(&self, id: u32) -> Option<Cow<'_, [u8]>>;

    /// Whether the id is a special token.
    fn is_special(&self, id: u32) -> bool;

    /// The number of ids.
    fn vocab_size(&self) -> usize;

    /// The text of `ids`, without special tokens and with U+FFFD for bytes that are not UTF-8.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] naming the first id that is not in the vocabulary.
    fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let vocab_size = self.vocab_size();
        let mut bytes = Vec::new();
        for &id in ids {
            if id as usize >= vocab_size {
                return Err(TextError::UnknownToken { id, vocab_size });
            }
            bytes.extend_from_slice(&self.token_bytes(id).unwrap_or_default());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A tokenizer whose tokens are bytes, for the simulated engine and for tests.
///
/// Ids 0 to 255 are the bytes themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteTokenizer;

impl ByteTokenizer {
    /// The token at the beginning of a text.
    pub const BOS: u32 = 256;
    /// The token at the end of a text.
    pub const EOS: u32 = 257;
    /// The number of ids.
    pub const VOCAB_SIZE: usize = 258;
}

/// The one-byte strings that [`ByteTokenizer::token_bytes`] borrows from.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut index = 0;
    while index < 256 {
        bytes[index] = index as u8;
        index += 1;
    }
    bytes
};

impl Tokenizer for ByteTokenizer {
    fn encode(&self, text: &str, _: SpecialTokens) -> Result<Vec<u32>, TextError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let index = id as usize;
        BYTES.get(index..=index).map(Cow::Borrowed)
    }

    fn special_name(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let name: &[u8] = match id {
            Self::BOS => b"<s>",
            Self::EOS => b"</s>",
            _ => return None,
        };
        Some(Cow::Borrowed(name))
    }

    fn is_special(&self, id: u32) -> bool {
        matches!(id, Self::BOS | Self::EOS)
    }

    fn vocab_size(&self) -> usize {
        Self::VOCAB_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_a_round_trip() {
        let text = "Grüße 🙂";
        let ids = ByteTokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(ids.len(), text.len());
        assert_eq!(ByteTokenizer.decode(&ids).unwrap(), text);
        assert_eq!(ByteTokenizer.decode(&[256, 104, 105, 257]).unwrap(), "hi");
    }

    #[test]
    fn error_names_unknown_id() {
        let error = ByteTokenizer.decode(&[104, 258]).unwrap_err().to_string();
        assert_eq!(error, "token id 258 is not in the vocabulary of 258 tokens");
        assert_eq!(ByteTokenizer.token_bytes(u32::MAX), None);
    }
}
