//! Text to token ids and back, by a model's vocabulary.

use std::path::Path;

use crate::{Error, Model, check, sys};

/// A vocabulary loaded without the model's weights. It can be used from any thread.
#[derive(Debug)]
pub struct Vocab {
    model: Model,
    size: u32,
}

/// The families of tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VocabKind {
    /// There is none in the file.
    None,
    /// SentencePiece's byte-pair encoding, with bytes to fall back to.
    SentencePiece,
    /// Byte-level byte-pair encoding.
    BytePair,
    /// BERT's pieces of words.
    WordPiece,
    /// Anything else.
    Other,
}

/// What a vocabulary says of itself. Tokens that it does not have are absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VocabFacts {
    /// The number of tokens.
    pub size: usize,
    /// Its family.
    pub kind: VocabKind,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Before the text that a gap comes after.
    pub fim_prefix: Option<u32>,
    /// Before the text that comes after a gap.
    pub fim_suffix: Option<u32>,
    /// Before the text that fills a gap.
    pub fim_middle: Option<u32>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: bool,
    /// Whether a text to be embedded ends with `eos`.
    pub add_eos: bool,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenAttributes {
    /// It stands for no text: control tokens and the unknown token.
    pub is_special: bool,
    /// It ends a generation.
    pub ends_generation: bool,
}

impl Vocab {
    /// Loads the vocabulary of a GGUF file.
    ///
    /// # Errors
    /// With llama.cpp's reason.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let model = Model::load_vocab_only(path)?;
        let mut vocab = Self { model, size: 0 };
        vocab.size = u32::try_from(vocab.facts()?.size).unwrap_or(0);
        Ok(vocab)
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When llama.cpp throws.
    pub fn facts(&self) -> Result<VocabFacts, Error> {
        let mut facts = sys::GuardVocabFacts::default();
        // SAFETY: the model is alive, and the structure is written before it is read.
        check(|message, len| unsafe {
            sys::guard_vocab_facts_of(self.model.raw(), &raw mut facts, message, len)
        })?;
        let size = usize::try_from(facts.size).unwrap_or(0);
        let token = |id: i32| u32::try_from(id).ok().filter(|&id| (id as usize) < size);
        Ok(VocabFacts {
            size,
            kind: match facts.kind {
                0 => VocabKind::None,
                1 => VocabKind::SentencePiece,
                2 => VocabKind::BytePair,
                3 => VocabKind::WordPiece,
                _ => VocabKind::Other,
            },
            bos: token(facts.bos),
            eos: token(facts.eos),
            fim_prefix: token(facts.fim_prefix),
            fim_suffix: token(facts.fim_suffix),
            fim_middle: token(facts.fim_middle),
            add_bos: facts.add_bos,
            add_eos: facts.add_eos,
        })
    }

    /// The ids of `text`. With `add_special` the tokens that the model wants around a text are
    /// added; with `parse_special` special tokens written out in it are what they name.
    ///
    /// # Errors
    /// When llama.cpp throws, or the text is over 2 GB.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, Error> {
        let text_len =
            i32::try_from(text.len()).map_err(|_| Error::failed("the text is over 2 GB"))?;
        // A token has a byte at least, nearly always; a space may be put before the text.
        let mut ids: Vec<i32> = vec![0; text.len() + 8];
        loop {
            let capacity = i32::try_from(ids.len()).unwrap_or(i32::MAX);
            let mut count = 0;
            // SAFETY: text and ids are as long as said, and the model is alive.
            check(|message, len| unsafe {
                sys::guard_tokenize(
                    self.model.raw(),
                    text.as_ptr().cast(),
                    text_len,
                    add_special,
                    parse_special,
                    ids.as_mut_ptr(),
                    capacity,
                    &raw mut count,
                    message,
                    len,
                )
            })?;
            if let Ok(count) = usize::try_from(count) {
                ids.truncate(count);
                return ids
                    .into_iter()
                    .map(|id| u32::try_from(id).map_err(|_| Error::failed("a token without an id")))
                    .collect();
            }
            // Minus the number of tokens there would be.
            let needed = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
            if count == i32::MIN || needed <= ids.len() {
                return Err(Error::failed("the text has too many tokens"));
            }
            ids.resize(needed, 0);
        }
    }

    /// Appends the bytes that `token` stands for to `out`; special tokens have none.
    ///
    /// # Errors
    /// When llama.cpp throws, or the vocabulary does not have the token.
    pub fn push_bytes(&self, token: u32, out: &mut Vec<u8>) -> Result<(), Error> {
        let token = self.known(token)?;
        let start = out.len();
        let mut room = 32;
        loop {
            out.resize(start + room, 0);
            let capacity = i32::try_from(room).unwrap_or(i32::MAX);
            let mut count = 0;
            // SAFETY: `room` bytes are there from `start` on, and the model is alive.
            check(|message, len| unsafe {
                sys::guard_piece(
                    self.model.raw(),
                    token,
                    false,
                    out[start..].as_mut_ptr().cast(),
                    capacity,
                    &raw mut count,
                    message,
                    len,
                )
            })?;
            if let Ok(count) = usize::try_from(count) {
                out.truncate(start + count.min(room));
                return Ok(());
            }
            let needed = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
            if needed <= room {
                return Err(Error::failed("a token without an end"));
            }
            room = needed;
        }
    }

    /// What a token is for.
    ///
    /// # Errors
    /// When llama.cpp throws, or the vocabulary does not have the token.
    pub fn attributes(&self, token: u32) -> Result<TokenAttributes, Error> {
        const UNKNOWN: i32 = 1;
        const CONTROL: i32 = 1 << 3;
        let token = self.known(token)?;
        let (mut attributes, mut ends_generation) = (0, false);
        // SAFETY: the model is alive, the token is in its vocabulary, and both results are written.
        check(|message, len| unsafe {
            sys::guard_token(
                self.model.raw(),
                token,
                &raw mut attributes,
                &raw mut ends_generation,
                message,
                len,
            )
        })?;
        let is_special = attributes & (UNKNOWN | CONTROL) != 0;
        Ok(TokenAttributes { is_special, ends_generation })
    }

    /// llama.cpp does not always check ids.
    fn known(&self, token: u32) -> Result<i32, Error> {
        i32::try_from(token)
            .ok()
            .filter(|_| token < self.size)
            .ok_or_else(|| Error::failed(format!("there is no token {token}")))
    }
}
