//! `[mcp]` of `config.toml`.

use crate::limits;
use ingle_mcp::settings::McpSettings;
use serde::Deserialize;

/// `[mcp]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct McpTable {
    prompt_chars: Option<usize>,
}

impl McpTable {
    /// The settings, checked.
    pub(super) fn settings(&self) -> Result<McpSettings, String> {
        let prompt_chars = self.prompt_chars.unwrap_or(limits::TOOL_PROMPT_CHARS);
        let most = limits::MAX_TOOL_PROMPT_CHARS;
        if !(1..=most).contains(&prompt_chars) {
            return Err(format!(
                "mcp.prompt_chars is {prompt_chars}; it must be from 1 to {most} characters"
            ));
        }
        Ok(McpSettings { prompt_chars })
    }
}
