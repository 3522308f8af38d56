//! Pre-tokenizers: split a text into words before byte-level BPE merges.
//!
//! Owns the table of kinds, by the names in `tokenizer.ggml.pre`. Does not know vocabularies. Sources:
//! `llm_tokenizer_bpe` in llama.cpp's `llama-vocab.cpp` and the models' own `tokenizer.json`.

use tokenizers::PreTokenizerWrapper;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::TextError;

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Every digit is a separate word.
const DIGITS: &str = r"\p{N}";

/// Llama 3's words: up to three digits together.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Qwen 2's words: as Llama 3's, with single digits.
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// One kind of pre-tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    /// The kind's names in `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Regular expressions, each applied to the pieces of the one before it.
    patterns: &'static [&'static str],
    /// Whether a word that is a token itself is used without merging.
    pub(super) ignore_merges: bool,
    /// Whether the text is first normalized to Unicode's composed form (NFC).
    pub(super) compose: bool,
    /// Whether prompts begin with the BOS token if the file does not specify it.
    pub(super) add_bos: bool,
}

const KINDS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        patterns: &[DIGITS, GPT2],
        ignore_merges: false,
        compose: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "olmo"],
        patterns: &[GPT2],
        ignore_merges: false,
        compose: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["default"],
        patterns: &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ],
        ignore_merges: false,
        compose: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        compose: false,
        add_bos: true,
    },
    PreTokenizer {
        names: &["qwen2"],
        patterns: &[QWEN2],
        ignore_merges: false,
        compose: true,
        add_bos: false,
    },
];

impl PreTokenizer {
    /// The kind with this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        KINDS.iter().find(|kind| kind.names.contains(&name)).copied()
    }

    /// All names, for messages.
    pub(super) fn names() -> String {
        let names: Vec<&str> = KINDS.iter().flat_map(|kind| kind.names).copied().collect();
        names.join(", ")
    }

    /// Converts the kind to the types of the `tokenizers` crate.
    pub(super) fn build(&self) -> Result<PreTokenizerWrapper, TextError> {
        let mut steps = Vec::new();
        for pattern in self.patterns {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| TextError::Encode(error.to_string()))?;
            steps.push(split.into());
        }
        // This step only maps bytes to visible characters, without splitting.
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    use super::*;

    fn words(kind: &str, text: &str) -> Vec<String> {
        let mut string = PreTokenizedString::from(text);
        PreTokenizer::named(kind).unwrap().build().unwrap().pre_tokenize(&mut string).unwrap();
        let splits = string.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(word, _, _)| word.to_owned()).collect()
    }

    #[test]
    fn kinds_differ_in_digits_and_contractions() {
        assert_eq!(words("smollm", "a 12 b"), ["a", "Ġ", "1", "2", "Ġb"]);
        assert_eq!(words("gpt-2", "I'm 1234!"), ["I", "'m", "Ġ1234", "!"]);
        assert_eq!(words("llama-bpe", "I'M 1234"), ["I", "'M", "Ġ", "123", "4"]);
        assert_eq!(words("qwen2", "x\n\n12"), ["x", "ĊĊ", "1", "2"]);
        assert_eq!(words("default", "ab 1234."), ["ab", "Ġ", "123", "4", "."]);
    }

    #[test]
    fn every_kind_builds() {
        for kind in KINDS {
            assert!(kind.build().is_ok());
        }
        assert_eq!(PreTokenizer::named("gpt-4o"), None);
    }
}
