//! One job's run: its attempts, retries, time limits, reports, and the storing of its end.
//!
//! Owns everything from the worker that takes a job to the end that its watchers see. Retries on
//! `OVERLOADED` until the attempt's deadline. Limits are measured by the monotonic clock; the wall
//! clock is for display only.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::limits;
use futures_util::FutureExt;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::embed::EmbedParams;
use ingle_protocol::wire::generate::{GenerateEvent, GenerateParams, TokenLogprob};
use ingle_protocol::wire::jobs::{JobResult, JobStatus, JobWarning, JobWork};

use tracing::Instrument;

use crate::clock;
use crate::live::LiveJob;
use crate::pool::JobPool;
use crate::record::{JobRecord, Outcome, Partial, interrupted};
use crate::state::{AttemptTimes, Ending, Phase, Transition, status_of};
use ingle_service::request::{RequestContext, request_span};

/// The progress of a generation after loading and after prefill; the rest is the text.
const LOADED: f32 = 0.05;
const PREFILLED: f32 = 0.15;

impl JobPool {
    /// Runs a job to its end, and stores that end if the job is stored at all.
    pub(super) async fn run(self: &Arc<Self>, job: &Arc<LiveJob>) {
        let span = tracing::info_span!("job", id = job.id);
        self.run_to_end(job).instrument(span).await;
    }

    async fn run_to_end(self: &Arc<Self>, job: &Arc<LiveJob>) {
        let started = Instant::now();
        let work = std::panic::AssertUnwindSafe(self.attempts(job, started)).catch_unwind();
        let stopped = || Err(if self.ending.is_cancelled() { interrupted() } else { cancelled() });
        let outcome = tokio::select! {
            biased;
            // First, so that a result that is ready is not discarded.
            outcome = work => match outcome {
                Ok(Err(error))
                    if error.code == ErrorCode::Cancelled && job.cancel.is_cancelled() =>
                {
                    stopped()
                }
                Ok(outcome) => outcome,
                Err(_) => Err(ErrorBody::new(ErrorCode::Internal, "the job's work panicked")),
            },
            () = job.cancel.cancelled() => stopped(),
        };
        let ending = match outcome.as_ref().map_err(|error| error.code) {
            Err(ErrorCode::Timeout) => Ending::TimedOut,
            Err(ErrorCode::ShuttingDown | ErrorCode::Interrupted) => Ending::Interrupted,
            Err(ErrorCode::Cancelled) => Ending::Cancelled,
            _ => Ending::Result,
        };
        self.end(job, ending, outcome, Some(started)).await;
    }

    /// Ends a job: the first ending to be applied counts, whatever the outcome of the work is.
    pub(super) async fn end(
        &self,
        job: &Arc<LiveJob>,
        ending: Ending,
        outcome: Result<JobResult, ErrorBody>,
        started: Option<Instant>,
    ) {
        let _ = job.phase.apply(Transition::End(ending));
        let phase = job.phase.get();
        let won = match phase {
            Phase::Ended { ending, .. } => ending,
            Phase::Attached | Phase::Detached => ending,
        };
        let outcome = match (won == ending, outcome) {
            (true, Ok(result)) => Outcome::Result(result),
            (true, Err(error)) => Outcome::Error(error),
            (false, _) if won == Ending::Interrupted => Outcome::Error(interrupted()),
            (false, _) => Outcome::Error(cancelled()),
        };
        let mut record = job.record();
        if let Some(started) = started {
            record.duration_ms = elapsed_ms(started);
        }
        let status = status_of(won, matches!(outcome, Outcome::Result(_)));
        record.end(status, outcome, clock::unix_ms());
        if phase.is_detached() {
            self.service.metrics().job_ended(status);
            tokio::select! {
                biased;
                () = job.refused.cancelled() => record.not_stored = None,
                () = self.store_end(job, &mut record) => {}
            }
        }
        job.state.send_replace(record);
        self.live.remove(&job.id);
        tracing::debug!(status = status.as_str(), "the job ended");
    }

