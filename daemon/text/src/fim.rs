//! Fill in the middle: the tokens around the parts of a text with a gap, and their order.
//!
//! Owns the names of these tokens in each model family; only GGUF files give their ids. Sources:
//! `llama-vocab.cpp` of llama.cpp; for Codestral, which wants the suffix first, mistral-common.

use super::tokenizer::SpecialTokens;
use super::{TextError, TextModel};

/// Names of the tokens before prefix, suffix and middle. A space of SentencePiece is `▁`.
const NAMES: [[&str; 3]; 7] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
    ["<fim-prefix>", "<fim-suffix>", "<fim-middle>"],
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"],
    ["▁<PRE>", "▁<SUF>", "▁<MID>"],
    ["<PRE>", "<SUF>", "<MID>"],
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"],
];

/// Names of prefix and suffix in models that want the suffix first and have no middle token.
const SUFFIX_FIRST: [&str; 2] = ["[PREFIX]", "[SUFFIX]"];

/// Tokens after the end of a filled gap, where the file continues or another file begins.
const END_NAMES: [&str; 15] = [
    "<|fim_pad|>",
    "<fim_pad>",
    "<fim-pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
    "<file_sep>",
    "<|file_separator|>",
    "<|endoftext|>",
    "<EOT>",
    "▁<EOT>",
    "<EOD>",
    "<|cursor|>",
];

/// The models that support fill in the middle, for an error message.
pub const KINDS: &str = "models trained on code with gaps, such as Qwen2.5-Coder, StarCoder2, CodeLlama, \
     DeepSeek-Coder, CodeGemma or Codestral";

/// The tokens around the parts of a text with a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FimTokens {
    /// Before the text in front of the gap.
    pub prefix: u32,
    /// Before the text after the gap.
    pub suffix: u32,
    /// Before the text that fills the gap; absent in models that want the suffix first.
    pub middle: Option<u32>,
    /// Additional end tokens of the text that fills the gap.
    pub ends: Vec<u32>,
}

impl FimTokens {
    /// Finds the tokens in a vocabulary, where `id` returns a token's id by its name.
    #[must_use]
    pub fn find(id: impl Fn(&str) -> Option<u32>) -> Option<Self> {
        let named = NAMES.iter().find_map(|[prefix, suffix, middle]| {
            Some((id(prefix)?, id(suffix)?, Some(id(middle)?)))
        });
        let suffix_first = || {
            let [prefix, suffix] = SUFFIX_FIRST;
            Some((id(prefix)?, id(suffix)?, None))
        };
        let (prefix, suffix, middle) = named.or_else(suffix_first)?;
        Some(Self::with_ends(prefix, suffix, middle, id))
    }

    /// Creates the tokens from ids in a file, with the vocabulary's end tokens.
    #[must_use]
    pub fn with_ends(
        prefix: u32,
        suffix: u32,
        middle: Option<u32>,
        id: impl Fn(&str) -> Option<u32>,
    ) -> Self {
        let mut ends: Vec<u32> = [prefix, suffix].into_iter().chain(middle).collect();
        ends.extend(END_NAMES.iter().filter_map(|name| id(name)));
        Self { prefix, suffix, middle, ends }
    }
}

impl TextModel {
    /// The token ids of a text with a gap between `prefix` and `suffix`.
    ///
    /// Returns `None` for a model without fill in the middle. Names of special tokens in the text stay
    /// text.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn fim_prompt(&self, prefix: &str, suffix: &str) -> Result<Option<Vec<u32>>, TextError> {
        let Some(fim) = &self.fim else { return Ok(None) };
        let before = self.tokenizer.encode(prefix, SpecialTokens::AsText)?;
        let after = self.tokenizer.encode(suffix, SpecialTokens::AsText)?;
        let mut ids: Vec<u32> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        match fim.middle {
            Some(middle) => {
                ids.push(fim.prefix);
                ids.extend(before);
                ids.push(fim.suffix);
                ids.extend(after);
                ids.push(middle);
            }
            None => {
                ids.push(fim.suffix);
                ids.extend(after);
                ids.push(fim.prefix);
                ids.extend(before);
            }
        }
        Ok(Some(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(names: &'static [&'static str]) -> impl Fn(&str) -> Option<u32> {
        move |name| names.iter().zip(0..).find(|(known, _)| **known == name).map(|(_, id)| id)
    }

    #[test]
    fn find_knows_each_familys_names() {
        let qwen = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"];
        for (names, expected) in [
            (&["<fim_prefix>", "<fim_middle>", "<fim_suffix>"][..], Some((0, 2, Some(1)))),
            (&["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"], Some((0, 2, Some(1)))),
            (&["<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"], Some((1, 0, Some(2)))),
            (&["[SUFFIX]", "[PREFIX]"], Some((1, 0, None))),
            (&["<fim_prefix>", "<fim_suffix>", "<|fim_middle|>"], None),
            (&["<s>"], None),
        ] {
            let found = FimTokens::find(vocabulary(names));
            let found = found.map(|fim| (fim.prefix, fim.suffix, fim.middle));
            assert_eq!(found, expected, "{names:?}");
        }
        let qwen = FimTokens::find(vocabulary(Vec::leak(qwen.to_vec()))).unwrap();
        assert_eq!(qwen.ends, [1, 3, 2, 0]);
    }

    #[test]
    fn prompt_follows_the_models_order() {
        let fim = FimTokens { prefix: 1, suffix: 2, middle: Some(3), ends: Vec::new() };
        let model = TextModel { fim: Some(fim.clone()), ..TextModel::bytes() };
        assert_eq!(model.fim_prompt("a", "b").unwrap().unwrap(), [1, 97, 2, 98, 3]);
        let fim = FimTokens { middle: None, ..fim };
        let model = TextModel { fim: Some(fim), add_bos: true, ..TextModel::bytes() };
        assert_eq!(model.fim_prompt("a", "b").unwrap().unwrap(), [256, 2, 98, 1, 97]);
        let model = TextModel { fim: None, ..TextModel::bytes() };
        assert_eq!(model.fim_prompt("a", "b").unwrap(), None);
    }
}
