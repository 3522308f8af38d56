//! Turns request parameters into prompt tokens and a response parser.
//!
//! Owns the way from messages, tools, a raw prompt or a text with a gap to token ids, and the
//! constraint of the response: its format, the syntax of a tool call, or either. Does not know
//! sampling or engines. Blocks, because templates and tokenizers can be slow.

use std::sync::Arc;
use std::time::SystemTime;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::chat::{Message, OutputFormat, Tool, ToolChoice};
use ingle_protocol::wire::generate::GenerateParams;
use serde_json::{Map, Value, json};

use crate::blocking::blocking;
use crate::model_cache::OpenModel;
use crate::validate::grammar_with_tools;
use ingle_engine::role::Role;
use ingle_text::chat::Chat;
use ingle_text::response_parser::{ResponseParser, ResponseSyntax, ToolSyntax};
use ingle_text::tool_calls::ToolStyle;
use ingle_text::tool_calls::grammar::{self, CallGrammar};
use ingle_text::{TextError, TextModel, fim, reasoning};

/// The parameters that make the prompt.
#[derive(Debug, Default)]
pub(super) struct PromptInput {
    messages: Option<Vec<Message>>,
    prompt: Option<String>,
    tokens: Option<Vec<u32>>,
    suffix: Option<String>,
    tools: Vec<Tool>,
    tool_choice: ToolChoice,
    is_parallel: bool,
    format: OutputFormat,
    options: Map<String, Value>,
    stops: Vec<String>,
}

/// A prompt, and how to read the response to it.
#[derive(Debug)]
pub(super) struct Prompt {
    /// The token ids of the prompt.
    pub(super) tokens: Vec<u32>,
    /// The tokens that end the response.
    pub(super) end_tokens: Vec<u32>,
    /// Special tokens that mark parts of the response.
    pub(super) tags: Vec<u32>,
    /// The parser of the response; absent where the text is passed on as it is.
    pub(super) parser: Option<ResponseParser>,
    /// Whether the response may have several tool calls.
    pub(super) is_parallel: bool,
    /// The stop strings of a text that is passed on as it is.
    pub(super) stops: Vec<String>,
    /// The constraint of the response.
    pub(super) constraint: ResponseConstraint,
}

/// The constraint of a response.
#[derive(Debug)]
pub(super) enum ResponseConstraint {
    /// The request's response format, which may be free text.
    Format(OutputFormat),
    /// Tool calls, or content in their stead.
    Calls(CallGrammar),
}

impl ResponseConstraint {
    /// The parameter that set it.
    pub(super) fn parameter(&self) -> &'static str {
        match self {
            Self::Calls(CallGrammar { content: None, .. }) => "tools",
            Self::Format(_) | Self::Calls(_) => "format",
        }
    }
}

