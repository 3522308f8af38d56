//! Text layer: tokenizers, chat templates, tool calls, constraints and stop strings.
//!
//! Owns everything between a request's strings and the engine's token ids. Does not know engines,
//! connections or clocks. All types are `Send + Sync` and run off the engine thread, except
//! [`output::TextOutput`], which the scheduler feeds one token at a time.
//!
//! Into the model: [`chat`] renders messages with a [`chat_template`], [`fim`] orders the parts of a
//! text with a gap, and a [`tokenizer`] encodes the text ([`gguf_vocab`] and [`hf_text`] build it from a
//! model's files). Out of the model: [`detokenize`] gives text, [`stop`] finds stop strings,
//! [`response_parser`] splits the text into reasoning ([`reasoning`]), tool calls ([`tool_calls`]) and
//! content, and a [`constraint`] limits the tokens that may come next.

pub mod bpe;
pub mod chat;
pub mod chat_template;
pub mod constraint;
pub mod detokenize;
pub mod error;
pub mod fim;
pub mod gguf_vocab;
pub mod hf_text;
pub mod limits;
pub mod output;
mod pretokenize;
pub mod reasoning;
pub mod response_parser;
pub mod stop;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tokenizer;
pub mod tool_calls;

use std::sync::Arc;

use chat::Chat;
use chat_template::ChatTemplate;
use ingle_protocol::wire::chat::Message;
use tokenizer::{ByteTokenizer, SpecialTokens, Tokenizer};

pub use error::TextError;
pub use fim::FimTokens;

/// The template of ChatML, which [`TextModel::bytes`] uses.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The text side of a model. Cheap to clone.
#[derive(Clone)]
pub struct TextModel {
    /// Converts strings to token ids and back.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Converts messages to a prompt; absent in base models.
    pub chat_template: Option<Arc<ChatTemplate>>,
    /// The token at the beginning of a text.
    pub bos: Option<u32>,
    /// The tokens that end a generation, without duplicates.
    pub eos: Vec<u32>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: bool,
    /// The tokens of fill-in-the-middle, in models with that training.
    pub fim: Option<FimTokens>,
}

impl TextModel {
    /// A text model for the simulated engine: every byte is a token.
    #[must_use]
    pub fn bytes() -> Self {
        Self {
            tokenizer: Arc::new(ByteTokenizer),
            chat_template: Some(Arc::new(ChatTemplate::new(CHATML, "", ""))),
            bos: Some(ByteTokenizer::BOS),
            eos: vec![ByteTokenizer::EOS],
            add_bos: false,
            fim: None,
        }
    }

    /// A text model for a simulated model, with its own chat template and fill-in-the-middle or without.
    #[must_use]
    pub fn simulated(chat_template: Option<&str>, fills_gaps: bool) -> Self {
        let fim = FimTokens { prefix: 1, suffix: 2, middle: Some(3), ends: vec![1, 2, 3] };
        let template = ChatTemplate::new(chat_template.unwrap_or(CHATML), "", "");
        Self {
            chat_template: Some(Arc::new(template)),
            fim: fills_gaps.then_some(fim),
            ..Self::bytes()
        }
    }

    /// The token ids of a raw prompt. Names of special tokens in it are parsed, as in llama.cpp's server.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.tokenizer.encode(prompt, SpecialTokens::Parse)?;
        // Many templates write the token themselves. It must not appear twice.
        if let Some(bos) = self.bos
            && self.add_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The token ids of a conversation without tools, up to the beginning of the assistant's message.
    ///
    /// `unix_time_s` is the current time, for templates that contain today's date.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], the template's errors and [`TextError::Encode`].
    pub fn encode_chat(
        &self,
        messages: &[Message],
        unix_time_s: i64,
    ) -> Result<Vec<u32>, TextError> {
        let chat = Chat { messages: messages.to_vec(), unix_time_s, ..Chat::default() };
        Ok(self.chat_prompt(&chat)?.tokens)
    }
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextModel")
            .field("vocab_size", &self.tokenizer.vocab_size())
            .field("chat_template", &self.chat_template.is_some())
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .field("add_bos", &self.add_bos)
            .field("fim", &self.fim)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bos_is_added_once() {
        let model = TextModel { add_bos: true, ..TextModel::bytes() };
        assert_eq!(model.encode_prompt("a").unwrap(), [256, 97]);
        assert_eq!(TextModel::bytes().encode_prompt("a").unwrap(), [97]);
    }

    #[test]
    fn byte_model_renders_chatml() {
        let messages = [Message::new("user", "hi")];
        let ids = TextModel::bytes().encode_chat(&messages, 0).unwrap();
        assert_eq!(
            TextModel::bytes().tokenizer.decode(&ids).unwrap(),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn messages_without_template_are_refused() {
        let model = TextModel { chat_template: None, ..TextModel::bytes() };
        assert_eq!(model.encode_chat(&[], 0), Err(TextError::NoChatTemplate));
    }
}
