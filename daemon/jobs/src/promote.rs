//! Promotion of a running call to a stored job.
//!
//! Owns the moment of the promotion: one compare-and-set decides between the call's result, the end
//! of its connection, and its promotion.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::{JobParams, JobReply, PartialResult};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument;

use super::live::LiveJob;
use super::record::JobRecord;
use super::state::{Ending, Phase, Transition};
use super::store::StoreError;
use super::{Jobs, clock};

/// A running call that is not stored.
///
/// Dropping it ends the work, as the end of its connection does, unless it was promoted before.
#[derive(Debug)]
pub struct RunningJob {
    jobs: Jobs,
    job: Arc<LiveJob>,
}

/// The outcome of a promotion.
#[derive(Debug)]
pub enum Promotion {
    /// The work had ended first.
    Ended(Box<JobReply>),
    /// The call is a stored job now and runs on; this is its present state.
    Stored(Box<JobReply>),
}

impl Jobs {
    /// Starts a call of `class`, which is not stored unless it is promoted.
    ///
    /// It needs no worker and runs at once.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter; `OVERLOADED` when too many such calls run.
    pub fn start(&self, params: JobParams, class: Class) -> Result<RunningJob, ErrorBody> {
        let plan = self.pool.plan(&params, class)?;
        let permit = Arc::clone(&self.pool.call_permits).try_acquire_owned().map_err(|_| {
            ErrorBody::overloaded(format!("{} such calls are running", limits::PROMOTED_JOBS))
        })?;
        let record = self.pool.record(params, class, plan.work_ms);
        let cancel = self.pool.ending.child_token();
        let job = LiveJob::new(record, plan, Phase::Attached, cancel, permit);
        job.take();
        let (pool, running) = (Arc::clone(&self.pool), Arc::clone(&job));
        // In the span of the call's request, so that its log lines keep that request id.
        let run = async move { pool.run(&running).await };
        self.pool.tasks.spawn(run.in_current_span());
        Ok(RunningJob { jobs: self.clone(), job })
    }
}

impl RunningJob {
    /// The reports of its progress.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<JobRecord> {
        self.job.state.subscribe()
    }

    /// Waits until the work has ended.
    pub async fn ended(&self) -> JobReply {
        self.job.ended().await.reply(clock::unix_ms())
    }

    /// Makes a stored job of the call, which then only `jobs.cancel` and its own time can end.
    ///
    /// When this returns `Stored` before `until`, the job is on disk; at `until` it may still be on
    /// its way there, and can be waited for and cancelled all the same.
    ///
    /// # Errors
    /// `JOB_STORE_UNAVAILABLE`: the call could not be stored, or storing had not begun at `until`. It
    /// has been ended, and the error has its partial result.
    pub async fn promote(self, until: Instant) -> Result<Promotion, ErrorBody> {
        let (jobs, job) = (self.jobs.clone(), Arc::clone(&self.job));
        // Whether the caller has its answer: set once, by a failed store or at `until`.
        let is_answered = Arc::new(AtomicBool::new(false));
        // A task of its own: a caller that goes must not leave a detached job half stored.
        let store = store(jobs, job, Arc::clone(&is_answered));
        let mut storing = tokio::spawn(store.in_current_span());
        let outcome = match tokio::time::timeout_at(until, &mut storing).await {
            Ok(outcome) => outcome,
            Err(_) if is_answered.swap(true, Ordering::AcqRel) => storing.await,
            Err(_) => return self.late().await,
        };
        outcome.unwrap_or_else(|error| {
            Err(ErrorBody::new(ErrorCode::Internal, format!("the promotion failed: {error}")))
        })
    }

    /// The answer when the caller's time is over before the store has answered.
    async fn late(&self) -> Result<Promotion, ErrorBody> {
        match self.job.phase.apply(Transition::HangUp) {
            Ok(_) => {
                let partial = self.job.record().partial.result();
                self.job.cancel.cancel();
                Err(refusal(self.jobs.pool.store.late(), partial))
            }
            Err(Phase::Ended { was_detached: false, .. }) => {
                Ok(Promotion::Ended(Box::new(reply(&self.job).await)))
            }
            // The task goes on storing it.
            Err(_) => Ok(Promotion::Stored(Box::new(now(&self.job)))),
        }
    }
}

/// Claims the call for its promotion and stores it.
async fn store(
    jobs: Jobs,
    job: Arc<LiveJob>,
    is_answered: Arc<AtomicBool>,
) -> Result<Promotion, ErrorBody> {
    let pool = jobs.pool;
    let stored = async {
        pool.ensure_open().await?;
        let permit = pool.store.permit().await?;
        if job.phase.apply(Transition::Promote).is_err() {
            return Ok(None);
        }
        pool.live.add(&job);
        Ok(Some(permit.insert(job.record())))
    };
    let stored = match stored.await {
        Ok(None) => return Ok(Promotion::Ended(Box::new(reply(&job).await))),
        Ok(Some(stored)) => stored.await.unwrap_or_else(|_| Err(pool.store.ended())),
        Err(error) => Err(error),
    };
    let Err(error) = stored else {
        return Ok(Promotion::Stored(Box::new(now(&job))));
    };
    if is_answered.swap(true, Ordering::AcqRel) {
        // The caller has its answer already: an error, or the job's id. A job with a known id runs
        // on, and its end is stored when the store works again.
        tracing::warn!(job = job.id, %error, "a promoted call is not stored yet");
        return Err(error.into());
    }
    // From here on its end is not stored: a job whose id no client has must not appear when the
    // disk works again.
    job.refused.cancel();
    // The text so far is all that the error can give.
    let partial = job.record().partial.result();
    if job.phase.apply(Transition::End(Ending::Cancelled)).is_err() {
        // The work has ended first, and its result needs no store.
        return Ok(Promotion::Ended(Box::new(reply(&job).await)));
    }
    job.cancel.cancel();
    Err(refusal(error, partial))
}

fn refusal(error: StoreError, partial: Option<PartialResult>) -> ErrorBody {
    let error = ErrorBody::from(error);
    match partial {
        Some(partial) => error.with_details(json!({ "partial_result": partial })),
        None => error,
    }
}

fn now(job: &LiveJob) -> JobReply {
    job.record().reply(clock::unix_ms())
}

async fn reply(job: &LiveJob) -> JobReply {
    job.ended().await.reply(clock::unix_ms())
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        if self.job.phase.apply(Transition::HangUp).is_ok() {
            self.job.cancel.cancel();
        }
    }
}
