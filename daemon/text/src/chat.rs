//! A conversation with its tools, as a prompt.
//!
//! Owns what a template is told, and what is done for a template that cannot be told it. Knows nothing
//! of requests.

use ingle_protocol::wire::chat::{Message, Tool};
use serde_json::{Map, Value};

use super::chat_template::ChatInput;
use super::tokenizer::SpecialTokens;
use super::tool_calls::plain::{self, Place};
use super::tool_calls::{ToolFormat, ToolStyle};
use super::{TextError, TextModel, reasoning};

/// Characters of a call's id in Mistral's templates, which refuse all others.
const MISTRAL_ID_CHARS: usize = 9;

/// The template variable by which Qwen's and others' models are told not to think.
const ENABLE_THINKING: &str = "enable_thinking";

/// A conversation that waits for an answer.
#[derive(Debug, Clone, Default)]
pub struct Chat {
    /// What has been said.
    pub messages: Vec<Message>,
    /// The tools that may be called.
    pub tools: Vec<Tool>,
    /// Variables of the template's own.
    pub options: Map<String, Value>,
    /// Whether the answer must begin at once, because its form leaves no room for thoughts.
    pub skips_reasoning: bool,
    /// What a template that asks for today's date is given.
    pub unix_time_s: i64,
}

/// The prompt of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPrompt {
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// What ends the thought that it ends inside of, if it does.
    pub reasoning_end: Option<&'static str>,
}

impl TextModel {
    /// The model's way with tools; `None` without a chat template.
    #[must_use]
    pub fn tool_style(&self) -> Option<ToolStyle> {
        self.chat_template.as_deref().map(ToolStyle::of)
    }

    /// The id of a tag that is a special token of this vocabulary, and so has no text.
    #[must_use]
    pub fn special_id(&self, name: &str) -> Option<u32> {
        let ids = self.tokenizer.encode(name, SpecialTokens::Parse).ok()?;
        match ids.as_slice() {
            [id] if self.tokenizer.is_special(*id) => Some(*id),
            _ => None,
        }
    }

    /// The prompt of a conversation, up to where the assistant's answer begins.
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
        let speaks_of_tools =
            |message: &Message| message.role == "tool" || !message.tool_calls.is_empty();
        if chat.tools.is_empty() && !chat.messages.iter().any(speaks_of_tools) {
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
        let told = |place| render(&plain::conversation(&chat.messages, &chat.tools, place), &[]);
        let has_system = chat.messages.first().is_some_and(|first| first.role == "system");
        match told(Place::System) {
            // Some templates refuse system messages.
            Err(TextError::ChatTemplate(problem)) if !has_system => {
                told(Place::User).map_err(|_| TextError::ChatTemplate(problem))
            }
            prompt => prompt,
        }
    }
}

/// The messages with the ids of calls as Mistral's templates want them: nine letters and digits.
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

/// Nine letters and digits that stand for `id` wherever it stands.
fn mistral_id(id: &str) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    // FNV-1a: the ids of one conversation are few, and nobody gains from two that collide.
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
