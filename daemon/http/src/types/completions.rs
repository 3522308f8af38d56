//! Request and response of `/v1/completions`.

use std::collections::BTreeMap;

use ingle_protocol::sampling;
use ingle_protocol::wire::generate::GenerateParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input::Input;
use super::sampling::request_with_sampling;
use super::shared::{FinishReason, OneOrMany, StreamOptions, Usage};

request_with_sampling! {
    /// Prompts to complete. Fields of OpenAI's API that are not listed are ignored.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    pub struct CompletionRequest {
        /// Name of the model (default: the default model).
        pub model: Option<String>,
        /// One prompt or several, as text or as token ids of the model's own vocabulary. A request
        /// may have 64 completions in total.
        pub prompt: Input,
        /// Text after the gap that the model fills; `prompt` is the text before it.
        pub suffix: Option<String>,
        /// Maximum number of tokens to generate (default 16).
        #[schemars(range(min = 1, max = u32::MAX))]
        pub max_tokens: Option<u32>,
        /// Number of completions per prompt.
        #[schemars(range(min = 1, max = 8))]
        pub n: Option<u32>,
        /// Must equal `n` or be absent: every completion is returned.
        #[schemars(range(min = 1, max = 8))]
        pub best_of: Option<u32>,
        /// Strings that end a completion.
        pub stop: Option<OneOrMany>,
        /// Number of likeliest tokens to report at each position, with their log-probabilities.
        #[schemars(range(min = 0, max = 20))]
        pub logprobs: Option<usize>,
        /// Whether each completion begins with its prompt; not together with `logprobs`.
        pub echo: Option<bool>,
        /// Whether to stream the completions as server-sent events.
        pub stream: Option<bool>,
        /// Further content of the stream.
        pub stream_options: Option<StreamOptions>,
    }
}

/// The completions, or a chunk of them.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Completion<'a> {
    /// Id of the response, the same in all chunks of a stream.
    pub id: &'a str,
    /// `text_completion`.
    pub object: &'static str,
    /// Time of the response, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: &'a str,
    /// `n` per prompt. A chunk has one, or none if it reports the usage.
    pub choices: Vec<CompletionChoice>,
    /// Token usage. In a stream, the last chunk has it on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// The daemon's build.
    pub system_fingerprint: &'a str,
}

/// One completion, or new text of it.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct CompletionChoice {
    /// Index of the completion; those of the first prompt come first.
    pub index: usize,
    /// Text of the completion.
    pub text: String,
    /// Log-probabilities of the tokens, on request.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why the completion ended.
    pub finish_reason: Option<FinishReason>,
}

/// Log-probabilities of a completion's tokens: four lists with one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// Natural-log probabilities of the tokens.
    pub token_logprobs: Vec<f32>,
    /// The likeliest tokens at each position, by their texts.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Offset of each token in the text, in characters.
    pub text_offset: Vec<usize>,
}
