//! Generation: from a caller's parameters to the engine and back.
//!
//! Owns validation, defaults, the prompt's way through template and tokenizer, and the daemon's own
//! limit of 1.5 W. Every accepted request ends in exactly one terminal event: the one result of
//! [`Generation::finish`].

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::generate::{GenerateEvent, GenerateParams, GenerateResult, Message};
use ingle_protocol::wire::tokens::{
    DetokenizeParams, DetokenizeResult, TokenizeParams, TokenizeResult,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::Service;
use super::embed::check_role;
use super::models::{OpenModel, blocking};
use crate::engine::handle::{Command, Completion, EngineFailure, GenerateRequest, millis};
use crate::engine::role::Role;
use crate::engine::sampling::SamplerSettings;
use crate::request::RequestContext;
use crate::text::chat_template::ChatMessage;
use crate::text::output::TextOutput;

/// A generation under way. Dropping it cancels the work.
#[derive(Debug)]
pub struct Generation {
    context: RequestContext,
    model: String,
    seed: u64,
    stream_text: bool,
    events: mpsc::Receiver<GenerateEvent>,
    done: oneshot::Receiver<Result<Completion, EngineFailure>>,
    _cancel_on_drop: DropGuard,
}

impl Generation {
    /// The next event, or `None` when only the terminal one is left.
    pub async fn event(&mut self) -> Option<GenerateEvent> {
        let limit = tokio::time::Instant::from_std(self.context.deadline.expires_at());
        tokio::time::timeout_at(limit, self.events.recv()).await.ok()?
    }

    /// The terminal event: what is left of the text, if it was streamed, and the result.
    ///
    /// # Errors
    /// What the engine reported; `TIMEOUT` from the daemon layer at 1.5 W.
    pub async fn finish(mut self) -> Result<(Option<GenerateEvent>, GenerateResult), ErrorBody> {
        // Events that nobody wants are read all the same: a closed channel means that the caller
        // has gone, and ends the work.
        while self.event().await.is_some() {}
        let limit = tokio::time::Instant::from_std(self.context.deadline.expires_at());
        let outcome = match tokio::time::timeout_at(limit, &mut self.done).await {
            Ok(Ok(outcome)) => outcome.map_err(ErrorBody::from),
            Ok(Err(_)) => Err(EngineFailure::ThreadEnded.into()),
            Err(_) => Err(daemon_timeout("the request", &self.context, Instant::now())),
        };
        let completion = outcome.map_err(|error| error.with_request_id(&self.context.id))?;
        Ok(self.result(completion))
    }

    fn result(self, completion: Completion) -> (Option<GenerateEvent>, GenerateResult) {
        let accepted_at = self.context.deadline.accepted_at;
        let mut timings = completion.timings;
        timings.total_ms = millis(accepted_at.elapsed());
        let rest = completion.text.get(completion.sent_bytes..).unwrap_or_default();
        // The last tokens may have no text of their own, and still have probabilities.
        let logprobs = completion.logprobs.get(completion.sent_logprobs..).unwrap_or_default();
        let is_rest = self.stream_text && !(rest.is_empty() && logprobs.is_empty());
        let rest = is_rest
            .then(|| GenerateEvent::Delta { text: rest.to_owned(), logprobs: logprobs.to_vec() });
        let result = GenerateResult {
            request_id: self.context.id,
            model: self.model,
            text: completion.text,
            finish_reason: completion.finish_reason,
            stop_string: completion.stop_string,
            seed: self.seed,
            usage: completion.usage,
            timings,
            logprobs: if self.stream_text { Vec::new() } else { completion.logprobs },
        };
        (rest, result)
    }
}

/// The daemon's own answer at 1.5 W, when no inner layer has answered.
#[must_use]
pub fn daemon_timeout(what: &'static str, context: &RequestContext, now: Instant) -> ErrorBody {
    let elapsed = now.saturating_duration_since(context.deadline.accepted_at);
    EngineFailure::Timeout {
        what,
        layer: Layer::Daemon,
        limit_ms: context.deadline.limit_ms,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    }
    .into()
}

impl Service {
    /// Starts a generation.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter, what opening the model reports, `CONTEXT_TOO_LONG`,
    /// or `OVERLOADED`.
    pub async fn generate(
        &self,
        params: GenerateParams,
        context: RequestContext,
    ) -> Result<Generation, ErrorBody> {
        if self.draining.is_cancelled() {
            return Err(EngineFailure::ShuttingDown.into());
        }
        let settings = validate(&params)?;
        let GenerateParams { model, engine, messages, prompt, .. } = params;
        let prepared = async {
            let open = self.open(model.as_deref(), engine).await?;
            check_role(&open, Role::Generates)?;
            tokenize(open, messages, prompt).await
        };
        let (open, prompt) = self.in_time("preparing the prompt", &context, prepared).await?;
        check_context(&prompt, &open)?;
        let seed = params.seed.unwrap_or_else(|| random_seed(&context));
        let max_tokens = params.max_tokens.unwrap_or(limits::DEFAULT_MAX_TOKENS);
        let output = TextOutput::new(Arc::clone(&open.text.tokenizer), params.stop)?;
        let (events_tx, events) = mpsc::channel(limits::ENGINE_EVENTS);
        let (done_tx, done) = oneshot::channel();
        let request = GenerateRequest {
            request_id: context.id.clone(),
            model: open.engine.clone(),
            output,
            end_tokens: open.text.eos.clone(),
            prompt,
            max_tokens: usize::try_from(max_tokens).unwrap_or(usize::MAX),
            settings,
            seed,
            top_logprobs: params.top_logprobs,
            stream_text: params.stream,
            deadline: context.deadline,
            cancel: context.cancel.clone(),
            events: events_tx,
            done: done_tx,
        };
        self.engine.send(Command::Generate(Box::new(request)))?;
        let cancel_on_drop = context.cancel.clone().drop_guard();
        Ok(Generation {
            model: open.engine.name.clone(),
            seed,
            stream_text: params.stream,
            events,
            done,
            _cancel_on_drop: cancel_on_drop,
            context,
        })
    }

    /// Text or messages to token ids.
    ///
    /// # Errors
    /// As [`Service::generate`], as far as it comes.
    pub async fn tokenize(
        &self,
        params: TokenizeParams,
        context: &RequestContext,
    ) -> Result<TokenizeResult, ErrorBody> {
        let TokenizeParams { model, engine, text, messages } = params;
        one_of("text", text.is_some(), messages.is_some())?;
        let work = async {
            let open = self.open(model.as_deref(), engine).await?;
            tokenize(open, messages, text).await
        };
        let (open, tokens) = self.in_time("tokenizing", context, work).await?;
        Ok(TokenizeResult { model: open.engine.name.clone(), tokens })
    }

    /// Token ids to text.
    ///
    /// # Errors
    /// `INVALID_PARAMS` for an id that the vocabulary does not have.
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
        self.in_time("detokenizing", context, work).await
    }
}

