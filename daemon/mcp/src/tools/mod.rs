//! The MCP tools: what each does with its arguments.
//!
//! Owns the dispatch, and that every call is bounded. [`arguments`] and [`outputs`] own what goes in
//! and out, [`work`] what is said of work, [`catalogue`] how it is described. An error a model can
//! act on, a wrong argument too, is a tool result with `isError` and the next step in its text; only a
//! tool that does not exist is a protocol error.

mod arguments;
mod catalogue;
mod outputs;
mod schema;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::embed::{EmbedInput, EmbedParams};
use ingle_protocol::wire::generate::GenerateParams;
use ingle_protocol::wire::jobs::{
    JobEvent, JobParams, JobStatus, JobWork, ListJobsParams, WaitParams,
};
use ingle_protocol::wire::models::{LoadParams, ProgressEvent};
use ingle_protocol::wire::tokens::TokenizeParams;
use ingle_protocol::{limits, mcp_tools};
use rmcp::model::{CallToolRequestParams, CallToolResult, ProtocolVersion};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::json;
use tokio::sync::mpsc;

pub(super) use self::catalogue::tool_list;
use self::outputs::answer;
use self::work::Asker;
use super::brief::{self, brief};
use super::promote::{self, Progress};
use super::session::Session;
use ingle_service::metrics::{Edge, Outcome, UNKNOWN};
use ingle_service::request::named;

/// Jobs of one listing that names no number: a model reads them all.
const LISTED_JOBS: usize = 20;

/// One call: its name in logs and errors, and what came with it.
struct Call<'a> {
    id: &'a str,
    /// The tool, one of ours.
    tool: &'a str,
    context: &'a RequestContext<RoleServer>,
}

impl Call<'_> {
    fn progress(&self) -> Progress<'_> {
        Progress::new(&self.context.peer, self.context.meta.get_progress_token())
    }

    /// Whether the host's revision of MCP has structured content.
    fn has_structure(&self) -> bool {
        let revision = self.context.protocol_version();
        revision.is_none_or(|revision| revision >= ProtocolVersion::V_2025_06_18)
    }
}

