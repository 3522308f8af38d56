//! Byte-level BPE tokenizer, on the `tokenizers` crate.
//!
//! Owns the exact bytes of the vocabulary, and the extraction of special tokens from a text. Does not
//! know file formats.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

use super::TextError;
use super::pretokenize::PreTokenizer;
use super::tokenizer::{SpecialTokens, Tokenizer};

type Inner = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// Number of words in the cache of merges.
const CACHED_WORDS: usize = 10_000;

/// Role of a token in encoding and decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Made by merging.
    Normal,
    /// A special token: extracted from a text only on request, without text of its own.
    Special,
    /// Extracted from every text as a whole, with its text.
    UserDefined,
}

/// A byte-level BPE tokenizer.
pub struct BpeTokenizer {
    inner: Inner,
    kinds: Vec<TokenKind>,
    /// The bytes of all tokens, concatenated.
    bytes: Vec<u8>,
    /// The end of each token's bytes in `bytes`.
    ends: Vec<usize>,
    /// The names of special tokens.
    specials: HashMap<u32, Box<str>>,
    /// The tokens to extract as a whole, by first byte, the longest first.
    whole: HashMap<u8, Vec<(Box<str>, u32)>>,
    /// Bytes without a token in the vocabulary.
    missing_bytes: Vec<u8>,
}

impl BpeTokenizer {
    /// Builds the tokenizer. `merges` are pairs of tokens separated by a space, best first.
    ///
    /// An error is a sentence about the problem.
    pub(super) fn new(
        tokens: &[String],
        kinds: Vec<TokenKind>,
        merges: &[String],
        pre: &PreTokenizer,
    ) -> Result<Self, String> {
        let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
        let merges = checked_merges(merges, tokens)?;
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(pre.ignore_merges)
            .cache_capacity(CACHED_WORDS)
            .build()
            .map_err(|error| error.to_string())?;
        let mut inner = Inner::new(model);
        inner.with_pre_tokenizer(Some(pre.build().map_err(|error| error.to_string())?));
        if pre.compose {
            inner.with_normalizer(Some(NFC)).map_err(|error| error.to_string())?;
        }

        let alphabet = ByteAlphabet::new();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(tokens.len());
        let mut specials = HashMap::new();
        let mut whole: HashMap<u8, Vec<(Box<str>, u32)>> = HashMap::new();
        for ((token, kind), id) in tokens.iter().zip(&kinds).zip(0..) {
            match kind {
                TokenKind::Normal => alphabet.decode(token, &mut bytes),
                TokenKind::Special => {
                    specials.insert(id, token.as_str().into());
                }
                TokenKind::UserDefined => bytes.extend_from_slice(token.as_bytes()),
            }
            ends.push(bytes.len());
            if let (true, Some(&first)) = (*kind != TokenKind::Normal, token.as_bytes().first()) {
                whole.entry(first).or_default().push((token.as_str().into(), id));
            }
        }
        for candidates in whole.values_mut() {
            candidates.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        }
        let present: HashSet<&str> = tokens.iter().map(String::as_str).collect();
        let missing = |byte: &u8| !present.contains(alphabet.character(*byte).to_string().as_str());
        let missing_bytes = (0..=u8::MAX).filter(missing).collect();
        Ok(Self { inner, kinds, bytes, ends, specials, whole, missing_bytes })
    }

    /// Encodes text between tokens that are extracted as a whole.
    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TextError> {
        if text.is_empty() {
            return Ok(());
        }
        // The library would drop such bytes without an error.
        if let Some(byte) = text.bytes().find(|byte| self.missing_bytes.contains(byte)) {
            let problem = format!("the vocabulary has no token for the byte 0x{byte:02x}");
            return Err(TextError::Encode(problem));
        }
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| TextError::Encode(error.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The longest token to extract at the beginning of `text`.
    fn whole_token(&self, text: &[u8], special: SpecialTokens) -> Option<(usize, u32)> {
        let candidates = self.whole.get(text.first()?)?;
        let allowed = |id: u32| {
            special == SpecialTokens::Parse
                || self.kinds.get(id as usize) == Some(&TokenKind::UserDefined)
        };
        candidates
            .iter()
            .find(|(token, id)| allowed(*id) && text.starts_with(token.as_bytes()))
            .map(|(token, id)| (token.len(), *id))
    }
}

impl Tokenizer for BpeTokenizer {
    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        let (mut words_start, mut at) = (0, 0);
        while at < text.len() {
            // A token consists of whole characters, so no match begins or ends inside a character.
            match self.whole_token(&text.as_bytes()[at..], special) {
                Some((len, id)) => {
                    self.encode_words(&text[words_start..at], &mut ids)?;
                    ids.push(id);
                    at += len;
                    words_start = at;
                }
                None => at += 1,
            }
        }
        self.encode_words(&text[words_start..], &mut ids)?;
        Ok(ids)
    }

    fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let index = id as usize;
        if *self.kinds.get(index)? == TokenKind::Special {
            return None;
        }
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..*self.ends.get(index)?).map(Cow::Borrowed)
    }

    fn special_name(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        self.specials.get(&id).map(|name| Cow::Borrowed(name.as_bytes()))
    }

    fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&TokenKind::Special)
    }

    fn vocab_size(&self) -> usize {
        self.kinds.len()
    }
}

