//! Text on its way in and out of token ids: tokenizers, chat templates, stop sequences.
//!
//! Owns everything between a request's strings and the engine's token ids. Knows nothing of
//! engines, connections or clocks; all of it is `Send + Sync` and runs off the engine thread,
//! except [`output::TextOutput`], which the worker feeds one token at a time.

pub mod bpe;
pub mod calendar;
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

/// ChatML, which [`TextModel::bytes`] speaks.
const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Everything a model knows of text. Cheap to clone.
#[derive(Clone)]
pub struct TextModel {
    /// Strings to token ids and back.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Messages to a prompt; absent in base models.
    pub chat_template: Option<Arc<ChatTemplate>>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a generation, without duplicates.
    pub eos: Vec<u32>,
    /// Whether a prompt begins with `bos`.
    pub add_bos: bool,
    /// The tokens of fill-in-the-middle, in models that were trained for it.
    pub fim: Option<FimTokens>,
}

impl TextModel {
    /// A text model without a vocabulary: every byte is a token. For the simulated engine.
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

    /// The same for a simulated model with a chat template of its own, and one that fills gaps or not.
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

    /// The token ids of a raw prompt. Special tokens written out in it are parsed, as llama.cpp's
    /// server does.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn encode_prompt(&self, prompt: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.tokenizer.encode(prompt, SpecialTokens::Parse)?;
        // Many templates write the token themselves; it must not stand there twice.
        if let Some(bos) = self.bos
            && self.add_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The token ids of a conversation without tools, up to where the assistant's answer begins.
    /// `unix_time_s` is the time a template that asks for today's date is given.
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
    fn the_byte_model_renders_chatml() {
        let messages = [Message::new("user", "hi")];
        let ids = TextModel::bytes().encode_chat(&messages, 0).unwrap();
        assert_eq!(
            TextModel::bytes().tokenizer.decode(&ids).unwrap(),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn messages_without_a_template_are_refused() {
        let model = TextModel { chat_template: None, ..TextModel::bytes() };
        assert_eq!(model.encode_chat(&[], 0), Err(TextError::NoChatTemplate));
    }
}
