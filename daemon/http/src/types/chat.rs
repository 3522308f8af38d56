//! Request of `/v1/chat/completions`, and tool calls, which responses have too.

use std::collections::BTreeMap;

use ingle_protocol::sampling;
use ingle_protocol::wire::generate::GenerateParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::sampling::request_with_sampling;
use super::shared::{OneOrMany, StreamOptions};

request_with_sampling! {
    /// A conversation. Fields of OpenAI's API that are not listed are ignored.
    #[derive(Debug, Clone, Deserialize, JsonSchema)]
    pub struct ChatRequest {
        /// Name of the model (default: the default model).
        pub model: Option<String>,
        /// The conversation.
        #[schemars(length(min = 1, max = 4096))]
        pub messages: Vec<ChatMessage>,
        /// Maximum number of tokens to generate, including reasoning (default 4096).
        #[schemars(range(min = 1, max = u32::MAX))]
        pub max_completion_tokens: Option<u32>,
        /// The old name of `max_completion_tokens`.
        #[schemars(range(min = 1, max = u32::MAX))]
        pub max_tokens: Option<u32>,
        /// Number of choices.
        #[schemars(range(min = 1, max = 8))]
        pub n: Option<u32>,
        /// Strings that end the content. In reasoning and tool calls they have no effect.
        pub stop: Option<OneOrMany>,
        /// Whether to report the log-probability of each token.
        pub logprobs: Option<bool>,
        /// Number of likeliest tokens to report at each position; requires `logprobs`.
        #[schemars(range(min = 0, max = 20))]
        pub top_logprobs: Option<usize>,
        /// Whether to stream the response as server-sent events.
        pub stream: Option<bool>,
        /// Further content of the stream.
        pub stream_options: Option<StreamOptions>,
        /// Response format of the content. It does not apply to a response that calls tools.
        #[schemars(with = "Option<ResponseFormatSchema>")]
        pub response_format: Option<ResponseFormat>,
        /// The tools that the model may call.
        #[schemars(length(max = 128))]
        pub tools: Option<Vec<Tool>>,
        /// Whether the model calls tools (default `auto`).
        pub tool_choice: Option<ToolChoice>,
        /// Whether the model may call several tools in one response (default true).
        pub parallel_tool_calls: Option<bool>,
        /// Effort of a reasoning model; passed to the chat template.
        pub reasoning_effort: Option<ReasoningEffort>,
        /// Extension: further variables of the model's chat template, such as `enable_thinking`.
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// Must be `["text"]` or absent: text is the only output.
        pub modalities: Option<Vec<Modality>>,
        /// Not supported: must be absent.
        #[schemars(with = "Option<()>")]
        pub audio: Option<Value>,
        /// Not supported: must be absent. Use `tools`.
        #[schemars(with = "Option<()>")]
        pub functions: Option<Value>,
        /// Not supported: must be absent. Use `tool_choice`.
        #[schemars(with = "Option<()>")]
        pub function_call: Option<Value>,
        /// Not supported: must be absent.
        #[schemars(with = "Option<()>")]
        pub web_search_options: Option<Value>,
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ChatMessage {
    /// Role of the speaker.
    pub role: Role,
    /// Content; may be absent if an assistant only called tools.
    #[schemars(with = "Option<ContentSchema>")]
    pub content: Option<Content>,
    /// Name of the speaker, or of the tool.
    pub name: Option<String>,
    /// Tool calls of an assistant.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Id of the tool call that a `tool` message responds to.
    pub tool_call_id: Option<String>,
    /// Extension: reasoning of an assistant before its content.
    pub reasoning_content: Option<String>,
    /// Another name of `reasoning_content`, which takes precedence.
    pub reasoning: Option<String>,
    /// Not supported: must be absent. Use `tool_calls`.
    #[schemars(with = "Option<()>")]
    pub function_call: Option<Value>,
}

/// Role of a message's speaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The newer name of `system`.
    Developer,
    /// Instructions for the model.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool that was called.
    Tool,
    /// The old name of `tool`.
    Function,
}

/// Content of a message.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of parts")]
pub enum Content {
    /// One text.
    Text(String),
    /// Several parts, which are joined.
    Parts(Vec<Part>),
}

/// One part of a message's content. Its type is loose, so that an error can name the field at
/// fault.
#[derive(Debug, Clone, Deserialize)]
pub struct Part {
    /// `text` or `refusal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
    /// Text of a refusal.
    pub refusal: Option<String>,
}

/// Schema of [`Content`] for the OpenAPI document.
#[derive(Debug, JsonSchema)]
#[schemars(untagged, rename = "Content")]
#[expect(dead_code, reason = "only its schema is used")]
enum ContentSchema {
    /// One text.
    Text(String),
    /// Several parts.
    Parts(Vec<PartSchema>),
}

/// Schema of [`Part`] for the OpenAPI document.
#[derive(Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case", rename = "ContentPart")]
#[expect(dead_code, reason = "only its schema is used")]
enum PartSchema {
    /// A text. Images, audio and files are refused.
    Text {
        /// The text.
        text: String,
    },
    /// A refusal of the model.
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// Kind of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Text.
    Text,
}

/// Effort of a reasoning model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningEffort {
    /// No reasoning.
    None,
    /// Very little.
    Minimal,
    /// Little.
    Low,
    /// The usual effort.
    Medium,
    /// Much.
    High,
    /// The most.
    Xhigh,
}

