//! `POST /v1/embeddings`.
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

use super::Edge;
use super::body::Json;
use super::gate::Asked;
use super::problem::Problem;
use super::run::answer;
use super::types::embeddings::{
    Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage, EncodingFormat, Numbers,
};
use super::types::input::Input;

/// Turns texts into vectors.
///
/// # Errors
/// What is wrong with the request, and what the service reports.
pub async fn create(
    State(edge): State<Arc<Edge>>,
    Extension(asked): Extension<Asked>,
    Json(request): Json<EmbeddingRequest>,
) -> Result<Response, Problem> {
    let cancel = CancellationToken::new();
    // Whoever goes drops this future, and ends the work with it.
    let _cancel_on_drop = cancel.clone().drop_guard();
    let context = edge.context(&asked.id, Class::Embeddings, cancel);
    let model = request.model.filter(|model| !model.is_empty());
    let params = EmbedParams {
        model,
        input: inputs(request.input)?,
        dimensions: request.dimensions,
        ..EmbedParams::default()
    };
    let result = edge.service.embed(params, &context).await?;
    let format = request.encoding_format.unwrap_or_default();
    let data = result.embeddings.into_iter().enumerate();
    let data = data.map(|(index, numbers)| Embedding {
        object: "embedding",
        index,
        embedding: encoded(numbers, format),
    });
    let tokens = result.usage.prompt_tokens;
    Ok(answer(&EmbeddingList {
        object: "list",
        data: data.collect(),
        model: result.model,
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    })?)
}

/// The texts. Clients that send tokens (LangChain does so unless it is told not to) send those of
/// OpenAI's vocabulary, which are tokens of any other model as well: of another text.
fn inputs(input: Input) -> Result<Vec<EmbedInput>, ErrorBody> {
    match input {
        Input::Text(text) => Ok(vec![EmbedInput::Text(text)]),
        Input::Texts(texts) => Ok(texts.into_iter().map(EmbedInput::Text).collect()),
        Input::Tokens(_) | Input::TokenLists(_) => {
            let error = ErrorBody::invalid("input", "has token ids; it must be a text, or several");
            Err(error.with_remediation(
                "Send the texts themselves; with LangChain, make OpenAIEmbeddings with \
                 `check_embedding_ctx_length=False`. Tokens of the model's own vocabulary can be \
                 given to the RPC method `embed`.",
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
    fn base64_is_of_little_endian_floats() {
        let numbers = vec![1.0, -0.5];
        let expected = Numbers::Base64("AACAPwAAAL8=".to_owned());
        assert_eq!(encoded(numbers, EncodingFormat::Base64), expected);
    }
}
