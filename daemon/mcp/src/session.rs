//! Session of one host: implements rmcp's `ServerHandler`.
//!
//! Owns the server's description, and passes each request to the module that handles it. Revisions
//! 2024-11-05 to 2025-11-25 of MCP open with `initialize`. Revision 2026-07-28 has no session: the
//! `_meta` of each request describes the client. rmcp distinguishes them; this module treats them
//! alike.

use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult,
    ErrorCode as RpcCode, GetPromptRequestParams, GetPromptResponse, Implementation,
    ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
    ServerConfig, SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use tokio::sync::SemaphorePermit;

use super::context::HostContext;
use super::pagination::page;
use super::subscriptions::{self, Subscriptions};
use super::tools::tool_list;
use super::{complete, prompts, resources, tools};

/// The server's instructions, which a host shows its model.
const INSTRUCTIONS: &str = "Language models that run on this machine and stay loaded. No data \
    leaves the machine. `chat` responds to a prompt or a conversation, `generate` continues a \
    text, `complete_code` fills a gap in code, `embed` computes vectors of texts, and \
    `count_tokens` counts the tokens of a text. `list_models` lists the models. A model is loaded \
    when it is first used; `load_model` and `unload_model` load and unload it ahead of time. Calls \
    without `model` use the default model. A call that takes too long for this host returns the id \
    of a job that continues: `job_wait` returns its result. Every error names the next step.";

/// The session of one host. Clones share it.
#[derive(Debug, Clone)]
pub struct Session {
    host: HostContext,
    subscriptions: Arc<Subscriptions>,
}

impl Session {
    /// The session of a host.
    #[must_use]
    pub fn new(host: HostContext) -> Self {
        Self { host, subscriptions: Arc::default() }
    }

    /// A permit for a request that is not a tool call.
    fn permit(&self) -> Result<SemaphorePermit<'_>, ErrorData> {
        self.host.permit().map_err(|error| {
            ErrorData::new(
                RpcCode(error.code.rpc_code()),
                error.message.clone(),
                Some(error.rpc_data()),
            )
        })
    }
}

/// Runs a request until it is cancelled. Cancellation drops the request, which ends its work; rmcp
/// then sends no reply.
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
            .with_description(
                "Local language models that stay loaded and are shared by all hosts.",
            );
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
        let result = unless_cancelled(&context, tools::call(&self.host, request, &context)).await?;
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
        let _permit = self.permit()?;
        let all = unless_cancelled(&context, resources::list(&self.host)).await?;
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
        let (templates, next) = page(resources::template_list(), request)?;
        let mut result = ListResourceTemplatesResult::with_all_items(templates);
        result.next_cursor = next;
        Ok(result)
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let _permit = self.permit()?;
        Ok(unless_cancelled(&context, resources::read(&self.host, &request.uri)).await?.into())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let _permit = self.permit()?;
        let peer = context.peer.clone();
        let subscribed = self.subscriptions.subscribe(&self.host, request.uri, peer);
        unless_cancelled(&context, subscribed).await
    }

    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.subscriptions.unsubscribe(&request.uri);
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(subscriptions::accepted(requested))
    }

    async fn listen(&self, stream: SubscriptionContext) -> Result<(), ErrorData> {
        self.subscriptions.listen(&self.host, stream).await
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let _permit = self.permit()?;
        unless_cancelled(&context, complete::complete(&self.host, request)).await
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        self.subscriptions.notify_list_changes(&self.host, context.peer);
    }
}
