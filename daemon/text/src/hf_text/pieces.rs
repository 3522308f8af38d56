//! Decoder of a `tokenizer.json`: the exact bytes of each token.
//!
//! Owns the translation of decoders, which see whole sequences, into bytes per token, which can be
//! streamed. The only effect of a decoder on a whole sequence is to remove leading spaces. It is
//! separate ([`Start`]), because a continuation keeps its space. Does not know files. Source:
//! `src/decoders` of the `tokenizers` crate.

use serde_json::Value;

use crate::bpe::ByteAlphabet;

/// The supported decoders, for messages.
const KNOWN: &str = "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, WordPiece, Sequence";

/// Maximum nesting of decoder sequences.
const MAX_DEPTH: usize = 8;
/// Maximum number of steps of a decoder or normalizer; real ones have about five.
///
/// Each step can make a text longer, and its output is the input of the next.
const MAX_STEPS: usize = 16;
/// Maximum size of the text that a step inserts, in bytes.
const MAX_CONTENT_BYTES: usize = 64;
/// Maximum size of one token's text, in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;
/// Maximum factor by which a normalizer may lengthen a text.
const MAX_GROWTH: usize = 64;

/// Treatment of leading spaces of a whole text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// They stay.
    Kept,
    /// At most this many are removed.
    LosesSpaces(usize),
    /// All spaces of the first token are removed.
    FirstTokenLosesSpaces,
}

/// One step from a token's name to its text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// Each character is a byte, in GPT-2's alphabet.
    ByteLevel,
    /// Replaces one string by another.
    Replace(String, String),
    /// `<0x0A>` is the byte 10.
    ByteFallback,
    /// Words begin with a space, and tokens with the prefix continue a word.
    WordPiece(String),
}

/// Conversion of token names to text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    steps: Vec<Step>,
    /// Whether later steps work on the whole text instead of single tokens.
    fused: bool,
    pub(super) start: Start,
}

impl Pieces {
    /// Parses the `decoder` of a `tokenizer.json`. An error is a sentence about the file.
    pub(super) fn read(decoder: &Value) -> Result<Self, String> {
        let mut pieces = Self { steps: Vec::new(), fused: false, start: Start::Kept };
        pieces.add(decoder, 0)?;
        Ok(pieces)
    }