/// A tool's name for metrics: never one that a host made up.
fn metric_name(name: &str) -> &'static str {
    match mcp_tools::tool(name).name {
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

impl Session {
    /// Calls a tool. Dropping the future cancels its work.
    ///
    /// # Errors
    /// When there is no such tool.
    pub(super) async fn call(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let id = self.service.next_request_id();
        // One that is dropped is counted as cancelled.
        let asked = self.service.metrics().begin(Edge::Mcp, metric_name(&request.name));
        let tool = mcp_tools::tool(&request.name).name;
        let outcome = self.dispatch(request, &Call { id: &id, tool, context }).await;
        asked.end(metric_outcome(&outcome));
        let outcome = outcome?;
        Ok(outcome.unwrap_or_else(|error| outputs::failure(&named(known_by_tools(error), &id))))
    }

    /// The outer error is the host's fault, the inner one the tool's.
    async fn dispatch(
        &self,
        request: CallToolRequestParams,
        call: &Call<'_>,
    ) -> Result<Result<CallToolResult, ErrorBody>, ErrorData> {
        let name = request.name.as_ref();
        if mcp_tools::TOOLS.iter().all(|tool| tool.name != name) {
            let names: Vec<_> = mcp_tools::TOOLS.iter().map(|tool| tool.name).collect();
            let message =
                format!("there is no tool `{}`; there are {}", brief(name), names.join(", "));
            return Err(ErrorData::invalid_params(message, None));
        }
        let arguments = request.arguments.unwrap_or_default();
        let outcome = async {
            let _slot = self.slot()?;
            match name {
                "chat" => {
                    let chat: arguments::Chat = arguments::read(name, arguments)?;
                    let question = chat.question();
                    let reply = self.generate(chat.params()?, call).await;
                    reply.map_err(|error| error.with_field_renamed("messages", question))
                }
                "generate" => {
                    let text: arguments::Generate = arguments::read(name, arguments)?;
                    self.generate(text.params(), call).await
                }
                "complete_code" => {
                    let code: arguments::CompleteCode = arguments::read(name, arguments)?;
                    self.generate(code.params(), call).await
                }
                "embed" => self.embed(arguments::read(name, arguments)?, call).await,
                "count_tokens" => self.count_tokens(arguments::read(name, arguments)?, call).await,
                "list_models" => {
                    let arguments::Nothing {} = arguments::read(name, arguments)?;
                    answer(&outputs::Models::from(self.service.list_models().await?), None)
                }
                "load_model" => self.load_model(arguments::read(name, arguments)?, call).await,
                "unload_model" => self.unload_model(arguments::read(name, arguments)?, call).await,
                "server_status" => {
                    let arguments::Nothing {} = arguments::read(name, arguments)?;
                    answer(&outputs::Server::new(self.service.status(), self.jobs.counts()), None)
                }
                "job_wait" => self.job_wait(arguments::read(name, arguments)?, call).await,
                "job_get" => {
                    let arguments::Job { job_id } = arguments::read(name, arguments)?;
                    let request = self.request(call.id, Class::Simple, None);
                    self.asker(call).result(&self.jobs.get(&job_id, &request).await?)
                }
                "job_list" => self.job_list(arguments::read(name, arguments)?, call).await,
                "job_cancel" => self.job_cancel(arguments::read(name, arguments)?, call).await,
                name => Err(ErrorBody::new(ErrorCode::Internal, format!("`{name}` does nothing"))),
            }
        };
        Ok(outcome.await)
    }

    async fn generate(
        &self,
        params: GenerateParams,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        let messages = params.messages.iter().flatten().map(|message| message.content.as_str());
        let texts = [params.prompt.as_deref(), params.suffix.as_deref()];
        self.check_length(messages.chain(texts.into_iter().flatten()))?;
        self.run(JobWork::Generate(params), call).await
    }

    async fn embed(
        &self,
        arguments: arguments::Embed,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        self.check_length(arguments.texts.iter().map(String::as_str))?;
        let params = EmbedParams {
            model: arguments.model,
            input: arguments.texts.into_iter().map(EmbedInput::Text).collect(),
            ..EmbedParams::default()
        };
        let reply = self.run(JobWork::Embed(params), call).await;
        reply.map_err(|error| error.with_field_renamed("input", "texts"))
    }

    /// Runs work that goes on as a job when the host can wait no longer.
    async fn run(&self, work: JobWork, call: &Call<'_>) -> Result<CallToolResult, ErrorBody> {
        let class = match &work {
            JobWork::Embed(params) => mcp_tools::embed_class(params.input.len()),
            JobWork::Generate(_) => mcp_tools::tool(call.tool).class,
        };
        let params = JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None };
        let reply = promote::run(&self.jobs, params, class, self.patience, call.progress()).await?;
        self.asker(call).result(&reply)
    }

    /// What is told of work depends on who asks.
    fn asker<'a>(&self, call: &Call<'a>) -> Asker<'a> {
        let work_ms = self.service.work_timeouts().work_ms(Class::Workflow);
        Asker {
            tool: call.tool,
            wait_ms: self.patience.limit_ms().min(work_ms),
            has_structure: call.has_structure(),
        }
    }

    async fn count_tokens(
        &self,
        arguments: arguments::CountTokens,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        let characters = self.check_length([arguments.text.as_str()])?;
        let params = TokenizeParams {
            model: arguments.model,
            text: Some(arguments.text),
            ..TokenizeParams::default()
        };
        let request = self.request(call.id, Class::Simple, None);
        let counted = self.service.tokenize(params, &request).await?;
        let (model, tokens) = (counted.model, counted.tokens.len());
        let text = format!("{tokens} tokens of `{model}` ({characters} characters)");
        answer(&outputs::TokenCount { model, tokens, characters }, Some(text))
    }

    /// A load that outlasts the host goes on, and the next call waits for it again.
    async fn load_model(
        &self,
        arguments: arguments::LoadModel,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        let due_at = tokio::time::Instant::now() + Duration::from_millis(self.patience.due_ms());
        let arguments::LoadModel { model, keep_alive, pin } = arguments;
        let params = LoadParams { model, keep_alive, pin, ..LoadParams::default() };
        let name = params.model.clone().unwrap_or_else(|| self.service.default_model().to_owned());
        // The host's end cancels the load by dropping this guard, until the host has been answered.
        let cancel = self.service.draining().child_token();
        let guard = cancel.clone().drop_guard();
        let mut request = self.request(call.id, Class::Workflow, None);
        request.cancel = cancel;
        let (sender, mut heard) = mpsc::channel(limits::PROGRESS_EVENTS);
        let service = Arc::clone(&self.service);
        let mut load =
            tokio::spawn(async move { service.load_model(&params, sender, &request).await });
        let (mut progress, mut share) = (call.progress(), 0.0);
        loop {
            tokio::select! {
                biased;
                loaded = &mut load => {
                    let loaded = loaded
                        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))??;
                    let text = format!("`{}` is loaded.", loaded.name);
                    return answer(&outputs::Load::from(loaded), Some(text));
                }
                () = tokio::time::sleep_until(due_at) => break,
                Some(event) = heard.recv() => {
                    let ProgressEvent::Progress { phase, done_bytes, total_bytes } = event;
                    share = share_of(done_bytes, total_bytes);
                    progress.tell(share, &phase).await;
                }
            }
        }
        guard.disarm();
        let text = format!(
            "Not loaded yet ({:.0} %): the load of `{name}` goes on. Call load_model again to wait \
             for it, or use the model: a call waits for it too.",
            share * 100.0
        );
        answer(&outputs::Load::under_way(name, share), Some(text))
    }

    async fn unload_model(
        &self,
        arguments: arguments::UnloadModel,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        let request = self.request(call.id, Class::Simple, None);
        let unloaded = self.service.unload_model(Some(&arguments.model), &request).await?;
        let (model, was_loaded) = (unloaded.model, unloaded.was_loaded);
        let text = match was_loaded {
            true => format!("`{model}` is no longer in memory."),
            false => format!("`{model}` was not in memory."),
        };
        answer(&outputs::Unloaded { model, was_loaded }, Some(text))
    }

    async fn job_wait(
        &self,
        arguments: arguments::Job,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        // Its reply is due like any other's.
        let budget = Budget { work_ms: Some(self.patience.due_ms()), remaining_ms: None };
        let request = self.request(call.id, Class::Workflow, Some(budget));
        let params = WaitParams { id: arguments.job_id, stream: true, budget: None };
        let (events, mut heard) = mpsc::channel(limits::PROGRESS_EVENTS);
        let mut progress = call.progress();
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
        self.asker(call).result(&reply)
    }

    async fn job_list(
        &self,
        arguments: arguments::JobList,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        let limit = Some(arguments.limit.unwrap_or(LISTED_JOBS));
        let params = ListJobsParams { status: arguments.status, limit };
        let request = self.request(call.id, Class::Simple, None);
        let listed = self.jobs.list(params, &request).await?;
        let jobs = listed.jobs.into_iter().map(outputs::JobLine::from).collect();
        answer(&outputs::JobLines { jobs }, None)
    }

    async fn job_cancel(
        &self,
        arguments: arguments::Job,
        call: &Call<'_>,
    ) -> Result<CallToolResult, ErrorBody> {
        let request = self.request(call.id, Class::Simple, None);
        let reply = self.jobs.cancel(&arguments.job_id, &request).await?;
        let words = match reply.job.status {
            JobStatus::Cancelled => "The job was cancelled.",
            JobStatus::Queued | JobStatus::Running => {
                "The job has not ended yet; call job_cancel again, or job_get to see how it stands."
            }
            _ => "The job had ended before; job_get shows its result.",
        };
        answer(&outputs::JobLine::from(reply.job), Some(words.to_owned()))
    }

    /// What a call gives a model to read is bounded in characters, so that a host that pastes a whole
    /// tree hears of it at once. The characters there are.
    fn check_length<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> Result<usize, ErrorBody> {
        let limit = self.settings.prompt_chars;
        let characters = texts.into_iter().map(|text| text.chars().count()).sum();
        if characters <= limit {
            return Ok(characters);
        }
        let message = format!(
            "the call has {characters} characters of text, and a tool call may have {limit}"
        );
        Err(ErrorBody::new(ErrorCode::InvalidParams, message)
            .with_remediation(
                "Shorten the text, or split the work into several calls. The user can raise \
                 `mcp.prompt_chars` in Ingle's config.toml.",
            )
            .with_details(json!({ "characters": characters, "limit": limit })))
    }

    /// A request of this host's. The host's end ends it.
    pub(super) fn request(
        &self,
        id: &str,
        class: Class,
        budget: Option<Budget>,
    ) -> ingle_service::request::RequestContext {
        let cancel = self.gone.child_token();
        let timeouts = self.service.work_timeouts();
        ingle_service::request::RequestContext::new(
            id.to_owned(),
            class,
            timeouts,
            budget,
            cancel,
            Instant::now(),
        )
    }
}

/// The share of bytes that are in place, 0 to 1.
fn share_of(done_bytes: u64, total_bytes: u64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = done_bytes as f32 / total_bytes.max(1) as f32;
    share.clamp(0.0, 1.0)
}

/// An error in words of tools, because a model has no terminal, and with little of what it wrote.
fn known_by_tools(error: ErrorBody) -> ErrorBody {
    let error = brief::shortened(error);
    let next = mcp_tools::next_step(&error).into_owned();
    error.with_remediation(next)
}
