//! Embeddings: `POST /v1/embeddings`.
//!
//! Owns the mapping between OpenAI's embeddings and `embed`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::embed::{EmbedInput, EmbedParams};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::api::Api;
use super::body::{Json, json_response};
use super::middleware::RequestId;
use super::problem::Problem;
use super::types::embeddings::{
    Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage, EncodingFormat, Numbers,
};
use super::types::input::Input;

/// Computes a vector for each text.
///
/// # Errors
/// A parameter that cannot be used, and what the service reports.
pub async fn create(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
    Json(request): Json<EmbeddingRequest>,
) -> Result<Response, Problem> {
    let cancel = CancellationToken::new();
    // When the client disconnects, this future is dropped, and the guard cancels the work.
    let _cancel_on_drop = cancel.clone().drop_guard();
    let context = api.context(&id.0, Class::Embeddings, cancel);
    let model = request.model.filter(|model| !model.is_empty());
    let params = EmbedParams {
        model,
        input: inputs(request.input)?,
        dimensions: request.dimensions,
        ..EmbedParams::default()
    };
    let result = api.service.embed(params, &context).await?;
    Span::current().record("model", result.model.as_str());
    let format = request.encoding_format.unwrap_or_default();
    let data = result.embeddings.into_iter().enumerate();
    let data = data.map(|(index, numbers)| Embedding {
        object: "embedding",
        index,
        embedding: encoded(numbers, format),
    });
    let tokens = result.usage.prompt_tokens;
    Ok(json_response(&EmbeddingList {
        object: "list",
        data: data.collect(),
        model: result.model,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    })?)
}

/// The texts of a request. Token ids are refused: clients that send them (LangChain does by
/// default) use OpenAI's vocabulary, in which the same ids stand for other text.
fn inputs(input: Input) -> Result<Vec<EmbedInput>, ErrorBody> {
    match input {
        Input::Text(text) => Ok(vec![EmbedInput::Text(text)]),
        Input::Texts(texts) => Ok(texts.into_iter().map(EmbedInput::Text).collect()),
        Input::Tokens(_) | Input::TokenLists(_) => {
            let error = ErrorBody::invalid(
                "input",
                "has token ids; it must be a string or an array of strings",
            );
            Err(error.with_remediation(
                "Send the texts themselves; with LangChain, create OpenAIEmbeddings with \
                 `check_embedding_ctx_length=False`. The RPC method `embed` takes tokens of the \
                 model's own vocabulary.",
            ))
        }
    }
}

fn encoded(numbers: Vec<f32>, format: EncodingFormat) -> Numbers {
    match format {
        EncodingFormat::Float => Numbers::Float(numbers),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            Numbers::Base64(STANDARD.encode(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_encodes_little_endian_floats() {
        let numbers = vec![1.0, -0.5];
        let expected = Numbers::Base64("AACAPwAAAL8=".to_owned());
        assert_eq!(encoded(numbers, EncodingFormat::Base64), expected);
    }
}
