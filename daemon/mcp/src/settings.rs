//! Settings of the MCP edge.

use crate::limits;

/// Settings of the MCP edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct McpSettings {
    /// Characters of what one call of a tool may give a model to read.
    pub prompt_chars: usize,
}

impl Default for McpSettings {
    fn default() -> Self {
        Self { prompt_chars: limits::TOOL_PROMPT_CHARS }
    }
}
