//! The answers of `/v1/chat/completions`, whole and in chunks.

use schemars::JsonSchema;
use serde::Serialize;

use super::chat::{ToolCall, ToolKind};
use super::shared::{FinishReason, Usage};

/// The answer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatCompletion {
    /// The answer's name.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// As many as were asked for.
    pub choices: Vec<ChatChoice>,
    /// Tokens in and out.
    pub usage: Usage,
    /// What answered.
    pub system_fingerprint: String,
}

/// One of the answers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatChoice {
    /// Which, from 0.
    pub index: usize,
    /// The message.
    pub message: AnswerMessage,
    /// Of each token, where they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// The message of an answer.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; null where the model only called tools.
    pub content: Option<String>,
    /// Always null: a model that refuses says so in its text.
    pub refusal: Option<String>,
    /// Ours: what the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The tools it called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// The log-probabilities of a text's tokens.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct ChatLogprobs {
    /// One entry a token.
    pub content: Vec<ChatLogprob>,
    /// Always null.
    pub refusal: Option<Vec<ChatLogprob>>,
}

/// One token with its log-probability.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatLogprob {
    /// The token itself.
    #[serde(flatten)]
    pub token: TokenText,
    /// The likeliest tokens at its place.
    pub top_logprobs: Vec<TokenText>,
}

/// A token as text.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TokenText {
    /// Its text; bytes that are no whole characters show as U+FFFD.
    pub token: String,
    /// Its natural-log probability; -9999 for one that was as good as impossible.
    pub logprob: f32,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
}

/// One event of a stream.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ChatChunk<'a> {
    /// The answer's name, the same in all chunks.
    pub id: &'a str,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model that answers.
    pub model: &'a str,
    /// What answers.
    pub system_fingerprint: &'a str,
    /// One, or none in the chunk with the usage.
    pub choices: Vec<ChunkChoice>,
    /// In the last chunk, where it was asked for; null in the others then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// What is new in one of the answers.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct ChunkChoice {
    /// Which, from 0.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// Of the tokens behind the text, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended, in its last chunk.
    pub finish_reason: Option<FinishReason>,
}

/// What is new.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Delta {
    /// `assistant`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Ours: more of what the model thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of a tool call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// More of a tool call.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ToolCallDelta {
    /// Which of the answer's calls, from 0.
    pub index: usize,
    /// Its name, in its first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in its first chunk.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ToolKind>,
    /// More of the call.
    pub function: FunctionDelta,
}

/// More of a function's call.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FunctionDelta {
    /// The function's name, in the call's first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of its arguments' JSON text.
    pub arguments: String,
}
