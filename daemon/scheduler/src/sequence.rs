//! A running sequence: one generation, from its first prefill chunk to its terminal event.
//!
//! Owns the tokens and text produced so far, and how much of them was sent. Reads no clock: time is
//! an argument. A slow client does not delay it: text that does not fit into the event channel
//! stays in `text` and is sent with the next delta or with the terminal event.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ingle_protocol::wire::generate::{FinishReason, GenerateEvent, Timings, TokenLogprob, Usage};

use super::admission::Arrival;
use super::command::{Completion, GenerateRequest};
use super::error::EngineFailure;
use super::time::{millis, timeout_failure};
use super::token_masks::{MaskThread, SequenceConstraint};
use ingle_engine::backend::SeqId;
use ingle_engine::counters::{EngineCounters, ModelCounters};
use ingle_engine::sampling::{Penalties, SampleSpec, SampledToken, UniformDraws};

/// A generation that waits for admission.
#[derive(Debug)]
pub struct QueuedRequest {
    /// The request.
    pub request: GenerateRequest,
    /// Its position in the arrival order.
    pub arrival: Arrival,
    /// When it began to wait for its model's load; `None` when the model was resident.
    pub load_since: Option<Instant>,
    /// When the model became resident.
    pub load_until: Option<Instant>,
    /// When it began to wait for memory; `None` while it waits for something else.
    pub memory_since: Option<Instant>,
}

impl QueuedRequest {
    /// A request that enters the queue.
    #[must_use]
    pub fn new(request: GenerateRequest, arrival: Arrival) -> Self {
        Self { request, arrival, load_since: None, load_until: None, memory_since: None }
    }

    /// Records whether it waits for memory at `now`; if not, its model is being loaded.
    pub fn note_memory_wait(&mut self, is_awaited: bool, now: Instant) {
        if is_awaited {
            self.memory_since.get_or_insert(now);
        } else {
            self.memory_since = None;
            if self.load_until.take().is_some() {
                // The model was loaded and evicted, and is being loaded again.
                self.load_since = Some(now);
            } else {
                self.load_since.get_or_insert(now);
            }
        }
    }

    /// Whether another choice of its request has been admitted already.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.request.choice.work_since.get().is_some()
    }

    fn load_time(&self) -> Duration {
        match (self.load_since, self.load_until) {
            (Some(since), Some(until)) => until.saturating_duration_since(since),
            _ => Duration::ZERO,
        }
    }

    /// The failure that ends the wait at `now`, if any.
    #[must_use]
    pub fn end_reason(&self, now: Instant) -> Option<EngineFailure> {
        // Set if another choice of the request has been admitted already.
        let work_since = self.request.choice.work_since.get().copied();
        let waits_for = if self.load_since.is_some() && self.load_until.is_none() {
            "loading the model"
        } else {
            "waiting for admission"
        };
        end_reason(&self.request, work_since, waits_for, now)
    }
}

fn end_reason(
    request: &GenerateRequest,
    work_since: Option<Instant>,
    waits_for: &'static str,
    now: Instant,
) -> Option<EngineFailure> {
    if request.cancel.is_cancelled() || request.events.is_closed() {
        return Some(EngineFailure::Cancelled);
    }
    timeout_failure(&request.deadline, work_since, waits_for, now)
}

/// What a sequence needs from the next forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SequencePhase {
    /// Prompt tokens are left to read.
    Prefill {
        /// Number of prompt tokens read so far.
        prefilled: usize,
    },
    /// The whole prompt has been read.
    Decode {
        /// The token sampled last.
        last: u32,
    },
}

/// One running generation.
#[derive(Debug)]
pub struct Sequence {
    /// The request.
    pub request: GenerateRequest,
    /// Its KV cache in the model's generator.
    pub seq: SeqId,
    /// Prefill or decode.
    pub phase: SequencePhase,
    draws: UniformDraws,
    penalties: Option<Arc<Penalties>>,
    constraint: Option<SequenceConstraint>,
    text: String,
    sent_bytes: usize,
    logprobs: Vec<TokenLogprob>,
    sent_logprobs: usize,
    /// Tokens sampled so far, an end token included.
    generated: Vec<u32>,
    cached_tokens: usize,
    context_tokens: usize,
    load_ms: f64,
    queue_ms: f64,
    started_at: Instant,
    prefilled_at: Option<Instant>,
    /// When the last token was sampled.
    token_at: Option<Instant>,
    counters: Arc<ModelCounters>,
    work_since: Instant,
}

