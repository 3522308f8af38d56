//! `tokenize` and `detokenize`.

use serde::{Deserialize, Serialize};

use super::Method;
use super::generate::Message;
use super::models::EngineKind;

/// Turns text into token ids.
#[derive(Debug)]
pub struct Tokenize;

impl Method for Tokenize {
    const NAME: &'static str = "tokenize";
    type Params = TokenizeParams;
    type Output = TokenizeResult;
}

/// Parameters of `tokenize`. Exactly one of `text` and `messages` is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenizeParams {
    /// Name or path of the model; the default model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The engine whose tokenizer to use; its present one, or else its format's, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// Text, tokenized like a raw prompt or, for an embedding model, like an input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A conversation, rendered through the chat template first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
}

/// Token ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenizeResult {
    /// The model whose tokenizer was used.
    pub model: String,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// Turns token ids into text.
#[derive(Debug)]
pub struct Detokenize;

impl Method for Detokenize {
    const NAME: &'static str = "detokenize";
    type Params = DetokenizeParams;
    type Output = DetokenizeResult;
}

/// Parameters of `detokenize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DetokenizeParams {
    /// Name or path of the model; the default model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// As in [`TokenizeParams`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// The text; special tokens have none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DetokenizeResult {
    /// The model whose tokenizer was used.
    pub model: String,
    /// The text.
    pub text: String,
}
