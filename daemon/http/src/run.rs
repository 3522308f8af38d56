//! From parameters to generations under way, and their results.
//!
//! Owns what chat and completions do alike: starting one generation a prompt, all of them within the
//! request's one deadline. Knows nothing of how they are shown.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::{GenerateParams, GenerateResult};
use serde::Serialize;

use super::Edge;
use ingle_service::generation::Generation;
use ingle_service::request::RequestContext;

/// The generations of one request. Dropping it cancels them.
#[derive(Debug)]
pub(super) struct Started {
    /// The model's name.
    pub(super) model: String,
    /// One a prompt, in their order; at least one.
    pub(super) generations: Vec<Generation>,
}

impl Edge {
    /// Starts a generation for each of `all`, which differ in their prompts only. They share the
    /// request's deadline; one that ends early ends no other.
    pub(super) async fn start(
        &self,
        context: &RequestContext,
        all: Vec<GenerateParams>,
    ) -> Result<Started, ErrorBody> {
        let mut started = Started { model: String::new(), generations: Vec::new() };
        for params in all {
            let cancel = context.cancel.child_token();
            let context = RequestContext { cancel, ..context.clone() };
            let generation = self.service.generate(params, context).await?;
            if started.generations.is_empty() {
                generation.model().clone_into(&mut started.model);
            }
            started.generations.push(generation);
        }
        Ok(started)
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
