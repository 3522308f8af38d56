//! `generate`: completions from messages or from a raw prompt.
//!
//! Owns the request, its events and its result. Streamed or not, the reply is the one terminal
//! event; a stream's text is the concatenation of its `delta` events and equals the result's text,
//! for each choice that a request asks for.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::Method;
pub use super::chat::{Message, OutputFormat, Tool, ToolCall, ToolChoice};
use super::models::EngineKind;
use crate::deadline::Budget;
use crate::timeouts::Class;

/// The generation method.
#[derive(Debug)]
pub struct Generate;

impl Method for Generate {
    const NAME: &'static str = "generate";
    const CLASS: Class = Class::Chat;
    type Params = GenerateParams;
    type Output = GenerateResult;
}

/// Parameters of `generate`. Exactly one of `messages`, `prompt` and `prompt_tokens` is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GenerateParams {
    /// Name or path of the model; the default model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The engine to run it on; its present one, or else its format's, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// A conversation, rendered through the model's chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// A raw prompt, given to the model unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A raw prompt as token ids of the model, given to it unchanged: nothing is put before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<Vec<u32>>,
    /// The text after the gap that the model fills; `prompt` is the text before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
    /// The tools that the model may call in its answer to `messages`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Tool>,
    /// Whether the model calls tools; it decides when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model may call several tools in one answer; true when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// Response format of an answer that is not a tool call; any text when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<OutputFormat>,
    /// Further variables of the chat template, such as `enable_thinking`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub template_options: Map<String, Value>,
    /// Maximum number of tokens to generate (default 4096).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Sampling temperature; 0 (the default) is greedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Samples from the `top_k` likeliest tokens; 0 (the default) means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Nucleus sampling: the smallest set of tokens with this total probability; 1 (the default)
    /// means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Drops tokens less likely than this share of the likeliest one; 0 (the default) drops none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Repetition penalty, 0.01 to 100; 1 (the default) is off. It divides the positive logit of
    /// each token among the last `repetition_window` tokens of prompt and output, and multiplies
    /// any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Number of recent tokens that `repetition_penalty` applies to, at least 1; 64 when absent. A
    /// window longer than prompt and output covers all of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_window: Option<u32>,
    /// Frequency penalty, -2 to 2: subtracted from a token's logit for each time it has been
    /// generated; 0 (the default) is off. The prompt does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// Presence penalty, -2 to 2: subtracted from a token's logit if it has been generated at all;
    /// 0 (the default) is off. The prompt does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Bias, -100 to 100, that is added to the logits of these token ids before anything else. In
    /// JSON the ids are strings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Number of choices to generate from the prompt, 1 when absent. Each has a seed of its own;
    /// the first has `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Random seed; when absent a random one, which the result reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Stop strings: each ends the text and is not part of it. In answers to `messages` they apply
    /// to the content only, not to reasoning and tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Whether generation continues after an end token, up to `max_tokens`: for measurements.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_eos: bool,
    /// Whether to report each token's log-probability, under the model's own distribution: before
    /// bias, penalties and temperature.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logprobs: bool,
    /// Alternatives to report for each token; more than 0 (the default) implies `logprobs`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub top_logprobs: usize,
    /// Whether events precede the reply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// The caller's time budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_nothing(value: &f64) -> bool {
    *value == 0.0
}

impl GenerateParams {
    /// The number of choices.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.n.map_or(1, |n| usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// The class of the request: messages are chat, a raw prompt is completions.
    #[must_use]
    pub fn class(&self) -> Class {
        if self.messages.is_some() { Class::Chat } else { Class::Completions }
    }
}

/// An event before the reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum GenerateEvent {
    /// The request waits for a slot.
    Queued {
        /// Generations before it.
        position: usize,
    },
    /// The model is being loaded.
    Loading {
        /// Share of the model's bytes that are in place, 0 to 1.
        fraction: f32,
    },
    /// Prefill: the prompt is being processed.
    Prefill {
        /// Prompt tokens processed so far.
        done_tokens: usize,
        /// Prompt tokens in all.
        total_tokens: usize,
    },
    /// More text.
    Delta {
        /// Index of the choice, from 0.
        #[serde(default, skip_serializing_if = "is_zero")]
        choice: usize,
        /// The continuation of the text; always whole characters.
        text: String,
        /// One entry for each token of `text`, where they were requested.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    /// More reasoning.
    Reasoning {
        /// Index of the choice, from 0.
        #[serde(default, skip_serializing_if = "is_zero")]
        choice: usize,
        /// The continuation of the reasoning.
        text: String,
    },
    /// More of a tool call. The first event of a call has its id and name.
    ToolCall {
        /// Index of the choice, from 0.
        #[serde(default, skip_serializing_if = "is_zero")]
        choice: usize,
        /// Index of the call in its choice, from 0.
        index: usize,
        /// The call's id, once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The tool's name, once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The continuation of the arguments' JSON text.
        arguments: String,
    },
}