    /// Stores a job's end, and retries until that succeeds or the daemon ends.
    ///
    /// So a disk that is full for a while loses no result. Meanwhile the worker takes no other job,
    /// so there are no more unstored results than workers.
    async fn store_end(&self, job: &LiveJob, record: &mut JobRecord) {
        let mut pause_ms = limits::JOB_STORE_RETRY_MS;
        while let Err(error) = self.store.end(record.clone()).await {
            tracing::warn!(job = job.id, %error, "the end of the job is not stored yet");
            record.not_stored = Some(error.to_string());
            job.state.send_replace(record.clone());
            tokio::select! {
                () = self.ending.cancelled() => {
                    // It stays `not_stored` for the clients that still read it.
                    tracing::error!(job = job.id, "the daemon ends before the end of the job was stored");
                    return;
                }
                () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
            }
            pause_ms = (pause_ms * 2).min(limits::JOB_STORE_RETRY_MAX_MS);
        }
        record.not_stored = None;
    }

    /// Runs attempts until one does not time out or no retry is left.
    async fn attempts(&self, job: &LiveJob, started: Instant) -> Result<JobResult, ErrorBody> {
        let params = Arc::clone(&job.state.borrow().params);
        let mut attempt = 1;
        loop {
            let times = job.plan.times(attempt);
            let context = self.begin_attempt(job, attempt, times).await;
            let span = request_span(&context.id, params.work.kind());
            let result = self.retry_overloaded(job, &context, |context| async {
                match &params.work {
                    JobWork::Generate(params) => {
                        self.generate(job, params.clone(), context, times, started).await
                    }
                    JobWork::Embed(params) => self.embed(job, params.clone(), &context).await,
                }
            });
            match result.instrument(span).await {
                Err(error)
                    if error.code == ErrorCode::Timeout && job.plan.has_retry_after(attempt) =>
                {
                    job.state.send_modify(|record| {
                        warn(record, JobWarning::Retry);
                        record.message = format!("attempt {attempt} timed out; trying again");
                    });
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// Begins an attempt, and records it in the job and in the store.
    async fn begin_attempt(
        &self,
        job: &LiveJob,
        attempt: u32,
        times: AttemptTimes,
    ) -> RequestContext {
        let work_ms = times.work_ms.unwrap_or(limits::JOB_NO_TIMEOUT_MS);
        let class = job.state.borrow().class;
        // A token of its own: an attempt that ends fires it, and the next attempt must run.
        let cancel = job.cancel.child_token();
        let context = RequestContext::of_job(
            self.service.next_request_id(),
            class,
            work_ms,
            cancel,
            Instant::now(),
        );
        job.state.send_modify(|record| {
            record.status = JobStatus::Running;
            record.attempts = attempt;
            record.work_ms = times.work_ms;
            record.request_id = Some(context.id.clone());
            record.started_ms.get_or_insert_with(clock::unix_ms);
            "starting".clone_into(&mut record.message);
        });
        if job.phase.get().is_detached() {
            self.store.started(job.record()).await;
        }
        context
    }

    async fn embed(
        &self,
        job: &LiveJob,
        params: EmbedParams,
        context: &RequestContext,
    ) -> Result<JobResult, ErrorBody> {
        job.state.send_modify(|record| {
            record.message = format!("embedding {} texts", params.input.len());
        });
        bounded(JobResult::Embed(self.service.embed(params, context).await?))
    }

    async fn generate(
        &self,
        job: &LiveJob,
        params: GenerateParams,
        context: RequestContext,
        times: AttemptTimes,
        started: Instant,
    ) -> Result<JobResult, ErrorBody> {
        let params = GenerateParams { stream: true, ..params };
        let max_tokens = params.max_tokens.unwrap_or(limits::DEFAULT_MAX_TOKENS);
        let wants_logprobs = params.logprobs || params.top_logprobs > 0;
        let finish_at_sentence = Arc::clone(&context.finish_at_sentence);
        let mut generation = self.service.generate(params, context).await?;
        let mut progress = AttemptProgress::new(job, max_tokens);
        let tick = Duration::from_millis(limits::JOB_REPORT_MS);
        let mut next_tick = tokio::time::Instant::now() + tick;
        loop {
            let due_at = generation.work_since().and_then(|since| {
                let next_ms = times.next_due_ms(elapsed_ms(since))?;
                Some(tokio::time::Instant::from_std(since + Duration::from_millis(next_ms)))
            });
            let wake_at = due_at.map_or(next_tick, |due_at| due_at.min(next_tick));
            tokio::select! {
                biased;
                event = generation.event() => match event {
                    Some(event) => progress.take(event),
                    None => break,
                },
                () = tokio::time::sleep_until(wake_at) => {}
            }
            let work_ms = generation.work_since().map_or(0, elapsed_ms);
            for warning in times.due(work_ms) {
                if warning == JobWarning::SoftTimeout {
                    finish_at_sentence.store(true, Ordering::Relaxed);
                }
                progress.warn(warning);
            }
            if tokio::time::Instant::now() >= next_tick {
                next_tick += tick;
                progress.report(elapsed_ms(started));
                if progress.is_partial_due() && job.phase.get().is_detached() {
                    self.store.progress(job.record());
                }
            }
        }
        // The end may have come before the last check of the time.
        for warning in times.due(generation.work_since().map_or(0, elapsed_ms)) {
            progress.warn(warning);
        }
        let (rest, mut result) = generation.finish().await?;
        for event in rest {
            progress.take(event);
        }
        if wants_logprobs {
            // They came in the events, which only this run has read.
            for (choice, progress) in result.choices.iter_mut().zip(progress.choices) {
                choice.logprobs = progress.logprobs;
            }
        }
        bounded(JobResult::Generate(result))
    }

    /// Runs `work`, and retries on `OVERLOADED` until the deadline of this attempt.
    ///
    /// A request with a waiting client is refused then; a job can wait.
    async fn retry_overloaded<F: Future<Output = Result<JobResult, ErrorBody>>>(
        &self,
        job: &LiveJob,
        context: &RequestContext,
        mut work: impl FnMut(RequestContext) -> F,
    ) -> Result<JobResult, ErrorBody> {
        let pause = Duration::from_millis(limits::RETRY_AFTER_MS);
        loop {
            // Work that fails fires its token, so each retry needs a new one.
            let cancel = job.cancel.child_token();
            match work(RequestContext { cancel, ..context.clone() }).await {
                Err(error)
                    if error.code == ErrorCode::Overloaded
                        && Instant::now() + pause < context.deadline.expires_at() =>
                {
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
    }
}

pub(super) fn cancelled() -> ErrorBody {
    ErrorBody::new(ErrorCode::Cancelled, "the job was cancelled")
        .with_remediation("Create the job again if its result is still wanted.")
}

/// The progress of one choice.
#[derive(Debug, Default)]
struct ChoiceProgress {
    logprobs: Vec<TokenLogprob>,
    pieces: usize,
}

/// The progress of one attempt, which goes into the job's record.
struct AttemptProgress<'a> {
    job: &'a LiveJob,
    max_tokens: u32,
    choices: Vec<ChoiceProgress>,
    /// Whether anything has changed since the last report.
    is_new: bool,
    /// The number of reports since the partial result was written.
    ticks: u64,
}

impl<'a> AttemptProgress<'a> {
    fn new(job: &'a LiveJob, max_tokens: u32) -> Self {
        Self { job, max_tokens, choices: Vec::new(), is_new: false, ticks: 0 }
    }

    fn take(&mut self, event: GenerateEvent) {
        self.is_new = true;
        let (progress, message) = match event {
            GenerateEvent::Queued { position } => (0.0, format!("waiting behind {position}")),
            GenerateEvent::Loading { fraction } => {
                (fraction * LOADED, format!("loading the model, {:.0} %", fraction * 100.0))
            }
            GenerateEvent::Prefill { done_tokens, total_tokens } => {
                let read = share(done_tokens, total_tokens);
                let message = format!("read {done_tokens} of {total_tokens} tokens");
                (LOADED + read * (PREFILLED - LOADED), message)
            }
            GenerateEvent::Delta { choice, text, logprobs } => {
                if self.choices.is_empty() {
                    // The first text of any choice.
                    self.begin_text();
                }
                if self.choices.len() <= choice {
                    self.choices.resize_with(choice + 1, ChoiceProgress::default);
                }
                let progress = &mut self.choices[choice];
                // The engine joins deltas when its reader is slow, so this is a lower bound of the
                // tokens.
                progress.pieces += logprobs.len().max(1);
                progress.logprobs.extend(logprobs);
                let pieces = progress.pieces;
                self.quietly(|record| record.partial.push(choice, &text));
                let all = usize::try_from(self.max_tokens).unwrap_or(usize::MAX);
                let share = PREFILLED + share(pieces, all) * (1.0 - PREFILLED);
                (share, format!("generating, {pieces} of at most {all} tokens"))
            }
            GenerateEvent::Reasoning { .. } => (PREFILLED, "reasoning".to_owned()),
            GenerateEvent::ToolCall { .. } => (PREFILLED, "calling a tool".to_owned()),
        };
        self.quietly(|record| {
            // A late event, or one of another choice, must not lower the progress.
            record.progress = record.progress.max(progress.min(0.99));
            record.message = message;
        });
    }

    /// Discards the text of a failed attempt, which stays until the next one has text.
    fn begin_text(&self) {
        self.quietly(|record| record.partial = Partial::default());
    }

    /// Changes the record without waking its watchers.
    fn quietly(&self, change: impl FnOnce(&mut JobRecord)) {
        self.job.state.send_if_modified(|record| {
            change(record);
            false
        });
    }

    fn warn(&mut self, warning: JobWarning) {
        self.job.state.send_if_modified(|record| warn(record, warning));
    }

    fn report(&mut self, duration_ms: u64) {
        self.ticks += 1;
        let is_new = std::mem::take(&mut self.is_new);
        self.job.state.send_if_modified(|record| {
            record.duration_ms = duration_ms;
            is_new
        });
    }

    /// Whether the partial result is to be written now.
    fn is_partial_due(&mut self) -> bool {
        let is_due = self.ticks * limits::JOB_REPORT_MS >= limits::JOB_PARTIAL_MS;
        if is_due {
            self.ticks = 0;
        }
        is_due
    }
}

/// Adds a warning once; true if it is new.
fn warn(record: &mut JobRecord, warning: JobWarning) -> bool {
    let is_new = !record.warnings.contains(&warning);
    if is_new {
        record.warnings.push(warning);
    }
    is_new
}

/// The result, unless its JSON is too large for a job.
fn bounded(result: JobResult) -> Result<JobResult, ErrorBody> {
    let mut size = ByteCounter(0);
    serde_json::to_writer(&mut size, &result)
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
    let (ByteCounter(found), most) = (size, limits::JOB_RESULT_BYTES);
    if found > most {
        let message = format!("the result has {found} bytes; the limit for a job is {most}");
        return Err(ErrorBody::new(ErrorCode::FrameTooLarge, message)
            .with_remediation("Ask for less in one job."));
    }
    Ok(result)
}

/// Counts the bytes that are written to it and keeps none.
struct ByteCounter(usize);

impl io::Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a share for display")]
fn share(done: usize, all: usize) -> f32 {
    (done as f32 / all.max(1) as f32).min(1.0)
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::state::JobPlan;
    use ingle_protocol::timeouts::Class;
    use ingle_protocol::wire::jobs::JobParams;

    #[test]
    fn second_attempt_discards_the_text_of_the_first() {
        let work = JobWork::Generate(GenerateParams::default());
        let params = JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None };
        let plan = JobPlan::new(&params, 1_000).unwrap();
        let record = JobRecord::new("j-1".to_owned(), Arc::new(params), Class::Job, None, 0);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let job = LiveJob::new(record, plan, Phase::Detached, CancellationToken::new(), permit);
        let add = |progress: &mut AttemptProgress<'_>, choice, text: &str| {
            let text = text.to_owned();
            progress.take(GenerateEvent::Delta { choice, text, logprobs: Vec::new() });
        };
        let mut first = AttemptProgress::new(&job, 9);
        add(&mut first, 0, "old");
        add(&mut first, 1, "old");
        let mut second = AttemptProgress::new(&job, 9);
        add(&mut second, 1, "new ");
        add(&mut second, 0, "new");
        add(&mut second, 1, "text");
        assert_eq!(job.record().partial, Partial(vec!["new".to_owned(), "new text".to_owned()]));
    }
}
