//! What chat and completions have in common.

use ingle_protocol::wire::generate::{FinishReason as Ended, Usage as Counted};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// One string, or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum OneOrMany {
    /// One.
    One(#[schemars(length(min = 1, max = 256))] String),
    /// Several.
    Many(#[schemars(length(max = 16), inner(length(min = 1, max = 256)))] Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(strings: OneOrMany) -> Self {
        match strings {
            OneOrMany::One(string) => vec![string],
            OneOrMany::Many(strings) => strings,
        }
    }
}

/// The schema of a bias by token id: the ids are strings in JSON.
pub(super) fn logit_bias_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "propertyNames": { "pattern": "^[0-9]{1,9}$" },
        "additionalProperties": { "type": "number", "minimum": -100, "maximum": 100 },
        "maxProperties": 1024,
    })
}

/// What a stream tells besides.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub struct StreamOptions {
    /// Whether a last chunk with no choices carries the usage.
    pub include_usage: Option<bool>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string was met.
    Stop,
    /// `max_completion_tokens` or the model's context was used up.
    Length,
    /// The model called tools.
    ToolCalls,
}

impl From<Ended> for FinishReason {
    fn from(ended: Ended) -> Self {
        match ended {
            // Only jobs have soft timeouts; the text is whole in its way.
            Ended::Stop | Ended::SoftTimeout => Self::Stop,
            Ended::Length => Self::Length,
            Ended::ToolCalls => Self::ToolCalls,
        }
    }
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated for all choices.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// More of the prompt's.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// More of the prompt's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Those that did not have to be read, because an earlier request began alike.
    pub cached_tokens: usize,
}

impl From<Counted> for Usage {
    fn from(counted: Counted) -> Self {
        Self {
            prompt_tokens: counted.prompt_tokens,
            completion_tokens: counted.completion_tokens,
            total_tokens: counted.prompt_tokens + counted.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: counted.cached_tokens },
        }
    }
}

impl Usage {
    /// The usage of several prompts.
    #[must_use]
    pub fn sum(all: impl IntoIterator<Item = Counted>) -> Self {
        let mut sum = Counted::default();
        for counted in all {
            sum.prompt_tokens += counted.prompt_tokens;
            sum.cached_tokens += counted.cached_tokens;
            sum.completion_tokens += counted.completion_tokens;
        }
        sum.into()
    }
}
