//! From parameters to generations under way, and their results.
//!
//! Owns what chat and completions do alike: starting one generation a prompt, and reading texts that
//! were given as tokens. Knows nothing of how either is shown.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::{GenerateParams, GenerateResult};
use ingle_protocol::wire::tokens::DetokenizeParams;
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Edge;
use super::types::completions::Input;
use crate::request::RequestContext;
use crate::service::generate::Generation;

/// The generations of one request. Dropping it cancels them.
#[derive(Debug)]
pub(super) struct Started {
    /// The model's name.
    pub(super) model: String,
    /// One a prompt, in their order; at least one.
    pub(super) generations: Vec<Generation>,
}

impl Edge {
    /// Starts a generation for each of `all`, which differ in their prompts only.
    pub(super) async fn start(
        &self,
        id: &str,
        all: Vec<GenerateParams>,
    ) -> Result<Started, ErrorBody> {
        let mut started = Started { model: String::new(), generations: Vec::new() };
        for params in all {
            let context = self.context(id, params.class(), CancellationToken::new());
            let generation = self.service.generate(params, context).await?;
            if started.generations.is_empty() {
                generation.model().clone_into(&mut started.model);
            }
            started.generations.push(generation);
        }
        Ok(started)
    }

    /// The texts of an input; `field` is where it stood.
    pub(super) async fn texts(
        &self,
        field: &str,
        model: Option<&String>,
        input: Input,
        context: &RequestContext,
    ) -> Result<Vec<String>, ErrorBody> {
        let lists = match input {
            Input::Text(text) => return Ok(vec![text]),
            Input::Texts(texts) => return Ok(texts),
            Input::Tokens(tokens) => vec![tokens],
            Input::TokenLists(lists) => lists,
        };
        let mut texts = Vec::with_capacity(lists.len());
        for tokens in lists {
            let params = DetokenizeParams { model: model.cloned(), engine: None, tokens };
            let text = self.service.detokenize(params, context).await.map_err(|error| {
                if error.code == ErrorCode::InvalidParams && error.details.is_null() {
                    error.with_details(json!({ "field": field }))
                } else {
                    error
                }
            })?;
            texts.push(text.text);
        }
        Ok(texts)
    }
}

impl Started {
    /// All results, in the order of the prompts.
    pub(super) async fn results(self) -> Result<Vec<GenerateResult>, ErrorBody> {
        let mut results = Vec::with_capacity(self.generations.len());
        for generation in self.generations {
            results.push(generation.finish().await?.1);
        }
        Ok(results)
    }
}

/// A JSON answer.
pub(super) fn answer<T: Serialize>(value: &T) -> Result<Response, ErrorBody> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
