//! Tokenizer from a `tokenizer.json`, on the `tokenizers` crate.
//!
//! Owns encoding by the file's own steps, and the exact bytes of every token. Does not know the
//! companion files. A file may be hostile: a panic of the crate becomes an error.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{
    AddedToken, AddedVocabulary, Model as _, OffsetType, PreTokenizer as _, Tokenizer as Inner,
};

use super::affixes::Affixes;
use super::pieces::{Pieces, Start, check_normalizer};
use crate::TextError;
use crate::bpe::ByteAlphabet;
use crate::tokenizer::{SpecialTokens, Tokenizer};

/// Maximum number of ids; the largest vocabularies in use have about 300,000.
const MAX_TOKENS: u32 = 4 << 20;

/// Maximum bytes of all tokens' texts; the largest vocabularies in use have about 3 MB.
const MAX_BYTES: usize = 256 << 20;

/// The part of the file that is checked before the library reads it.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    normalizer: Value,
}

/// Kind of a token id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdKind {
    /// A hole in the vocabulary.
    Absent,
    /// A token with text.
    Text,
    /// A special token.
    Special,
}

/// A tokenizer made from a `tokenizer.json`.
pub(super) struct HfTokenizer {
    inner: Inner,
    /// The added tokens, without parsing of special tokens in text.
    plain: AddedVocabulary,
    kinds: Vec<IdKind>,
    /// The bytes of all tokens, concatenated.
    bytes: Vec<u8>,
    /// The end of each token's bytes in `bytes`.
    ends: Vec<usize>,
    start: Start,
    affixes: Affixes,
}

impl HfTokenizer {
    /// Parses the file's bytes.
    ///
    /// `more` are tokens that the companion files add or describe again, with their required ids. An
    /// error is a sentence about the problem.
    pub(super) fn new(json: &[u8], more: &[(u32, AddedToken)]) -> Result<Self, String> {
        let head: Head = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        check_normalizer(&head.normalizer)?;
        let mut inner = catch_unwind(|| Inner::from_bytes(json))
            .map_err(|_| "the tokenizers library panicked on it".to_owned())?
            .map_err(|error| error.to_string())?;
        inner
            .add_tokens(more.iter().map(|(_, token)| token.clone()))
            .map_err(|error| error.to_string())?;
        for (id, token) in more {
            let found = inner.token_to_id(&token.content);
            if found != Some(*id) {
                return Err(format!(
                    "tokenizer_config.json gives token {:?} the id {id}, but here its id is {}",
                    token.content,
                    found.map_or("none".to_owned(), |found| found.to_string())
                ));
            }
        }
        let decoder = serde_json::to_value(inner.get_decoder()).unwrap_or_default();
        let pieces = Pieces::read(&decoder)?;
        let processor = serde_json::to_value(inner.get_post_processor()).unwrap_or_default();
        let affixes = Affixes::read(&processor);
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let mut tokenizer = Self {
            inner,
            plain,
            kinds: Vec::new(),
            bytes: Vec::new(),
            ends: Vec::new(),
            start: pieces.start,
            affixes,
        };
        tokenizer.fill(&pieces)?;
        Ok(tokenizer)
    }

    /// Stores every token's bytes.
    fn fill(&mut self, pieces: &Pieces) -> Result<(), String> {
        let vocab = self.inner.get_vocab(true);
        let last = vocab.values().copied().max().ok_or("its vocabulary is empty")?;
        if last >= MAX_TOKENS {
            return Err(format!("it has a token with id {last}; ids are below {MAX_TOKENS}"));
        }
        let mut names: Vec<Option<&str>> = vec![None; last as usize + 1];
        for (name, id) in &vocab {
            names[*id as usize] = Some(name);
        }
        let added = self.inner.get_added_tokens_decoder();
        let alphabet = ByteAlphabet::new();
        for (name, id) in names.iter().zip(0..) {
            let kind = match (added.get(&id), name) {
                (Some(token), _) if token.special => IdKind::Special,
                // The text of such a token is its own content, which need not be in the alphabet.
                (Some(token), _) if pieces.is_byte_level() => {
                    self.bytes.extend_from_slice(token.content.as_bytes());
                    IdKind::Text
                }
                (Some(AddedToken { content: name, .. }), _) => {
                    pieces.bytes(name, &alphabet, &mut self.bytes)?;
                    IdKind::Text
                }
                (None, Some(name)) => {
                    pieces.bytes(name, &alphabet, &mut self.bytes)?;
                    IdKind::Text
                }
                (None, None) => IdKind::Absent,
            };
            if self.bytes.len() > MAX_BYTES {
                return Err(format!("its tokens have more than {} MiB of text", MAX_BYTES >> 20));
            }
            self.kinds.push(kind);
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    /// The id of the token with this name.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// Names and ids of the special tokens.
    pub(super) fn specials(&self) -> Vec<(String, u32)> {
        let added = self.inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special);
        special.map(|(id, token)| (token.content, id)).collect()
    }

    /// The tokens that the file puts around a text.
    pub(super) fn affixes(&self) -> &Affixes {
        &self.affixes
    }

    fn run(&self, added: &AddedVocabulary, text: &str) -> tokenizers::Result<Vec<u32>> {
        // The crate's own `encode` without its last step, which would apply the file's truncation,
        // padding and special tokens.
        let mut words = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words)?;
        }
        self.inner.get_model().tokenize_in_pretokenized(&mut words, None)?;
        Ok(words.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
    }
}

impl Tokenizer for HfTokenizer {
    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let added = match special {
            SpecialTokens::Parse => self.inner.get_added_vocabulary(),
            SpecialTokens::AsText => &self.plain,
        };
        // No state that a panic could leave incomplete is used again.
        match catch_unwind(AssertUnwindSafe(|| self.run(added, text))) {
            Ok(ids) => ids.map_err(|error| TextError::Encode(error.to_string())),
            Err(_) => Err(TextError::Encode("the tokenizers library panicked on it".to_owned())),
        }
    }

    fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let Affixes { prefix, suffix } = &self.affixes;
        let ids = self.encode(text, SpecialTokens::AsText)?;
        Ok([prefix.as_slice(), &ids, suffix].concat())
    }

    fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        let index = id as usize;
        if *self.kinds.get(index)? != IdKind::Text {
            return None;
        }
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..*self.ends.get(index)?).map(Cow::Borrowed)
    }

    fn special_name(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        if !self.is_special(id) {
            return None;
        }
        self.inner.id_to_token(id).map(|name| Cow::Owned(name.into_bytes()))
    }

    fn is_special(&self, id: u32) -> bool {
        self.kinds.get(id as usize) == Some(&IdKind::Special)
    }

    fn vocab_size(&self) -> usize {
        self.kinds.len()
    }

    /// Decodes a whole text, without the space that encoding put before it.
    fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let vocab_size = self.vocab_size();
        let mut bytes: Vec<u8> = Vec::new();
        let mut is_first = true;
        for &id in ids {
            if id as usize >= vocab_size {
                return Err(TextError::UnknownToken { id, vocab_size });
            }
            let Some(token) = self.token_bytes(id) else { continue };
            let strips = is_first && self.start == Start::FirstTokenLosesSpaces;
            bytes.extend(token.iter().filter(|byte| !strips || **byte != b' '));
            is_first = false;
        }
        let text = match self.start {
            Start::LosesSpaces(count) => {
                let spaces = bytes.iter().take(count).take_while(|byte| **byte == b' ').count();
                &bytes[spaces..]
            }
            Start::Kept | Start::FirstTokenLosesSpaces => &bytes,
        };
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}
