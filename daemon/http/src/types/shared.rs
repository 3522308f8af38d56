//! Types that chat and completions share.

use ingle_protocol::wire::generate::{FinishReason as Ended, Usage as Counted};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One string or several.
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

/// Further content of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub struct StreamOptions {
    /// Whether a last chunk without choices reports the token usage.
    pub include_usage: Option<bool>,
}

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string occurred.
    Stop,
    /// The token limit or the model's context was reached.
    Length,
    /// The model called tools.
    ToolCalls,
}

impl From<Ended> for FinishReason {
    fn from(ended: Ended) -> Self {
        match ended {
            // Only jobs have soft timeouts, which end the text with a whole sentence.
            Ended::Stop | Ended::SoftTimeout => Self::Stop,
            Ended::Length => Self::Length,
            Ended::ToolCalls => Self::ToolCalls,
        }
    }
}

/// Token usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated for all choices.
    pub completion_tokens: usize,
    /// Sum of both.
    pub total_tokens: usize,
    /// Details of the prompt's tokens.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// Details of the prompt's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PromptTokensDetails {
    /// Prompt tokens that were in the KV cache of an earlier request.
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
    /// The sum over several prompts.
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
