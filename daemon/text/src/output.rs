//! Tokens to text: detokenising, then stop strings.
//!
//! Owns where one sequence's text ends for a stop string. A raw text ends before it, and what may become
//! one is held back. A conversation's text is given whole, because only its reader knows what of it is
//! content: it ends with the token in which the content ended. Knows nothing of engines, requests or
//! token limits.

use std::sync::Arc;

use super::TextError;
use super::detokenize::Detokenizer;
use super::reading::Reader;
use super::stop::StopMatcher;
use super::tokenizer::Tokenizer;

pub use super::stop::Piece;

/// One sequence's way from tokens to text. `Send`, so it can travel to the worker with a request.
pub struct TextOutput {
    tokenizer: Arc<dyn Tokenizer>,
    detokenizer: Detokenizer,
    stop: Stop,
    /// Special tokens that are shown by their names, because they are tags of what is read here.
    shown: Vec<u32>,
}

/// Where stop strings are looked for.
enum Stop {
    /// In all of the text.
    InText(StopMatcher),
    /// In what a reader finds to be content.
    InContent(Box<Reader>),
}

impl TextOutput {
    /// An empty output that ends at the first of `stops`.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`].
    pub fn new(tokenizer: Arc<dyn Tokenizer>, stops: Vec<String>) -> Result<Self, TextError> {
        let stop = Stop::InText(StopMatcher::new(stops)?);
        Ok(Self { tokenizer, detokenizer: Detokenizer::default(), stop, shown: Vec::new() })
    }

    /// The same output, in which these special tokens are text: their names.
    #[must_use]
    pub fn showing(mut self, tokens: Vec<u32>) -> Self {
        self.shown = tokens;
        self
    }

    /// The same output, which ends where this reader finds the end of the content. Its text is given as
    /// it comes, and beyond that end to the token's.
    #[must_use]
    pub fn read_by(mut self, reader: Reader) -> Self {
        self.stop = Stop::InContent(Box::new(reader));
        self
    }

    /// The text that is certain after `token`. Once a piece says it stopped, all later ones are
    /// empty. Tokens without text (special or unknown ones) give none.
    pub fn push(&mut self, token: u32) -> Piece {
        let text = if self.shown.contains(&token) {
            let name = self.tokenizer.special_name(token).unwrap_or_default();
            self.detokenizer.push_bytes(&name)
        } else {
            self.detokenizer.push(self.tokenizer.as_ref(), token)
        };
        match &mut self.stop {
            Stop::InText(matcher) => matcher.push(&text),
            Stop::InContent(reader) if reader.stopped().is_some() => Piece::default(),
            Stop::InContent(reader) => {
                reader.push(&text, &mut |_| {});
                Piece { text, stopped: reader.stopped().map(str::to_owned) }
            }
        }
    }

    /// The bytes of one token; of a special one, those of its name.
    pub fn bytes_of(&self, token: u32) -> Vec<u8> {
        let tokenizer = &self.tokenizer;
        let bytes = tokenizer.token_bytes(token).or_else(|| tokenizer.special_name(token));
        bytes.map(std::borrow::Cow::into_owned).unwrap_or_default()
    }

    /// What was held back, when no token follows; empty after a stop.
    pub fn finish(&mut self) -> String {
        let rest = self.detokenizer.finish();
        match &mut self.stop {
            Stop::InText(matcher) => {
                // U+FFFD in place of an unfinished character may even complete a stop string.
                let piece = matcher.push(&rest);
                match piece.stopped {
                    Some(_) => piece.text,
                    None => piece.text + &matcher.finish(),
                }
            }
            Stop::InContent(reader) if reader.stopped().is_some() => String::new(),
            Stop::InContent(_) => rest,
        }
    }
}

impl std::fmt::Debug for TextOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Outputs are never logged, so what is held back stays out of it.
        f.debug_struct("TextOutput").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Reading;
    use crate::tokenizer::ByteTokenizer;

    fn output(stops: &[&str]) -> TextOutput {
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        TextOutput::new(Arc::new(ByteTokenizer), stops).unwrap()
    }

    fn push_all(output: &mut TextOutput, bytes: &[u8]) -> (String, Option<String>) {
        let mut text = String::new();
        for &byte in bytes {
            let piece = output.push(byte.into());
            text.push_str(&piece.text);
            if piece.stopped.is_some() {
                return (text, piece.stopped);
            }
        }
        (text, None)
    }

    #[test]
    fn a_stop_string_of_several_byte_tokens_ends_the_text() {
        let mut output = output(&["🙂", "zz"]);
        let (text, stopped) = push_all(&mut output, "süß🙂!".as_bytes());
        assert_eq!((text.as_str(), stopped.as_deref()), ("süß", Some("🙂")));
        assert_eq!(output.finish(), "");
    }

    #[test]
    fn a_text_that_is_read_ends_with_the_token_that_its_content_ends_in() {
        let reading =
            Reading { may_think: true, stops: vec!["!".to_owned()], ..Reading::default() };
        let mut output = output(&[]).read_by(Reader::new(reading).unwrap());
        let (text, stopped) = push_all(&mut output, b"<think>Oh!</think>So!");
        assert_eq!(text, "<think>Oh!</think>So!");
        assert_eq!((stopped.as_deref(), output.finish().as_str()), (Some("!"), ""));
    }

    #[test]
    fn special_tokens_are_text_where_they_are_asked_for() {
        let text = |mut output: TextOutput| output.push(ByteTokenizer::BOS).text;
        assert_eq!(text(output(&[])), "");
        assert_eq!(text(output(&[]).showing(vec![ByteTokenizer::BOS])), "<s>");
    }

    #[test]
    fn finish_gives_what_was_held_back() {
        let mut output = output(&["ab!"]);
        assert_eq!(push_all(&mut output, b"xab\xc3").0, "x");
        assert_eq!(output.finish(), "ab\u{fffd}");
    }
}