    fn add(&mut self, decoder: &Value, depth: usize) -> Result<(), String> {
        let text = |key: &str| decoder[key].as_str().unwrap_or_default().to_owned();
        if self.steps.len() >= MAX_STEPS {
            return Err(format!("its decoder has more than {MAX_STEPS} steps"));
        }
        for key in ["content", "prefix"] {
            check_content("decoder", &decoder[key])?;
        }
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
                // Only a single character is found in single tokens as well as across tokens.
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

    /// Appends the bytes of the token with this name. An error is a sentence about the file.
    pub(super) fn bytes(
        &self,
        name: &str,
        alphabet: &ByteAlphabet,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut text = name.to_owned();
        for step in &self.steps {
            check_length(&text)?;
            match step {
                Step::ByteLevel => {
                    alphabet.decode(&text, out);
                    return Ok(());
                }
                Step::Replace(from, to) => {
                    if text.contains(from.as_str()) {
                        text = text.replace(from.as_str(), to);
                    }
                }
                Step::ByteFallback => {
                    if let Some(byte) = fallback_byte(&text) {
                        out.push(byte);
                        return Ok(());
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
        check_length(&text)?;
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Checks the `normalizer` of a `tokenizer.json` before the library reads it.
///
/// The library applies it without bounds, to the file's own tokens and to every text. An error is a
/// sentence about the file.
pub(super) fn check_normalizer(normalizer: &Value) -> Result<(), String> {
    let (mut steps, mut growth, mut maps) = (0, 1_usize, 0);
    let mut left = vec![(normalizer, 0)];
    while let Some((step, depth)) = left.pop() {
        if let Some(inner) = step["normalizers"].as_array() {
            if depth >= MAX_DEPTH {
                return Err(format!("its normalizer nests more than {MAX_DEPTH} sequences"));
            }
            left.extend(inner.iter().map(|step| (step, depth + 1)));
        }
        steps += 1;
        for key in ["content", "prepend"] {
            check_content("normalizer", &step[key])?;
        }
        if let Some(map) = step["precompiled_charsmap"].as_str() {
            maps += 1;
            let longest = longest_mapped(map);
            if maps > 1 || longest > MAX_CONTENT_BYTES {
                return Err(format!(
                    "its normalizer has {maps} character maps and one that inserts {longest} bytes \
                     at a time; one map is supported, with at most {MAX_CONTENT_BYTES}"
                ));
            }
        }
        let content = step["content"].as_str().map_or(0, str::len);
        growth = growth.saturating_mul(match (&step["pattern"], step["type"].as_str()) {
            (Value::Null, Some("ByteLevel" | "Bert" | "BertNormalizer")) => 2,
            (Value::Null, _) => 1,
            (pattern, _) => match pattern["String"].as_str() {
                Some(pattern) if !pattern.is_empty() => content.div_ceil(pattern.len()).max(1),
                // An expression can match the empty string between two bytes.
                _ => content + 1,
            },
        });
        if steps > MAX_STEPS {
            return Err(format!("its normalizer has more than {MAX_STEPS} steps"));
        }
        if growth > MAX_GROWTH {
            return Err(format!("its normalizer can make a text over {MAX_GROWTH} times as long"));
        }
    }
    Ok(())
}

/// The size of the longest replacement in a SentencePiece character map, in bytes.
///
/// The replacements follow the map's trie, each with a zero byte at its end. The library refuses a map
/// that cannot be read.
fn longest_mapped(map: &str) -> usize {
    let map = from_base64(map);
    let trie = map.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
    let mapped = map.get(4_usize.saturating_add(trie)..).unwrap_or_default();
    mapped.split(|&byte| byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// Decodes base64 in its usual alphabet, and ignores any other character.
fn from_base64(text: &str) -> Vec<u8> {
    let (mut bits, mut held) = (0_u32, 0);
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}

fn check_content(whose: &str, content: &Value) -> Result<(), String> {
    match content.as_str().map_or(0, str::len) {
        0..=MAX_CONTENT_BYTES => Ok(()),
        bytes => Err(format!(
            "its {whose} inserts {bytes} bytes at a time, more than {MAX_CONTENT_BYTES}"
        )),
    }
}

fn check_length(text: &str) -> Result<(), String> {
    if text.len() <= MAX_TOKEN_BYTES {
        return Ok(());
    }
    Err(format!("it has a token of more than {MAX_TOKEN_BYTES} bytes of text"))
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
        Pieces::read(decoder).unwrap().bytes(token, &ByteAlphabet::new(), &mut bytes).unwrap();
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
    fn unstreamable_decoder_is_refused_by_name() {
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

    #[test]
    fn text_growth_is_bounded() {
        let replace = |pattern: &str, content: &str| json!({ "type": "Replace", "pattern": { "String": pattern }, "content": content });
        let decoder = |steps: Vec<Value>| json!({ "type": "Sequence", "decoders": steps });
        let normalizer = |steps: Vec<Value>| json!({ "type": "Sequence", "normalizers": steps });
        let double = || replace("a", "aa");
        let long = replace("a", &"a".repeat(65));

        let too_many = Pieces::read(&decoder(vec![double(); 40])).unwrap_err();
        assert!(too_many.contains("more than 16 steps"), "{too_many}");
        let too_much = Pieces::read(&long).unwrap_err();
        assert!(too_much.contains("65 bytes"), "{too_much}");
        // What is left grows step by step, and is stopped on the way.
        let pieces = Pieces::read(&decoder(vec![replace("a", &"a".repeat(64)); 16])).unwrap();
        let mut bytes = Vec::new();
        let too_long = pieces.bytes("a", &ByteAlphabet::new(), &mut bytes).unwrap_err();
        assert!(too_long.contains("65536 bytes") && bytes.is_empty(), "{too_long}");

        // No trie, and `ab` and `c`, or 66 bytes, to put in.
        assert_eq!(from_base64("AAAAAGFiAGMA"), b"\0\0\0\0ab\0c\0");
        let map = |map: &str| json!({ "type": "Precompiled", "precompiled_charsmap": map });
        let short = || map("AAAAAGFiAGMA");
        for (normalizer, problem) in [
            (short(), None),
            (normalizer(vec![short(), short()]), Some("2 character maps")),
            (map(&("AAAAAGFi".to_owned() + &"YWFh".repeat(22))), Some("inserts 68 bytes")),
            (json!(null), None),
            (replace(" ", "▁"), None),
            (
                normalizer(vec![json!({ "type": "Prepend", "prepend": "▁" }), replace(" ", "▁")]),
                None,
            ),
            (normalizer(vec![json!({ "type": "NFC" }); 15]), None),
            (normalizer(vec![json!({ "type": "NFC" }); 16]), Some("more than 16 steps")),
            (normalizer(vec![double(); 7]), Some("64 times")),
            (normalizer(vec![json!({ "type": "ByteLevel" }); 7]), Some("64 times")),
            (long, Some("65 bytes")),
            (json!({ "type": "Prepend", "prepend": "a".repeat(65) }), Some("65 bytes")),
        ] {
            let found = check_normalizer(&normalizer);
            let is_right = match (&found, problem) {
                (Ok(()), None) => true,
                (Err(found), Some(problem)) => found.contains(problem),
                _ => false,
            };
            assert!(is_right, "{normalizer}: {found:?}");
        }
    }
}
