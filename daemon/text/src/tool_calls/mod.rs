//! How models write tool calls: which format a model speaks, and reading calls out of its text.
//!
//! Owns the formats. Knows nothing of tokens, requests or events. Which format a model speaks follows
//! from its chat template. One whose template knows no tools, or writes calls in a way that is not
//! known here, is shown them in words, and answers in the format of Hermes ([`plain`]).
//!
//! Sources: the chat templates of Qwen 2.5 and 3 and Hermes 2 Pro (`<tool_call>`), Llama 3.1 and 3.2
//! (`<|python_tag|>`, or the bare object), Mistral v3 to v13 (`[TOOL_CALLS]`, later with `[ARGS]`).

mod envelope;
pub mod grammar;
mod parser;
pub mod plain;
#[cfg(test)]
mod tests;

use crate::limits;

use super::chat_template::ChatTemplate;

pub use parser::{ToolParser, ToolPart};

/// How a model writes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`.
    Hermes,
    /// `{"name": …, "parameters": …}`, behind `<|python_tag|>` or nothing.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`.
    MistralList,
    /// `[TOOL_CALLS]name[ARGS]{…}`.
    MistralNamed,
}

/// A model's way with tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolStyle {
    /// How it writes calls.
    pub format: ToolFormat,
    /// Whether its template shows it the tools; otherwise [`plain`] does.
    pub is_native: bool,
}

impl ToolStyle {
    /// The way of the model with this template.
    #[must_use]
    pub fn of(template: &ChatTemplate) -> Self {
        let has = |text: &str| template.source().contains(text);
        let format = if has("[TOOL_CALLS]") {
            let is_named = has("[ARGS]");
            Some(if is_named { ToolFormat::MistralNamed } else { ToolFormat::MistralList })
        } else if has("<|python_tag|>") || (has("<|start_header_id|>") && has("\"parameters\": ")) {
            Some(ToolFormat::Llama3)
        } else if has("<tool_call>") && !has("<function=") && !has("<arg_key>") {
            // Without the dialects that write arguments as tags.
            Some(ToolFormat::Hermes)
        } else {
            None
        };
        match format {
            Some(format) if template.names("tools") => Self { format, is_native: true },
            _ => Self { format: ToolFormat::Hermes, is_native: false },
        }
    }
}

impl ToolFormat {
    /// What begins a call in the midst of text.
    fn opener(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama3 => "<|python_tag|>",
            Self::MistralList | Self::MistralNamed => "[TOOL_CALLS]",
        }
    }

    /// What may stand behind a call, and says nothing.
    fn closer(self) -> Option<&'static str> {
        (self == Self::Hermes).then_some("</tool_call>")
    }

    /// Whether an answer that begins with the object of a call is one.
    fn may_be_bare(self) -> bool {
        matches!(self, Self::Hermes | Self::Llama3)
    }

    /// The tags that may be special tokens of a vocabulary, which have no text of their own.
    #[must_use]
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", "</tool_call>"],
            Self::Llama3 => &["<|python_tag|>"],
            Self::MistralList | Self::MistralNamed => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
        }
    }
}

/// Whether a tool can have this name.
#[must_use]
pub fn is_tool_name(name: &str) -> bool {
    (1..=limits::TOOL_NAME_CHARS).contains(&name.len()) && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
