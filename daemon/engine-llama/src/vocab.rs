//! llama.cpp's tokenizer: text models from the vocabulary of a GGUF file.
//!
//! Owns the second implementation of [`Tokenizer`]: every kind of vocabulary that llama.cpp knows,
//! for models that llama.cpp runs. Does not know tensors or engines; the vocabulary is loaded
//! without the model's weights and can be used from any thread.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use llama_guard::{Vocab, VocabFacts, VocabKind};

use ingle_formats::gguf::GgufFile;
use ingle_text::chat_template::ChatTemplate;
use ingle_text::tokenizer::{SpecialTokens, Tokenizer};
use ingle_text::{FimTokens, TextError, TextModel};

/// Builds the text model of a GGUF file.
///
/// # Errors
/// [`TextError::Unsupported`] for a file without a vocabulary, [`TextError::InvalidVocabulary`]
/// with llama.cpp's reason, and [`TextError::Gguf`] for keys of a wrong type.
pub fn text_model(gguf: &GgufFile) -> Result<TextModel, TextError> {
    let metadata = gguf.metadata();
    let file = || gguf.path().to_owned();
    // llama.cpp takes a file without one for a file whose vocabulary is not wanted.
    let kind = metadata.string("tokenizer.ggml.model")?;
    let none = |problem: String| TextError::Unsupported { file: file(), problem };
    if matches!(kind, "none" | "no_vocab") {
        return Err(none(
            "it has no vocabulary, so that no text can be read or written".to_owned(),
        ));
    }
    let invalid = |error: llama_guard::Error| {
        let message = error.message;
        if message.contains("unknown tokenizer") || message.contains("unknown pre-tokenizer") {
            return none(format!("llama.cpp: {message}"));
        }
        TextError::InvalidVocabulary { file: file(), problem: format!("llama.cpp: {message}") }
    };
    let vocab = Vocab::load(gguf.path()).map_err(invalid)?;
    let facts = vocab.facts().map_err(invalid)?;
    if facts.size == 0 || facts.kind == VocabKind::None {
        return Err(none("its vocabulary is empty".to_owned()));
    }
    let has_leading_space = facts.kind == VocabKind::SentencePiece
        && metadata.bool_opt("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let (table, ends) = Table::read(&vocab, &facts).map_err(invalid)?;

    // As the file writes them: the pieces of special tokens are empty.
    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    let text_of = |id: Option<u32>| -> &str {
        id.and_then(|id| tokens.get(id as usize)).map_or("", String::as_str)
    };
    let specials = tokens.iter().zip(0..).filter(|(_, id)| table.is_special(*id));
    let specials = specials.map(|(name, id)| (id, name.as_str().into())).collect();
    let chat_template = metadata
        .string_opt("tokenizer.chat_template")?
        .map(|source| Arc::new(ChatTemplate::new(source, text_of(facts.bos), text_of(facts.eos))));
    let names = ingle_text::gguf_vocab::ids_by_name(tokens);
    let id = |name: &str| names.get(name).copied().filter(|id| (*id as usize) < facts.size);
    let fim = match (facts.fim_prefix, facts.fim_suffix, facts.fim_middle) {
        (Some(prefix), Some(suffix), middle @ Some(_)) => {
            Some(FimTokens::with_ends(prefix, suffix, middle, id))
        }
        _ => FimTokens::find(id),
    };
    Ok(TextModel {
        chat_template,
        bos: facts.bos,
        eos: ends,
        add_bos: facts.add_bos,
        fim,
        tokenizer: Arc::new(LlamaTokenizer { vocab, table, specials, has_leading_space }),
    })
}

/// The bytes of every token, end to end, so that generation needs no call of llama.cpp for them.
#[derive(Debug)]
struct Table {
    bytes: Vec<u8>,
    /// Where each token begins in `bytes`, and one past the last.
    starts: Vec<u32>,
    is_special: Vec<bool>,
}

impl Table {
    /// The table, and the tokens that end a generation.
    fn read(vocab: &Vocab, facts: &VocabFacts) -> Result<(Self, Vec<u32>), llama_guard::Error> {
        let size = u32::try_from(facts.size).unwrap_or(u32::MAX);
        let mut table = Self {
            bytes: Vec::with_capacity(facts.size * 8),
            starts: Vec::with_capacity(facts.size + 1),
            is_special: Vec::with_capacity(facts.size),
        };
        let mut ends = Vec::new();
        for token in 0..size {
            let attributes = vocab.attributes(token)?;
            if attributes.ends_generation {
                ends.push(token);
            }
            table.is_special.push(attributes.is_special);
            table.starts.push(u32::try_from(table.bytes.len()).unwrap_or(u32::MAX));
            if !attributes.is_special {
                vocab.push_bytes(token, &mut table.bytes)?;
            }
        }
        table.starts.push(u32::try_from(table.bytes.len()).unwrap_or(u32::MAX));
        Ok((table, ends))
    }

    fn is_special(&self, id: u32) -> bool {
        self.is_special.get(id as usize).copied().unwrap_or(false)
    }

    fn bytes(&self, id: u32) -> Option<&[u8]> {
        let start = *self.starts.get(id as usize)? as usize;
        let end = *self.starts.get(id as usize + 1)? as usize;
        self.bytes.get(start..end)
    }
}

/// llama.cpp's tokenizer of one vocabulary.
#[derive(Debug)]
struct LlamaTokenizer {
    vocab: Vocab,
    table: Table,
    /// The names of special tokens, which have no text.
    specials: HashMap<u32, Box<str>>,
    /// SentencePiece puts a space before a text, which is not the text's.
    has_leading_space: bool,
}

impl Tokenizer for LlamaTokenizer {
    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let parse_special = special == SpecialTokens::Parse;
        self.vocab
            .tokenize(text, false, parse_special)
            .map_err(|error| TextError::Encode(error.to_string()))
    }

    fn encode_whole(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let ids = self.vocab.tokenize(text, true, false);
        ids.map_err(|error| TextError::Encode(error.to_string()))
    }

    fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        if self.is_special(id) {
            return None;
        }
        self.table.bytes(id).map(Cow::Borrowed)
    }

    fn special_name(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        self.specials.get(&id).map(|name| Cow::Borrowed(name.as_bytes()))
    }

    fn is_special(&self, id: u32) -> bool {
        self.table.is_special(id)
    }

    fn vocab_size(&self) -> usize {
        self.table.is_special.len()
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TextError> {
        let vocab_size = self.vocab_size();
        let mut bytes = Vec::new();
        for &id in ids {
            if id as usize >= vocab_size {
                return Err(TextError::UnknownToken { id, vocab_size });
            }
            bytes.extend_from_slice(&self.token_bytes(id).unwrap_or_default());
        }
        let start = usize::from(self.has_leading_space && bytes.first() == Some(&b' '));
        Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
    }
}

#[cfg(test)]
mod tests;
