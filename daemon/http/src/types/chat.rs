//! The requests of `/v1/chat/completions`, and the tool calls that its answers have too.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::shared::{OneOrMany, StreamOptions};

/// What to answer. Members of OpenAI's API that are not here change nothing and are ignored.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ChatRequest {
    /// Name of the model; the default model when absent.
    pub model: Option<String>,
    /// The conversation.
    #[schemars(length(min = 1, max = 4096))]
    pub messages: Vec<ChatMessage>,
    /// Tokens to generate at most, reasoning included; 4096 when absent.
    #[schemars(range(min = 1, max = u32::MAX))]
    pub max_completion_tokens: Option<u32>,
    /// The old name of `max_completion_tokens`.
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
    /// How many answers to give.
    #[schemars(range(min = 1, max = 8))]
    pub n: Option<u32>,
    /// Seed of the draws.
    #[schemars(range(min = i64::MIN, max = i64::MAX))]
    pub seed: Option<i64>,
    /// Strings that end the answer's content; in thoughts and calls they end nothing.
    pub stop: Option<OneOrMany>,
    /// Whether to report each token's log-probability.
    pub logprobs: Option<bool>,
    /// Alternatives to report for each token; wants `logprobs`.
    #[schemars(range(min = 0, max = 20))]
    pub top_logprobs: Option<usize>,
    /// Whether to send the answer as it comes, as server-sent events.
    pub stream: Option<bool>,
    /// What the stream tells besides.
    pub stream_options: Option<StreamOptions>,
    /// The form that the answer's content must have. An answer that calls tools has none.
    #[schemars(with = "Option<ResponseFormatSchema>")]
    pub response_format: Option<ResponseFormat>,
    /// The tools that the model may call.
    #[schemars(length(max = 128))]
    pub tools: Option<Vec<Tool>>,
    /// Whether it calls them; `auto` when absent.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several in one answer; yes when absent.
    pub parallel_tool_calls: Option<bool>,
    /// How much a model that reasons should; given to the chat template.
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Ours: what the model's chat template is told besides, such as `enable_thinking`.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// `["text"]`: nothing else can be given.
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

/// One message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said; may be absent where an assistant only called tools.
    #[schemars(with = "Option<ContentSchema>")]
    pub content: Option<Content>,
    /// Who speaks, or the tool that answers.
    pub name: Option<String>,
    /// The tools that an assistant called.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a `tool` message answers.
    pub tool_call_id: Option<String>,
    /// Ours: what an assistant thought before it answered.
    pub reasoning_content: Option<String>,
    /// What others call `reasoning_content`, which counts where both are given.
    pub reasoning: Option<String>,
    /// Not supported: must be absent. Use `tool_calls`.
    #[schemars(with = "Option<()>")]
    pub function_call: Option<Value>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The newer name of `system`.
    Developer,
    /// Who tells the model how to behave.
    System,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// A tool that was called.
    Tool,
    /// The old name of `tool`.
    Function,
}

/// What is said.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of parts")]
pub enum Content {
    /// As one text.
    Text(String),
    /// In parts, which are joined.
    Parts(Vec<Part>),
}

/// One part of what is said. It is read loosely, so that what is wrong with it can be named.
#[derive(Debug, Clone, Deserialize)]
pub struct Part {
    /// `text` or `refusal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
    /// What the model said when it refused.
    pub refusal: Option<String>,
}

/// [`Content`] as the document shows it.
#[derive(Debug, JsonSchema)]
#[schemars(untagged, rename = "Content")]
#[expect(dead_code, reason = "only its schema is used")]
enum ContentSchema {
    /// As one text.
    Text(String),
    /// In parts.
    Parts(Vec<PartSchema>),
}

/// [`Part`] as the document shows it.
#[derive(Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case", rename = "ContentPart")]
#[expect(dead_code, reason = "only its schema is used")]
enum PartSchema {
    /// Some text. Images, sound and files are refused.
    Text {
        /// The text.
        text: String,
    },
    /// What the model said when it refused.
    Refusal {
        /// The text.
        refusal: String,
    },
}

/// A kind of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Text.
    Text,
}

/// How much a model that reasons should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningEffort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// As usual.
    Medium,
    /// A lot.
    High,
    /// As much as it can.
    Xhigh,
}

/// `function`.
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
    /// Its name.
    #[schemars(regex(pattern = r"^[a-zA-Z0-9_-]{1,64}$"))]
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON schema of its arguments, an object.
    pub parameters: Option<Map<String, Value>>,
    /// Whether a call that is demanded, or stands beside a form, keeps to the whole schema, and a schema
    /// that cannot be enforced is refused; no when absent, and then what cannot be enforced is left out.
    pub strict: Option<bool>,
}

/// Whether the model calls tools.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected none, auto, required, or a function by name (of type `function`)"
)]
pub enum ToolChoice {
    /// In one word.
    Mode(ToolMode),
    /// The one of this name.
    Named(NamedTool),
}

/// Whether the model calls tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolMode {
    /// It is not shown any.
    None,
    /// As it likes.
    Auto,
    /// It must call at least one.
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
    /// Its name.
    pub name: String,
}

/// The form that an answer must have. It is read loosely, so that what is missing can be named.
#[derive(Debug, Clone, Deserialize)]
pub struct ResponseFormat {
    /// Which.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// The schema, where the form is `json_schema`.
    pub json_schema: Option<SchemaFormat>,
}

/// A form of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatKind {
    /// Any.
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that is valid against a schema.
    JsonSchema,
}

/// A schema that an answer must fit.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct SchemaFormat {
    /// Its name, which nobody needs here.
    pub name: Option<String>,
    /// The schema; any JSON object when absent.
    pub schema: Option<Map<String, Value>>,
}

/// [`ResponseFormat`] as the document shows it.
#[derive(Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "snake_case", rename = "ResponseFormat")]
#[expect(dead_code, reason = "only its schema is used")]
enum ResponseFormatSchema {
    /// Any.
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that is valid against a schema. It is enforced token by token, `strict` or not.
    JsonSchema {
        /// The schema.
        json_schema: SchemaFormat,
    },
}

/// One call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ToolCall {
    /// What a `tool` message names to answer it.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: ToolKind,
    /// The call.
    pub function: FunctionCall,
}

/// The call of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Its arguments as JSON text. It was not checked against the function's schema.
    pub arguments: String,
}
