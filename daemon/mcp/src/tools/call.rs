//! One tool call: its host, its id and its limits.

use ingle_protocol::deadline::Budget;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use rmcp::RoleServer;
use rmcp::model::ProtocolVersion;
use rmcp::service::RequestContext;
use serde_json::json;
use tracing::Span;

use crate::context::HostContext;
use crate::promote::Progress;

/// One tool call.
pub(super) struct ToolCall<'a> {
    pub(super) host: &'a HostContext,
    /// The id of its request in logs and errors.
    pub(super) id: &'a str,
    /// The tool's name.
    pub(super) tool: &'a str,
    pub(super) context: &'a RequestContext<RoleServer>,
}

/// What the result of work depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToolContext<'a> {
    /// The tool's name.
    pub(super) tool: &'a str,
    /// Maximum number of milliseconds that job_wait waits.
    pub(super) wait_ms: u64,
    /// Whether the host's revision of MCP has structured content.
    pub(super) has_structure: bool,
}

impl<'a> ToolCall<'a> {
    /// Sends the call's progress, if the host requested it.
    pub(super) fn progress(&self) -> Progress<'a> {
        Progress::new(&self.context.peer, self.context.meta.get_progress_token())
    }

    /// The service's context of the call. Records its class in the call's span.
    pub(super) fn request(
        &self,
        class: Class,
        budget: Option<Budget>,
    ) -> ingle_service::request::RequestContext {
        Span::current().record("class", class.as_str());
        self.host.request(self.id, class, budget)
    }

    /// What the result of work depends on.
    pub(super) fn tool_context(&self) -> ToolContext<'a> {
        let work_ms = self.host.service.work_timeouts().work_ms(Class::Workflow);
        let revision = self.context.protocol_version();
        ToolContext {
            tool: self.tool,
            wait_ms: self.host.timeout.limit_ms().min(work_ms),
            has_structure: revision
                .is_none_or(|revision| revision >= ProtocolVersion::V_2025_06_18),
        }
    }

    /// Checks the length of the call's texts, and returns it in characters. It is checked before
    /// any work, so that a host that sends a whole source tree gets an error at once.
    pub(super) fn check_length<'b>(
        &self,
        texts: impl IntoIterator<Item = &'b str>,
    ) -> Result<usize, ErrorBody> {
        let limit = self.host.settings.prompt_chars;
        let characters = texts.into_iter().map(|text| text.chars().count()).sum();
        if characters <= limit {
            return Ok(characters);
        }
        let message =
            format!("the call has {characters} characters of text, and the limit is {limit}");
        Err(ErrorBody::new(ErrorCode::InvalidParams, message)
            .with_remediation(
                "Shorten the text, or split the work into several calls. The user can raise \
                 `mcp.prompt_chars` in Ingle's config.toml.",
            )
            .with_details(json!({ "characters": characters, "limit": limit })))
    }
}
