//! One running generation: from its prompt's first chunk to its one terminal event.
//!
//! Owns what the request has produced so far and what of it has gone out. Reads no clock: time is
//! an argument. A reader that does not keep up costs nothing here: text that found no room stays
//! in `text` and goes out with the next delta or with the terminal event.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ingle_protocol::deadline::Deadline;
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::generate::{FinishReason, GenerateEvent, Timings, TokenLogprob, Usage};

use super::admission::Arrival;
use super::command::{Completion, GenerateRequest};
use super::constrained::{Constrained, MaskThread};
use super::error::EngineFailure;
use super::time::millis;
use ingle_engine::backend::SeqId;
use ingle_engine::counters::{EngineCounters, ModelCounters};
use ingle_engine::sampling::{Penalties, SampleSpec, Sampled, UniformDraws};

/// A request on its way to a slot.
#[derive(Debug)]
pub struct Waiting {
    /// The request.
    pub request: GenerateRequest,
    /// Its place among everything that waits.
    pub arrival: Arrival,
    /// When its model's load began to hold it up; `None` when the model was resident.
    pub load_since: Option<Instant>,
    /// When the model became resident.
    pub load_until: Option<Instant>,
    /// Since when there is no memory for it; `None` while it waits for something else.
    pub memory_since: Option<Instant>,
}

impl Waiting {
    /// A request that has just been queued.
    #[must_use]
    pub fn new(request: GenerateRequest, arrival: Arrival) -> Self {
        Self { request, arrival, load_since: None, load_until: None, memory_since: None }
    }

    /// Notes whether it waits for memory at `now`, and if not, that its model's load goes on.
    pub fn memory(&mut self, is_awaited: bool, now: Instant) {
        if is_awaited {
            self.memory_since.get_or_insert(now);
        } else {
            self.memory_since = None;
            if self.load_until.take().is_some() {
                // It was loaded, evicted, and is loaded anew.
                self.load_since = Some(now);
            } else {
                self.load_since.get_or_insert(now);
            }
        }
    }

    /// Whether its request is at work already, and only this one of its texts has no slot.
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

    /// Why the request must leave the queue at `now`, if it must.
    #[must_use]
    pub fn ended(&self, now: Instant) -> Option<EngineFailure> {
        // Set if its request is at work already, and only this one of its texts has no slot.
        let work_since = self.request.choice.work_since.get().copied();
        let waits_for = if self.load_since.is_some() && self.load_until.is_none() {
            "loading the model"
        } else {
            "waiting for a slot"
        };
        ended(&self.request, work_since, waits_for, now)
    }
}

fn ended(
    request: &GenerateRequest,
    work_since: Option<Instant>,
    waits_for: &'static str,
    now: Instant,
) -> Option<EngineFailure> {
    if request.cancel.is_cancelled() || request.events.is_closed() {
        return Some(EngineFailure::Cancelled);
    }
    out_of_time(&request.deadline, work_since, waits_for, now)
}

/// The failure of a request whose time is up at `now`: W after its work began, or, as long as it
/// only `waits_for` something, shortly before the daemon's own limit.
pub(super) fn out_of_time(
    deadline: &Deadline,
    work_since: Option<Instant>,
    waits_for: &'static str,
    now: Instant,
) -> Option<EngineFailure> {
    let (what, layer, limit_ms) = match work_since {
        Some(_) => ("the work", Layer::Work, deadline.work_ms),
        None => (waits_for, Layer::Daemon, deadline.limit_ms),
    };
    let elapsed = now.saturating_duration_since(deadline.accepted_at);
    (now >= deadline.work_ends_at(work_since.unwrap_or(now))).then(|| EngineFailure::Timeout {
        what,
        layer,
        limit_ms,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    })
}

/// What a sequence asks of the next forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// `prefilled` tokens of the prompt have been read.
    Prefill {
        /// How many.
        prefilled: usize,
    },
    /// The prompt has been read; `last` is the token drawn last.
    Decode {
        /// Its id.
        last: u32,
    },
}

