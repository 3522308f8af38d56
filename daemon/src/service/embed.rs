//! Embeddings: from a caller's texts to vectors.
//!
//! Owns validation, the texts' way through the tokenizer, and the daemon's own limit of 1.5 W. Every
//! accepted request ends in exactly one terminal event: its reply.

use std::sync::Arc;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::wire::embed::{EmbedParams, EmbedResult, EmbedUsage};
use serde_json::json;
use tokio::sync::oneshot;

use super::Service;
use super::models::{OpenModel, blocking};
use crate::engine::handle::{Command, EmbedRequest, EngineFailure};
use crate::engine::role::Role;
use crate::request::RequestContext;

impl Service {
    /// Turns texts into vectors of length 1.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter, what opening the model reports, `MODEL_UNSUPPORTED`
    /// when it is no embedding model, `CONTEXT_TOO_LONG`, or what the engine reports.
    pub async fn embed(
        &self,
        params: EmbedParams,
        context: &RequestContext,
    ) -> Result<EmbedResult, ErrorBody> {
        if self.draining.is_cancelled() {
            return Err(EngineFailure::ShuttingDown.into());
        }
        validate(&params.input)?;
        let EmbedParams { model, engine, input, .. } = params;
        let prepared = async {
            let open = self.open(model.as_deref(), engine).await?;
            blocking(move || tokenize(open, &input)).await
        };
        let (open, inputs) = self.in_time("preparing the texts", context, prepared).await?;
        let prompt_tokens = inputs.iter().map(Vec::len).sum();
        let (done, outcome) = oneshot::channel();
        let request = EmbedRequest {
            request_id: context.id.clone(),
            model: open.engine.clone(),
            inputs,
            deadline: context.deadline,
            cancel: context.cancel.clone(),
            done,
        };
        self.engine.send(Command::Embed(Box::new(request)))?;
        let embeddings = self.within_limit("embedding the texts", context, outcome).await?;
        Ok(EmbedResult {
            request_id: context.id.clone(),
            model: open.engine.name.clone(),
            dimensions: embeddings.first().map_or(0, Vec::len),
            embeddings,
            usage: EmbedUsage { prompt_tokens },
        })
    }
}

/// A model that generates must not be asked for vectors, and the other way round.
///
/// # Errors
/// `MODEL_UNSUPPORTED` naming what the model is for.
pub(super) fn check_role(open: &OpenModel, wanted: Role) -> Result<(), ErrorBody> {
    let name = &open.engine.name;
    let (message, next) = match (wanted, open.engine.role) {
        (Role::Embeds, Role::Generates) => (
            format!("the model `{name}` generates text; it gives no embeddings"),
            "Name an embedding model, such as a GGUF file of MiniLM, BGE or Nomic Embed.",
        ),
        (Role::Generates, Role::Embeds) => (
            format!("the model `{name}` gives embeddings; it generates no text"),
            "Use `ingle embed` (the method `embed`), or name a model that generates.",
        ),
        _ => return Ok(()),
    };
    Err(ErrorBody::new(ErrorCode::ModelUnsupported, message).with_remediation(next))
}

fn invalid(problem: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidParams, format!("`input` {problem}"))
        .with_details(json!({ "field": "input" }))
}

/// Checks what needs no model.
pub(crate) fn validate(input: &[String]) -> Result<(), ErrorBody> {
    if input.is_empty() || input.len() > limits::EMBED_INPUTS {
        return Err(invalid(&format!("must have 1 to {} texts", limits::EMBED_INPUTS)));
    }
    for (index, text) in input.iter().enumerate() {
        if text.is_empty() || text.len() > limits::EMBED_INPUT_BYTES {
            return Err(invalid(&format!(
                "has {} bytes in text {index}, expected 1 to {}",
                text.len(),
                limits::EMBED_INPUT_BYTES
            )));
        }
    }
    Ok(())
}

/// The texts' token ids, each short enough for the model.
fn tokenize(
    open: Arc<OpenModel>,
    input: &[String],
) -> Result<(Arc<OpenModel>, Vec<Vec<u32>>), ErrorBody> {
    check_role(&open, Role::Embeds)?;
    let mut inputs = Vec::with_capacity(input.len());
    for (index, text) in input.iter().enumerate() {
        let tokens = open.text.tokenizer.encode_whole(text)?;
        let (count, most) = (tokens.len(), open.context_tokens);
        if tokens.is_empty() {
            return Err(invalid(&format!("has no tokens in text {index}")));
        }
        if count > most {
            let message = format!("text {index} has {count} tokens and the model reads {most}");
            return Err(ErrorBody::new(ErrorCode::ContextTooLong, message)
                .with_details(json!({ "prompt_tokens": count, "context_tokens": most }))
                .with_remediation("Split the text into shorter ones."));
        }
        inputs.push(tokens);
    }
    Ok((open, inputs))
}
