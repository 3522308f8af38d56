//! What can go wrong between strings and token ids.

use std::path::PathBuf;

use crate::formats::gguf::GgufError;

/// An error of the text layer. None of them quotes a prompt or an output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A token id outside the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Ids below this are known.
        vocab_size: usize,
    },
    /// A text that cannot be turned into tokens.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// The model's file cannot be read or lacks what a tokenizer needs.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file is sound, but its tokenizer is of a kind this version does not know.
    #[error("{}: {problem}", file.display())]
    Unsupported {
        /// The model's file.
        file: PathBuf,
        /// What is not supported, and what is.
        problem: String,
    },
    /// The model's file contradicts itself.
    #[error("{}: {problem}", file.display())]
    InvalidVocabulary {
        /// The model's file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Messages were given, but the model has no chat template.
    #[error("the model has no chat template; send a raw prompt instead of messages")]
    NoChatTemplate,
    /// The chat template does not compile, or refused these messages.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// The chat template ran into a limit on its time or memory.
    #[error("chat template: it exceeds the limit of {limit} {what}")]
    ChatTemplateLimit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An empty stop string, which would match everywhere.
    #[error("a stop string is empty")]
    EmptyStop,
}
