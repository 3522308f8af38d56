//! Errors of the text layer.

use std::path::PathBuf;

use ingle_formats::FileFault;
use ingle_formats::gguf::GgufError;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use serde_json::json;

/// An error of the text layer. No message contains text of a prompt or an output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The token id is outside the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// The number of ids.
        vocab_size: usize,
    },
    /// The text cannot be turned into tokens.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// The model's file cannot be read, or lacks a key that a tokenizer needs.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file is valid, but this version does not support its kind of tokenizer.
    #[error("{}: {problem}", file.display())]
    Unsupported {
        /// The model's file.
        file: PathBuf,
        /// The unsupported kind, and the supported ones.
        problem: String,
    },
    /// The model's file contradicts itself.
    #[error("{}: {problem}", file.display())]
    InvalidVocabulary {
        /// The model's file.
        file: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The request has messages, but the model has no chat template.
    #[error("the model has no chat template; send a raw prompt instead of messages")]
    NoChatTemplate,
    /// The chat template does not compile, or refused these messages.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// The chat template reached a limit on its size, time or memory.
    #[error("chat template: it exceeds the limit of {limit} {what}")]
    ChatTemplateLimit {
        /// The unit of the limit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A stop string is empty, so it would match everywhere.
    #[error("a stop string is empty")]
    EmptyStop,
}

impl From<TextError> for ErrorBody {
    fn from(error: TextError) -> Self {
        let code = match &error {
            TextError::Gguf(error) => match error.fault() {
                FileFault::Unsupported => ErrorCode::ModelUnsupported,
                FileFault::Io | FileFault::Invalid => ErrorCode::ModelInvalid,
            },
            TextError::Unsupported { .. } => ErrorCode::ModelUnsupported,
            TextError::InvalidVocabulary { .. } | TextError::ChatTemplateLimit { .. } => {
                ErrorCode::ModelInvalid
            }
            TextError::UnknownToken { .. }
            | TextError::Encode(_)
            | TextError::NoChatTemplate
            | TextError::ChatTemplate(_)
            | TextError::EmptyStop => ErrorCode::InvalidParams,
        };
        if let TextError::Gguf(error) = &error {
            return Self::new(code, error.to_string()).with_details(json!({ "file": error.path }));
        }
        let field = match &error {
            TextError::NoChatTemplate => Some("model"),
            TextError::ChatTemplate(_) => Some("messages"),
            TextError::EmptyStop => Some("stop"),
            _ => None,
        };
        let body = Self::new(code, error.to_string());
        match field {
            Some(field) => body.with_details(json!({ "field": field })),
            None => body,
        }
    }
}
