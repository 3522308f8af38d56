//! Tool calls: the formats of models, and the parser that finds calls in a model's text.
//!
//! Owns the formats. Does not know tokens, requests or events. A model's format follows from its chat
//! template. If the template has no tools, or an unknown format of calls, the prompt describes the
//! tools in plain text and the model answers in the format of Hermes ([`tool_prompt`]).
//!
//! Sources: the chat templates of Qwen 2.5 and 3 and Hermes 2 Pro (`<tool_call>`), Llama 3.1 and 3.2
//! (`<|python_tag|>`, or the bare object), Mistral v3 to v13 (`[TOOL_CALLS]`, later with `[ARGS]`).

mod envelope;
pub mod grammar;
mod parser;
#[cfg(test)]
mod tests;
pub mod tool_prompt;

use crate::limits;

use super::chat_template::ChatTemplate;

pub use parser::{ToolParser, ToolPart};

/// Format of tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`.
    Hermes,
    /// `{"name": …, "parameters": …}`, after `<|python_tag|>` or without a tag.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": …}]`.
    MistralList,
    /// `[TOOL_CALLS]name[ARGS]{…}`.
    MistralNamed,
}

/// Tool support of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolStyle {
    /// The format of calls.
    pub format: ToolFormat,
    /// Whether the chat template describes the tools; otherwise [`tool_prompt`] does.
    pub is_native: bool,
}

impl ToolStyle {
    /// The tool support of the model with this template.
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
            Some(format) if template.mentions("tools") => Self { format, is_native: true },
            _ => Self { format: ToolFormat::Hermes, is_native: false },
        }
    }
}

impl ToolFormat {
    /// The tag that begins a call inside of text.
    fn opener(self) -> &'static str {
        match self {
            Self::Hermes => "<tool_call>",
            Self::Llama3 => "<|python_tag|>",
            Self::MistralList | Self::MistralNamed => "[TOOL_CALLS]",
        }
    }

    /// The tag that may follow a call, without meaning of its own.
    fn closer(self) -> Option<&'static str> {
        (self == Self::Hermes).then_some("</tool_call>")
    }

    /// Whether a response that begins with the object of a call, without a tag, is a call.
    fn may_be_bare(self) -> bool {
        matches!(self, Self::Hermes | Self::Llama3)
    }

    /// The tags that may be special tokens of a vocabulary, which have no text.
    #[must_use]
    pub fn markers(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>", "</tool_call>"],
            Self::Llama3 => &["<|python_tag|>"],
            Self::MistralList | Self::MistralNamed => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
        }
    }
}

/// Whether the name is valid for a tool.
#[must_use]
pub fn is_tool_name(name: &str) -> bool {
    (1..=limits::TOOL_NAME_CHARS).contains(&name.len()) && name.bytes().all(is_name_byte)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
