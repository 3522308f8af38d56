//! Incremental detokenizer that never splits a character.
//!
//! Owns the bytes of an incomplete character. Does not know stop strings.

use super::tokenizer::Tokenizer;

/// Turns a stream of tokens into text.
///
/// A character with bytes in several tokens is held back until it is complete. Bytes that can never
/// become UTF-8 turn into U+FFFD. The concatenated pieces equal `String::from_utf8_lossy` of all bytes.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    /// The beginning of a character: at most three bytes between calls.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// The text that `token` completes. Special and unknown tokens have none.
    pub fn push(&mut self, tokenizer: &dyn Tokenizer, token: u32) -> String {
        match tokenizer.token_bytes(token) {
            Some(bytes) => self.push_bytes(&bytes),
            None => String::new(),
        }
    }

    /// The text that `bytes` complete.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut start = 0;
        loop {
            match std::str::from_utf8(&self.pending[start..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    start = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid_end = start + error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[start..valid_end]));
                    start = valid_end;
                    match error.error_len() {
                        Some(len) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            start += len;
                        }
                        // The rest is the beginning of a character.
                        None => break,
                    }
                }
            }
        }
        self.pending.drain(..start);
        text
    }

    /// Ends the stream and returns the rest: U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::ByteTokenizer;

    #[test]
    fn character_appears_with_its_last_byte() {
        let mut detokenizer = Detokenizer::default();
        let pieces: Vec<String> =
            "a🙂é".bytes().map(|byte| detokenizer.push(&ByteTokenizer, byte.into())).collect();
        assert_eq!(pieces, ["a", "", "", "", "🙂", "", "é"]);
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn special_tokens_have_no_text() {
        assert_eq!(Detokenizer::default().push(&ByteTokenizer, ByteTokenizer::EOS), "");
    }

    fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let nearly_text = prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..6),
            // Pieces of well-formed characters, so that many sequences are nearly right.
            "[é€🙂]".prop_map(|text| text.into_bytes()[..1].to_vec()),
            "[é€🙂]".prop_map(|text| text.into_bytes()[1..].to_vec()),
        ];
        proptest::collection::vec(nearly_text, 0..12)
    }

    proptest! {
        #[test]
        fn pieces_equal_lossy_conversion(chunks in chunks()) {
            let mut detokenizer = Detokenizer::default();
            let mut text = String::new();
            for chunk in &chunks {
                text.push_str(&detokenizer.push_bytes(chunk));
                prop_assert!(detokenizer.pending.len() <= 3);
            }
            text.push_str(&detokenizer.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&chunks.concat()).into_owned());
        }
    }
}
