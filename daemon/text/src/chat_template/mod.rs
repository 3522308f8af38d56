//! Chat templates: messages to a prompt, in Hugging Face's dialect of Jinja.
//!
//! Owns the dialect and its limits: a template comes with a model's file, so it is as untrusted as
//! the file. It can read nothing but the messages, and it ends in bounded time and memory. Knows
//! nothing of tokens or clocks. Source: `transformers/utils/chat_template_utils.py`.

mod bounds;
mod compile;
mod functions;
mod json;
mod strftime;
mod strings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use ingle_protocol::wire::chat::{Message, Tool, ToolCall};
use minijinja::machinery::Token;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, ErrorKind, Value, machinery};
use serde_json::{Map, Value as Json};

use super::TextError;
use bounds::Bounds;

/// Bytes of a template's source. The longest in use have about 20 kB.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Steps of the template engine in one rendering. A long conversation takes some 10,000.
const MAX_STEPS: u64 = 2_000_000;

/// Deepest nesting of macro calls.
const MAX_CALL_DEPTH: usize = 100;

/// Stack of the thread a template is compiled and run on. Both recurse with the depth of its
/// expressions; pages that are not touched cost nothing.
const STACK_BYTES: usize = 64 << 20;

/// Variables that every template is given, and that no option of a request takes the place of.
pub const RESERVED: [&str; 5] =
    ["messages", "add_generation_prompt", "bos_token", "eos_token", "tools"];

/// What one rendering is told.
#[derive(Debug, Clone, Copy)]
pub struct ChatInput<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// The tools that the model may call.
    pub tools: &'a [Tool],
    /// Variables of the template's own, as `enable_thinking` is. They hide none of the others.
    pub options: &'a Map<String, Json>,
    /// Whether the prompt ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// What `strftime_now` takes for now, in UTC.
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
    /// A template with the texts it may insert for the special tokens. A source that does not
    /// compile is reported when it is rendered, so that raw prompts still work with the model.
    #[must_use]
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Self {
        Self { source: source.into(), bos_token: bos_token.into(), eos_token: eos_token.into() }
    }

    /// The template's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template names a variable `name`. One that does not compile names none.
    #[must_use]
    pub fn names(&self, name: &str) -> bool {
        let tokens = machinery::tokenize(&self.source, false, SyntaxConfig::default());
        tokens
            .map_while(Result::ok)
            .any(|(token, _)| matches!(token, Token::Ident(it) if it == name))
    }

    /// The prompt for a conversation.
    ///
    /// It takes at most some seconds and some 300 MB, whatever the template does; usual templates
    /// take less than a millisecond.
    ///
    /// # Errors
    /// [`TextError::ChatTemplate`] with the template's own words when it refuses the messages, or
    /// with the line of its mistake; [`TextError::ChatTemplateLimit`].
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, TextError> {
        if self.source.len() > MAX_SOURCE_BYTES {
            let limit = MAX_SOURCE_BYTES as u64;
            return Err(TextError::ChatTemplateLimit { what: "bytes of source", limit });
        }
        let context = self.context(input);
        let (source, unix_time_s) = (&self.source, input.unix_time_s);
        let on_thread = move || run(source, context, unix_time_s);
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("ingle-template".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, on_thread)
                .map_err(|error| TextError::ChatTemplate(format!("no thread for it: {error}")))?
                .join()
                .unwrap_or_else(|_| Err(TextError::ChatTemplate("it made the engine panic".into())))
        })
    }

    fn context(&self, input: &ChatInput<'_>) -> Value {
        let messages: Vec<Value> = input.messages.iter().map(message).collect();
        let tools = match input.tools {
            // As Hugging Face does: templates ask whether it is none.
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

/// A message as Hugging Face's templates expect it: members that it has not are not there.
fn message(message: &Message) -> Value {
    let mut members = vec![
        ("role", Value::from(message.role.as_str())),
        ("content", Value::from(message.content.as_str())),
    ];
    let texts = [
        ("reasoning_content", &message.reasoning),
        ("tool_call_id", &message.tool_call_id),
        ("name", &message.name),
    ];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?)));
    members.extend(texts.map(|(name, text)| (name, Value::from(text))));
    if !message.tool_calls.is_empty() {
        let calls: Vec<Value> = message.tool_calls.iter().map(tool_call).collect();
        members.push(("tool_calls", Value::from(calls)));
    }
    Value::from_pairs(members)
}

/// A call with its arguments as an object, where they are one.
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

/// A tool in the form that Hugging Face's templates and OpenAI's API share.
fn tool(tool: &Tool) -> Value {
    json::from_json(&tool_json(tool))
}

/// A tool as JSON, in the form that templates get.
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

fn run(source: &str, context: Value, unix_time_s: i64) -> Result<String, TextError> {
    let bounds = Arc::new(Bounds::start());
    let failed = |error: minijinja::Error| -> TextError {
        if let Some(stop) = bounds.stop() {
            return stop;
        }
        match error.kind() {
            ErrorKind::OutOfFuel => {
                TextError::ChatTemplateLimit { what: "steps", limit: MAX_STEPS }
            }
            _ => TextError::ChatTemplate(error.to_string()),
        }
    };
    let environment = functions::environment(&bounds, unix_time_s);
    let instructions = compile::compile(source).map_err(failed)?;
    let mut text = String::new();
    let mut output = machinery::make_string_output(&mut text);
    machinery::eval(
        &environment,
        &instructions,
        context,
        &BTreeMap::new(),
        &mut output,
        AutoEscape::None,
    )
    .map_err(failed)?;
    Ok(text)
}
