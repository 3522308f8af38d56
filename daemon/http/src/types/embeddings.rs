//! Request and response of `/v1/embeddings`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::input::{Input, Texts};

/// Texts to embed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct EmbeddingRequest {
    /// Name of an embedding model (default: the default model).
    pub model: Option<String>,
    /// One text or several; each gets a vector. Token ids are refused: clients send ids of OpenAI's
    /// vocabulary, which stand for other text in the model's.
    #[schemars(with = "Texts")]
    pub input: Input,
    /// Encoding of the vectors (default `float`).
    pub encoding_format: Option<EncodingFormat>,
    /// Length of the vectors. It must be the model's own: vectors are not shortened.
    #[schemars(range(min = 1))]
    pub dimensions: Option<usize>,
}

/// Encoding of a vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// JSON numbers.
    #[default]
    Float,
    /// Base64 of little-endian 32-bit floats.
    Base64,
}

/// The embedding vectors.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct EmbeddingList {
    /// `list`.
    pub object: &'static str,
    /// One vector per text, in the order of the texts.
    pub data: Vec<Embedding>,
    /// The model that computed them.
    pub model: String,
    /// Token usage.
    pub usage: EmbeddingUsage,
}

/// One vector of unit length.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Embedding {
    /// `embedding`.
    pub object: &'static str,
    /// Index of the text.
    pub index: usize,
    /// The vector.
    pub embedding: Numbers,
}

/// The numbers of a vector.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Numbers {
    /// JSON numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian 32-bit floats.
    Base64(String),
}

/// Token usage.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all texts.
    pub prompt_tokens: usize,
    /// The same number.
    pub total_tokens: usize,
}
