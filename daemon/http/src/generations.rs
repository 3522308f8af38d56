//! The generations of one request, and their results.
//!
//! Owns what chat and completions share: one generation per prompt, all within the request's one
//! deadline. Does not know response types.

use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::generate::{GenerateParams, GenerateResult};
use ingle_service::generation::Generation;
use ingle_service::request::RequestContext;
use tracing::Span;

use super::api::Api;

/// The running generations of one request. Dropping it cancels them.
#[derive(Debug)]
pub(super) struct Generations {
    /// The model's name.
    pub(super) model: String,
    /// One per prompt, in the order of the prompts; at least one.
    pub(super) running: Vec<Generation>,
}

impl Api {
    /// Starts a generation for each of `all`, which differ in their prompts only. They share the
    /// request's deadline. The end of one does not end the others.
    pub(super) async fn start(
        &self,
        context: &RequestContext,
        all: Vec<GenerateParams>,
    ) -> Result<Generations, ErrorBody> {
        let mut generations = Generations { model: String::new(), running: Vec::new() };
        for params in all {
            let cancel = context.cancel.child_token();
            let context = RequestContext { cancel, ..context.clone() };
            let generation = self.service.generate(params, context).await?;
            if generations.running.is_empty() {
                Span::current().record("model", generation.model());
                generation.model().clone_into(&mut generations.model);
            }
            generations.running.push(generation);
        }
        Ok(generations)
    }
}

impl Generations {
    /// All results, in the order of the prompts.
    pub(super) async fn results(self) -> Result<Vec<GenerateResult>, ErrorBody> {
        let mut results = Vec::with_capacity(self.running.len());
        for generation in self.running {
            results.push(generation.finish().await?.1);
        }
        Ok(results)
    }
}
