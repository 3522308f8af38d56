//! `embed`: texts to vectors.

use serde::{Deserialize, Serialize};

use super::Method;
use super::models::EngineKind;
use crate::deadline::Budget;
use crate::timeouts::Class;

/// The embedding method.
#[derive(Debug)]
pub struct Embed;

impl Method for Embed {
    const NAME: &'static str = "embed";
    const CLASS: Class = Class::Embeddings;
    type Params = EmbedParams;
    type Output = EmbedResult;
}

/// What to embed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbedParams {
    /// Name or path of an embedding model; the default model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The engine it must run on; the one it is on already, or else its format's, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// The texts; each gets a vector of its own.
    pub input: Vec<String>,
    /// How much time the caller gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbedResult {
    /// The daemon's name of the request.
    pub request_id: String,
    /// The model that answered.
    pub model: String,
    /// Numbers of one vector.
    pub dimensions: usize,
    /// One vector for each text, in their order, of length 1: their dot product is their
    /// similarity.
    pub embeddings: Vec<Vec<f32>>,
    /// Tokens read.
    pub usage: EmbedUsage,
}

/// Tokens in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedUsage {
    /// Tokens of all texts, with those that the model puts around each.
    pub prompt_tokens: usize,
}
