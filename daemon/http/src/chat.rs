//! Chat completions: `POST /v1/chat/completions`.
//!
//! Owns the mapping between OpenAI's chat and `generate` with messages. Does not know chat
//! templates or the tool call syntax of models; the service does.

use std::sync::Arc;

use crate::limits;
use axum::extract::{Extension, State};
use axum::response::Response;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::generate::{
    Choice, GenerateEvent, GenerateParams, GenerateResult, Message, OutputFormat, Tool as WireTool,
    ToolCall as WireCall, ToolChoice as WireChoice,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::api::{Api, fingerprint, unix_s};
use super::body::{Json, json_response};
use super::logprobs;
use super::middleware::{RequestId, SharedTimer};
use super::problem::Problem;
use super::sse::{self, ChunkFormat, EventBuffer};
use super::types::chat::{
    ChatMessage, ChatRequest, Content, FormatKind, FunctionCall, ReasoningEffort, ResponseFormat,
    Role, Tool, ToolCall, ToolChoice, ToolKind, ToolMode,
};
use super::types::chat_response::{
    AnswerMessage, ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, Delta, FunctionDelta,
    ToolCallDelta,
};
use super::types::shared::Usage;

/// Responds to a conversation.
///
/// # Errors
/// A parameter that cannot be used, and what the service reports.
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
    Extension(timer): Extension<SharedTimer>,
    Json(request): Json<ChatRequest>,
) -> Result<Response, Problem> {
    let include_usage = request.stream_options.and_then(|options| options.include_usage);
    let context = api.context(&id.0, Class::Chat, CancellationToken::new());
    let params = params(request)?;
    let id = format!("chatcmpl-{}", id.0);
    if params.stream {
        let choices = params.choices();
        let chunks = ChatChunks {
            choices,
            include_usage: include_usage.unwrap_or_default(),
            id,
            created: unix_s(),
            model: String::new(),
            fingerprint: fingerprint(),
            usage: None,
        };
        return sse::respond(api, context, &timer, vec![params], chunks).await;
    }
    let logprobs = params.logprobs;
    let generations = api.start(&context, vec![params]).await?;
    let mut responses = Vec::new();
    let mut usage = None;
    let mut model = String::new();
    for result in generations.results().await? {
        usage = Some(Usage::from(result.usage));
        result.model.clone_into(&mut model);
        responses = result
            .choices
            .into_iter()
            .enumerate()
            .map(|(index, choice)| chat_choice(index, choice, logprobs))
            .collect();
    }
    Ok(json_response(&ChatCompletion {
        id,
        object: "chat.completion",
        created: unix_s(),
        model,
        choices: responses,
        usage: usage.unwrap_or_else(|| Usage::sum([])),
        system_fingerprint: fingerprint(),
    })?)
}

fn chat_choice(index: usize, choice: Choice, logprobs: bool) -> ChatChoice {
    let has_calls = !choice.tool_calls.is_empty();
    let tool_calls = choice.tool_calls.into_iter().map(|call| ToolCall {
        id: call.id,
        kind: ToolKind::Function,
        function: FunctionCall { name: call.name, arguments: call.arguments },
    });
    ChatChoice {
        index,
        message: AnswerMessage {
            role: "assistant",
            content: Some(choice.text).filter(|text| !(text.is_empty() && has_calls)),
            refusal: None,
            reasoning_content: choice.reasoning,
            tool_calls: tool_calls.collect(),
        },
        logprobs: logprobs.then(|| logprobs::chat(&choice.logprobs)),
        finish_reason: choice.finish_reason.into(),
    }
}

/// The service's parameters for a request.
fn params(request: ChatRequest) -> Result<GenerateParams, ErrorBody> {
    let sampling = request.sampling();
    for (field, is_there, next) in [
        ("audio", request.audio.is_some(), "is not supported: text is the only output"),
        ("functions", request.functions.is_some(), "is not supported; use `tools`"),
        ("function_call", request.function_call.is_some(), "is not supported; use `tool_choice`"),
        ("web_search_options", request.web_search_options.is_some(), "is not supported"),
    ] {
        if is_there {
            return Err(ErrorBody::invalid(field, next));
        }
    }
    let logprobs = request.logprobs.unwrap_or_default();
    let top_logprobs = request.top_logprobs.unwrap_or_default();
    if top_logprobs > 0 && !logprobs {
        return Err(ErrorBody::invalid("top_logprobs", "requires `logprobs` to be true"));
    }
    if request.max_completion_tokens == Some(0) {
        return Err(ErrorBody::invalid("max_completion_tokens", "must be at least 1"));
    }
    let messages = request.messages.into_iter().enumerate();
    let messages = messages.map(|(index, one)| message(index, one)).collect::<Result<_, _>>()?;
    let tools = request.tools.unwrap_or_default();
    if tools.len() > limits::TOOLS {
        return Err(ErrorBody::invalid(
            "tools",
            format!("has more than {} entries", limits::TOOLS),
        ));
    }
    let mut template_options = request.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = request.reasoning_effort {
        template_options.entry("reasoning_effort").or_insert_with(|| json!(effort));
        if effort == ReasoningEffort::None {
            // The name of this option in the templates of the Qwen family.
            template_options.entry("enable_thinking").or_insert(Value::Bool(false));
        }
    }
    Ok(GenerateParams {
        model: request.model.filter(|model| !model.is_empty()),
        messages: Some(messages),
        tools: tools.into_iter().map(tool).collect(),
        tool_choice: request.tool_choice.map(tool_choice),
        parallel_tool_calls: request.parallel_tool_calls,
        format: request.response_format.map(format).transpose()?,
        template_options,
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        n: request.n,
        stop: request.stop.map(Vec::from).unwrap_or_default(),
        logprobs,
        top_logprobs,
        stream: request.stream.unwrap_or_default(),
        ..sampling
    })
}