impl Sequence {
    /// Starts a waiting request at `now` in the sequence `seq`.
    ///
    /// The model's context holds `context_tokens`, and the sequence holds the prompt's first
    /// `cached_tokens` already. The thread `masks` computes the masks of a constraint.
    #[must_use]
    pub fn start(
        waiting: QueuedRequest,
        seq: SeqId,
        cached_tokens: usize,
        context_tokens: usize,
        engine: &EngineCounters,
        masks: &mut MaskThread,
        now: Instant,
    ) -> Self {
        let load = waiting.load_time();
        let mut request = waiting.request;
        let waited = now.saturating_duration_since(request.deadline.accepted_at);
        let queued = waited.saturating_sub(load);
        let counters = engine.of(&request.model.name, request.model.engine);
        request.span.in_scope(|| {
            tracing::debug!(
                choice = request.choice.index,
                waited_ms = millis(queued),
                load_ms = millis(load),
                prompt_tokens = request.prompt.len(),
                cached_tokens,
                "admitted"
            );
        });
        if request.choice.index == 0 {
            engine.queue_wait.record(queued);
            counters.cached_tokens.add(cached_tokens as u64);
        }
        let work_since = *request.choice.work_since.get_or_init(|| now);
        let bias = Arc::clone(&request.logit_bias);
        let penalties = Penalties::new(request.penalties, bias, &request.prompt);
        Self {
            seq,
            phase: SequencePhase::Prefill { prefilled: cached_tokens },
            draws: UniformDraws::new(request.seed),
            penalties: penalties.map(Arc::new),
            constraint: request
                .constraint
                .take()
                .map(|constraint| SequenceConstraint::new(constraint, masks)),
            text: String::new(),
            sent_bytes: 0,
            logprobs: Vec::new(),
            sent_logprobs: 0,
            generated: Vec::new(),
            cached_tokens,
            context_tokens,
            load_ms: millis(load),
            queue_ms: millis(queued),
            started_at: now,
            prefilled_at: None,
            token_at: None,
            counters,
            work_since,
            request,
        }
    }

    /// Whether its KV cache holds the whole prompt.
    #[must_use]
    pub fn has_read_prompt(&self) -> bool {
        matches!(self.phase, SequencePhase::Decode { .. })
    }

    /// The failure that ends the sequence at `now`, if any.
    #[must_use]
    pub fn end_reason(&self, now: Instant) -> Option<EngineFailure> {
        end_reason(&self.request, Some(self.work_since), "the work", now)
    }

    /// The tokens of the next pass: a prompt chunk of at most `chunk_tokens`, or the last token.
    #[must_use]
    pub fn next_tokens(&self, chunk_tokens: usize) -> &[u32] {
        match &self.phase {
            SequencePhase::Prefill { prefilled } => {
                let end = (prefilled + chunk_tokens).min(self.request.prompt.len());
                &self.request.prompt[*prefilled..end]
            }
            SequencePhase::Decode { last } => std::slice::from_ref(last),
        }
    }

    /// Whether a pass over `tokens` more tokens needs logits.
    ///
    /// It does when it reads the prompt's last token, and in every decode step.
    #[must_use]
    pub fn wants_logits(&self, tokens: usize) -> bool {
        match self.phase {
            SequencePhase::Prefill { prefilled } => prefilled + tokens >= self.request.prompt.len(),
            SequencePhase::Decode { .. } => true,
        }
    }

    /// The tokens in its KV cache.
    ///
    /// These are the prompt tokens read so far and every sampled token but the last, which no pass
    /// has read yet.
    #[must_use]
    pub fn kv_tokens(&self) -> Vec<u32> {
        match self.phase {
            SequencePhase::Prefill { prefilled } => self.request.prompt[..prefilled].to_vec(),
            SequencePhase::Decode { .. } => {
                let fed = &self.generated[..self.generated.len().saturating_sub(1)];
                [&self.request.prompt, fed].concat()
            }
        }
    }

