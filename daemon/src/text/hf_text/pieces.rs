//! What text each token of a `tokenizer.json` stands for, from the file's decoder.
//!
//! Owns the translation of decoders, which see whole sequences, into exact bytes per token, which
//! can be streamed. The one thing a decoder does to a sequence as a whole is to take a leading
//! space away; it is kept apart ([`Start`]), because a continuation keeps its space. Knows nothing
//! of files. Source: `src/decoders` of the `tokenizers` crate.

use serde_json::Value;

use crate::text::bpe::ByteAlphabet;

/// The decoders that are understood, for messages.
const KNOWN: &str = "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, WordPiece, Sequence";

/// Nesting of decoder sequences.
const MAX_DEPTH: usize = 8;

/// What happens to the beginning of a whole text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing.
    Kept,
    /// So many leading spaces go.
    LosesSpaces(usize),
    /// All spaces of the first token go.
    FirstTokenLosesSpaces,
}

/// One step from a token's name to its text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Each character is a byte, in GPT-2's alphabet.
    ByteLevel,
    /// One string for another.
    Replace(String, String),
    /// `<0x0A>` is the byte 10.
    ByteFallback,
    /// Words begin with a space, and what begins with the prefix goes on a word.
    WordPiece(String),
}

/// How token names become text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    steps: Vec<Step>,
    /// Whether what follows works on the whole text instead of single tokens.
    fused: bool,
    pub(super) start: Start,
}

impl Pieces {
    /// Reads the `decoder` of a `tokenizer.json`. An error is the end of a sentence about it.
    pub(super) fn read(decoder: &Value) -> Result<Self, String> {
        let mut pieces = Self { steps: Vec::new(), fused: false, start: Start::Kept };
        pieces.add(decoder, 0)?;
        Ok(pieces)
    }

    fn add(&mut self, decoder: &Value, depth: usize) -> Result<(), String> {
        let text = |key: &str| decoder[key].as_str().unwrap_or_default().to_owned();
        match decoder["type"].as_str() {
            Some("Sequence") if depth < MAX_DEPTH => {
                let decoders = decoder["decoders"].as_array().map_or(&[][..], Vec::as_slice);
                decoders.iter().try_for_each(|decoder| self.add(decoder, depth + 1))?;
            }
            Some("ByteLevel") => self.steps.push(Step::ByteLevel),
            Some("ByteFallback") => self.steps.push(Step::ByteFallback),
            Some("WordPiece") => {
                self.steps.push(Step::WordPiece(text("prefix")));
                self.start = Start::LosesSpaces(1);
            }
            Some("Fuse") => self.fused = true,
            Some("Replace") => {
                let Some(from) = decoder["pattern"]["String"].as_str() else {
                    return Err("its decoder `Replace` has a pattern that is not a string".into());
                };
                // Across tokens only a single character is found in the tokens themselves too.
                if self.fused && from.chars().count() != 1 {
                    return Err("its decoder replaces strings across tokens".into());
                }
                self.steps.push(Step::Replace(from.to_owned(), text("content")));
            }
            Some("Metaspace") => {
                self.steps.push(Step::Replace(text("replacement"), " ".to_owned()));
                if decoder["prepend_scheme"] != "never" {
                    self.start = Start::FirstTokenLosesSpaces;
                }
            }
            Some("Strip") => {
                let count = decoder["start"].as_u64().and_then(|count| usize::try_from(count).ok());
                if !self.fused || text("content") != " " || decoder["stop"] != 0 {
                    return Err("its decoder `Strip` takes more than leading spaces".into());
                }
                self.start = Start::LosesSpaces(count.unwrap_or_default());
            }
            Some(other) => {
                return Err(format!("its decoder `{other}` is not supported, only {KNOWN} are"));
            }
            None => return Err(format!("it has no decoder; one of {KNOWN} is needed")),
        }
        Ok(())
    }

    /// Whether every token is a string of bytes in GPT-2's alphabet.
    pub(super) fn is_byte_level(&self) -> bool {
        self.steps.contains(&Step::ByteLevel)
    }

    /// Appends the bytes of the token called `name`.
    pub(super) fn bytes(&self, name: &str, alphabet: &ByteAlphabet, out: &mut Vec<u8>) {
        let mut text = name.to_owned();
        for step in &self.steps {
            match step {
                Step::ByteLevel => {
                    alphabet.decode(&text, out);
                    return;
                }
                Step::Replace(from, to) => {
                    if text.contains(from.as_str()) {
                        text = text.replace(from.as_str(), to);
                    }
                }
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        out.push(byte);
                        return;
                    }
                }
                Step::WordPiece(prefix) => {
                    text = match text.strip_prefix(prefix.as_str()) {
                        Some(rest) if !prefix.is_empty() => rest.to_owned(),
                        _ => format!(" {text}"),
                    };
                }
            }
        }
        out.extend_from_slice(text.as_bytes());
    }
}

/// The byte of a token such as `<0x0A>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(decoder: &Value, token: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        Pieces::read(decoder).unwrap().bytes(token, &ByteAlphabet::new(), &mut bytes);
        bytes
    }

    #[test]
    fn decoders_become_bytes_per_token() {
        let llama = json!({ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ]});
        for (token, expected) in [
            ("▁▁wor▁ld", &b"  wor ld"[..]),
            ("<0x0A>", b"\n"),
            ("<0xF0>", b"\xf0"),
            ("<0xZZ>", b"<0xZZ>"),
            ("<0x0A", b"<0x0A"),
        ] {
            assert_eq!(bytes(&llama, token), expected, "{token}");
        }
        assert_eq!(Pieces::read(&llama).unwrap().start, Start::LosesSpaces(1));
        let metaspace =
            json!({ "type": "Metaspace", "replacement": "_", "prepend_scheme": "first" });
        assert_eq!(bytes(&metaspace, "_a▁"), " a▁".as_bytes());
        assert_eq!(Pieces::read(&metaspace).unwrap().start, Start::FirstTokenLosesSpaces);
        let words = json!({ "type": "WordPiece", "prefix": "##", "cleanup": true });
        assert_eq!((bytes(&words, "ab"), bytes(&words, "##c")), (b" ab".to_vec(), b"c".to_vec()));
        assert_eq!(bytes(&json!({ "type": "ByteLevel" }), "Ġé"), b" \xe9");
    }

    #[test]
    fn what_cannot_be_streamed_is_refused_by_name() {
        let replace =
            |pattern: Value| json!({ "type": "Replace", "pattern": pattern, "content": "" });
        for (decoder, named) in [
            (json!(null), "no decoder"),
            (json!({ "type": "CTC" }), "`CTC`"),
            (replace(json!({ "Regex": "a+" })), "`Replace`"),
            (json!({ "type": "Strip", "content": " ", "start": 0, "stop": 1 }), "`Strip`"),
            (
                json!({ "type": "Sequence", "decoders": [
                    { "type": "Fuse" }, replace(json!({ "String": "ab" })),
                ]}),
                "across tokens",
            ),
        ] {
            let problem = Pieces::read(&decoder).unwrap_err();
            assert!(problem.contains(named), "{problem}");
        }
    }
}