/// One running generation.
#[derive(Debug)]
pub struct Sequence {
    /// What was asked for.
    pub request: GenerateRequest,
    /// Its KV cache in the model's generator.
    pub seq: SeqId,
    /// Where it stands.
    pub phase: Phase,
    draws: UniformDraws,
    penalties: Option<Arc<Penalties>>,
    constrained: Option<Constrained>,
    text: String,
    sent_bytes: usize,
    logprobs: Vec<TokenLogprob>,
    sent_logprobs: usize,
    /// Tokens drawn so far, an end token included.
    generated: Vec<u32>,
    cached_tokens: usize,
    context_tokens: usize,
    load_ms: f64,
    queue_ms: f64,
    started_at: Instant,
    prefilled_at: Option<Instant>,
    /// When the last token was drawn.
    token_at: Option<Instant>,
    counters: Arc<ModelCounters>,
    work_since: Instant,
}

impl Sequence {
    /// Starts a waiting request at `now` in the sequence `seq` of a model with room for
    /// `context_tokens`. The sequence holds the prompt's first `cached_tokens` already. What a
    /// constraint allows is found out on `masks`.
    #[must_use]
    pub fn start(
        waiting: Waiting,
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
        if request.choice.index == 0 {
            engine.queue_wait.record(queued);
            counters.cached_tokens.add(cached_tokens as u64);
        }
        let work_since = *request.choice.work_since.get_or_init(|| now);
        let bias = Arc::clone(&request.logit_bias);
        let penalties = Penalties::new(request.penalties, bias, &request.prompt);
        Self {
            seq,
            phase: Phase::Prefill { prefilled: cached_tokens },
            draws: UniformDraws::new(request.seed),
            penalties: penalties.map(Arc::new),
            constrained: request.constraint.take().map(|form| Constrained::new(form, masks)),
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

    /// Whether its KV cache holds all of the prompt.
    #[must_use]
    pub fn has_read_prompt(&self) -> bool {
        matches!(self.phase, Phase::Decode { .. })
    }

    /// Why the work must stop at `now`, if it must.
    #[must_use]
    pub fn ended(&self, now: Instant) -> Option<EngineFailure> {
        ended(&self.request, Some(self.work_since), "the work", now)
    }

    /// The tokens of the next pass: a prompt chunk of at most `chunk_tokens`, or the last token.
    #[must_use]
    pub fn next_tokens(&self, chunk_tokens: usize) -> &[u32] {
        match &self.phase {
            Phase::Prefill { prefilled } => {
                let end = (prefilled + chunk_tokens).min(self.request.prompt.len());
                &self.request.prompt[*prefilled..end]
            }
            Phase::Decode { last } => std::slice::from_ref(last),
        }
    }

    /// Whether a pass over `tokens` more prompt tokens reads the prompt's last one, or is a decode
    /// step: then its logits are wanted.
    #[must_use]
    pub fn wants_logits(&self, tokens: usize) -> bool {
        match self.phase {
            Phase::Prefill { prefilled } => prefilled + tokens >= self.request.prompt.len(),
            Phase::Decode { .. } => true,
        }
    }

    /// The tokens its KV cache holds: what has been read of the prompt, and every token drawn but
    /// the last, which no pass has taken yet.
    #[must_use]
    pub fn cached_text(&self) -> Vec<u32> {
        match self.phase {
            Phase::Prefill { prefilled } => self.request.prompt[..prefilled].to_vec(),
            Phase::Decode { .. } => {
                let fed = &self.generated[..self.generated.len().saturating_sub(1)];
                [&self.request.prompt, fed].concat()
            }
        }
    }

    /// What the next token is drawn with.
    pub fn sample_spec(&mut self) -> SampleSpec {
        SampleSpec {
            settings: self.request.settings,
            uniform: self.draws.draw(),
            penalties: self.penalties.clone(),
            mask: self.constrained.as_ref().map(Constrained::mask),
            logprobs: self.request.logprobs,
        }
    }

    /// Notes that `tokens` more prompt tokens have been read, and says so to the reader.
    pub fn prefilled(&mut self, tokens: usize) {
        if let Phase::Prefill { prefilled } = &mut self.phase {
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

    /// Takes one drawn token. Returns why the text ended, if it did.
    pub fn accept(&mut self, sampled: Sampled, now: Instant) -> Option<Finish> {
        self.prefilled_at.get_or_insert(now);
        self.count_token(now);
        let token = sampled.token;
        self.generated.push(token);
        if let Some(penalties) = &mut self.penalties {
            // The engine has let go of the last step's spec, so nothing is copied.
            Arc::make_mut(penalties).push(token);
        }
        if self.request.end_tokens.contains(&token) {
            return Some(Finish { reason: FinishReason::Stop, stop_string: None });
        }
        if self.request.logprobs.is_some() {
            let Sampled { token, logprob, top } = sampled;
            let bytes = self.request.output.bytes_of(token);
            let top_bytes = top.iter().map(|&(id, _)| self.request.output.bytes_of(id)).collect();
            self.logprobs.push(TokenLogprob { token, logprob, bytes, top, top_bytes });
        }
        let piece = self.request.output.push(token);
        self.text.push_str(&piece.text);
        self.send_delta();
        self.phase = Phase::Decode { last: token };
        if piece.stopped.is_some() {
            return Some(Finish { reason: FinishReason::Stop, stop_string: piece.stopped });
        }
        if self.constrained.as_mut().is_some_and(|constrained| constrained.accept(token)) {
            return Some(Finish { reason: FinishReason::Stop, stop_string: None });
        }
        // A text that must have a form is worth nothing without its end.
        let wraps_up = self.constrained.is_none()
            && self.request.wrap_up.load(Ordering::Relaxed)
            && !piece.text.is_empty();
        if wraps_up && ends_sentence(&self.text) {
            return Some(Finish { reason: FinishReason::SoftTimeout, stop_string: None });
        }
        let full = self.request.prompt.len() + self.generated.len() >= self.context_tokens;
        (full || self.generated.len() >= self.request.max_tokens)
            .then_some(Finish { reason: FinishReason::Length, stop_string: None })
    }

    /// Counts a token where it is made: a reader may get several in one delta. The texts of a request
    /// have its prompt, and so its first token, in common.
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

    fn send_delta(&mut self) {
        if !self.request.stream_text || self.sent_bytes == self.text.len() {
            return;
        }
        // A full channel keeps the text here: it joins the next delta.
        if let Ok(room) = self.request.events.try_reserve() {
            room.send(GenerateEvent::Delta {
                choice: self.request.choice.index,
                text: self.text[self.sent_bytes..].to_owned(),
                logprobs: self.logprobs[self.sent_logprobs..].to_vec(),
            });
            self.sent_bytes = self.text.len();
            self.sent_logprobs = self.logprobs.len();
        }
    }

    /// The terminal event of a request that came to its end.
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
        drop(self.request.events);
        // A caller that has gone needs no answer.
        let _ = self.request.done.send(Ok(completion));
    }

    /// The terminal event of a request that failed.
    pub fn fail(self, failure: EngineFailure) {
        fail(self.request, failure);
    }

    fn timings(&self, now: Instant) -> Timings {
        let prefilled_at = self.prefilled_at.unwrap_or(now);
        let prefill = prefilled_at.saturating_duration_since(self.started_at);
        let decode = now.saturating_duration_since(prefilled_at);
        let accepted_at = self.request.deadline.accepted_at;
        let masks = self.constrained.as_ref().map(Constrained::times).unwrap_or_default();
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

/// Whether a text may well end here: a line does, or a sentence. A point behind a digit may be a
/// decimal one, or a list's.
fn ends_sentence(text: &str) -> bool {
    let is_behind = |c: char| matches!(c, ' ' | '"' | '\'' | ')' | ']' | '”' | '’' | '*');
    let mut last = text.trim_end_matches(is_behind).chars().rev();
    match last.next() {
        Some('\n' | '!' | '?' | '。' | '！' | '？') => true,
        Some('.') => !last.next().is_some_and(|before| before.is_ascii_digit()),
        _ => false,
    }
}

/// Why a text ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finish {
    /// In the wire's terms.
    pub reason: FinishReason,
    /// The stop string that ended it.
    pub stop_string: Option<String>,
}

/// The terminal event of a request that never ran, or not to its end. Its other choices end with
/// it: the request has one outcome.
pub fn fail(request: GenerateRequest, failure: EngineFailure) {
    request.cancel.cancel();
    drop(request.events);
    // A caller that has gone needs no answer.
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
    fn a_text_ends_behind_a_sentence_and_not_inside_a_number() {
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
