//! Text models from the metadata of GGUF files.
//!
//! Owns the meaning of the `tokenizer.*` keys. Does not know tensors or architectures. Sources:
//! `docs/gguf.md` of the ggml repository and `llama-vocab.cpp` of llama.cpp.

use std::collections::HashMap;
use std::sync::Arc;

use super::bpe::{BpeTokenizer, TokenKind};
use super::chat_template::ChatTemplate;
use super::pretokenize::PreTokenizer;
use super::{FimTokens, TextError, TextModel};
use ingle_formats::gguf::{GgufFile, Metadata};

/// Maximum number of tokens; the largest vocabularies in use have about 300,000.
const MAX_TOKENS: usize = 4 << 20;

/// Names of special tokens that end a turn, in addition to the file's keys.
///
/// The list is llama.cpp's (`special_eog_ids`).
pub(super) const END_NAMES: &[&str] = &[
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "</s>",
];

/// Builds the text model of a GGUF file.
///
/// # Errors
/// [`TextError::Unsupported`] for tokenizers other than byte-level BPE, naming what is supported;
/// [`TextError::Gguf`] and [`TextError::InvalidVocabulary`] for missing or contradictory keys.
pub fn text_model(gguf: &GgufFile) -> Result<TextModel, TextError> {
    let metadata = gguf.metadata();
    let model = metadata.string("tokenizer.ggml.model")?;
    if model != "gpt2" {
        return Err(unsupported(
            gguf,
            format!(
                "the tokenizer `{model}` is not supported yet, only `gpt2` (byte-level BPE) is"
            ),
        ));
    }
    let name = metadata.string_opt("tokenizer.ggml.pre")?.unwrap_or("default");
    let Some(pre) = PreTokenizer::named(name) else {
        return Err(unsupported(
            gguf,
            format!(
                "the pre-tokenizer `{name}` is not supported yet, these are: {}",
                PreTokenizer::names()
            ),
        ));
    };

    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        let problem = format!("{} tokens, expected 1 to {MAX_TOKENS}", tokens.len());
        return Err(metadata.invalid("tokenizer.ggml.tokens", problem).into());
    }
    let kinds = token_kinds(metadata, tokens.len())?;
    let merges = metadata.strings("tokenizer.ggml.merges")?;
    let special = SpecialIds::read(metadata, tokens, &kinds)?;
    let tokenizer = BpeTokenizer::new(tokens, kinds, merges, &pre).map_err(|problem| {
        TextError::InvalidVocabulary { file: gguf.path().to_owned(), problem }
    })?;

    let text_of = |id: Option<u32>| -> &str {
        id.and_then(|id| tokens.get(id as usize)).map_or("", String::as_str)
    };
    let chat_template = metadata.string_opt("tokenizer.chat_template")?.map(|source| {
        Arc::new(ChatTemplate::new(source, text_of(special.bos), text_of(special.eos)))
    });
    Ok(TextModel {
        tokenizer: Arc::new(tokenizer),
        chat_template,
        bos: special.bos,
        eos: special.ends,
        add_bos: metadata.bool_opt("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.add_bos),
        fim: fim_tokens(metadata, tokens)?,
    })
}

/// The id of every token, by its name.
#[must_use]
pub fn ids_by_name(tokens: &[String]) -> HashMap<&str, u32> {
    tokens.iter().map(String::as_str).zip(0..).collect()
}

/// The tokens of fill in the middle: those in the file's keys, or else those with known names.
fn fim_tokens(metadata: &Metadata, tokens: &[String]) -> Result<Option<FimTokens>, TextError> {
    let names = ids_by_name(tokens);
    let named = |keys: [&str; 2]| -> Result<Option<u32>, TextError> {
        for key in keys {
            let id = metadata.u32_opt(&format!("tokenizer.ggml.{key}_token_id"))?;
            if let Some(id) = id.filter(|id| (*id as usize) < tokens.len()) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    };
    let id = |name: &str| names.get(name).copied();
    // The second name of each is an older one.
    let prefix = named(["fim_pre", "prefix"])?;
    let (suffix, middle) = (named(["fim_suf", "suffix"])?, named(["fim_mid", "middle"])?);
    let (Some(prefix), Some(suffix), Some(middle)) = (prefix, suffix, middle) else {
        return Ok(FimTokens::find(id));
    };
    let mut fim = FimTokens::with_ends(prefix, suffix, Some(middle), id);
    for key in ["fim_pad", "fim_rep", "fim_sep"] {
        fim.ends.extend(named([key, key])?);
    }
    Ok(Some(fim))
}

fn unsupported(gguf: &GgufFile, problem: String) -> TextError {
    TextError::Unsupported { file: gguf.path().to_owned(), problem }
}

/// The numbers are `llama_token_type` of llama.cpp.
fn token_kinds(metadata: &Metadata, count: usize) -> Result<Vec<TokenKind>, TextError> {
    let key = "tokenizer.ggml.token_type";
    let Some(types) = metadata.i32_array_opt(key)? else {
        return Ok(vec![TokenKind::Normal; count]);
    };
    if types.len() != count {
        let problem = format!("{} types for {count} tokens", types.len());
        return Err(metadata.invalid(key, problem).into());
    }
    let kind = |token_type: &i32| match token_type {
        // Unknown and control tokens.
        2 | 3 => TokenKind::Special,
        4 => TokenKind::UserDefined,
        // Normal, unused and byte tokens take their text from the vocabulary.
        _ => TokenKind::Normal,
    };
    Ok(types.iter().map(kind).collect())
}

/// Ids of the tokens with a role; all are in the vocabulary.
struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    ends: Vec<u32>,
}

