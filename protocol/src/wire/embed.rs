//! `embed`: turns texts into vectors.

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

/// Parameters of `embed`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EmbedParams {
    /// Name or path of an embedding model; the default model when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The engine to run it on; its present one, or else its format's, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineKind>,
    /// The texts; each gets a vector of its own.
    pub input: Vec<EmbedInput>,
    /// Whether a text with more tokens than the model reads is cut at its end instead of refused.
    /// The reply names the texts that were cut.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncate: bool,
    /// Dimensions of one vector. Only the model's own number is accepted: a shortened vector is
    /// meaningful only in models that were trained for it, and no file says which those are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// The caller's time budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// One input: text, or token ids of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum EmbedInput {
    /// Text. It may be empty where the model adds tokens of its own around it.
    Text(String),
    /// Token ids, including those that the model wants around a text. They are embedded unchanged.
    Tokens(Vec<u32>),
}

impl From<&str> for EmbedInput {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for EmbedInput {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EmbedResult {
    /// The daemon's id of the request.
    pub request_id: String,
    /// The model that answered.
    pub model: String,
    /// Dimensions of one vector.
    pub dimensions: usize,
    /// One vector of length 1 for each input, in order: the dot product of two is their similarity.
    pub embeddings: Vec<Vec<f32>>,
    /// Indices of the inputs that were cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub truncated: Vec<usize>,
    /// Token counts.
    pub usage: EmbedUsage,
}

/// Token counts of an embedding request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EmbedUsage {
    /// Tokens of all inputs, including those that the model adds around each.
    pub prompt_tokens: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_string_or_its_tokens() {
        let json = r#"{"input":["a",[101,102],""],"truncate":true,"dimensions":384}"#;
        let params: EmbedParams = serde_json::from_str(json).unwrap();
        assert_eq!(params.input, ["a".into(), EmbedInput::Tokens(vec![101, 102]), "".into()]);
        assert_eq!(serde_json::to_string(&params).unwrap(), json);
        let plain = EmbedParams { input: vec!["a".into()], ..EmbedParams::default() };
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"input":["a"]}"#);
    }
}
