//! What a request asks, as a prompt, and how its answer is to be read.
//!
//! Owns the way from messages, tools, a raw prompt or a text with a gap to token ids, and the form
//! that a demanded tool call takes. Knows nothing of sampling or engines. Blocks: templates and
//! tokenizers take their time.

use std::sync::Arc;
use std::time::SystemTime;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::chat::{Message, OutputFormat, Tool, ToolChoice};
use ingle_protocol::wire::generate::GenerateParams;
use serde_json::{Map, Value, json};

use super::answer::Reading;
use super::models::{OpenModel, blocking};
use super::validate::invalid;
use crate::engine::role::Role;
use crate::text::chat::Chat;
use crate::text::tool_calls::{ToolStyle, grammar};
use crate::text::{TextError, TextModel, fim, reasoning};

/// What of a request's parameters makes its prompt.
#[derive(Debug, Default)]
pub(super) struct Question {
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    tokens: Option<Vec<u32>>,
    suffix: Option<String>,
    tools: Vec<Tool>,
    tool_choice: ToolChoice,
    is_parallel: bool,
    format: OutputFormat,
    options: Map<String, Value>,
}

/// A prompt, and what follows from it for its answer.
#[derive(Debug)]
pub(super) struct Prompt {
    /// Its token ids.
    pub(super) tokens: Vec<u32>,
    /// The tokens that end the answer.
    pub(super) end_tokens: Vec<u32>,
    /// Special tokens that are tags of the answer.
    pub(super) tags: Vec<u32>,
    /// How the answer is read.
    pub(super) reading: Reading,
    /// The form that the answer must have.
    pub(super) format: OutputFormat,
    /// Whether that is a call of the caller's tools, rather than a form of the caller's.
    pub(super) is_demanded: bool,
}

impl Question {
    /// Takes it out of checked parameters.
    pub(super) fn take(params: &mut GenerateParams) -> Self {
        Self {
            messages: params.messages.take(),
            prompt: params.prompt.take(),
            tokens: params.prompt_tokens.take(),
            suffix: params.suffix.take(),
            tools: std::mem::take(&mut params.tools),
            tool_choice: params.tool_choice.take().unwrap_or_default(),
            is_parallel: params.parallel_tool_calls.unwrap_or(true),
            format: params.format.take().unwrap_or_default(),
            options: std::mem::take(&mut params.template_options),
        }
    }

    /// Nothing but messages or a text.
    pub(super) fn of_text(messages: Option<Vec<Message>>, prompt: Option<String>) -> Self {
        Self { messages, prompt, ..Self::default() }
    }

    /// Makes the prompt, on a thread that may take its time.
    pub(super) async fn prepare(
        self,
        open: Arc<OpenModel>,
    ) -> Result<(Arc<OpenModel>, Prompt), ErrorBody> {
        blocking(move || {
            let prompt = self.prompt(&open.text, open.engine.role)?;
            Ok((open, prompt))
        })
        .await
    }

    fn prompt(self, text: &TextModel, role: Role) -> Result<Prompt, ErrorBody> {
        let raw = |tokens, end_tokens, format| Prompt {
            tokens,
            end_tokens,
            tags: Vec::new(),
            reading: Reading::default(),
            format,
            is_demanded: false,
        };
        if let Some(tokens) = self.tokens {
            let ids = text.tokenizer.vocab_size();
            if let Some(id) = tokens.iter().find(|id| **id as usize >= ids) {
                let problem = format!(
                    "names token {id}, and the model's ids end at {}",
                    ids.saturating_sub(1)
                );
                return Err(invalid("prompt_tokens", &problem));
            }
            return Ok(raw(tokens, text.eos.clone(), self.format));
        }
        match (self.messages, self.prompt, self.suffix) {
            (Some(messages), ..) => {
                let Self { tools, tool_choice, is_parallel, format, options, .. } = self;
                chat(text, messages, (tools, tool_choice, is_parallel), format, options)
            }
            (None, prompt, Some(suffix)) => {
                let filled = text.fim_prompt(&prompt.unwrap_or_default(), &suffix)?;
                let (Some(tokens), Some(fim)) = (filled, &text.fim) else {
                    return Err(no_fim());
                };
                let mut ends = text.eos.clone();
                ends.extend(fim.ends.iter().filter(|id| !text.eos.contains(id)));
                Ok(raw(tokens, ends, self.format))
            }
            (None, prompt, None) => {
                let prompt = prompt.unwrap_or_default();
                let tokens = match role {
                    Role::Embeds => text.tokenizer.encode_whole(&prompt)?,
                    Role::Generates => text.encode_prompt(&prompt)?,
                };
                Ok(raw(tokens, text.eos.clone(), self.format))
            }
        }
    }
}

fn chat(
    text: &TextModel,
    messages: Vec<Message>,
    (tools, choice, is_parallel): (Vec<Tool>, ToolChoice, bool),
    format: OutputFormat,
    options: Map<String, Value>,
) -> Result<Prompt, ErrorBody> {
    let style = text.tool_style().ok_or(TextError::NoChatTemplate)?;
    let tools = if choice == ToolChoice::None { Vec::new() } else { tools };
    // What has the caller's own form is read as it is, whatever it looks like.
    let is_free = format == OutputFormat::Text;
    let demanded = demanded(text, style, &tools, &choice, is_parallel);
    let is_demanded = demanded.is_some();
    let format = demanded.unwrap_or(format);
    let skips_reasoning = format != OutputFormat::Text;
    let unix_time_s = unix_time_s();
    let chat = Chat { messages, tools, options, skips_reasoning, unix_time_s };
    let prompt = text.chat_prompt(&chat)?;
    let names: Vec<String> = chat.tools.into_iter().map(|tool| tool.name).collect();
    let tools = (is_free && !names.is_empty()).then_some((style.format, names));
    let tags = match &tools {
        Some((format, _)) => format.markers(),
        None => &[],
    };
    let tags = reasoning::MARKERS.iter().chain(tags);
    Ok(Prompt {
        tokens: prompt.tokens,
        end_tokens: text.eos.clone(),
        tags: tags.filter_map(|tag| text.special_id(tag)).collect(),
        reading: Reading { may_think: is_free, thought: prompt.thought, tools, is_parallel },
        format,
        is_demanded,
    })
}

/// The form of an answer that must be a call.
fn demanded(
    text: &TextModel,
    style: ToolStyle,
    tools: &[Tool],
    choice: &ToolChoice,
    is_parallel: bool,
) -> Option<OutputFormat> {
    let special = |tag: &str| text.special_id(tag);
    let (tools, is_parallel) = match choice {
        ToolChoice::Auto | ToolChoice::None => return None,
        ToolChoice::Required => (tools.to_vec(), is_parallel),
        ToolChoice::Tool(name) => {
            (tools.iter().filter(|tool| tool.name == *name).cloned().collect(), false)
        }
    };
    let lark = grammar::of_calls(style.format, &tools, is_parallel, special);
    Some(OutputFormat::Grammar { lark })
}

fn no_fim() -> ErrorBody {
    let message = "`suffix` needs a model that can fill a gap, and this one's vocabulary has no \
                   tokens for it";
    ErrorBody::new(ErrorCode::InvalidParams, message)
        .with_details(json!({ "field": "suffix" }))
        .with_remediation(format!("Leave `suffix` out, or use one of the {}.", fim::KINDS))
}

/// Now, for templates that write today's date.
fn unix_time_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
