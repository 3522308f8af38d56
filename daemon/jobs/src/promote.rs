//! A call that can become a job while it runs.
//!
//! Owns the moment in which it does: one compare-and-set decides between the call's result, its
//! connection's end and its promotion.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::jobs::{JobParams, JobReply, PartialResult};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::live::LiveJob;
use super::record::JobRecord;
use super::state::{Ending, Move, Phase};
use super::store::StoreError;
use super::{Jobs, clock};

/// A call under way that is not stored. Dropping it ends the work, as a connection's end does,
/// unless it was promoted before.
#[derive(Debug)]
pub struct RunningJob {
    jobs: Jobs,
    job: Arc<LiveJob>,
}

/// What came of a promotion.
#[derive(Debug)]
pub enum Promotion {
    /// The work had ended first.
    Ended(Box<JobReply>),
    /// It is a stored job now, and runs on; this is how it stands.
    Stored(Box<JobReply>),
}

impl Jobs {
    /// Starts a call of `class` that is not stored unless it is promoted. It needs no worker, and
    /// runs at once.
    ///
    /// # Errors
    /// `INVALID_PARAMS` naming the parameter; `OVERLOADED` when too many run already.
    pub fn start(&self, params: JobParams, class: Class) -> Result<RunningJob, ErrorBody> {
        let plan = self.inner.plan(&params, class)?;
        let room = Arc::clone(&self.inner.promotable).try_acquire_owned().map_err(|_| {
            ErrorBody::overloaded(format!("{} such calls are running", limits::PROMOTED_JOBS))
        })?;
        let record = self.inner.record(params, class, plan.work_ms);
        let cancel = self.inner.ending.child_token();
        let job = LiveJob::new(record, plan, Phase::Attached, cancel, room);
        job.take();
        let (inner, running) = (Arc::clone(&self.inner), Arc::clone(&job));
        self.inner.tasks.spawn(async move { inner.run(&running).await });
        Ok(RunningJob { jobs: self.clone(), job })
    }
}

impl RunningJob {
    /// Its progress, as it is reported.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<JobRecord> {
        self.job.state.subscribe()
    }

    /// Waits until the work has ended.
    pub async fn ended(&self) -> JobReply {
        self.job.ended().await.reply(clock::unix_ms())
    }

    /// Makes a stored job of the call, which from then on nobody but `jobs.cancel` and its own time
    /// can end. When this returns `Stored` before `until`, it is on disk; at `until` it may still be
    /// on its way there, and can be waited for and cancelled all the same.
    ///
    /// # Errors
    /// `JOB_STORE_UNAVAILABLE`: the call could not be stored, or not begun to be until `until`, and
    /// has been ended, with its partial result in the error.
    pub async fn promote(self, until: Instant) -> Result<Promotion, ErrorBody> {
        let (jobs, job) = (self.jobs.clone(), Arc::clone(&self.job));
        // Whether the caller has its answer: set once, by the storing that failed or by its time.
        let is_answered = Arc::new(AtomicBool::new(false));
        // A task of its own: once it is detached, nobody's going may leave it half stored.
        let mut storing = tokio::spawn(store(jobs, job, Arc::clone(&is_answered)));
        let outcome = match tokio::time::timeout_at(until, &mut storing).await {
            Ok(outcome) => outcome,
            Err(_) if is_answered.swap(true, Ordering::AcqRel) => storing.await,
            Err(_) => return self.late().await,
        };
        outcome.unwrap_or_else(|error| {
            Err(ErrorBody::new(ErrorCode::Internal, format!("the promotion failed: {error}")))
        })
    }

    /// What the caller is told when the store is slower than the caller has time.
    async fn late(&self) -> Result<Promotion, ErrorBody> {
        match self.job.claim.make(Move::HangUp) {
            Ok(_) => {
                let partial = self.job.record().partial.result();
                self.job.cancel.cancel();
                Err(refusal(self.jobs.inner.store.late(), partial))
            }
            Err(Phase::Ended { was_detached: false, .. }) => {
                Ok(Promotion::Ended(Box::new(reply(&self.job).await)))
            }
            // The storing goes on in its task.
            Err(_) => Ok(Promotion::Stored(Box::new(now(&self.job)))),
        }
    }
}

/// Claims the call and stores it.
async fn store(
    jobs: Jobs,
    job: Arc<LiveJob>,
    is_answered: Arc<AtomicBool>,
) -> Result<Promotion, ErrorBody> {
    let inner = jobs.inner;
    let stored = async {
        inner.opened().await?;
        let room = inner.store.room().await?;
        if job.claim.make(Move::Promote).is_err() {
            return Ok(None);
        }
        inner.live.add(&job);
        Ok(Some(room.insert(job.record())))
    };
    let stored = match stored.await {
        Ok(None) => return Ok(Promotion::Ended(Box::new(reply(&job).await))),
        Ok(Some(stored)) => stored.await.unwrap_or_else(|_| Err(inner.store.ended())),
        Err(error) => Err(error),
    };
    let Err(error) = stored else {
        return Ok(Promotion::Stored(Box::new(now(&job))));
    };
    if is_answered.swap(true, Ordering::AcqRel) {
        // The caller knows its name, or has been told that there is none; a job that is known runs
        // on, and its end is stored when the store is sound again.
        tracing::warn!(job = job.id, %error, "a call that became a job is not stored yet");
        return Err(error.into());
    }
    // From here on its end is not stored: a disk that heals must not bring a job to light that
    // nobody was told of.
    job.refused.cancel();
    // Its text so far is all that can be given now.
    let partial = job.record().partial.result();
    if job.claim.make(Move::End(Ending::Cancelled)).is_err() {
        // Unless the work has ended, whose result needs no store.
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
        if self.job.claim.make(Move::HangUp).is_ok() {
            self.job.cancel.cancel();
        }
    }
}
