//! Settings of MCP.

use crate::limits;

/// Settings of MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct McpSettings {
    /// Characters of input text per tool call.
    pub prompt_chars: usize,
}

impl Default for McpSettings {
    fn default() -> Self {
        Self { prompt_chars: limits::TOOL_PROMPT_CHARS }
    }
}