impl PromptInput {
    /// Takes the input out of checked parameters.
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
            stops: std::mem::take(&mut params.stop),
        }
    }

    /// Input that is only messages or a text.
    pub(super) fn of_text(messages: Option<Vec<Message>>, prompt: Option<String>) -> Self {
        Self { messages, prompt, ..Self::default() }
    }

    /// Makes the prompt, on a thread for blocking work.
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
        let raw = |tokens, end_tokens, format, stops| Prompt {
            tokens,
            end_tokens,
            tags: Vec::new(),
            parser: None,
            is_parallel: false,
            stops,
            constraint: ResponseConstraint::Format(format),
        };
        if let Some(tokens) = self.tokens {
            let ids = text.tokenizer.vocab_size();
            if let Some(id) = tokens.iter().find(|id| **id as usize >= ids) {
                let problem = format!(
                    "names token {id}, and the model's ids end at {}",
                    ids.saturating_sub(1)
                );
                return Err(ErrorBody::invalid("prompt_tokens", problem));
            }
            return Ok(raw(tokens, text.eos.clone(), self.format, self.stops));
        }
        match (self.messages, self.prompt, self.suffix) {
            (Some(messages), ..) => {
                let Self { tools, tool_choice, is_parallel, format, options, stops, .. } = self;
                chat(text, messages, (tools, tool_choice, is_parallel), format, options, stops)
            }
            (None, prompt, Some(suffix)) => {
                let filled = text.fim_prompt(&prompt.unwrap_or_default(), &suffix)?;
                let (Some(tokens), Some(fim)) = (filled, &text.fim) else {
                    return Err(no_fim());
                };
                let mut ends = text.eos.clone();
                ends.extend(fim.ends.iter().filter(|id| !text.eos.contains(id)));
                Ok(raw(tokens, ends, self.format, self.stops))
            }
            (None, prompt, None) => {
                let prompt = prompt.unwrap_or_default();
                let tokens = match role {
                    Role::Embeds => text.tokenizer.encode_whole(&prompt)?,
                    Role::Generates => text.encode_prompt(&prompt)?,
                };
                Ok(raw(tokens, text.eos.clone(), self.format, self.stops))
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
    stops: Vec<String>,
) -> Result<Prompt, ErrorBody> {
    let style = text.tool_style().ok_or(TextError::NoChatTemplate)?;
    let tools = if choice == ToolChoice::None { Vec::new() } else { tools };
    let is_demanded = matches!(choice, ToolChoice::Required | ToolChoice::Tool(_));
    // A required call has no content that a format could constrain.
    let has_response_format = format != OutputFormat::Text && !is_demanded;
    let constraint = constraint(text, style, &tools, &choice, is_parallel, format)?;
    let skips_reasoning = !matches!(constraint, ResponseConstraint::Format(OutputFormat::Text));
    let unix_time_s = unix_time_s();
    let chat = Chat { messages, tools, options, skips_reasoning, unix_time_s };
    let prompt = text.chat_prompt(&chat)?;
    let names: Vec<String> = chat.tools.into_iter().map(|tool| tool.name).collect();
    let markers = if names.is_empty() { &[] } else { style.format.markers() };
    let tags = reasoning::MARKERS.iter().chain(markers);
    let calling = ToolSyntax { format: style.format, names, has_response_format };
    let syntax = ResponseSyntax {
        // A response in the request's format is content, even if it looks like reasoning.
        may_reason: !has_response_format,
        reasoning_end: prompt.reasoning_end,
        tools: (!calling.names.is_empty()).then_some(calling),
        stops: if is_demanded { Vec::new() } else { stops },
    };
    Ok(Prompt {
        tokens: prompt.tokens,
        end_tokens: text.eos.clone(),
        tags: tags.filter_map(|tag| text.special_id(tag)).collect(),
        parser: Some(ResponseParser::new(syntax)?),
        is_parallel,
        stops: Vec::new(),
        constraint,
    })
}

/// The constraint of a response that must be a call, or must keep the format unless it is one.
///
/// # Errors
/// `INVALID_PARAMS` for a grammar together with tools, which validation has refused before.
fn constraint(
    text: &TextModel,
    style: ToolStyle,
    tools: &[Tool],
    choice: &ToolChoice,
    is_parallel: bool,
    format: OutputFormat,
) -> Result<ResponseConstraint, ErrorBody> {
    let special = |tag: &str| text.special_id(tag);
    let of_calls = |tools: &[Tool], is_parallel, content| {
        ResponseConstraint::Calls(grammar::of_calls(
            style.format,
            tools,
            is_parallel,
            content,
            special,
        ))
    };
    Ok(match (choice, format) {
        (ToolChoice::Required, _) => of_calls(tools, is_parallel, None),
        (ToolChoice::Tool(name), _) => {
            let named: Vec<Tool> =
                tools.iter().filter(|tool| tool.name == *name).cloned().collect();
            of_calls(&named, false, None)
        }
        (_, format) if tools.is_empty() => ResponseConstraint::Format(format),
        (_, OutputFormat::Text) => ResponseConstraint::Format(OutputFormat::Text),
        (_, OutputFormat::JsonObject) => {
            of_calls(tools, is_parallel, Some(json!({ "type": "object" })))
        }
        (_, OutputFormat::JsonSchema { schema }) => of_calls(tools, is_parallel, Some(schema)),
        (_, OutputFormat::Grammar { .. }) => return Err(grammar_with_tools()),
    })
}

fn no_fim() -> ErrorBody {
    let message = "`suffix` needs a model with fill-in-the-middle tokens, and this one's vocabulary \
                   has none";
    ErrorBody::new(ErrorCode::InvalidParams, message)
        .with_details(json!({ "field": "suffix" }))
        .with_remediation(format!("Leave `suffix` out, or use one of the {}.", fim::KINDS))
}

/// The Unix time in seconds, for templates that write the date.
fn unix_time_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