fn invalid(field: &str, problem: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidParams, format!("`{field}` {problem}"))
        .with_details(json!({ "field": field }))
}

fn one_of(field: &str, has_text: bool, has_messages: bool) -> Result<(), ErrorBody> {
    match (has_text, has_messages) {
        (true, false) | (false, true) => Ok(()),
        (true, true) => Err(invalid(field, "and `messages` exclude each other; give one")),
        (false, false) => Err(invalid(field, "or `messages` must be given")),
    }
}

/// Checks every parameter and fills in the sampler's defaults.
fn validate(params: &GenerateParams) -> Result<SamplerSettings, ErrorBody> {
    one_of("prompt", params.prompt.is_some(), params.messages.is_some())?;
    if let Some(messages) = &params.messages {
        if messages.is_empty() {
            return Err(invalid("messages", "must not be empty"));
        }
        if messages.len() > limits::MESSAGES {
            return Err(invalid(
                "messages",
                &format!("has more than {} entries", limits::MESSAGES),
            ));
        }
    }
    if params.max_tokens == Some(0) {
        return Err(invalid("max_tokens", "must be at least 1"));
    }
    if params.stop.len() > limits::STOP_STRINGS {
        return Err(invalid("stop", &format!("has more than {} entries", limits::STOP_STRINGS)));
    }
    if params.stop.iter().any(|stop| stop.is_empty() || stop.len() > limits::STOP_STRING_BYTES) {
        let problem = format!("entries must have 1 to {} bytes", limits::STOP_STRING_BYTES);
        return Err(invalid("stop", &problem));
    }
    if params.top_logprobs > limits::TOP_LOGPROBS {
        return Err(invalid("top_logprobs", &format!("must be at most {}", limits::TOP_LOGPROBS)));
    }
    let settings = SamplerSettings {
        temperature: params.temperature.unwrap_or(0.0),
        top_k: params.top_k.unwrap_or(0),
        top_p: params.top_p.unwrap_or(1.0),
        min_p: params.min_p.unwrap_or(0.0),
    };
    settings.validate().map_err(|error| {
        ErrorBody::new(ErrorCode::InvalidParams, error.to_string())
            .with_details(json!({ "field": error.field }))
    })?;
    Ok(settings)
}

/// Template and tokenizer, on a thread that may take its time.
async fn tokenize(
    open: Arc<OpenModel>,
    messages: Option<Vec<Message>>,
    text: Option<String>,
) -> Result<(Arc<OpenModel>, Vec<u32>), ErrorBody> {
    let work = move || {
        let tokens = match (messages, text) {
            (Some(messages), _) => {
                let messages: Vec<ChatMessage> = messages
                    .into_iter()
                    .map(|Message { role, content }| ChatMessage { role, content })
                    .collect();
                open.text.encode_chat(&messages, unix_time_s())?
            }
            (None, text) => open.text.encode_prompt(&text.unwrap_or_default())?,
        };
        Ok((open, tokens))
    };
    blocking(work).await
}

/// Now, for templates that write today's date.
fn unix_time_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn check_context(prompt: &[u32], open: &OpenModel) -> Result<(), ErrorBody> {
    let (prompt_tokens, context_tokens) = (prompt.len(), open.context_tokens);
    if prompt_tokens == 0 {
        return Err(invalid("prompt", "has no tokens"));
    }
    if prompt_tokens < context_tokens {
        return Ok(());
    }
    Err(ErrorBody::new(
        ErrorCode::ContextTooLong,
        format!(
            "the prompt has {prompt_tokens} tokens and the model's context holds {context_tokens}, \
             one of them for the answer"
        ),
    )
    .with_details(json!({ "prompt_tokens": prompt_tokens, "context_tokens": context_tokens })))
}

/// A seed nobody asked for: different for every request, and reported, so that it can be asked for.
fn random_seed(context: &RequestContext) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write(context.id.as_bytes());
    // JSON readers keep integers up to 2^53 exactly.
    hasher.finish() >> 11
}
