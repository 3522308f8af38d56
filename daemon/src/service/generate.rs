//! Generation: from a caller's parameters to the engine and back.
//!
//! Owns validation, defaults, the prompt's way through template and tokenizer, and the daemon's own
//! limit of 1.5 W. Every accepted request ends in exactly one terminal event: the one result of
//! [`Generation::finish`].
//!
//! A request for several texts is as many generations to the engine, each with a slot of its own,
//! so that it waits in the one queue like everybody else. Here they become one request again: one
//! of them that fails ends all.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::generate::{
    Choice, GenerateEvent, GenerateParams, GenerateResult, Message, OutputFormat,
};
use ingle_protocol::wire::tokens::{
    DetokenizeParams, DetokenizeResult, TokenizeParams, TokenizeResult,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::Service;
use super::counters::TimeoutCounters;
use super::embed::check_role;
use super::models::{OpenModel, blocking};
use crate::engine::handle::{
    ChoiceOf, Command, Completion, EngineFailure, GenerateRequest, StallAlarm, millis,
};
use crate::engine::role::Role;
use crate::engine::sampling::{self, InvalidSetting, MAX_BIAS, PenaltySettings, SamplerSettings};
use crate::request::RequestContext;
use crate::text::chat_template::ChatMessage;
use crate::text::constraint::{Constraint, ConstraintError};
use crate::text::output::TextOutput;

/// A generation under way. Dropping it cancels the work.
#[derive(Debug)]
pub struct Generation {
    context: RequestContext,
    model: String,
    stream_text: bool,
    events: mpsc::Receiver<GenerateEvent>,
    /// At least one.
    choices: Vec<PendingChoice>,
    alarm: StallAlarm,
    work_since: Arc<OnceLock<Instant>>,
    timeouts: Arc<TimeoutCounters>,
    _cancel_on_drop: DropGuard,
}

/// One of the texts of a generation.
#[derive(Debug)]
struct PendingChoice {
    seed: u64,
    done: oneshot::Receiver<Result<Completion, EngineFailure>>,
}

impl Generation {
    /// The next event, or `None` when only the terminal one is left.
    pub async fn event(&mut self) -> Option<GenerateEvent> {
        let limit = tokio::time::Instant::from_std(self.context.deadline.expires_at());
        tokio::select! {
            event = tokio::time::timeout_at(limit, self.events.recv()) => event.ok()?,
            _ = self.alarm.stalled() => None,
        }
    }

    /// The name of the model that works on it.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// When the work began, once it has: queueing and loading come before.
    #[must_use]
    pub fn work_since(&self) -> Option<Instant> {
        self.work_since.get().copied()
    }

    /// The terminal event: what is left of the texts, if they were streamed, and the result.
    ///
    /// # Errors
    /// What the engine reported; `TIMEOUT` from the daemon layer at 1.5 W.
    pub async fn finish(mut self) -> Result<(Vec<GenerateEvent>, GenerateResult), ErrorBody> {
        // Events that nobody wants are read all the same: a closed channel means that the caller
        // has gone, and ends the work.
        while self.event().await.is_some() {}
        let completions =
            self.completions().await.map_err(|error| error.with_request_id(&self.context.id))?;
        self.result(completions).ok_or_else(|| {
            ErrorBody::new(ErrorCode::Internal, "a generation without a single text")
        })
    }

    /// Every choice's outcome, or the failure of the one that took the others with it.
    async fn completions(&mut self) -> Result<Vec<Completion>, ErrorBody> {
        let limit = tokio::time::Instant::from_std(self.context.deadline.expires_at());
        let mut completions = Vec::with_capacity(self.choices.len());
        let mut cancelled = None;
        for choice in &mut self.choices {
            let done = tokio::select! {
                biased;
                done = tokio::time::timeout_at(limit, &mut choice.done) => done,
                stalled = self.alarm.stalled() => return Err(stalled.into()),
            };
            match done {
                Ok(Ok(Ok(completion))) => completions.push(completion),
                // Cancelled by its caller, or by a choice that failed and comes later.
                Ok(Ok(Err(EngineFailure::Cancelled))) => cancelled = Some(EngineFailure::Cancelled),
                Ok(Ok(Err(failure))) => {
                    if let EngineFailure::Timeout { layer, .. } = &failure {
                        self.timeouts.count(self.context.class, *layer);
                    }
                    return Err(failure.into());
                }
                Ok(Err(_)) => return Err(EngineFailure::ThreadEnded.into()),
                Err(_) => {
                    self.timeouts.count(self.context.class, Layer::Daemon);
                    return Err(daemon_timeout("the request", &self.context, Instant::now()));
                }
            }
        }
        cancelled.map_or(Ok(completions), |cancelled| Err(cancelled.into()))
    }

    fn result(self, completions: Vec<Completion>) -> Option<(Vec<GenerateEvent>, GenerateResult)> {
        let mut usage = completions.first()?.usage;
        usage.completion_tokens =
            completions.iter().map(|completion| completion.usage.completion_tokens).sum();
        let mut timings = completions.first()?.timings;
        timings.total_ms = millis(self.context.deadline.accepted_at.elapsed());
        let (mut rest, mut choices) = (Vec::new(), Vec::with_capacity(completions.len()));
        for (index, (completion, pending)) in completions.into_iter().zip(self.choices).enumerate()
        {
            let text = completion.text.get(completion.sent_bytes..).unwrap_or_default();
            // The last tokens may have no text of their own, and still have probabilities.
            let logprobs = completion.logprobs.get(completion.sent_logprobs..).unwrap_or_default();
            if self.stream_text && !(text.is_empty() && logprobs.is_empty()) {
                let (text, logprobs) = (text.to_owned(), logprobs.to_vec());
                rest.push(GenerateEvent::Delta { choice: index, text, logprobs });
            }
            choices.push(Choice {
                text: completion.text,
                reasoning: None,
                tool_calls: Vec::new(),
                finish_reason: completion.finish_reason,
                stop_string: completion.stop_string,
                seed: pending.seed,
                logprobs: if self.stream_text { Vec::new() } else { completion.logprobs },
            });
        }
        let mut choices = choices.into_iter();
        let first = choices.next()?;
        let result = GenerateResult {
            request_id: self.context.id,
            model: self.model,
            text: first.text,
            reasoning: first.reasoning,
            tool_calls: first.tool_calls,
            finish_reason: first.finish_reason,
            stop_string: first.stop_string,
            seed: first.seed,
            usage,
            timings,
            logprobs: first.logprobs,
            alternatives: choices.collect(),
        };
        Some((rest, result))
    }
}

/// The daemon's own answer at 1.5 W, when no inner layer has answered.
#[must_use]
pub fn daemon_timeout(what: &'static str, context: &RequestContext, now: Instant) -> ErrorBody {
    let Deadline { limit_ms, .. } = context.deadline;
    ErrorBody::timeout(what, Layer::Daemon, limit_ms, context.deadline.elapsed_ms(now))
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
        let (settings, penalties) = validate(&params)?;
        let wanted = params.choices();
        let GenerateParams { model, engine, messages, prompt, format, .. } = params;
        let prepared = async {
            let open = self.open(model.as_deref(), engine).await?;
            check_role(&open, Role::Generates)?;
            tokenize(open, messages, prompt).await
        };
        let (open, prompt) = self.in_time("preparing the prompt", &context, prepared).await?;
        check_context(&prompt, &open)?;
        let logit_bias = logit_bias(&params.logit_bias, open.text.tokenizer.vocab_size())?;
        let seed = params.seed.unwrap_or_else(|| random_seed(&context));
        let mut constraint = self.constraint(&open, format, &context).await?;
        let max_tokens = params.max_tokens.unwrap_or(limits::DEFAULT_MAX_TOKENS);
        let (events_tx, events) = mpsc::channel(limits::ENGINE_EVENTS);
        // From here on, leaving early ends what the engine has been given already.
        let cancel_on_drop = context.cancel.clone().drop_guard();
        // A token of their own: a choice that fails ends the others through it.
        let cancel = context.cancel.child_token();
        let work_since: Arc<OnceLock<Instant>> = Arc::default();
        let mut choices = Vec::with_capacity(wanted);
        for index in 0..wanted {
            let seed = sampling::choice_seed(seed, index);
            let (done_tx, done) = oneshot::channel();
            let request = GenerateRequest {
                request_id: context.id.clone(),
                model: open.engine.clone(),
                output: TextOutput::new(Arc::clone(&open.text.tokenizer), params.stop.clone())?,
                constraint: match index + 1 {
                    last if last == wanted => constraint.take(),
                    _ => constraint.as_ref().map(Constraint::fork),
                },
                end_tokens: if params.ignore_eos { Vec::new() } else { open.text.eos.clone() },
                prompt: prompt.clone(),
                max_tokens: usize::try_from(max_tokens).unwrap_or(usize::MAX),
                settings,
                penalties,
                logit_bias: Arc::clone(&logit_bias),
                seed,
                logprobs: (params.logprobs || params.top_logprobs > 0)
                    .then_some(params.top_logprobs),
                stream_text: params.stream,
                deadline: context.deadline,
                choice: ChoiceOf { index, work_since: Arc::clone(&work_since) },
                wrap_up: Arc::clone(&context.wrap_up),
                cancel: cancel.clone(),
                events: events_tx.clone(),
                done: done_tx,
            };
            self.engine.send(Command::Generate(Box::new(request)))?;
            choices.push(PendingChoice { seed, done });
        }
        Ok(Generation {
            model: open.engine.name.clone(),
            stream_text: params.stream,
            events,
            choices,
            alarm: self.engine.alarm().clone(),
            work_since,
            timeouts: Arc::clone(&self.timeouts),
            _cancel_on_drop: cancel_on_drop,
            context,
        })
    }

    /// What holds a text of the model to its form, if it has one. Made off the engine thread.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming `format`, and `TIMEOUT`.
    async fn constraint(
        &self,
        open: &Arc<OpenModel>,
        format: Option<OutputFormat>,
        context: &RequestContext,
    ) -> Result<Option<Constraint>, ErrorBody> {
        let Some(format) = format.filter(|format| *format != OutputFormat::Text) else {
            return Ok(None);
        };
        let (open, cores) = (Arc::clone(open), self.engine.cores());
        let work = blocking(move || Ok(open.grammars(&cores)?.constraint(&format)?));
        self.in_time("preparing the format", context, work).await
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

impl From<ConstraintError> for ErrorBody {
    fn from(error: ConstraintError) -> Self {
        let code = match &error {
            ConstraintError::Invalid(_) | ConstraintError::Exceeded(_) => ErrorCode::InvalidParams,
            ConstraintError::Vocabulary(_) => ErrorCode::ModelUnsupported,
        };
        Self::new(code, error.to_string()).with_details(json!({ "field": "format" }))
    }
}

impl From<InvalidSetting> for ErrorBody {
    fn from(error: InvalidSetting) -> Self {
        Self::new(ErrorCode::InvalidParams, error.to_string())
            .with_details(json!({ "field": error.field }))
    }
}

/// Checks every parameter that needs no model and fills in the sampler's defaults.
pub(crate) fn validate(
    params: &GenerateParams,
) -> Result<(SamplerSettings, PenaltySettings), ErrorBody> {
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
    let is_held = params.format.as_ref().is_some_and(|format| *format != OutputFormat::Text);
    if is_held && params.ignore_eos {
        let problem = "and `format` exclude each other: a text that has its form must end";
        return Err(invalid("ignore_eos", problem));
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
    settings.validate()?;
    let none = PenaltySettings::NONE;
    let window =
        params.repetition_window.map(|window| usize::try_from(window).unwrap_or(usize::MAX));
    let penalties = PenaltySettings {
        repetition: params.repetition_penalty.unwrap_or(none.repetition),
        repetition_window: window.unwrap_or(none.repetition_window),
        frequency: params.frequency_penalty.unwrap_or(none.frequency),
        presence: params.presence_penalty.unwrap_or(none.presence),
    };
    penalties.validate()?;
    if penalties.repetition_window == 0 {
        let problem = "must be at least 1; a `repetition_penalty` of 1 turns the penalty off";
        return Err(invalid("repetition_window", problem));
    }
    if !(1..=limits::CHOICES).contains(&params.choices()) {
        return Err(invalid("n", &format!("must be from 1 to {}", limits::CHOICES)));
    }
    Ok((settings, penalties))
}

/// The bias as the engine takes it.
fn logit_bias(
    biases: &BTreeMap<u32, f32>,
    vocab_size: usize,
) -> Result<Arc<[(u32, f32)]>, ErrorBody> {
    if biases.len() > limits::LOGIT_BIASES {
        let problem = format!("has more than {} entries", limits::LOGIT_BIASES);
        return Err(invalid("logit_bias", &problem));
    }
    for (&id, &bias) in biases {
        if id as usize >= vocab_size {
            let problem =
                format!("names token {id}, and the model's ids end at {}", vocab_size - 1);
            return Err(invalid("logit_bias", &problem));
        }
        if !(-MAX_BIAS..=MAX_BIAS).contains(&bias) {
            let range = format!("from -{MAX_BIAS} to {MAX_BIAS}");
            let problem = format!("of token {id} must be a number {range}, not {bias}");
            return Err(invalid("logit_bias", &problem));
        }
    }
    Ok(biases.iter().map(|(&id, &bias)| (id, bias)).collect())
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
                    .map(|Message { role, content, .. }| ChatMessage { role, content })
                    .collect();
                open.text.encode_chat(&messages, unix_time_s())?
            }
            (None, text) if open.engine.role == Role::Embeds => {
                open.text.tokenizer.encode_whole(&text.unwrap_or_default())?
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
