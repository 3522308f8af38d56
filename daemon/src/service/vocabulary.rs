//! What single tokens say.
//!
//! Owns the way from a token id to its bytes, for edges that show tokens as text. Knows nothing of
//! how they are shown.

use std::sync::Arc;

use ingle_protocol::error::ErrorBody;

use super::Service;
use super::models::OpenModel;
use crate::request::RequestContext;

/// A model's tokens.
#[derive(Debug, Clone)]
pub struct Vocabulary(Arc<OpenModel>);

impl Vocabulary {
    /// The exact bytes of a token, which need not be whole characters; empty for special tokens.
    #[must_use]
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        self.0.text.tokenizer.token_bytes(token).unwrap_or_default().into_owned()
    }
}

impl Service {
    /// The tokens of a model, the default one for `None`.
    ///
    /// # Errors
    /// What opening the model reports; `TIMEOUT` at the daemon's limit.
    pub async fn vocabulary(
        &self,
        model: Option<&str>,
        context: &RequestContext,
    ) -> Result<Vocabulary, ErrorBody> {
        let open = self.in_time("opening the model", context, self.open(model, None)).await?;
        Ok(Vocabulary(open))
    }
}
