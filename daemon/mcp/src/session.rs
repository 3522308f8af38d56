//! One host's session: what rmcp asks of a server, passed on to the room that knows.
//!
//! Owns what the server says of itself, and how many calls of one host run at once. Revisions
//! 2024-11-05 to 2025-11-25 open with `initialize`; 2026-07-28 has no session: each request says in
//! its `_meta` who asks. rmcp tells them apart; everything here is the same for both.

use std::sync::Arc;

use crate::limits;
use ingle_protocol::error::ErrorBody;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult,
    ErrorCode as RpcCode, GetPromptRequestParams, GetPromptResponse, Implementation,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::news::{self, News, SharedNews};
use super::pages::page;
use super::promote::Patience;
use super::prompts;
use super::resources::template_list;
use super::settings::McpSettings;
use super::tools::tool_list;
use ingle_jobs::Jobs;
use ingle_service::Service;

/// What a host shows its model about this server.
const INSTRUCTIONS: &str = "Language models that run on this machine and stay loaded; nothing \
    leaves it. `chat` answers a prompt or a conversation, `generate` continues a text, \
    `complete_code` fills a gap in code, `embed` turns texts into vectors, `count_tokens` measures \
    a text. `list_models` says which models there are; a model is loaded when it is first used, and \
    `load_model` and `unload_model` do it ahead. Calls that name no model use the default one. A \
    call that takes too long for this host answers with the id of a job that goes on: `job_wait` \
    gets its result. An error says what to do next.";

/// One host's view of the service. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Session {
    pub(super) service: Arc<Service>,
    pub(super) jobs: Jobs,
    pub(super) settings: McpSettings,
    pub(super) patience: Patience,
    /// Cancelled when the host has gone.
    pub(super) gone: CancellationToken,
    /// Cancelled when the host says nothing more; what it has asked is still answered.
    pub(super) ended: CancellationToken,
    pub(super) news: SharedNews,
    /// Calls this host may have in flight.
    slots: Arc<Semaphore>,
}

impl Session {
    /// A session over one service, for a host of some patience; `ended` is cancelled when the host
    /// says nothing more, `gone` when it has gone.
    #[must_use]
    pub fn new(
        service: Arc<Service>,
        jobs: Jobs,
        settings: McpSettings,
        patience: Patience,
        ended: CancellationToken,
        gone: CancellationToken,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(limits::IN_FLIGHT_PER_CONNECTION));
        Self { service, jobs, settings, patience, gone, ended, news: Arc::new(News::new()), slots }
    }

    /// A place among the calls in flight.
    ///
    /// # Errors
    /// `OVERLOADED` when there is none.
    pub(super) fn slot(&self) -> Result<SemaphorePermit<'_>, ErrorBody> {
        self.slots.try_acquire().map_err(|_| {
            ErrorBody::overloaded(format!(
                "{} calls of this host are in flight",
                limits::IN_FLIGHT_PER_CONNECTION
            ))
        })
    }

    /// The same for requests that are no tool calls.
    fn room(&self) -> Result<SemaphorePermit<'_>, ErrorData> {
        self.slot().map_err(|error| {
            ErrorData::new(
                RpcCode(error.code.rpc_code()),
                error.message.clone(),
                Some(error.rpc_data()),
            )
        })
    }
}

/// Runs a request until it is cancelled, which drops it: that is what ends its work. rmcp sends no
/// reply then.
async fn unless_cancelled<T>(
    context: &RequestContext<RoleServer>,
    work: impl Future<Output = Result<T, ErrorData>>,
) -> Result<T, ErrorData> {
    tokio::select! {
        () = context.ct.cancelled() => Err(ErrorData::internal_error("cancelled", None)),
        outcome = work => outcome,
    }
}

impl ServerHandler for Session {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_prompts()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_resources_list_changed()
            .enable_completions()
            .build();
        let server = Implementation::new("ingle", ingle_protocol::BUILD)
            .with_title("Ingle")
            .with_description("Local language models, kept warm and shared by all hosts.");
        ServerConfig::new(capabilities).with_server_info(server).with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let (tools, next) = page(tool_list(), request)?;
        let mut result = ListToolsResult::with_all_items(tools);
        result.next_cursor = next;
        Ok(result)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let result = unless_cancelled(&context, self.call(request, &context)).await?;
        Ok(result.into())
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tool_list().into_iter().find(|tool| tool.name == name)
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let (prompts, next) = page(prompts::prompt_list(), request)?;
        let mut result = ListPromptsResult::with_all_items(prompts);
        result.next_cursor = next;
        Ok(result)
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        Ok(prompts::get(request)?.into())
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let _room = self.room()?;
        let all = unless_cancelled(&context, self.resource_list()).await?;
        let (resources, next) = page(all, request)?;
        let mut result = ListResourcesResult::with_all_items(resources);
        result.next_cursor = next;
        Ok(result)
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let (templates, next) = page(template_list(), request)?;
        let mut result = ListResourceTemplatesResult::with_all_items(templates);
        result.next_cursor = next;
        Ok(result)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let _room = self.room()?;
        Ok(unless_cancelled(&context, self.read_place(&request.uri)).await?.into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let _room = self.room()?;
        let peer = context.peer.clone();
        unless_cancelled(&context, self.subscribe_to(request.uri, peer)).await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.unsubscribe_from(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(news::accepted(requested))
    }

    async fn listen(&self, stream: SubscriptionContext) -> Result<(), ErrorData> {
        self.tell_all(stream).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let _room = self.room()?;
        unless_cancelled(&context, self.completion(request)).await
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        self.tell_lists(context.peer);
    }
}
