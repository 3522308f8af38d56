//! Tokenize and detokenize.
//!
//! Owns the two calls; `prompt` encodes, the model's tokenizer decodes.

use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::tokens::{
    DetokenizeParams, DetokenizeResult, TokenizeParams, TokenizeResult,
};

use crate::blocking::blocking;
use crate::prompt::PromptInput;
use crate::request::RequestContext;
use crate::service::Service;
use crate::validate::one_of;

impl Service {
    /// Encodes a text, or messages, as token ids.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter, or the error of opening the model.
    pub async fn tokenize(
        &self,
        params: TokenizeParams,
        context: &RequestContext,
    ) -> Result<TokenizeResult, ErrorBody> {
        let TokenizeParams { model, engine, text, messages } = params;
        one_of("text", text.is_some(), messages.is_some())?;
        let work = async {
            let open = self.open(model.as_deref(), engine).await?;
            PromptInput::of_text(messages, text).prepare(open).await
        };
        let (open, prompt) = self.engine_step("tokenizing", context, work).await?;
        Ok(TokenizeResult { model: open.engine.name.clone(), tokens: prompt.tokens })
    }

    /// Decodes token ids as text.
    ///
    /// # Errors
    /// `INVALID_PARAMS` for an id that is not in the vocabulary.
    pub async fn detokenize(
        &self,
        params: DetokenizeParams,
        context: &RequestContext,
    ) -> Result<DetokenizeResult, ErrorBody> {
        let work = async {
            let open = self.open(params.model.as_deref(), params.engine).await?;
            blocking(move || {
                let text = open.text.tokenizer.decode(&params.tokens)?;
                Ok(DetokenizeResult { model: open.engine.name.clone(), text })
            })
            .await
        };
        self.engine_step("detokenizing", context, work).await
    }
}
