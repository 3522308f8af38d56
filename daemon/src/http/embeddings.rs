//! `POST /v1/embeddings`.
//!
//! Owns the mapping between OpenAI's embeddings and `embed`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::embed::EmbedParams;
use tokio_util::sync::CancellationToken;

use super::Edge;
use super::body::Json;
use super::gate::RequestId;
use super::problem::{Problem, invalid};
use super::run::answer;
use super::types::embeddings::{
    Embedding, EmbeddingList, EmbeddingRequest, EmbeddingUsage, EncodingFormat, Numbers,
};

/// Turns texts into vectors.
///
/// # Errors
/// What is wrong with the request, and what the service reports.
pub async fn create(
    State(edge): State<Arc<Edge>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Json(request): Json<EmbeddingRequest>,
) -> Result<Response, Problem> {
    let cancel = CancellationToken::new();
    // Whoever goes drops this future, and ends the work with it.
    let _cancel_on_drop = cancel.clone().drop_guard();
    let context = edge.context(&id, Class::Embeddings, cancel);
    let model = request.model.filter(|model| !model.is_empty());
    let input = edge.texts("input", model.as_ref(), request.input, &context).await?;
    let params = EmbedParams { model, engine: None, input, budget: None };
    let result = edge.service.embed(params, &context).await?;
    if request.dimensions.is_some_and(|dimensions| dimensions != result.dimensions) {
        let problem = format!("must be {} or absent for this model", result.dimensions);
        return Err(invalid("dimensions", &problem).into());
    }
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