/// Kind of tool; `function` is the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolKind {
    /// A function.
    Function,
}

/// A tool that the model may call.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function.
    pub function: Function,
}

/// A function that the model may call.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Function {
    /// Name of the function.
    #[schemars(regex(pattern = r"^[a-zA-Z0-9_-]{1,64}$"))]
    pub name: String,
    /// Description of the function for the model.
    pub description: Option<String>,
    /// JSON Schema of the arguments, an object.
    pub parameters: Option<Map<String, Value>>,
    /// Whether the whole schema is enforced on calls that are required, or that alternate with a
    /// response format; a schema that cannot be enforced is then refused. By default (false), the
    /// parts that cannot be enforced are left out.
    pub strict: Option<bool>,
}

/// Whether and which tools the model calls.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected none, auto, required, or a function by name (of type `function`)"
)]
pub enum ToolChoice {
    /// A mode.
    Mode(ToolMode),
    /// The tool of this name.
    Named(NamedTool),
}

/// Whether the model calls tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolMode {
    /// No tool is shown to the model.
    None,
    /// The model decides.
    Auto,
    /// The model must call at least one tool.
    Required,
}

/// A tool by name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct NamedTool {
    /// `function`.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function.
    pub function: FunctionName,
}

/// A function by name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct FunctionName {
    /// Name of the function.
    pub name: String,
}

/// Response format. Its type is loose, so that an error can name a missing field.
#[derive(Debug, Clone, Deserialize)]
pub struct ResponseFormat {
    /// Kind of format.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// The schema, for the kind `json_schema`.
    pub json_schema: Option<SchemaFormat>,
}

/// Kind of response format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatKind {
    /// Any text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid against a schema.
    JsonSchema,
}

/// A named JSON Schema.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct SchemaFormat {
    /// Name of the schema; unused.
    pub name: Option<String>,
    /// The schema (default: any JSON object).
    pub schema: Option<Map<String, Value>>,
}

/// Schema of [`ResponseFormat`] for the OpenAPI document.
#[derive(Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case", rename = "ResponseFormat")]
#[expect(dead_code, reason = "only its schema is used")]
enum ResponseFormatSchema {
    /// Any text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid against a schema. It is enforced token by token, `strict` or not.
    JsonSchema {
        /// The schema.
        json_schema: SchemaFormat,
    },
}

/// A tool call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// Id that a `tool` message refers to.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The function call.
    pub function: FunctionCall,
}

/// A function call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionCall {
    /// Name of the function.
    pub name: String,
    /// Arguments as JSON text. They are not validated against the function's schema.
    pub arguments: String,
}
