//! Responses of `/v1/chat/completions`, whole and in chunks.

use schemars::JsonSchema;
use serde::Serialize;

use super::chat::{ToolCall, ToolKind};
use super::shared::{FinishReason, Usage};

/// A whole response.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatCompletion {
    /// Id of the response.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Time of the response, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// `n` choices.
    pub choices: Vec<ChatChoice>,
    /// Token usage.
    pub usage: Usage,
    /// The daemon's build.
    pub system_fingerprint: String,
}

/// One choice.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatChoice {
    /// Index of the choice.
    pub index: usize,
    /// The message.
    pub message: AnswerMessage,
    /// Log-probabilities of the tokens, on request.
    pub logprobs: Option<ChatLogprobs>,
    /// Why the choice ended.
    pub finish_reason: FinishReason,
}

/// The message of a choice.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: &'static str,
    /// Content; null if the model only called tools.
    pub content: Option<String>,
    /// Always null: a refusal of the model is part of its content.
    pub refusal: Option<String>,
    /// Extension: reasoning before the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Tool calls of the model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Log-probabilities of the content's tokens.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<ChatLogprob>,
    /// Always null.
    pub refusal: Option<Vec<ChatLogprob>>,
}

/// One token with its log-probability.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatLogprob {
    /// The token.
    #[serde(flatten)]
    pub token: TokenText,
    /// The likeliest tokens at its position.
    pub top_logprobs: Vec<TokenText>,
}

/// A token with its text.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TokenText {
    /// Text of the token; bytes of partial characters become U+FFFD.
    pub token: String,
    /// Natural-log probability; -9999 stands for zero probability.
    pub logprob: f32,
    /// Exact bytes of the token.
    pub bytes: Vec<u8>,
}

/// One event of a stream.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatChunk<'a> {
    /// Id of the response, the same in all chunks.
    pub id: &'a str,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Time of the response, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: &'a str,
    /// The daemon's build.
    pub system_fingerprint: &'a str,
    /// One choice, or none in the chunk with the usage.
    pub choices: Vec<ChunkChoice>,
    /// Token usage in the last chunk, on request; then null in the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// New content of a choice.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct ChunkChoice {
    /// Index of the choice.
    pub index: usize,
    /// The new content.
    pub delta: Delta,
    /// Log-probabilities of the new tokens, on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChatLogprobs>,
    /// Why the choice ended, in its last chunk.
    pub finish_reason: Option<FinishReason>,
}

/// New content of a message.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Delta {
    /// `assistant`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Extension: more reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of a tool call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// More of a tool call.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ToolCallDelta {
    /// Index of the tool call.
    pub index: usize,
    /// Id of the tool call, in its first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the first chunk.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ToolKind>,
    /// More of the function call.
    pub function: FunctionDelta,
}

/// More of a function call.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FunctionDelta {
    /// Name of the function, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments' JSON text.
    pub arguments: String,
}
