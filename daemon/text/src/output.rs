//! Text output of one sequence: detokenizes tokens, then finds stop strings.
//!
//! Owns the position at which a stop string ends a sequence's text. A raw completion ends before the
//! stop string, and text that may become one is held back. A chat completion is given out whole, because
//! only its response parser can tell content from the rest: it ends with the token in which the content
//! ended. Does not know engines, requests or token limits.

use std::sync::Arc;

use super::TextError;
use super::detokenize::Detokenizer;
use super::response_parser::ResponseParser;
use super::stop::StopMatcher;
use super::tokenizer::Tokenizer;

pub use super::stop::TextPiece;

/// Converts one sequence's tokens to text. `Send`, so that a request can carry it to the scheduler.
pub struct TextOutput {
    tokenizer: Arc<dyn Tokenizer>,
    detokenizer: Detokenizer,
    stop: Stop,
    /// Special tokens that give their names as text, because they are tags that a parser needs.
    shown: Vec<u32>,
}

/// Where stop strings apply.
enum Stop {
    /// To all of the text.
    InText(StopMatcher),
    /// To the content that a response parser finds.
    InContent(Box<ResponseParser>),
}

impl TextOutput {
    /// Creates an empty output that ends at the first of `stops`.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`].
    pub fn new(tokenizer: Arc<dyn Tokenizer>, stops: Vec<String>) -> Result<Self, TextError> {
        let stop = Stop::InText(StopMatcher::new(stops)?);
        Ok(Self { tokenizer, detokenizer: Detokenizer::default(), stop, shown: Vec::new() })
    }

    /// Gives these special tokens as text: their names.
    #[must_use]
    pub fn showing(mut self, tokens: Vec<u32>) -> Self {
        self.shown = tokens;
        self
    }

    /// Ends the output where this parser finds the end of the content.
    ///
    /// The text is given out unchanged, including the rest of the token in which the content ended.
    #[must_use]
    pub fn with_parser(mut self, parser: ResponseParser) -> Self {
        self.stop = Stop::InContent(Box::new(parser));
        self
    }

    /// The text that is certain after `token`.
    ///
    /// After a piece with a stop string all later pieces are empty. Tokens without text (special or
    /// unknown ones) give an empty piece.
    pub fn push(&mut self, token: u32) -> TextPiece {
        let text = if self.shown.contains(&token) {
            let name = self.tokenizer.special_name(token).unwrap_or_default();
            self.detokenizer.push_bytes(&name)
        } else {
            self.detokenizer.push(self.tokenizer.as_ref(), token)
        };
        match &mut self.stop {
            Stop::InText(matcher) => matcher.push(&text),
            Stop::InContent(parser) if parser.stopped().is_some() => TextPiece::default(),
            Stop::InContent(parser) => {
                parser.push(&text, &mut |_| {});
                TextPiece { text, stopped: parser.stopped().map(str::to_owned) }
            }
        }
    }

    /// The bytes of one token; the name's bytes for a special token.
    pub fn bytes_of(&self, token: u32) -> Vec<u8> {
        let tokenizer = &self.tokenizer;
        let bytes = tokenizer.token_bytes(token).or_else(|| tokenizer.special_name(token));
        bytes.map(std::borrow::Cow::into_owned).unwrap_or_default()
    }

    /// Ends the output and returns the held-back text; empty after a stop string.
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
            Stop::InContent(parser) if parser.stopped().is_some() => String::new(),
            Stop::InContent(_) => rest,
        }
    }
}

impl std::fmt::Debug for TextOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Model output is never logged, so the held-back text is left out.
        f.debug_struct("TextOutput").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response_parser::ResponseSyntax;
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
    fn stop_string_of_several_tokens_ends_text() {
        let mut output = output(&["🙂", "zz"]);
        let (text, stopped) = push_all(&mut output, "süß🙂!".as_bytes());
        assert_eq!((text.as_str(), stopped.as_deref()), ("süß", Some("🙂")));
        assert_eq!(output.finish(), "");
    }

    #[test]
    fn parsed_text_ends_with_the_last_content_token() {
        let syntax = ResponseSyntax {
            may_reason: true,
            stops: vec!["!".to_owned()],
            ..ResponseSyntax::default()
        };
        let mut output = output(&[]).with_parser(ResponseParser::new(syntax).unwrap());
        let (text, stopped) = push_all(&mut output, b"<think>Oh!</think>So!");
        assert_eq!(text, "<think>Oh!</think>So!");
        assert_eq!((stopped.as_deref(), output.finish().as_str()), (Some("!"), ""));
    }

    #[test]
    fn shown_special_tokens_give_their_names() {
        let text = |mut output: TextOutput| output.push(ByteTokenizer::BOS).text;
        assert_eq!(text(output(&[])), "");
        assert_eq!(text(output(&[]).showing(vec![ByteTokenizer::BOS])), "<s>");
    }

    #[test]
    fn finish_returns_held_back_text() {
        let mut output = output(&["ab!"]);
        assert_eq!(push_all(&mut output, b"xab\xc3").0, "x");
        assert_eq!(output.finish(), "ab\u{fffd}");
    }
}
