//! Generation: from a caller's parameters to the engine and back.
//!
//! Owns validation, defaults, the prompt's way through template and tokenizer, and the daemon's own
//! limit of 1.5 W. Every accepted request ends in exactly one terminal event: the one result of
//! [`Generation::finish`].
//!
//! A request for several texts is as many generations to the engine, each with a slot of its own,
//! so that it waits in the one queue like everybody else. Here they become one request again: one
//! of them that fails ends all.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::limits;
use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::generate::{
    Choice, GenerateEvent, GenerateParams, GenerateResult, OutputFormat,
};
use ingle_protocol::wire::tokens::{
    DetokenizeParams, DetokenizeResult, TokenizeParams, TokenizeResult,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use super::Service;
use super::answer::Answer;
use super::counters::TimeoutCounters;
use super::embed::check_role;
use super::models::{OpenModel, blocking};
use super::prompt::{Form, Prompt, Question};
use super::validate::{logit_bias, one_of};
use crate::request::RequestContext;
use ingle_engine::role::Role;
use ingle_engine::sampling;
use ingle_scheduler::command::{Command, Completion, GenerateRequest, RequestChoice};
use ingle_scheduler::error::EngineFailure;
use ingle_scheduler::stall_alarm::StallAlarm;
use ingle_scheduler::time::millis;
use ingle_text::constraint::Constraint;
use ingle_text::output::TextOutput;
use ingle_text::response_parser::ResponseParser;

pub(crate) use super::validate::validate;

/// A generation under way. Dropping it cancels the work.
#[derive(Debug)]
pub struct Generation {
    context: RequestContext,
    model: String,
    stream_text: bool,
    /// The parameter that the answer's form was asked for with.
    form: &'static str,
    events: mpsc::Receiver<GenerateEvent>,
    /// At least one.
    choices: Vec<PendingChoice>,
    /// Events made of a delta that was larger than one of them.
    ready: VecDeque<GenerateEvent>,
    alarm: StallAlarm,
    work_since: Arc<OnceLock<Instant>>,
    timeout_counters: Arc<TimeoutCounters>,
    _cancel_on_drop: DropGuard,
}

/// One of the texts of a generation.
#[derive(Debug)]
struct PendingChoice {
    seed: u64,
    /// What its text says, as far as it has come.
    answer: Answer,
    done: oneshot::Receiver<Result<Completion, EngineFailure>>,
}

impl Generation {
    /// The next event, or `None` when only the terminal one is left.
    pub async fn event(&mut self) -> Option<GenerateEvent> {
        let limit = tokio::time::Instant::from_std(self.context.deadline.expires_at());
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let event = tokio::select! {
                event = tokio::time::timeout_at(limit, self.events.recv()) => event.ok()??,
                _ = self.alarm.stalled() => return None,
            };
            if let Some(event) = self.take(event) {
                return Some(event);
            }
        }
    }

    /// Reads an event of the engine. One that is no text is given back.
    fn take(&mut self, event: GenerateEvent) -> Option<GenerateEvent> {
        let GenerateEvent::Delta { choice, text, logprobs } = event else { return Some(event) };
        if let Some(choice) = self.choices.get_mut(choice) {
            choice.answer.push(&text, logprobs, &mut self.ready);
        }
        None
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
        let completions = self.completions().await.map_err(|error| {
            error.with_field_renamed("format", self.form).with_request_id(&self.context.id)
        })?;
        // What came between the last look and the end, at the very limit, is counted as sent.
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
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
                        self.timeout_counters.count(self.context.class, *layer);
                    }
                    return Err(failure.into());
                }
                Ok(Err(_)) => return Err(EngineFailure::ThreadEnded.into()),
                Err(_) => {
                    self.timeout_counters.count(self.context.class, Layer::Daemon);
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
        let (mut rest, mut choices) = (self.ready, Vec::with_capacity(completions.len()));
        for (completion, mut pending) in completions.into_iter().zip(self.choices) {
            let text = completion.text.get(completion.sent_bytes..).unwrap_or_default();
            let logprobs = completion.logprobs.get(completion.sent_logprobs..).unwrap_or_default();
            let streamed = if self.stream_text { logprobs.to_vec() } else { Vec::new() };
            pending.answer.push(text, streamed, &mut rest);
            let said = pending.answer.finish(&mut rest);
            choices.push(Choice {
                finish_reason: said.finish_reason(completion.finish_reason),
                stop_string: said.stop_string.or(completion.stop_string),
                text: said.text,
                reasoning: said.reasoning,
                tool_calls: said.tool_calls,
                seed: pending.seed,
                logprobs: if self.stream_text { Vec::new() } else { completion.logprobs },
            });
        }
        let rest = if self.stream_text { rest.into() } else { Vec::new() };
        let (request_id, model) = (self.context.id, self.model);
        let result = GenerateResult { request_id, model, choices, usage, timings };
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
        mut params: GenerateParams,
        context: RequestContext,
    ) -> Result<Generation, ErrorBody> {
        if self.draining.is_cancelled() {
            return Err(EngineFailure::ShuttingDown.into());
        }
        let (settings, penalties) = validate(&params)?;
        let wanted = params.choices();
        let question = Question::take(&mut params);
        let prepared = async {
            let open = self.open(params.model.as_deref(), params.engine).await?;
            check_role(&open, Role::Generates)?;
            question.prepare(open).await
        };
        let (open, prompt) = self.in_time("preparing the prompt", &context, prepared).await?;
        let Prompt { tokens: prompt, end_tokens, tags, reader, is_parallel, stops, form } = prompt;
        check_context(&prompt, &open)?;
        let logit_bias = logit_bias(&params.logit_bias, open.text.tokenizer.vocab_size())?;
        let seed = params.seed.unwrap_or_else(|| random_seed(&context));
        let parameter = form.parameter();
        let mut constraint = self.constraint(&open, form, &context).await?;
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
            let mut output = TextOutput::new(Arc::clone(&open.text.tokenizer), stops.clone())?;
            // Where there are none, nobody has to look for them.
            if let Some(reader) = reader.clone().filter(ResponseParser::has_stops) {
                output = output.with_parser(reader);
            }
            let answer = Answer::new(index, reader.clone(), is_parallel);
            let request = GenerateRequest {
                request_id: context.id.clone(),
                span: tracing::Span::current(),
                model: open.engine.clone(),
                output: output.showing(tags.clone()),
                constraint: match index + 1 {
                    last if last == wanted => constraint.take(),
                    _ => constraint.as_ref().map(Constraint::fork),
                },
                end_tokens: if params.ignore_eos { Vec::new() } else { end_tokens.clone() },
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
                choice: RequestChoice { index, work_since: Arc::clone(&work_since) },
                finish_at_sentence: Arc::clone(&context.finish_at_sentence),
                cancel: cancel.clone(),
                events: events_tx.clone(),
                done: done_tx,
            };
            self.engine.send(Command::Generate(Box::new(request)))?;
            choices.push(PendingChoice { seed, answer, done });
        }
        Ok(Generation {
            model: open.engine.name.clone(),
            stream_text: params.stream,
            form: parameter,
            events,
            choices,
            ready: VecDeque::new(),
            alarm: self.engine.alarm().clone(),
            work_since,
            timeout_counters: Arc::clone(&self.timeout_counters),
            _cancel_on_drop: cancel_on_drop,
            context,
        })
    }

    /// What holds a text of the model to its form, if it has one. Made off the engine thread.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming `format` or `tools`, `OVERLOADED`, and `TIMEOUT`.
    async fn constraint(
        &self,
        open: &Arc<OpenModel>,
        form: Form,
        context: &RequestContext,
    ) -> Result<Option<Constraint>, ErrorBody> {
        if matches!(form, Form::Format(OutputFormat::Text)) {
            return Ok(None);
        }
        let (open, cores) = (Arc::clone(open), self.engine.cores());
        let work = async {
            let place = self.forms.place().await?;
            blocking(move || {
                // Until the work ends, which it does not when its request goes.
                let _place = place;
                let grammars = open.grammars(&cores)?;
                let _core = cores.reserve();
                Ok(match form {
                    Form::Format(format) => grammars.constraint(&format)?,
                    Form::Calls(calls) => Some(grammars.calls(&calls)?),
                })
            })
            .await
        };
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
            let question = Question::of_text(messages, text);
            question.prepare(open).await
        };
        let (open, prompt) = self.in_time("tokenizing", context, work).await?;
        Ok(TokenizeResult { model: open.engine.name.clone(), tokens: prompt.tokens })
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

fn check_context(prompt: &[u32], open: &OpenModel) -> Result<(), ErrorBody> {
    let (prompt_tokens, context_tokens) = (prompt.len(), open.context_tokens);
    if prompt_tokens == 0 {
        return Err(ErrorBody::invalid("prompt", "has no tokens"));
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
