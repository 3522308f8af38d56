//! The MCP tools: `chat`, `generate`, `list_models`, and those that look after jobs.
//!
//! Owns their names, schemas and results. An error a model can act on is a tool result with
//! `isError` and the next step in its text; only what the host did wrong is a protocol error.

use std::sync::Arc;
use std::time::Instant;

use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::generate::{GenerateParams, Message};
use ingle_protocol::wire::jobs::{JobEvent, JobParams, JobStatus, JobWork, WaitParams};
use ingle_protocol::{limits, tools};
use rmcp::ErrorData;
use rmcp::RoleServer;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities, Tool, ToolAnnotations,
};
use rmcp::service::RequestContext;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::promote::{self, Patience, Progress};
use crate::jobs::Jobs;
use crate::metrics::{Edge, Outcome, UNKNOWN};
use crate::request::{RequestContext as Request, named};
use crate::service::Service;

/// One host's view of the service.
#[derive(Debug, Clone)]
pub struct Tools {
    service: Arc<Service>,
    jobs: Jobs,
    patience: Patience,
    gone: CancellationToken,
    /// Calls this host may have in flight.
    slots: Arc<Semaphore>,
}

/// Arguments of `chat`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChatArguments {
    /// What to say to the model.
    prompt: String,
    /// How the model should behave.
    system: Option<String>,
    /// Name of a model from list_models; the default model when absent.
    model: Option<String>,
    /// Most tokens to generate.
    max_tokens: Option<u32>,
    /// 0 (the default) always gives the likeliest answer; 1 varies freely.
    temperature: Option<f32>,
    /// Draw from the likeliest tokens that sum to this probability; 1 (the default) keeps all.
    top_p: Option<f32>,
    /// Above 1, the last 64 tokens of prompt and text are made less likely to come again; try 1.1
    /// against a text that goes in circles.
    repetition_penalty: Option<f32>,
    /// With the same seed, the same text is drawn again.
    seed: Option<u64>,
    /// Strings that end the answer.
    #[serde(default)]
    stop: Vec<String>,
}

/// Arguments of `generate`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GenerateArguments {
    /// Raw text for the model to continue, without a chat template.
    prompt: String,
    /// Name of a model from list_models; the default model when absent.
    model: Option<String>,
    /// Most tokens to generate.
    max_tokens: Option<u32>,
    /// 0 (the default) always gives the likeliest text; 1 varies freely.
    temperature: Option<f32>,
    /// Draw from the likeliest tokens that sum to this probability; 1 (the default) keeps all.
    top_p: Option<f32>,
    /// Above 1, the last 64 tokens of prompt and text are made less likely to come again; try 1.1
    /// against a text that goes in circles.
    repetition_penalty: Option<f32>,
    /// With the same seed, the same text is drawn again.
    seed: Option<u64>,
    /// Strings that end the text.
    #[serde(default)]
    stop: Vec<String>,
}

/// Arguments of `job_get`, `job_wait` and `job_cancel`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JobArguments {
    /// The job's id, from the reply that named it.
    job_id: String,
}

