//! A conversation: its messages, the tools a model may call, and the form its answer must have.
//!
//! Owns what `generate` and its twins over HTTP say of all that. Knows nothing of how single models
//! write a tool call; the daemon's `text` does.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or whatever the model's template knows.
    pub role: String,
    /// The text; empty for an assistant that only called tools.
    #[serde(default)]
    pub content: String,
    /// What an assistant thought before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// The tools that an assistant called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Who speaks, or the tool that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message of nothing but text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

/// One call of a tool, as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// What a `tool` message names to answer it.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// Its arguments as JSON text. It was not checked against the tool's schema.
    pub arguments: String,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON schema of its arguments, an object; absent when it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Map<String, Value>>,
    /// Whether a call that is demanded, or stands beside a form, keeps to the whole schema, and a schema
    /// that cannot be enforced is refused. Otherwise what cannot be is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// Whether the model calls tools.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It is not shown any.
    None,
    /// It must call at least one.
    Required,
    /// It must call the one of this name.
    Tool(String),
}

/// The form that a text must have. It is enforced token by token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutputFormat {
    /// Any.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that is valid against a schema.
    JsonSchema {
        /// The schema.
        schema: Value,
    },
    /// Whatever a grammar allows, in llguidance's dialect of Lark.
    Grammar {
        /// The grammar's source.
        lark: String,
    },
}