/// Splits merges into pairs, and checks that both parts and their concatenation are tokens.
///
/// The library's builder relies on that.
fn checked_merges(merges: &[String], tokens: &[String]) -> Result<Vec<(String, String)>, String> {
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let mut pairs = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (index, merge) in merges.iter().enumerate() {
        // A space inside a token is written as another character, so a merge has exactly one space.
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(format!("merge {index} is not two tokens separated by a space"));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(part) = [left, right, &joined].into_iter().find(|part| !known.contains(*part)) {
            return Err(format!("merge {index} names {part:?}, which is not in the vocabulary"));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

/// GPT-2's mapping of bytes to visible characters (`bytes_to_unicode` in its `encoder.py`).
///
/// Printable Latin-1 characters map to themselves, the other bytes to characters from U+0100 on.
pub(super) struct ByteAlphabet {
    characters: Vec<char>,
    bytes: HashMap<char, u8>,
}

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        let mut shifted = '\u{100}'..='\u{1ff}';
        let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let characters: Vec<char> = (0..=u8::MAX)
            .map(|byte| {
                if printable(byte) {
                    char::from(byte)
                } else {
                    shifted.next().unwrap_or(char::REPLACEMENT_CHARACTER)
                }
            })
            .collect();
        let bytes = characters.iter().copied().zip(0..=u8::MAX).collect();
        Self { characters, bytes }
    }

    pub(super) fn character(&self, byte: u8) -> char {
        self.characters[usize::from(byte)]
    }

    /// Appends the token's bytes.
    ///
    /// A token with a character outside the alphabet gives its own text, as in the `tokenizers` crate.
    pub(super) fn decode(&self, token: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for character in token.chars() {
            match self.bytes.get(&character) {
                Some(&byte) => out.push(byte),
                None => {
                    out.truncate(start);
                    out.extend_from_slice(token.as_bytes());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::small_vocab;

    fn small() -> BpeTokenizer {
        let (tokens, kinds, merges) = small_vocab();
        let pre = PreTokenizer::named("gpt-2").unwrap();
        BpeTokenizer::new(&tokens, kinds, &merges, &pre).unwrap()
    }

    #[test]
    fn alphabet_equals_the_librarys() {
        let ours: HashSet<char> = ByteAlphabet::new().characters.into_iter().collect();
        let theirs: HashSet<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn merges_apply_and_bytes_are_restored() {
        let tokenizer = small();
        let ids = tokenizer.encode("hello world🙂", SpecialTokens::Parse).unwrap();
        assert_eq!(ids[..2], [259, 260]);
        assert_eq!(tokenizer.token_bytes(260).unwrap().as_ref(), b" w");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "hello world🙂");
    }

    #[test]
    fn special_tokens_are_parsed_only_on_request() {
        let tokenizer = small();
        let text = "é<|end|>x<|end|>é";
        let parsed = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(parsed, [0xc3, 0xa9, 262, 261, 0xc3, 0xa9]);
        assert_eq!(tokenizer.decode(&parsed).unwrap(), "éé");
        let plain = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(tokenizer.decode(&plain).unwrap(), text);
        assert!(tokenizer.is_special(261) && tokenizer.token_bytes(261).is_none());
    }

    #[test]
    fn user_defined_tokens_are_whole_and_have_text() {
        let tokenizer = small();
        for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
            assert_eq!(tokenizer.encode("<tool>a", special).unwrap(), [263, 97]);
        }
        assert_eq!(tokenizer.decode(&[263]).unwrap(), "<tool>");
        assert!(!tokenizer.is_special(263));
    }

    #[test]
    fn error_names_unknown_id() {
        let error = small().decode(&[0, 264]).unwrap_err();
        assert_eq!(error, TextError::UnknownToken { id: 264, vocab_size: 264 });
    }

    #[test]
    fn bad_merges_are_refused() {
        let (tokens, kinds, _) = small_vocab();
        let pre = PreTokenizer::named("gpt-2").unwrap();
        for (merge, expected) in
            [("hello", "not two tokens"), ("h zz", "\"zz\""), ("hello hello", "\"hellohello\"")]
        {
            let merges = [merge.to_owned()];
            let error = BpeTokenizer::new(&tokens, kinds.clone(), &merges, &pre).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn byte_without_token_is_an_error() {
        let (mut tokens, kinds, merges) = small_vocab();
        tokens[usize::from(b'z')] = "unused".to_owned();
        let pre = PreTokenizer::named("gpt-2").unwrap();
        let tokenizer = BpeTokenizer::new(&tokens, kinds, &merges, &pre).unwrap();
        assert!(tokenizer.encode("abc", SpecialTokens::Parse).is_ok());
        let error = tokenizer.encode("fuzz", SpecialTokens::Parse).unwrap_err().to_string();
        assert!(error.contains("0x7a"), "{error}");
    }
}