    /// The sample spec of the next token.
    pub fn sample_spec(&mut self) -> SampleSpec {
        SampleSpec {
            settings: self.request.settings,
            uniform: self.draws.draw(),
            penalties: self.penalties.clone(),
            mask: self.constraint.as_ref().map(SequenceConstraint::mask),
            logprobs: self.request.logprobs,
        }
    }

    /// Records that `tokens` more prompt tokens have been read, and reports the progress.
    pub fn prefilled(&mut self, tokens: usize) {
        if let SequencePhase::Prefill { prefilled } = &mut self.phase {
            *prefilled += tokens;
            if self.request.choice.index == 0 {
                self.counters.read_tokens.add(tokens as u64);
            }
            let event = GenerateEvent::Prefill {
                done_tokens: *prefilled,
                total_tokens: self.request.prompt.len(),
            };
            self.request.report(event);
        }
    }

    /// Accepts one sampled token. Returns the finish when it ends the completion.
    pub fn accept(&mut self, sampled: SampledToken, now: Instant) -> Option<Finish> {
        if self.prefilled_at.is_none() {
            self.prefilled_at = Some(now);
            self.log_first_token(now);
        }
        self.count_token(now);
        let token = sampled.token;
        self.generated.push(token);
        if let Some(penalties) = &mut self.penalties {
            // The engine has dropped the last step's spec, so nothing is copied.
            Arc::make_mut(penalties).push(token);
        }
        if self.request.end_tokens.contains(&token) {
            return Some(Finish { reason: FinishReason::Stop, stop_string: None });
        }
        if self.request.logprobs.is_some() {
            let SampledToken { token, logprob, top } = sampled;
            let bytes = self.request.output.bytes_of(token);
            let top_bytes = top.iter().map(|&(id, _)| self.request.output.bytes_of(id)).collect();
            self.logprobs.push(TokenLogprob { token, logprob, bytes, top, top_bytes });
        }
        let piece = self.request.output.push(token);
        self.text.push_str(&piece.text);
        self.send_delta();
        self.phase = SequencePhase::Decode { last: token };
        if piece.stopped.is_some() {
            return Some(Finish { reason: FinishReason::Stop, stop_string: piece.stopped });
        }
        if self.constraint.as_mut().is_some_and(|constraint| constraint.accept(token)) {
            return Some(Finish { reason: FinishReason::Stop, stop_string: None });
        }
        // A constrained completion is worthless without its end, so it runs to it.
        let may_finish = self.constraint.is_none()
            && self.request.finish_at_sentence.load(Ordering::Relaxed)
            && !piece.text.is_empty();
        if may_finish && ends_sentence(&self.text) {
            return Some(Finish { reason: FinishReason::SoftTimeout, stop_string: None });
        }
        let full = self.request.prompt.len() + self.generated.len() >= self.context_tokens;
        (full || self.generated.len() >= self.request.max_tokens)
            .then_some(Finish { reason: FinishReason::Length, stop_string: None })
    }

    /// Counts a token when it is sampled: a delta may hold several tokens.
    ///
    /// The choices of a request share its prompt, so only the first one records the time to first
    /// token.
    fn count_token(&mut self, now: Instant) {
        let counters = &self.counters;
        match self.token_at.replace(now) {
            Some(last) => counters.inter_token.record(now.saturating_duration_since(last)),
            None if self.request.choice.index == 0 => {
                let accepted_at = self.request.deadline.accepted_at;
                counters.ttft.record(now.saturating_duration_since(accepted_at));
                counters.prefill.record(now.saturating_duration_since(self.started_at));
            }
            None => {}
        }
        counters.generated_tokens.add(1);
    }

    fn log_first_token(&self, now: Instant) {
        let ttft = now.saturating_duration_since(self.request.deadline.accepted_at);
        let choice = self.request.choice.index;
        self.request
            .span
            .in_scope(|| tracing::debug!(choice, ttft_ms = millis(ttft), "first token"));
    }

    fn send_delta(&mut self) {
        if !self.request.stream_text || self.sent_bytes == self.text.len() {
            return;
        }
        // When the channel is full, the text stays here and joins the next delta.
        if let Ok(permit) = self.request.events.try_reserve() {
            permit.send(GenerateEvent::Delta {
                choice: self.request.choice.index,
                text: self.text[self.sent_bytes..].to_owned(),
                logprobs: self.logprobs[self.sent_logprobs..].to_vec(),
            });
            self.sent_bytes = self.text.len();
            self.sent_logprobs = self.logprobs.len();
        }
    }

