//! Chat templates: turn messages into a prompt, in Hugging Face's dialect of Jinja.
//!
//! Owns the dialect. A template comes with a model's file, so it is as untrusted as the file: it can
//! read nothing but its input, and the crate `ingle-template-bounds` renders it in bounded time and
//! memory. Does not know tokens or clocks. Source: `transformers/utils/chat_template_utils.py`.

mod functions;
mod json;
mod strftime;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ingle_protocol::wire::chat::{Message, Tool, ToolCall};
use ingle_template_bounds::{self as template_bounds, RenderError};
use minijinja::Value;
use serde_json::{Map, Value as Json};

use super::TextError;

/// Variables that every template gets. A request's template options cannot replace them.
pub const RESERVED: [&str; 5] =
    ["messages", "add_generation_prompt", "bos_token", "eos_token", "tools"];

/// Input of one rendering.
#[derive(Debug, Clone, Copy)]
pub struct ChatInput<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// The tools that the model may call.
    pub tools: &'a [Tool],
    /// Template options, such as `enable_thinking`. They do not replace the reserved variables.
    pub options: &'a Map<String, Json>,
    /// Whether the prompt ends with the beginning of the assistant's message.
    pub add_generation_prompt: bool,
    /// The current time for `strftime_now`, in UTC.
    pub unix_time_s: i64,
}

/// A model's chat template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: Arc<str>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Creates a template with the strings of the special tokens.
    ///
    /// An error in the source is reported by [`Self::render`], so that raw prompts still work with the
    /// model.
    #[must_use]
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Self {
        Self { source: source.into(), bos_token: bos_token.into(), eos_token: eos_token.into() }
    }

    /// The template's source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template mentions a variable `name`. One that does not compile mentions none.
    #[must_use]
    pub fn mentions(&self, name: &str) -> bool {
        template_bounds::mentions(&self.source, name)
    }

    /// The prompt for a conversation.
    ///
    /// Rendering takes at most some seconds and some 300 MB for any template, and less than a
    /// millisecond for usual ones.
    ///
    /// # Errors
    /// [`TextError::ChatTemplate`] with the template's own message when it refuses the input, or with
    /// the line of its mistake; [`TextError::ChatTemplateLimit`].
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        let unix_time_s = input.unix_time_s;
        let rendered = template_bounds::render(&self.source, self.context(input), |env, bounds| {
            functions::add(env, bounds, unix_time_s);
        });
        rendered.map_err(|error| match error {
            RenderError::Limit { what, limit } => TextError::ChatTemplateLimit { what, limit },
            RenderError::Failed(problem) => TextError::ChatTemplate(problem),
        })
    }

    fn context(&self, input: &ChatInput<'_>) -> Value {
        let messages: Vec<Value> = input.messages.iter().map(message).collect();
        let tools = match input.tools {
            // As in Hugging Face's library: templates check whether the variable is none.
            [] => Value::from(()),
            tools => Value::from(tools.iter().map(tool).collect::<Vec<_>>()),
        };
        let own = input.options.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
        let own = own.map(|(name, value)| (name.clone(), json::from_json(value)));
        let ours = [
            ("messages", Value::from(messages)),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            ("bos_token", Value::from(self.bos_token.as_str())),
            ("eos_token", Value::from(self.eos_token.as_str())),
            ("tools", tools),
        ];
        Value::from_pairs(own.chain(ours.map(|(name, value)| (name.to_owned(), value))))
    }
}

/// A message as Hugging Face's templates expect it: absent fields are undefined.
fn message(message: &Message) -> Value {
    let mut fields = vec![
        ("role", Value::from(message.role.as_str())),
        ("content", Value::from(message.content.as_str())),
    ];
    let optional = [
        ("reasoning_content", &message.reasoning),
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ];
    let optional = optional.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
    fields.extend(optional.map(|(name, text)| (name, Value::from(text))));
    if !message.tool_calls.is_empty() {
        let calls: Vec<Value> = message.tool_calls.iter().map(tool_call).collect();
        fields.push(("tool_calls", Value::from(calls)));
    }
    Value::from_pairs(fields)
}

/// A tool call. Its arguments are an object if they are valid JSON, else a string.
fn tool_call(call: &ToolCall) -> Value {
    let arguments = match serde_json::from_str::<Json>(&call.arguments) {
        Ok(arguments @ Json::Object(_)) => json::from_json(&arguments),
        _ => Value::from(call.arguments.as_str()),
    };
    let function =
        Value::from_pairs([("name", Value::from(call.name.as_str())), ("arguments", arguments)]);
    Value::from_pairs([
        ("id", Value::from(call.id.as_str())),
        ("type", Value::from("function")),
        ("function", function),
    ])
}

/// A tool as a template's value.
fn tool(tool: &Tool) -> Value {
    json::from_json(&tool_json(tool))
}

/// A tool as JSON, in the format that Hugging Face's templates and OpenAI's API share.
pub(super) fn tool_json(tool: &Tool) -> Json {
    let mut function = Map::new();
    function.insert("name".to_owned(), Json::from(tool.name.as_str()));
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), Json::from(description.as_str()));
    }
    if let Some(parameters) = &tool.parameters {
        function.insert("parameters".to_owned(), Json::Object(parameters.clone()));
    }
    serde_json::json!({ "type": "function", "function": function })
}