fn message(index: usize, message: ChatMessage) -> Result<Message, ErrorBody> {
    let path = format!("messages[{index}]");
    let role = match message.role {
        Role::Developer | Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool | Role::Function => "tool",
    };
    if message.function_call.is_some() {
        let problem = "is not supported; use `tool_calls`";
        return Err(ErrorBody::invalid(&format!("{path}.function_call"), problem));
    }
    let tool_calls = message.tool_calls.unwrap_or_default();
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut text = String::new();
            for (part_index, part) in parts.into_iter().enumerate() {
                let path = format!("{path}.content[{part_index}]");
                let (field, more) = match part.kind.as_str() {
                    "text" => ("text", part.text),
                    "refusal" => ("refusal", part.refusal),
                    kind => {
                        let problem = format!("is `{kind}`; only `text` is supported");
                        return Err(ErrorBody::invalid(&format!("{path}.type"), &problem));
                    }
                };
                let more = more
                    .ok_or_else(|| ErrorBody::invalid(&format!("{path}.{field}"), "is missing"))?;
                text.push_str(&more);
            }
            text
        }
        None if role == "assistant" => String::new(),
        None => return Err(ErrorBody::invalid(&format!("{path}.content"), "is missing")),
    };
    let tool_calls = tool_calls.into_iter().map(|call| WireCall {
        id: call.id,
        name: call.function.name,
        arguments: call.function.arguments,
    });
    Ok(Message {
        role: role.to_owned(),
        content,
        reasoning: message.reasoning_content.or(message.reasoning),
        tool_calls: tool_calls.collect(),
        tool_call_id: message.tool_call_id,
        name: message.name,
    })
}

fn tool(tool: Tool) -> WireTool {
    let function = tool.function;
    WireTool {
        name: function.name,
        description: function.description,
        parameters: function.parameters,
        strict: function.strict.unwrap_or_default(),
    }
}

fn tool_choice(choice: ToolChoice) -> WireChoice {
    match choice {
        ToolChoice::Mode(ToolMode::None) => WireChoice::None,
        ToolChoice::Mode(ToolMode::Auto) => WireChoice::Auto,
        ToolChoice::Mode(ToolMode::Required) => WireChoice::Required,
        ToolChoice::Named(named) => WireChoice::Tool(named.function.name),
    }
}

fn format(format: ResponseFormat) -> Result<OutputFormat, ErrorBody> {
    match (format.kind, format.json_schema) {
        (FormatKind::Text, _) => Ok(OutputFormat::Text),
        (FormatKind::JsonObject, _) => Ok(OutputFormat::JsonObject),
        (FormatKind::JsonSchema, Some(named)) => Ok(match named.schema {
            Some(schema) => OutputFormat::JsonSchema { schema: Value::Object(schema) },
            None => OutputFormat::JsonObject,
        }),
        (FormatKind::JsonSchema, None) => {
            Err(ErrorBody::invalid("response_format.json_schema", "is missing"))
        }
    }
}

/// The chunks of one streamed response.
struct ChatChunks {
    choices: usize,
    include_usage: bool,
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    usage: Option<Usage>,
}

impl ChatChunks {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>, out: &mut EventBuffer) {
        out.data(&ChatChunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.fingerprint,
            choices,
            usage: self.include_usage.then_some(usage),
        });
    }
}

impl ChunkFormat for ChatChunks {
    fn open(&mut self, model: &str, out: &mut EventBuffer) {
        model.clone_into(&mut self.model);
        for index in 0..self.choices {
            let delta =
                Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.chunk(vec![ChunkChoice { index, delta, ..ChunkChoice::default() }], None, out);
        }
    }

    fn event(&mut self, _: usize, event: GenerateEvent, out: &mut EventBuffer) {
        let (index, delta, logprobs) = match event {
            GenerateEvent::Delta { choice, text, logprobs } => {
                (choice, Delta { content: Some(text), ..Delta::default() }, logprobs)
            }
            GenerateEvent::Reasoning { choice, text } => {
                (choice, Delta { reasoning_content: Some(text), ..Delta::default() }, Vec::new())
            }
            GenerateEvent::ToolCall { choice, index, id, name, arguments } => {
                let kind = id.is_some().then_some(ToolKind::Function);
                let call =
                    ToolCallDelta { index, id, kind, function: FunctionDelta { name, arguments } };
                (choice, Delta { tool_calls: vec![call], ..Delta::default() }, Vec::new())
            }
            GenerateEvent::Queued { .. }
            | GenerateEvent::Loading { .. }
            | GenerateEvent::Prefill { .. } => return,
        };
        let logprobs = (!logprobs.is_empty()).then(|| logprobs::chat(&logprobs));
        self.chunk(vec![ChunkChoice { index, delta, logprobs, finish_reason: None }], None, out);
    }

    fn finish(&mut self, _: usize, result: &GenerateResult, out: &mut EventBuffer) {
        for (index, ended) in result.choices.iter().enumerate() {
            let finish_reason = Some(ended.finish_reason.into());
            let choice = ChunkChoice { index, finish_reason, ..ChunkChoice::default() };
            self.chunk(vec![choice], None, out);
        }
        self.usage = Some(result.usage.into());
    }

    fn close(&mut self, out: &mut EventBuffer) {
        if self.include_usage {
            self.chunk(Vec::new(), self.usage, out);
        }
    }
}

#[cfg(test)]
mod tests;
