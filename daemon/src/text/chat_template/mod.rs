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

use minijinja::{AutoEscape, ErrorKind, Value, machinery};

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

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
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

    /// The prompt for `messages`. With `add_generation_prompt` it ends where the assistant's answer
    /// begins. `unix_time_s` is what `strftime_now` takes for now, in UTC.
    ///
    /// It takes at most some seconds and some 300 MB, whatever the template does; usual templates
    /// take less than a millisecond.
    ///
    /// # Errors
    /// [`TextError::ChatTemplate`] with the template's own words when it refuses the messages, or
    /// with the line of its mistake; [`TextError::ChatTemplateLimit`].
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        unix_time_s: i64,
    ) -> Result<String, TextError> {
        if self.source.len() > MAX_SOURCE_BYTES {
            let limit = MAX_SOURCE_BYTES as u64;
            return Err(TextError::ChatTemplateLimit { what: "bytes of source", limit });
        }
        let context = self.context(messages, add_generation_prompt);
        let source = &self.source;
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

    fn context(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Value {
        let message = |message: &ChatMessage| {
            Value::from_pairs([
                ("role", Value::from(message.role.as_str())),
                ("content", Value::from(message.content.as_str())),
            ])
        };
        Value::from_pairs([
            ("messages", Value::from(messages.iter().map(message).collect::<Vec<_>>())),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("bos_token", Value::from(self.bos_token.as_str())),
            ("eos_token", Value::from(self.eos_token.as_str())),
            ("tools", Value::from(())),
        ])
    }
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