impl SpecialIds {
    fn read(
        metadata: &Metadata,
        tokens: &[String],
        kinds: &[TokenKind],
    ) -> Result<Self, TextError> {
        let id = |name: &str| -> Result<Option<u32>, TextError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.u32_opt(&key)? {
                Some(id) if id as usize >= tokens.len() => {
                    let problem = format!("token {id} of {} tokens", tokens.len());
                    Err(metadata.invalid(&key, problem).into())
                }
                id => Ok(id),
            }
        };
        let (bos, eos) = (id("bos")?, id("eos")?);
        let mut ends: Vec<u32> = [eos, id("eot")?, id("eom")?].into_iter().flatten().collect();
        let named = tokens.iter().zip(kinds).zip(0..).filter(|((token, kind), _)| {
            **kind == TokenKind::Special && END_NAMES.contains(&token.as_str())
        });
        ends.extend(named.map(|(_, id)| id));
        let mut seen = std::collections::HashSet::new();
        ends.retain(|&id| seen.insert(id));
        Ok(Self { bos, eos, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::small_vocab;
    use ingle_formats::gguf::testing::GgufWriter;
    use ingle_protocol::wire::chat::Message;

    fn small() -> GgufWriter {
        let (tokens, kinds, merges) = small_vocab();
        let types: Vec<i32> = kinds
            .iter()
            .map(|kind| match kind {
                TokenKind::Normal => 1,
                TokenKind::Special => 3,
                TokenKind::UserDefined => 4,
            })
            .collect();
        GgufWriter::new()
            .string("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &tokens)
            .strings("tokenizer.ggml.merges", &merges)
            .i32_array("tokenizer.ggml.token_type", &types)
    }

    fn problem(writer: GgufWriter) -> String {
        text_model(&writer.open().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn vocabulary_gives_tokenizer_and_template() {
        let gguf = small()
            .string("tokenizer.ggml.pre", "smollm")
            .u32("tokenizer.ggml.bos_token_id", 262)
            .u32("tokenizer.ggml.eos_token_id", 97)
            .u32("tokenizer.ggml.eot_token_id", 97)
            .bool("tokenizer.ggml.add_bos_token", true)
            .string("tokenizer.chat_template", "{{ eos_token }}{{ messages[0].content }}")
            .open()
            .unwrap();
        let model = text_model(&gguf).unwrap();
        assert_eq!(model.bos, Some(262));
        // By key once, and by name.
        assert_eq!(model.eos, [97, 261]);
        assert_eq!(model.tokenizer.vocab_size(), 264);
        assert_eq!(model.encode_prompt("hello").unwrap(), [262, 259]);
        let messages = [Message::new("user", "hello")];
        assert_eq!(model.encode_chat(&messages, 0).unwrap(), [262, 97, 259]);
    }

    #[test]
    fn base_model_has_no_template() {
        let model = text_model(&small().open().unwrap()).unwrap();
        assert!(model.chat_template.is_none() && !model.add_bos);
        assert_eq!(model.encode_prompt("hello").unwrap(), [259]);
    }

    #[test]
    fn fim_tokens_come_from_the_file() {
        let gguf = small()
            .u32("tokenizer.ggml.fim_pre_token_id", 97)
            .u32("tokenizer.ggml.suffix_token_id", 98)
            .u32("tokenizer.ggml.fim_mid_token_id", 99)
            .u32("tokenizer.ggml.fim_sep_token_id", 100);
        let fim = text_model(&gguf.open().unwrap()).unwrap().fim.unwrap();
        assert_eq!((fim.prefix, fim.suffix, fim.middle), (97, 98, Some(99)));
        assert!(fim.ends.contains(&100));
    }

    #[test]
    fn other_tokenizers_are_refused_by_name() {
        let spm = GgufWriter::new().string("tokenizer.ggml.model", "llama");
        let message = problem(spm);
        assert!(message.contains("`llama`") && message.contains("`gpt2`"), "{message}");
        let message = problem(small().string("tokenizer.ggml.pre", "gpt-4o"));
        assert!(message.contains("`gpt-4o`") && message.contains("smollm"), "{message}");
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(problem(GgufWriter::new()).contains("`tokenizer.ggml.model` is missing"));
        let message = problem(small().u32("tokenizer.ggml.bos_token_id", 264));
        assert!(message.contains("`tokenizer.ggml.bos_token_id`: token 264 of 264"), "{message}");
        let short = GgufWriter::new()
            .string("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &["a", "b"])
            .strings::<&str>("tokenizer.ggml.merges", &[])
            .i32_array("tokenizer.ggml.token_type", &[1]);
        assert!(problem(short).contains("1 types for 2 tokens"));
        let merge = GgufWriter::new()
            .string("tokenizer.ggml.model", "gpt2")
            .strings("tokenizer.ggml.tokens", &["a", "b"])
            .strings("tokenizer.ggml.merges", &["a b"]);
        assert!(problem(merge).contains("merge 0 names \"ab\""));
    }
}
