//! `/v1/embeddings`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input::{Input, Texts};

/// What to turn into vectors.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct EmbeddingRequest {
    /// Name of an embedding model; the default model when absent.
    pub model: Option<String>,
    /// The texts, each of which gets a vector of its own. Token ids are refused: those that clients
    /// send are of OpenAI's vocabulary, and would give vectors of something else.
    #[schemars(with = "Texts")]
    pub input: Input,
    /// How the numbers are written; `float` when absent.
    pub encoding_format: Option<EncodingFormat>,
    /// What the model gives, or absent: vectors are not shortened.
    #[schemars(range(min = 1))]
    pub dimensions: Option<usize>,
}

/// How a vector's numbers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// As JSON numbers.
    #[default]
    Float,
    /// As base64 of 32-bit floats, little end first.
    Base64,
}

/// The vectors.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EmbeddingList {
    /// `list`.
    pub object: &'static str,
    /// One for each text, in their order.
    pub data: Vec<Embedding>,
    /// The model that answered.
    pub model: String,
    /// Tokens read.
    pub usage: EmbeddingUsage,
}

/// One vector, of length 1.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Embedding {
    /// `embedding`.
    pub object: &'static str,
    /// Which text's, from 0.
    pub index: usize,
    /// Its numbers.
    pub embedding: Numbers,
}

/// A vector's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Numbers {
    /// As JSON numbers.
    Float(Vec<f32>),
    /// As base64 of 32-bit floats, little end first.
    Base64(String),
}

/// Tokens in.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all texts.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}
