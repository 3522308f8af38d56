//! `[mcp]` of `config.toml`.

use ingle_protocol::limits;
use serde::Deserialize;

/// Settings of the MCP edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct McpConfig {
    /// Characters of what one call of a tool may give a model to read.
    pub prompt_chars: usize,
}

impl Default for McpConfig {
    fn default() -> Self {
        Self { prompt_chars: limits::TOOL_PROMPT_CHARS }
    }
}

/// `[mcp]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct McpTable {
    prompt_chars: Option<usize>,
}

impl McpTable {
    /// The settings, checked.
    pub(super) fn settings(&self) -> Result<McpConfig, String> {
        let prompt_chars = self.prompt_chars.unwrap_or(limits::TOOL_PROMPT_CHARS);
        let most = limits::MAX_TOOL_PROMPT_CHARS;
        if !(1..=most).contains(&prompt_chars) {
            return Err(format!(
                "mcp.prompt_chars is {prompt_chars}; it must be from 1 to {most} characters"
            ));
        }
        Ok(McpConfig { prompt_chars })
    }
}
