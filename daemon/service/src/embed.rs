//! Embeddings: from a request's texts to vectors.
//!
//! Owns validation, tokenizing and truncation of the texts, and the check of a model's role. Every
//! accepted request ends in exactly one terminal event: its reply.

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::embed::{EmbedInput, EmbedParams, EmbedResult, EmbedUsage};
use serde_json::json;
use tokio::sync::oneshot;

use crate::blocking::blocking;
use crate::model_cache::OpenModel;
use crate::request::RequestContext;
use crate::service::Service;
use ingle_engine::role::Role;
use ingle_scheduler::command::{Command, EmbedRequest};
use ingle_scheduler::error::EngineFailure;

impl Service {
    /// Embeds texts into vectors of length 1.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter, what opening the model reports, `MODEL_UNSUPPORTED`
    /// when the model is no embedding model, `CONTEXT_TOO_LONG`, or what the engine reports.
    pub async fn embed(
        &self,
        params: EmbedParams,
        context: &RequestContext,
    ) -> Result<EmbedResult, ErrorBody> {
        if self.draining.is_cancelled() {
            return Err(EngineFailure::ShuttingDown.into());
        }
        validate(&params.input)?;
        let EmbedParams { model, engine, input, truncate, dimensions, .. } = params;
        let prepared = async {
            let open = self.open(model.as_deref(), engine).await?;
            blocking(move || {
                check_role(&open, Role::Embeds)?;
                let texts = tokenize(&open, input, truncate)?;
                Ok((open, texts))
            })
            .await
        };
        let (open, Texts { inputs, truncated }) =
            self.engine_step("preparing the texts", context, prepared).await?;
        if let Some(own) = open.dimensions {
            check_dimensions(&open, dimensions, own)?;
        }
        let prompt_tokens = inputs.iter().map(Vec::len).sum();
        let (done, outcome) = oneshot::channel();
        let request = EmbedRequest {
            request_id: context.id.clone(),
            span: tracing::Span::current(),
            model: open.engine.clone(),
            inputs,
            deadline: context.deadline,
            cancel: context.cancel.clone(),
            done,
        };
        self.engine.send(Command::Embed(Box::new(request)))?;
        let embeddings = self.engine_reply("embedding the texts", context, outcome).await?;
        let own = embeddings.first().map_or(0, Vec::len);
        check_dimensions(&open, dimensions, own)?;
        Ok(EmbedResult {
            request_id: context.id.clone(),
            model: open.engine.name.clone(),
            dimensions: own,
            embeddings,
            truncated,
            usage: EmbedUsage { prompt_tokens },
        })
    }
}

/// Checks that a model has the role that a request needs.
///
/// # Errors
/// `MODEL_UNSUPPORTED` naming the role of the model.
pub(super) fn check_role(open: &OpenModel, wanted: Role) -> Result<(), ErrorBody> {
    let name = &open.engine.name;
    let (message, next) = match (wanted, open.engine.role) {
        (Role::Embeds, Role::Generates) => (
            format!("the model `{name}` generates text and gives no embeddings"),
            "Name an embedding model, such as `minilm` (`ingle pull minilm` fetches it).",
        ),
        (Role::Generates, Role::Embeds) => (
            format!("the model `{name}` gives embeddings and generates no text"),
            "Use `ingle embed` (the method `embed`), or name a model that generates.",
        ),
        _ => return Ok(()),
    };
    Err(ErrorBody::new(ErrorCode::ModelUnsupported, message).with_remediation(next))
}

/// Refuses a number of dimensions that is not the model's own.
fn check_dimensions(
    open: &OpenModel,
    requested: Option<usize>,
    own: usize,
) -> Result<(), ErrorBody> {
    match requested {
        Some(requested) if requested != own => {
            let name = &open.engine.name;
            let problem = format!("is {requested}, and the vectors of `{name}` have {own} numbers");
            Err(ErrorBody::invalid("dimensions", problem)
                .with_remediation("Leave `dimensions` out, or name a model with as many."))
        }
        _ => Ok(()),
    }
}

/// Checks the input, as far as that needs no model.
pub fn validate(input: &[EmbedInput]) -> Result<(), ErrorBody> {
    if input.is_empty() || input.len() > limits::EMBED_INPUTS {
        return Err(ErrorBody::invalid(
            "input",
            format!("must have 1 to {} texts", limits::EMBED_INPUTS),
        ));
    }
    for (index, input) in input.iter().enumerate() {
        let (found, most, unit) = match input {
            EmbedInput::Text(text) => (text.len(), limits::EMBED_INPUT_BYTES, "bytes"),
            EmbedInput::Tokens(ids) => (ids.len(), limits::EMBED_INPUT_BYTES, "tokens"),
        };
        if found > most {
            let problem = format!("has {found} {unit} in text {index}, expected {most} at most");
            return Err(ErrorBody::invalid("input", problem));
        }
    }
    Ok(())
}

/// The tokenized texts.
struct Texts {
    /// The texts' token ids, each short enough for the model.
    inputs: Vec<Vec<u32>>,
    /// The indices of those that were truncated.
    truncated: Vec<usize>,
}

fn tokenize(open: &OpenModel, input: Vec<EmbedInput>, truncate: bool) -> Result<Texts, ErrorBody> {
    let (tokenizer, most) = (&open.text.tokenizer, open.context_tokens);
    let mut texts = Texts { inputs: Vec::with_capacity(input.len()), truncated: Vec::new() };
    // The tokens that the model puts after every text must stay when one is truncated.
    let nothing =
        if truncate { tokenizer.encode_whole("").unwrap_or_default() } else { Vec::new() };
    for (index, input) in input.into_iter().enumerate() {
        let (mut tokens, kept) = match input {
            EmbedInput::Text(text) => {
                let tokens = tokenizer.encode_whole(&text)?;
                let kept = common_end(&nothing, &tokens);
                (tokens, kept)
            }
            EmbedInput::Tokens(ids) => (ids, 0),
        };
        let count = tokens.len();
        if tokens.is_empty() {
            return Err(ErrorBody::invalid("input", format!("has no tokens in text {index}")));
        }
        if let Some(token) = tokens.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
            let ids = tokenizer.vocab_size();
            let problem = format!("has token {token} in text {index}; the model has {ids} tokens");
            return Err(ErrorBody::invalid("input", problem));
        }
        if count > most {
            if !truncate {
                let message = format!("text {index} has {count} tokens and the model reads {most}");
                return Err(ErrorBody::new(ErrorCode::ContextTooLong, message)
                    .with_details(json!({ "prompt_tokens": count, "context_tokens": most }))
                    .with_remediation(
                        "Split the text into shorter ones, or set `truncate` to have it cut.",
                    ));
            }
            tokens.drain(most.saturating_sub(kept)..count - kept);
            tokens.truncate(most);
            texts.truncated.push(index);
        }
        texts.inputs.push(tokens);
    }
    Ok(texts)
}

/// The number of tokens that both end with.
fn common_end(one: &[u32], other: &[u32]) -> usize {
    let pairs = one.iter().rev().zip(other.iter().rev());
    pairs.take_while(|(one, other)| one == other).count()
}
