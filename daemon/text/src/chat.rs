//! Chat prompts: renders a conversation with its tools.
//!
//! Owns the input of the chat template, and the fallback for templates without tools. Does not know
//! requests.

use ingle_protocol::wire::chat::{Message, Tool};
use serde_json::{Map, Value};

use super::chat_template::ChatInput;
use super::tokenizer::SpecialTokens;
use super::tool_calls::tool_prompt::{self, Placement};
use super::tool_calls::{ToolFormat, ToolStyle};
use super::{TextError, TextModel, reasoning};

/// Length of a call's id in Mistral's templates, which refuse any other.
const MISTRAL_ID_CHARS: usize = 9;

/// The template variable that turns reasoning off in models of Qwen and others.
const ENABLE_THINKING: &str = "enable_thinking";

/// A conversation to be continued by the assistant.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// The messages so far.
    pub messages: Vec<Message>,
    /// The tools that the model may call.
    pub tools: Vec<Tool>,
    /// Template options.
    pub options: Map<String, Value>,
    /// Whether the response starts without reasoning, because its format does not allow any.
    pub skips_reasoning: bool,
    /// The current time, for templates that contain today's date.
    pub unix_time_s: i64,
}

/// The prompt of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The token ids.
    pub tokens: Vec<u32>,
    /// The tag that ends the reasoning, if the prompt has opened it.
    pub reasoning_end: Option<&'static str>,
}

impl TextModel {
    /// The model's format of tool calls; `None` without a chat template.
    #[must_use]
    pub fn tool_style(&self) -> Option<ToolStyle> {
        self.chat_template.as_deref().map(ToolStyle::of)
    }

    /// The id of a tag that is a special token of this vocabulary, and therefore has no text.
    #[must_use]
    pub fn special_id(&self, name: &str) -> Option<u32> {
        let ids = self.tokenizer.encode(name, SpecialTokens::Parse).ok()?;
        match ids.as_slice() {
            [id] if self.tokenizer.is_special(*id) => Some(*id),
            _ => None,
        }
    }

    /// The prompt of a conversation, up to the beginning of the assistant's message.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], the template's errors and [`TextError::Encode`].
    pub fn chat_prompt(&self, chat: &Chat) -> Result<ChatPrompt, TextError> {
        let mut prompt = self.render(chat)?;
        if chat.skips_reasoning
            && let Some(closing) = reasoning::empty_section_end(&prompt)
        {
            prompt.push_str(&closing);
        }
        let reasoning_end = reasoning::open_section_end(&prompt);
        Ok(ChatPrompt { tokens: self.encode_prompt(&prompt)?, reasoning_end })
    }

    fn render(&self, chat: &Chat) -> Result<String, TextError> {
        let template = self.chat_template.as_ref().ok_or(TextError::NoChatTemplate)?;
        let mut options = chat.options.clone();
        if chat.skips_reasoning && !options.contains_key(ENABLE_THINKING) {
            options.insert(ENABLE_THINKING.to_owned(), Value::Bool(false));
        }
        let render = |messages: &[Message], tools: &[Tool]| {
            template.render(&ChatInput {
                messages,
                tools,
                options: &options,
                add_generation_prompt: true,
                unix_time_s: chat.unix_time_s,
            })
        };
        let involves_tools =
            |message: &Message| message.role == "tool" || !message.tool_calls.is_empty();
        if chat.tools.is_empty() && !chat.messages.iter().any(involves_tools) {
            return render(&chat.messages, &[]);
        }
        let style = ToolStyle::of(template);
        if style.is_native {
            return match style.format {
                ToolFormat::MistralList | ToolFormat::MistralNamed => {
                    render(&with_mistral_ids(&chat.messages), &chat.tools)
                }
                _ => render(&chat.messages, &chat.tools),
            };
        }
        let with_tools = |placement| {
            render(&tool_prompt::conversation(&chat.messages, &chat.tools, placement), &[])
        };
        let has_system = chat.messages.first().is_some_and(|first| first.role == "system");
        match with_tools(Placement::System) {
            // Some templates refuse system messages.
            Err(TextError::ChatTemplate(problem)) if !has_system => {
                with_tools(Placement::User).map_err(|_| TextError::ChatTemplate(problem))
            }
            prompt => prompt,
        }
    }
}

/// The messages with call ids for Mistral's templates: nine letters and digits.
fn with_mistral_ids(messages: &[Message]) -> Vec<Message> {
    let mut messages = messages.to_vec();
    for message in &mut messages {
        let calls = message.tool_calls.iter_mut().map(|call| &mut call.id);
        for id in calls.chain(&mut message.tool_call_id) {
            let fits =
                id.len() == MISTRAL_ID_CHARS && id.bytes().all(|b| b.is_ascii_alphanumeric());
            if !fits {
                *id = mistral_id(id);
            }
        }
    }
    messages
}

/// Nine letters and digits that replace `id` in all of its places.
fn mistral_id(id: &str) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    // FNV-1a: a conversation has few ids, and a collision gives an attacker no advantage.
    let mut hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..MISTRAL_ID_CHARS)
        .map(|_| {
            let digit = DIGITS[usize::try_from(hash % 32).unwrap_or(0)];
            hash /= 32;
            char::from(digit)
        })
        .collect()
}
