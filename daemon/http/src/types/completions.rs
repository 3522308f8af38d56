//! `/v1/completions`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input::Input;
use super::shared::{FinishReason, OneOrMany, StreamOptions, Usage};

/// What to continue. Members of OpenAI's API that are not here change nothing and are ignored.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct CompletionRequest {
    /// Name of the model; the default model when absent.
    pub model: Option<String>,
    /// What to continue: text, or tokens of the model's own vocabulary. All prompts together may ask
    /// for 64 texts.
    pub prompt: Input,
    /// What comes after the gap that the model is to fill; `prompt` is what comes before it.
    pub suffix: Option<String>,
    /// Tokens to generate at most; 16 when absent.
    #[schemars(range(min = 1, max = u32::MAX))]
    pub max_tokens: Option<u32>,
    /// 0 is greedy; 1 when absent.
    #[schemars(range(min = 0, max = 100))]
    pub temperature: Option<f32>,
    /// Keep the likeliest tokens that sum to this probability; 1 when absent.
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f32>,
    /// Ours: keep the likeliest `top_k` tokens; 0 keeps all.
    #[schemars(range(min = 0, max = u32::MAX))]
    pub top_k: Option<u32>,
    /// Ours: drop tokens less likely than this share of the likeliest.
    #[schemars(range(min = 0, max = 1))]
    pub min_p: Option<f32>,
    /// Ours: above 1 makes what the last 64 tokens held less likely.
    #[schemars(range(min = 0.01, max = 100))]
    pub repetition_penalty: Option<f32>,
    /// Taken off a token's logit for each time it has been generated.
    #[schemars(range(min = -2, max = 2))]
    pub frequency_penalty: Option<f32>,
    /// Taken off a token's logit if it has been generated at all.
    #[schemars(range(min = -2, max = 2))]
    pub presence_penalty: Option<f32>,
    /// Added to the logits of these token ids of the model, -100 to 100.
    #[serde(default)]
    #[schemars(schema_with = "super::shared::logit_bias_schema")]
    pub logit_bias: Option<BTreeMap<u32, f32>>,
    /// How many texts to give for each prompt.
    #[schemars(range(min = 1, max = 8))]
    pub n: Option<u32>,
    /// `n`, or absent: nothing is generated that is not given.
    #[schemars(range(min = 1, max = 8))]
    pub best_of: Option<u32>,
    /// Seed of the draws.
    #[schemars(range(min = i64::MIN, max = i64::MAX))]
    pub seed: Option<i64>,
    /// Strings that end the text.
    pub stop: Option<OneOrMany>,
    /// Alternatives to report for each token, with their log-probabilities.
    #[schemars(range(min = 0, max = 20))]
    pub logprobs: Option<usize>,
    /// Whether the prompt stands before the text; not together with `logprobs`.
    pub echo: Option<bool>,
    /// Whether to send the text as it comes, as server-sent events.
    pub stream: Option<bool>,
    /// What the stream tells besides.
    pub stream_options: Option<StreamOptions>,
}

/// The texts.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Completion<'a> {
    /// The answer's name, the same in all chunks of a stream.
    pub id: &'a str,
    /// `text_completion`.
    pub object: &'static str,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: &'a str,
    /// `n` for each prompt; in a stream one, or none in the chunk with the usage.
    pub choices: Vec<CompletionChoice>,
    /// Tokens in and out; in a stream in the last chunk, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
    /// What answered.
    pub system_fingerprint: &'a str,
}

/// One of the texts; in a stream, what is new of it.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct CompletionChoice {
    /// Which, from 0: those of the first prompt come first.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Of each token, where they were asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
}

/// The log-probabilities of a text's tokens: four lists, with an entry a token each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Their natural-log probabilities.
    pub token_logprobs: Vec<f32>,
    /// The likeliest tokens at each place, by their texts.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each begins in the text, in characters.
    pub text_offset: Vec<usize>,
}
