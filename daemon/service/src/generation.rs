//! A running generation: its events and its result.
//!
//! Owns the way from the engine's events to the request's, and that a generation ends in exactly one
//! terminal event: the result of [`Generation::finish`]. The choices of a request are separate
//! generations to the engine; here they are one, and the failure of one ends all.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::generate::{Choice, GenerateEvent, GenerateResult};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::DropGuard;

use crate::deadline_guard::daemon_timeout;
use crate::request::RequestContext;
use crate::response::ResponseBuilder;
use crate::timeout_counters::TimeoutCounters;
use ingle_scheduler::command::Completion;
use ingle_scheduler::error::EngineFailure;
use ingle_scheduler::stall_alarm::StallAlarm;
use ingle_scheduler::time::millis;

/// A running generation. Dropping it cancels the work.
#[derive(Debug)]
pub struct Generation {
    pub(super) context: RequestContext,
    pub(super) model: String,
    pub(super) stream_text: bool,
    /// The parameter that set the constraint.
    pub(super) constrained_by: &'static str,
    pub(super) events: mpsc::Receiver<GenerateEvent>,
    /// At least one.
    pub(super) choices: Vec<PendingChoice>,
    /// Events that were made of one of the engine's and wait to be read.
    pub(super) ready: VecDeque<GenerateEvent>,
    pub(super) alarm: StallAlarm,
    pub(super) work_since: Arc<OnceLock<Instant>>,
    pub(super) timeout_counters: Arc<TimeoutCounters>,
    pub(super) _cancel_on_drop: DropGuard,
}

/// One choice of a generation.
#[derive(Debug)]
pub(super) struct PendingChoice {
    pub(super) seed: u64,
    /// The parts of its text so far.
    pub(super) response: ResponseBuilder,
    pub(super) done: oneshot::Receiver<Result<Completion, EngineFailure>>,
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

    /// Takes an event of the engine. One without text is returned.
    fn take(&mut self, event: GenerateEvent) -> Option<GenerateEvent> {
        let GenerateEvent::Delta { choice, text, logprobs } = event else { return Some(event) };
        if let Some(choice) = self.choices.get_mut(choice) {
            choice.response.push(&text, logprobs, &mut self.ready);
        }
        None
    }

    /// The name of its model.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The start of the work, once it has begun: queueing and loading come before.
    #[must_use]
    pub fn work_since(&self) -> Option<Instant> {
        self.work_since.get().copied()
    }

    /// The terminal event: the rest of the text events, if they are streamed, and the result.
    ///
    /// # Errors
    /// The engine's failure; `TIMEOUT` from the daemon layer at 1.5 W.
    pub async fn finish(mut self) -> Result<(Vec<GenerateEvent>, GenerateResult), ErrorBody> {
        // Events are read even if they are not wanted: the engine takes a closed channel for a
        // caller that has gone, and ends the work.
        while self.event().await.is_some() {}
        let completions = self.completions().await.map_err(|error| {
            error
                .with_field_renamed("format", self.constrained_by)
                .with_request_id(&self.context.id)
        })?;
        // At the very limit, events can arrive after the last read; the engine counts them as sent.
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
        self.result(completions)
            .ok_or_else(|| ErrorBody::new(ErrorCode::Internal, "a generation without a choice"))
    }

    /// The completion of every choice, or the failure that ended them all.
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
                // Cancelled by the client, or by the failure of a choice later in the list.
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
            pending.response.push(text, streamed, &mut rest);
            let response = pending.response.finish(&mut rest);
            choices.push(Choice {
                finish_reason: response.finish_reason(completion.finish_reason),
                stop_string: response.stop_string.or(completion.stop_string),
                text: response.text,
                reasoning: response.reasoning,
                tool_calls: response.tool_calls,
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