/// The reason why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model produced an end token, or a stop string occurred.
    Stop,
    /// `max_tokens` or the model's context was used up.
    Length,
    /// The model called tools, and waits for their results.
    ToolCalls,
    /// A job's soft timeout had passed, and a sentence or line ended.
    SoftTimeout,
}

/// One token with its probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenLogprob {
    /// Its id.
    pub token: u32,
    /// Its natural-log probability.
    pub logprob: f32,
    /// Its bytes, not always whole characters; for a special token, the bytes of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<u8>,
    /// The likeliest tokens at its position, likeliest first: id and natural-log probability.
    pub top: Vec<(u32, f32)>,
    /// The bytes of each token in `top`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_bytes: Vec<Vec<u8>>,
}

/// Token counts of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Usage {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens that came from the prompt cache.
    #[serde(default)]
    pub cached_tokens: usize,
    /// Tokens generated for all choices, end tokens included.
    pub completion_tokens: usize,
}

/// Timings of a generation. A rate is 0 where there was nothing to measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Timings {
    /// Milliseconds from acceptance to a slot, loading not counted.
    pub queue_ms: f64,
    /// Milliseconds of waiting for the model to load; 0 when it was loaded.
    pub load_ms: f64,
    /// Milliseconds of prefill.
    pub prefill_ms: f64,
    /// Milliseconds from acceptance to the first token.
    pub ttft_ms: f64,
    /// Milliseconds from acceptance to the reply.
    pub total_ms: f64,
    /// Milliseconds of computing the token masks of `format`, mostly in parallel to forward passes;
    /// 0 without a format.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub mask_ms: f64,
    /// The part of `mask_ms` that generation had to wait for.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub mask_wait_ms: f64,
    /// Prefill throughput in tokens per second; cached tokens do not count.
    pub prefill_tokens_per_s: f64,
    /// Decode throughput in tokens per second, after the first token.
    pub decode_tokens_per_s: f64,
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GenerateResult {
    /// The daemon's id of the request.
    pub request_id: String,
    /// The model that answered.
    pub model: String,
    /// The completions, as many as `n` asked for and at least one, in the order of their events.
    #[serde(deserialize_with = "at_least_one")]
    pub choices: Vec<Choice>,
    /// Tokens in and out.
    pub usage: Usage,
    /// Durations and rates; all but `total_ms` are those of the first choice.
    pub timings: Timings,
}

impl GenerateResult {
    /// The first choice, which is the only one unless `n` asked for more.
    ///
    /// # Panics
    /// When `choices` is empty. A result that was read from JSON never is.
    #[must_use]
    pub fn first(&self) -> &Choice {
        &self.choices[0]
    }
}

fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Choice>, D::Error> {
    let choices = Vec::deserialize(deserializer)?;
    if choices.is_empty() {
        return Err(D::Error::invalid_length(0, &"at least one choice"));
    }
    Ok(choices)
}

/// One of a request's completions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Choice {
    /// The whole content, streamed or not, without reasoning and tool calls.
    pub text: String,
    /// The reasoning before the content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The reason why it ended.
    pub finish_reason: FinishReason,
    /// The stop string that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_string: Option<String>,
    /// Its random seed: a request with this seed gives this completion as its first.
    pub seed: u64,
    /// One entry for each token, where they were asked for and not streamed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLogprob>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn result_without_choices_is_refused() {
        let result = |choices: Value| {
            serde_json::from_value::<GenerateResult>(json!({
                "request_id": "1-1", "model": "m", "choices": choices,
                "usage": Usage::default(), "timings": Timings::default(),
            }))
        };
        let error = result(json!([])).unwrap_err();
        assert!(error.to_string().contains("at least one choice"), "{error}");
        let whole = json!([{ "text": "a", "finish_reason": "stop", "seed": 7 }]);
        assert_eq!(result(whole).unwrap().first().text, "a");
    }
}