impl Tools {
    /// The tools over one service, for a host of some patience; `gone` is cancelled when the host
    /// has gone.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        jobs: Jobs,
        patience: Patience,
        gone: CancellationToken,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(limits::IN_FLIGHT_PER_CONNECTION));
        Self { service, jobs, patience, gone, slots }
    }

    /// The outer error is the host's fault, the inner one the tool's.
    async fn dispatch(
        &self,
        request: CallToolRequestParams,
        id: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<Result<CallToolResult, ErrorBody>, ErrorData> {
        let Ok(_slot) = self.slots.try_acquire() else {
            let error = ErrorBody::overloaded(format!(
                "{} calls of this host are in flight",
                limits::IN_FLIGHT_PER_CONNECTION
            ));
            return Ok(Err(error));
        };
        match request.name.as_ref() {
            "chat" => Ok(self.chat(arguments(request)?, context).await),
            "generate" => Ok(self.generate(arguments(request)?, context).await),
            "list_models" => Ok(self.list_models().await),
            "job_get" => {
                let JobArguments { job_id } = arguments(request)?;
                Ok(self.job_get(&job_id, id).await)
            }
            "job_wait" => {
                let JobArguments { job_id } = arguments(request)?;
                Ok(self.job_wait(job_id, id, context).await)
            }
            "job_cancel" => {
                let JobArguments { job_id } = arguments(request)?;
                Ok(self.job_cancel(&job_id, id).await)
            }
            name => Err(ErrorData::invalid_params(format!("there is no tool `{name}`"), None)),
        }
    }

    async fn chat(
        &self,
        arguments: ChatArguments,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorBody> {
        let system = arguments.system.map(|content| Message::new("system", content));
        let user = Message::new("user", arguments.prompt);
        let params = GenerateParams {
            model: arguments.model,
            messages: Some(system.into_iter().chain([user]).collect()),
            max_tokens: arguments.max_tokens,
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            repetition_penalty: arguments.repetition_penalty,
            seed: arguments.seed,
            stop: arguments.stop,
            ..GenerateParams::default()
        };
        self.run(params, context).await
    }

    async fn generate(
        &self,
        arguments: GenerateArguments,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorBody> {
        let params = GenerateParams {
            model: arguments.model,
            prompt: Some(arguments.prompt),
            max_tokens: arguments.max_tokens,
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            repetition_penalty: arguments.repetition_penalty,
            seed: arguments.seed,
            stop: arguments.stop,
            ..GenerateParams::default()
        };
        self.run(params, context).await
    }

    async fn run(
        &self,
        params: GenerateParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorBody> {
        check_length(&params)?;
        let class = tools::tool("generate").class;
        let work = JobWork::Generate(params);
        let params = JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None };
        let progress = Progress::new(&context.peer, context.meta.get_progress_token());
        promote::run(&self.jobs, params, class, self.patience, progress).await
    }

    async fn job_get(&self, id: &str, request_id: &str) -> Result<CallToolResult, ErrorBody> {
        let reply = self.jobs.get(id, &self.request(request_id, Class::Simple, None)).await?;
        promote::result(reply, self.patience)
    }

    async fn job_wait(
        &self,
        id: String,
        request_id: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorBody> {
        // Its reply is due like any other's.
        let budget = Budget { work_ms: Some(self.patience.due_ms()), remaining_ms: None };
        let request = self.request(request_id, Class::Workflow, Some(budget));
        let params = WaitParams { id, stream: true, budget: None };
        let (events, mut heard) = mpsc::channel(limits::PROGRESS_EVENTS);
        let mut progress = Progress::new(&context.peer, context.meta.get_progress_token());
        let tell = async {
            while let Some(event) = heard.recv().await {
                if let JobEvent::Progress { progress: share, message, .. } = event {
                    progress.tell(share, &message).await;
                }
            }
            std::future::pending().await
        };
        let reply = tokio::select! {
            reply = self.jobs.wait(&params, events, &request) => reply?,
            never = tell => never,
        };
        promote::result(reply, self.patience)
    }

    async fn job_cancel(&self, id: &str, request_id: &str) -> Result<CallToolResult, ErrorBody> {
        let reply = self.jobs.cancel(id, &self.request(request_id, Class::Simple, None)).await?;
        let words = match reply.job.status {
            JobStatus::Cancelled => "The job was cancelled.",
            JobStatus::Queued | JobStatus::Running => {
                "The job has not ended yet; call job_cancel again, or job_get to see how it stands."
            }
            _ => "The job had ended before; job_get shows its result.",
        };
        let mut answer = CallToolResult::structured(json!({
            "job_id": reply.job.id,
            "status": reply.job.status,
        }));
        answer.content = vec![ContentBlock::text(words)];
        Ok(answer)
    }

    /// A request of this host's. The host's end ends it.
    fn request(&self, id: &str, class: Class, budget: Option<Budget>) -> Request {
        let cancel = self.gone.child_token();
        let timeouts = &self.service.config.timeouts;
        let now = Instant::now();
        Request::new(id.to_owned(), class, timeouts, budget, cancel, now)
    }

    async fn list_models(&self) -> Result<CallToolResult, ErrorBody> {
        let models = self.service.list_models().await?;
        Ok(CallToolResult::structured(json!(models)))
    }
}

/// A prompt for a tool is bounded in characters, so that a host that pastes a whole tree hears of
/// it at once.
fn check_length(params: &GenerateParams) -> Result<(), ErrorBody> {
    let messages = params.messages.iter().flatten().map(|message| message.content.as_str());
    let characters: usize =
        messages.chain(params.prompt.as_deref()).map(|text| text.chars().count()).sum();
    if characters <= limits::TOOL_PROMPT_CHARS {
        return Ok(());
    }
    Err(ErrorBody::new(
        ErrorCode::InvalidParams,
        format!(
            "the prompt has {characters} characters, and a tool call may have {}",
            limits::TOOL_PROMPT_CHARS
        ),
    )
    .with_remediation("Shorten the prompt, or split the work into several calls.")
    .with_details(json!({ "characters": characters, "limit": limits::TOOL_PROMPT_CHARS })))
}

fn schema<T: JsonSchema>() -> Arc<JsonObject> {
    let schema = schemars::schema_for!(T).to_value();
    Arc::new(without_integer_formats(schema).as_object().cloned().unwrap_or_default())
}

/// Takes out `format: "uint32"` and the like, which JSON Schema does not know and the MCP
/// Inspector warns of.
fn without_integer_formats(mut schema: Value) -> Value {
    if let Some(properties) = schema["properties"].as_object_mut() {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.remove("format");
        }
    }
    schema
}

/// A tool's name for metrics: never one that a host made up.
fn metric_name(name: &str) -> &'static str {
    match tools::tool(name).name {
        "" => UNKNOWN,
        known => known,
    }
}

/// How a call is counted. A call that goes on as a job is answered well.
fn metric_outcome(outcome: &Result<Result<CallToolResult, ErrorBody>, ErrorData>) -> Outcome {
    match outcome {
        Ok(result) => result.as_ref().map(|_| ()).map_err(|error| error.code),
        Err(error) => {
            Err(ErrorCode::of_rpc(i64::from(error.code.0)).unwrap_or(ErrorCode::Internal))
        }
    }
}

fn tool_list() -> Vec<Tool> {
    let read_only = || ToolAnnotations::new().read_only(true).open_world(false);
    vec![
        Tool::new(
            "chat",
            "Ask a language model that runs on this machine. Answers one prompt, with the \
             model's chat template.",
            schema::<ChatArguments>(),
        )
        .with_title("Chat with a local model")
        .annotate(read_only()),
        Tool::new(
            "generate",
            "Continue a raw text with a language model that runs on this machine.",
            schema::<GenerateArguments>(),
        )
        .with_title("Continue a text with a local model")
        .annotate(read_only()),
        Tool::new(
            "list_models",
            "List the language models of this machine and say which are loaded.",
            Arc::new(
                json!({ "type": "object", "properties": {}, "additionalProperties": false })
                    .as_object()
                    .cloned()
                    .unwrap_or_default(),
            ),
        )
        .with_title("List local models")
        .annotate(read_only().idempotent(true)),
        Tool::new(
            "job_wait",
            "Wait for a call that took too long and goes on as a job, and get its whole result. \
             Says how far it is if it has not ended in time; call it again then.",
            schema::<JobArguments>(),
        )
        .with_title("Wait for a job")
        .annotate(read_only().idempotent(true)),
        Tool::new(
            "job_get",
            "Look at a job without waiting: its result, or how far it is and its text so far.",
            schema::<JobArguments>(),
        )
        .with_title("Look at a job")
        .annotate(read_only().idempotent(true)),
        Tool::new(
            "job_cancel",
            "End a job whose result is no longer wanted.",
            schema::<JobArguments>(),
        )
        .with_title("Cancel a job")
        .annotate(
            ToolAnnotations::new()
                .read_only(false)
                .destructive(true)
                .idempotent(true)
                .open_world(false),
        ),
    ]
}

fn arguments<T: DeserializeOwned>(request: CallToolRequestParams) -> Result<T, ErrorData> {
    let name = request.name;
    serde_json::from_value(Value::Object(request.arguments.unwrap_or_default())).map_err(|error| {
        ErrorData::invalid_params(format!("the arguments of `{name}`: {error}"), None)
    })
}

/// An error as a model reads it: what happened and what to do.
fn tool_error(error: &ErrorBody) -> CallToolResult {
    let mut result = CallToolResult::structured_error(json!({ "error": error }));
    let text = format!("{}: {}\n{}", error.code.as_str(), error.message, error.remediation);
    result.content = vec![ContentBlock::text(text)];
    result
}

impl ServerHandler for Tools {
    fn get_info(&self) -> rmcp::model::ServerConfig {
        rmcp::model::ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(
                Implementation::new("ingle", ingle_protocol::BUILD).with_title("Ingle"),
            )
            .with_instructions(
                "Language models that run on this machine and stay loaded. `chat` answers a \
                 prompt, `generate` continues a text, `list_models` says which models there are. A \
                 call that takes too long for this host answers with the id of a job that goes on: \
                 `job_wait` gets its result.",
            )
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tool_list()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let id = self.service.names.next();
        let asked = self.service.metrics.begin(Edge::Mcp, metric_name(&request.name));
        // Dropping the call is what cancels its work; rmcp sends no reply then.
        tokio::select! {
            () = context.ct.cancelled() => Err(ErrorData::internal_error("cancelled", None)),
            outcome = self.dispatch(request, &id, &context) => {
                asked.end(metric_outcome(&outcome));
                Ok(outcome?.unwrap_or_else(|error| tool_error(&named(error, &id))).into())
            }
        }
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tool_list().into_iter().find(|tool| tool.name == name)
    }
}