    /// Sends the terminal event of a completed request.
    pub fn finish(mut self, finish: Finish, now: Instant) {
        if finish.stop_string.is_none() {
            let rest = self.request.output.finish();
            self.text.push_str(&rest);
        }
        let timings = self.timings(now);
        let completion = Completion {
            sent_bytes: self.sent_bytes,
            text: self.text,
            logprobs: self.logprobs,
            sent_logprobs: self.sent_logprobs,
            finish_reason: finish.reason,
            stop_string: finish.stop_string,
            usage: Usage {
                prompt_tokens: self.request.prompt.len(),
                cached_tokens: self.cached_tokens,
                completion_tokens: self.generated.len(),
            },
            timings,
        };
        let elapsed = now.saturating_duration_since(self.request.deadline.accepted_at);
        self.request.span.in_scope(|| {
            tracing::debug!(
                choice = self.request.choice.index,
                finish_reason = ?completion.finish_reason,
                prompt_tokens = completion.usage.prompt_tokens,
                completion_tokens = completion.usage.completion_tokens,
                total_ms = millis(elapsed),
                "ended"
            );
        });
        drop(self.request.events);
        // A closed channel is no error: the caller has gone.
        let _ = self.request.done.send(Ok(completion));
    }

    /// Sends the terminal event of a failed request.
    pub fn fail(self, failure: EngineFailure) {
        fail(self.request, failure);
    }

    fn timings(&self, now: Instant) -> Timings {
        let prefilled_at = self.prefilled_at.unwrap_or(now);
        let prefill = prefilled_at.saturating_duration_since(self.started_at);
        let decode = now.saturating_duration_since(prefilled_at);
        let accepted_at = self.request.deadline.accepted_at;
        let masks = self.constraint.as_ref().map(SequenceConstraint::times).unwrap_or_default();
        Timings {
            queue_ms: self.queue_ms,
            load_ms: self.load_ms,
            prefill_ms: millis(prefill),
            ttft_ms: millis(prefilled_at.saturating_duration_since(accepted_at)),
            total_ms: 0.0,
            mask_ms: millis(masks.work),
            mask_wait_ms: millis(masks.wait),
            prefill_tokens_per_s: rate(
                self.request.prompt.len() - self.cached_tokens,
                prefill.as_secs_f64(),
            ),
            decode_tokens_per_s: rate(self.generated.len().saturating_sub(1), decode.as_secs_f64()),
        }
    }
}

/// Whether the text ends with a line or a sentence.
///
/// A point after a digit does not count: it may be a decimal point, or the number of a list item.
fn ends_sentence(text: &str) -> bool {
    let is_behind = |c: char| matches!(c, ' ' | '"' | '\'' | ')' | ']' | '”' | '’' | '*');
    let mut last = text.trim_end_matches(is_behind).chars().rev();
    match last.next() {
        Some('\n' | '!' | '?' | '。' | '！' | '？') => true,
        Some('.') => !last.next().is_some_and(|before| before.is_ascii_digit()),
        _ => false,
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// The finish reason of the wire format.
    pub reason: FinishReason,
    /// The stop string that ended it.
    pub stop_string: Option<String>,
}

/// Sends the terminal event of a request that failed, before or after its admission.
///
/// Its other choices end with it: the request has one outcome.
pub fn fail(request: GenerateRequest, failure: EngineFailure) {
    request.cancel.cancel();
    request.span.in_scope(|| failure.log("failed"));
    drop(request.events);
    // A closed channel is no error: the caller has gone.
    let _ = request.done.send(Err(failure));
}

#[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
fn rate(count: usize, seconds: f64) -> f64 {
    if count == 0 || seconds <= 0.0 { 0.0 } else { count as f64 / seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_after_sentence_not_in_number() {
        for (text, ends) in [
            ("It burns.", true),
            ("It burns.\" ", true),
            ("Does it?", true),
            ("a line\n", true),
            ("It costs 3.", false),
            ("1.", false),
            ("It burns", false),
            ("", false),
        ] {
            assert_eq!(ends_sentence(text), ends, "{text:?}");
        }
    }
}
